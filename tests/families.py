"""The families that tests go through: one row each, and nothing of a family is written down anywhere else in tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import meanings
import tiny_pipelines
import torch
from diffusers import DiffusionPipeline
from torch import Tensor


@dataclass(frozen=True)
class Family:
    """A tiny pipeline, and what tests know of its family beside what its source file says."""

    name: str
    build: Callable[[], DiffusionPipeline]
    meaning: Callable[[meanings.Call], meanings.Meaning]
    """x_t, t, condition and answer of a stock call, as `predict` takes and gives them."""
    variant_of: str | None = None
    """The row that this one differs from in its settings alone, as sd-v."""
    load: Mapping[str, Any] = field(default_factory=dict)
    """What `from_pretrained` needs besides the folder."""
    call: Mapping[str, Any] = field(default_factory=dict)
    """What a stock call needs to draw at the tiny model's own size."""
    size: str | None = None
    """The tiny model's size, where its configuration does not hold it."""
    usual: int | None = None
    """Pixels of the usual image's side, where the network's `sample_size` does not hold it."""
    drawn: tuple[int, int] = (16, 24)
    """Width and height of the images that tests draw, not square."""
    space: Literal["eps", "v", "velocity"] = "eps"
    table: Literal["betas", "static", "dynamic", "empirical", "dpm"] = "betas"
    """Whose times the path has: betas', an Euler scheduler's with one shift or one by size (and by steps), or
    DPM-Solver's."""
    density: Literal["uniform", "logit-normal"] = "uniform"
    autoencoder: meanings.Autoencoder = field(default_factory=meanings.Autoencoder)
    """What the stock pipeline makes of its autoencoder's latents."""
    patched: bool = False
    """Whether a latent is a patch of 2x2 of the autoencoder's."""
    packed: bool = False
    """Whether 2x2 pixels of a patch are channels to the network."""
    text_rows: int | None = None
    """Rows of a stock call's text; None where they are the tokens that the encoder reads."""
    fixed_text: bool = False
    """Whether the number of tokens cannot be set."""
    masked: bool = False
    """Whether the network masks padding."""
    empty_is_none: bool = True
    """Whether an empty text is read for no prompt."""
    chat: bool = False
    """Whether prompts are read as turns of a chat."""
    attention: Literal["cross", "joint", "streams", "single"] | None = "cross"
    unread: str = "$^"
    """Pattern of the names of weights that no prediction depends on."""
    filled: int | None = None
    """Image tokens are filled up to multiples of this."""
    unconditional: Literal["first", "last", "own", "none"] = "first"
    cfg_off: float = 1.0
    """The stock pipeline's guidance scale that is off."""
    guidance: Callable[[float, int], dict[str, Any]] = lambda scale, rows: {"guidance_scale": scale}
    """How a user of the stock pipeline asks for a guidance scale, (scale, prompts)."""
    combined: Callable[[Tensor, Tensor, float], Tensor] = meanings.extrapolated
    """What guidance makes of predictions without a prompt and with one."""
    watched: bool = True
    """Whether the stock pipeline tells its caller of every step."""
    text_adapters: int = 0
    """Text encoders that the stock pipeline puts adapters on."""
    adapters: Literal["diffusers", "peft"] = "diffusers"
    """Whose files a run is."""
    kohya: str = ""
    """How other tools begin the name of a layer."""
    kohya_read: bool = False
    """Whether stock diffusers reads kohya's names."""

    @property
    def flow(self) -> bool:
        return self.space == "velocity"

    @property
    def twice(self) -> bool:
        """Whether guidance doubles the rows of a call."""
        return self.unconditional in ("first", "last")

    @property
    def usual_guidance(self) -> float:
        """The guidance scale of a draw that says none: off where it would take calls of its own."""
        return self.cfg_off if self.unconditional == "own" else meanings.GUIDANCE

    def halves(self, rows: Any) -> tuple[Any, Any]:
        """What is without a prompt and what is with one, of the rows of a guided call."""
        first, second = rows.chunk(2)
        return (second, first) if self.unconditional == "last" else (first, second)

    def scale(self, ours: float) -> float:
        """A guidance scale, 1 being off, as a user of the stock pipeline writes it."""
        return ours + self.cfg_off - 1


def _seeded(seed: int, build: Callable[..., DiffusionPipeline], **options: Any) -> Callable[[], DiffusionPipeline]:
    """Build from the seed, and leave torch's generator as it was."""

    def seeded() -> DiffusionPipeline:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build(**options)

    return seeded


_SMALL = {"height": 16, "width": 16}  # these pipelines' defaults are 1024 pixels or more


