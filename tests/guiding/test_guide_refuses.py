"""What guidance refuses: one line before any image is made, and the pipeline as it was."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aligned
import pytest
import stock
import tiny_pipelines
import torch
from diffusers import DiffusionPipeline, Flux2KleinPipeline, StableDiffusionImg2ImgPipeline
from safetensors import safe_open
from safetensors.torch import save_file
from training import with_lora

import contrapose
from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import load_backbone
from contrapose.backbones.settings import Loading
from contrapose.core.guidance import PGD
from contrapose.errors import UserError

LORA = "pytorch_lora_weights.safetensors"


@pytest.fixture
def sd(stocked: Callable[[str], DiffusionPipeline]) -> DiffusionPipeline:
    return stocked("sd")


@pytest.fixture
def run(aligned_runs: Callable[..., Any]) -> Path:
    return aligned_runs("sd", "lora")[0]


def _refused(pipe: DiffusionPipeline, *arguments: Any, **settings: Any) -> str:
    with pytest.raises(UserError) as caught, contrapose.guide(pipe, *arguments, **settings):
        pass
    network = stock.denoiser_of(pipe)
    assert "forward" not in network.__dict__
    assert not any(part._forward_hooks for part in network.modules())
    [line] = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"scale": math.nan}, "scale nan: "),
        ({"scale": math.inf}, "scale inf: "),
        ({"scale": 1e6}, "scale 1000000.0: "),
        ({"interval": (0.8, 0.2)}, "interval 0.8 to 0.2: "),
        ({"interval": (0.2, 1.8)}, "interval 1.8: "),
        ({"interval": (0.2,)}, "guidance pgd: "),
        ({"rescale": 2.0}, "rescale 2.0: "),
        ({"schedule": "square"}, "guidance pgd: "),
        ({"proxy": 0.5}, "guidance pgd: "),
        ({"strength": 0.5}, "guidance pgd: "),
        ({"method": "dpo"}, "guidance dpo: not known (choose from pgd, cpgd, npo, chats)"),
        ({"method": PGD(), "scale": 2.0}, "scale: a guidance was given"),
    ],
    ids=str,
)
def test_settings(sd: DiffusionPipeline, run: Path, settings: dict[str, Any], told: str) -> None:
    assert _refused(sd, run, **settings).startswith(told)


def test_a_schedule_that_gives_no_number(sd: DiffusionPipeline, run: Path) -> None:
    """While the pipeline runs, since only there is the function asked."""
    said = r"^schedule: the function gives nan at noise level [0-9.]+; a number is wanted$"
    with pytest.raises(UserError, match=said), contrapose.guide(sd, run, schedule=lambda _: math.nan):
        stock.draw("sd", sd, num_inference_steps=2)
    assert "forward" not in stock.denoiser_of(sd).__dict__


@pytest.mark.parametrize(
    ("sides", "method", "told"),
    [
        ((), None, "guidance pgd needs a positive run"),
        (("negative",), None, "guidance cpgd needs a positive run beside the negative one"),
        (("positive",), "cpgd", "guidance cpgd needs a negative run"),
        (("positive",), "npo", "guidance npo needs a negative run"),
        (("positive", "negative"), "pgd", "guidance pgd takes no negative run"),
    ],
)
def test_policies(sd: DiffusionPipeline, run: Path, sides: tuple[str, ...], method: str | None, told: str) -> None:
    assert _refused(sd, **dict.fromkeys(sides, run), method=method).startswith(told)


def test_a_run_that_is_not_there(sd: DiffusionPipeline, tmp_path: Path) -> None:
    assert _refused(sd, tmp_path / "none").startswith(f"{tmp_path / 'none'}: no such run;")
    assert _refused(sd, tmp_path).endswith("has the run finished?")


def test_an_adapter_of_another_width(sd: DiffusionPipeline, wider_model: Path, tmp_path: Path) -> None:
    aligned.write_run(load_backbone(wider_model), "lora", 0, tmp_path)
    assert "was it trained on another one?" in _refused(sd, tmp_path)


def test_a_whole_network_of_another_width(sd: DiffusionPipeline, wider_model: Path, tmp_path: Path) -> None:
    aligned.write_run(load_backbone(wider_model), "full", 0, tmp_path)
    assert "was trained on another model" in _refused(sd, tmp_path)


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize(("ours", "theirs"), [("sd", "sdxl"), ("sd", "flux"), ("sd3", "flux"), ("flux", "pixart")])
def test_a_run_of_another_family(
    stocked: Callable[..., Any], aligned_runs: Callable[..., Any], ours: str, theirs: str, kind: str
) -> None:
    run = aligned_runs(theirs, kind)[0]
    assert _refused(stocked(ours), run).startswith(str(run))


def test_an_adapter_whose_rank_is_not_what_it_says(sd: DiffusionPipeline, run: Path, tmp_path: Path) -> None:
    with safe_open(run / LORA, "pt") as file:
        told, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    settings = json.loads(told["lora_adapter_metadata"]) | {"unet.r": 8}
    save_file(tensors, tmp_path / LORA, {"lora_adapter_metadata": json.dumps(settings)})
    assert "has rank 4, and its header says 8" in _refused(sd, tmp_path)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_truncated_run(sd: DiffusionPipeline, aligned_runs: Callable[..., Any], kind: str, tmp_path: Path) -> None:
    shutil.copytree(aligned_runs("sd", kind)[0], tmp_path / "run")
    [path] = (tmp_path / "run").rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:5000])
    assert "broken" in _refused(sd, tmp_path / "run")


def test_a_pipeline_of_no_known_family(run: Path, sd: DiffusionPipeline) -> None:
    class Other(type(sd)):
        pass

    Other.__name__ = "KandinskyPipeline"
    other = copy.copy(sd)
    other.__class__ = Other
    assert _refused(other, run).startswith("a KandinskyPipeline is not supported")


# A base of the same shape


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the tiny one's shape and other weights."""
    folder = tmp_path_factory.mktemp("twin")
    torch.manual_seed(99)
    tiny_pipelines.build_sd().save_pretrained(folder)
    return folder