def _true_cfg(scale: float, rows: int) -> dict[str, Any]:
    return {"true_cfg_scale": scale, "negative_prompt": [" "] * rows} if scale > 1 else {"true_cfg_scale": scale}


_UNET = partial(Family, meaning=meanings.of_unet, text_rows=24, fixed_text=True, kohya="lora_unet_", kohya_read=True)
_FLOW = partial(Family, space="velocity", density="logit-normal", table="static")
_JOINT = partial(_FLOW, attention="joint", kohya="lora_transformer_")
_FLUX_VAE = meanings.Autoencoder(shift=0.1159)
_SD3 = partial(
    _JOINT, meaning=meanings.of_joint_transformer, autoencoder=meanings.Autoencoder(shift=0.0609), text_rows=24 + 256,
    text_adapters=2,
)  # fmt: skip

FAMILIES = (
    _UNET("sd", _seeded(0, tiny_pipelines.build_sd), text_adapters=1),
    _UNET(
        "sd-v", _seeded(1, tiny_pipelines.build_smallest, prediction_type="v_prediction"), variant_of="sd", space="v",
        load={"safety_checker": None},
    ),
    _UNET("sdxl", _seeded(2, tiny_pipelines.build_sdxl), text_adapters=2, empty_is_none=False),
    _SD3("sd3", _seeded(3, tiny_pipelines.build_sd3, with_t5=True)),
    _SD3(
        "sd3-no-t5", _seeded(4, tiny_pipelines.build_sd3, with_t5=False), variant_of="sd3",
        # to StableDiffusion3Pipeline a T5 saved as none is one missing
        load={"text_encoder_3": None, "tokenizer_3": None},
    ),
    _FLOW(
        "sana", _seeded(5, tiny_pipelines.build_sana), meanings.of_masked_flow, table="dpm", density="uniform",
        call={"height": 32, "width": 32, "use_resolution_binning": False}, size="32x32", drawn=(32, 64), masked=True,
        kohya="lora_transformer_",
    ),
    Family(
        "pixart", _seeded(6, tiny_pipelines.build_pixart), meanings.of_masked_diffusion, masked=True, watched=False,
        # captions are cleaned unless one says otherwise, with libraries that may not be there
        call={"use_resolution_binning": False, "clean_caption": False}, adapters="peft", kohya="transformer.",
    ),
    _JOINT(
        "flux", _seeded(7, tiny_pipelines.build_flux), meanings.of_packed_transformer, table="dynamic", call=_SMALL,
        size="16x16", usual=256, autoencoder=_FLUX_VAE, packed=True, text_rows=512, unconditional="none",
        text_adapters=1, kohya_read=True,
    ),
    _FLOW(
        "z-image", _seeded(8, tiny_pipelines.build_z_image), meanings.of_one_stream, call=_SMALL, size="16x16",
        usual=1024, autoencoder=_FLUX_VAE, masked=True, chat=True, attention="single", filled=32, unconditional="last",
        cfg_off=0.0, kohya="diffusion_model.", kohya_read=True,
    ),
    _FLOW(
        "qwen-image", _seeded(9, tiny_pipelines.build_qwen_image), meanings.of_two_streams, table="dynamic",
        call=_SMALL, size="16x16", usual=256, autoencoder=meanings.OfVideos(), packed=True, masked=True,
        attention="streams", unconditional="own", guidance=_true_cfg, combined=meanings.as_long_as_conditional,
        empty_is_none=False, kohya="lora_transformer_",
        unread=r"blocks\.1\.(attn\.(add_q_proj|norm_added_q|to_add_out)|txt_mlp)",  # the last block's text
    ),
    _FLOW(
        "flux2-klein", _seeded(10, tiny_pipelines.build_flux_2), meanings.of_patches, table="empirical", call=_SMALL,
        size="16x16", usual=256, autoencoder=meanings.OfPatches(), patched=True, text_rows=512, chat=True,
        attention=None, unconditional="own", kohya="lora_transformer_",
    ),
)  # fmt: skip
_BY_NAME = {family.name: family for family in FAMILIES}
NAMES = tuple(_BY_NAME)


def of(name: str) -> Family:
    """A row by its name."""
    return _BY_NAME[name]


def names(**wanted: Any) -> list[str]:
    """The rows with these values."""
    fitting = (f for f in FAMILIES if all(getattr(f, name) == value for name, value in wanted.items()))
    return [family.name for family in fitting]


def one_of_each(attribute: str) -> list[str]:
    """The first row of each value that an attribute takes."""
    first: dict[Any, str] = {}
    for family in FAMILIES:
        first.setdefault(getattr(family, attribute), family.name)
    return list(first.values())


DISTINCT = names(variant_of=None)
"""One row a family."""