def _noted(model: Path, kind: str, folder: Path) -> Path:
    """A run on this model that notes its fingerprint, as `align` does."""
    backbone: Backbone = load_backbone(model)
    note = {"base_fingerprint": backbone.fingerprint}
    if kind == "lora":
        with_lora(backbone, 2, 2.0).save(folder, note)
    else:
        aligned.write_run(backbone, "full", 0, folder)
        (folder / "finished.json").write_text(json.dumps(note))
    return folder


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_run_on_another_base_of_the_same_shape(
    sd: DiffusionPipeline, twin: Path, tiny_model: Path, kind: str, tmp_path: Path
) -> None:
    stranger = _noted(twin, kind, tmp_path / "stranger")
    assert _refused(sd, stranger).startswith(f"{stranger}: was trained on another model (")
    with contrapose.guide(sd, _noted(tiny_model, kind, tmp_path / "own")):
        pass
    untold = StableDiffusionImg2ImgPipeline(**sd.components, requires_safety_checker=False)
    with contrapose.guide(untold, stranger):  # which does not tell where it comes from
        pass


def test_any_variant_of_the_base_is_the_base(twin: Path, tmp_path: Path) -> None:
    """Weights in half precision have another fingerprint, and either may have been trained on."""
    model = shutil.copytree(twin, tmp_path / "model")
    pipe = DiffusionPipeline.from_pretrained(model)
    pipe.to(torch.float16).save_pretrained(model, variant="fp16")
    half, whole = (load_backbone(model, loading=Loading(variant=v)) for v in ("fp16", None))
    assert half.fingerprint != whole.fingerprint
    for number, backbone in enumerate((half, whole)):
        note = {"base_fingerprint": backbone.fingerprint}
        with_lora(backbone, 2, 2.0).save(tmp_path / str(number), note)
        with contrapose.guide(DiffusionPipeline.from_pretrained(model), tmp_path / str(number)):
            pass


class FluxNextPipeline(Flux2KleinPipeline):
    """Of a name that begins as another family's does, with another network."""


def test_a_pipeline_of_a_like_name(stocked: Callable[[str], DiffusionPipeline], run: Path) -> None:
    later = FluxNextPipeline(**stocked("flux2-klein").components)
    assert _refused(later, run).startswith("a FluxNextPipeline is not supported")


def test_attention_that_cannot_be_led(stocked: Callable[[str], DiffusionPipeline]) -> None:
    nag = contrapose.nag(stocked("flux2-klein"), "a green star")
    with pytest.raises(UserError, match="nag does not lead the attention of a Flux2"), nag:
        pass
