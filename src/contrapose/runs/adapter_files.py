"""The one reader of adapters: of runs, of stock diffusers and peft, and of files in other tools' names.

    y += scale B A x,   scale = alpha / rank        on each layer, of any rank; other kinds in `adapter_layers`

What comes out is whole: all factors of every layer, of one rank, finite, and of the layers that the file says it is of.
Whatever puts adapters on a network, beside it or into another file gets them from here.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers.utils import convert_unet_state_dict_to_peft
from diffusers.utils.state_dict_utils import StateDictType, convert_state_dict_to_peft
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from contrapose.documents import load_json
from contrapose.errors import UserError, one_line
from contrapose.runs.adapter_layers import ENDS, OTHER_ENDS, LayerAdapter, Misshapen, assembled
from contrapose.runs.names import FULL_FOLDER, LORA_FILE, PEFT_CONFIG, PEFT_FILE, STATE_FILE

NUM_LAYERS = "num_layers"  # a note in the header, by which a file that has lost a layer is known
DENOISERS = ("unet", "transformer")
_PLAIN = re.compile(rf"(unet|transformer|text_encoder(?:_[23])?)\.(.+)\.({'|'.join(map(re.escape, ENDS))})")
_PEFT = "base_model.model."
_BY_LAYER = re.compile(
    r"(?:lora_unet_|lora_transformer_|lycoris_|diffusion_model\.|transformer\.)(.+)\."
    rf"({'|'.join(map(re.escape, [*OTHER_ENDS, 'alpha', *ENDS]))})"
)
_ALPHAS = (".alpha", ".lora_alpha")
# What is no LoRA, by names of which one is enough to tell.
_OTHERS = {
    r"hada_t|lokr_t|oft_|glora|lora_mid|\.(a1|b1)\.weight$": "a LyCORIS of another form",
    r"controlnet|control_model|zero_convs": "a ControlNet",
    r"^(emb_params|string_to_param|clip_[gl]|<.+>)": "an embedding of words (textual inversion)",
    r"lora_embedding_|modules_to_save|lora_[AB]\.bias|\.diff(_b)?$": "a LoRA with more than two matrices a layer",
}


Adapter = Mapping[str, LayerAdapter]
Translated = tuple[dict[str, Tensor], dict[tuple[str, str], float]]
"""Tensors by the names that diffusers and peft give them, and alphas by part and layer."""


class AdapterFile(NamedTuple):
    """What one file of adapters holds: layers by the pipeline's part, peft's settings by part, and the notes."""

    path: Path
    parts: dict[str, dict[str, LayerAdapter]]
    settings: dict[str, Mapping[str, Any]]
    notes: Mapping[str, str]

    @property
    def denoiser(self) -> str:
        """The denoiser's part."""
        return next(part for part in DENOISERS if part in self.parts)


def adapter_file(where: Path) -> Path | None:
    """The file of adapters that a path names: itself, or the one in a folder; None where there is none.

    Raises `UserError` for a folder that holds several, and for one that holds them as pickles.
    """
    if where.is_file():
        return where
    for name in (LORA_FILE, PEFT_FILE):
        if (where / name).is_file():
            return where / name
    files = [] if (where / FULL_FOLDER).is_dir() else sorted(where.glob("*.safetensors"))
    files = [file for file in files if file.name != STATE_FILE]
    if len(files) > 1:
        raise UserError(f"{where}: holds {len(files)} files of weights; name one of them, such as {files[0].name}")
    pickled = [where / Path(name).with_suffix(".bin") for name in (LORA_FILE, PEFT_FILE)]
    if not files and any(path.is_file() for path in pickled):
        raise UserError(f"{where}: its adapters are a .bin, which can run code and is never read; save .safetensors")
    return files[0] if files else None


def read_file(where: Path, part: str = "", network: nn.Module | None = None, pipeline: Any = None) -> AdapterFile:
    """All adapters of a run, another folder or a file, as they are stored.

    Names of other tools are those of the layers of this part's `network` with underscores, or are read as the stock
    `pipeline` reads them, by its `lora_state_dict`. Raises `UserError` in one line that names the file, and the layer
    if one is at fault, for a file that is broken, is not a LoRA, or fits no denoiser.
    """
    path = adapter_file(where)
    assert path is not None, "asked of what has adapters"
    tensors, notes = _open(path)
    _check_kind(path, tensors)
    plain = _own_names(tensors, path)
    settings: dict[str, Mapping[str, Any]] = {}
    alphas: dict[tuple[str, str], float] = {}
    if plain is not None:
        settings = _settings(path, notes)
    else:
        # the layers' names first: they need no knowledge of the tool that wrote them
        translated = _by_layers(path, tensors, part, network) if network is not None else None
        plain, alphas = translated or _translated(path, tensors, network, pipeline)
    parts = _paired(path, plain)
    for owner, layers in parts.items():
        parts[owner] = _scaled(path, owner, layers, settings.get(owner), alphas)
    if not any(part in parts for part in DENOISERS):
        raise UserError(f"{path}: is a LoRA of the text encoder alone, which trains and guides no network")
    stored = AdapterFile(path, parts, settings, notes)
    _check_count(stored)
    return stored


def read_notes(path: Path) -> dict[str, str]:
    """The notes in the header of a file of adapters, in whatever names its layers are; `UserError` as `read_file`."""
    tensors, notes = _open(path)
    _check_kind(path, tensors)
    return notes


def _open(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: only .safetensors are read; convert it, since other files can run code")
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: truncated or broken ({one_line(error)})") from error


def _check_kind(path: Path, names: Iterable[str]) -> None:
    names = list(names)
    for pattern, kind in _OTHERS.items():
        example = next((name for name in names if re.search(pattern, name)), None)
        if example is not None:
            raise UserError(f"{path}: is {kind} (it has {example}); LoRA, DoRA, LoKr and LoHa are read")
    if not any(re.search("lora|lokr|hada", name) for name in names):
        what = f"such as {min(names)}" if names else "as it is empty"
        raise UserError(f"{path}: holds no adapters ({what}); a whole model is given as --model")


def _own_names(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor] | None:
    """Tensors as `part.layer.lora_A.weight`, which diffusers and peft write; None for other tools' names."""
    if all(name.startswith(_PEFT) for name in tensors):
        # peft's own files are of one network, which is not a UNet: those of a UNet are a pipeline's
        is_unet = any("down_blocks" in name or "up_blocks" in name for name in tensors)
        part = "unet" if is_unet else "transformer"
        tensors = {f"{part}.{name.removeprefix(_PEFT)}": value for name, value in tensors.items()}
    odd = [name for name in tensors if not _PLAIN.fullmatch(name)]
    if not odd:
        return dict(tensors)
    # one name of another tool's makes it theirs; one that is nobody's beside ours is rubbish
    if len(odd) < len(tensors) and not any(
        re.search(r"lora[._](up|down)|lora_linear|dora_scale|alpha", name) for name in odd
    ):
        raise UserError(f"{path}: {min(odd)} is not part of a LoRA")
    return None


def _by_layers(path: Path, tensors: Mapping[str, Tensor], part: str, network: nn.Module) -> Translated | None:
    """Tensors that are named by the network's layers, as kohya's and OneTrainer's are; None where one is not."""
    layers = {name.replace(".", "_"): name for name, _ in network.named_modules()}
    values: dict[str, Tensor] = {}
    alphas = {}
    for name, value in tensors.items():
        parsed = _BY_LAYER.fullmatch(name)
        layer = layers.get(parsed[1].replace(".", "_")) if parsed else None
        if parsed is None or layer is None or (parsed[2] == "alpha" and value.numel() != 1):
            return None
        if parsed[2] == "alpha":
            alphas[part, layer] = float(value)
        elif parsed[2] == "dora_scale" and len(value) == 1 < value.numel():
            raise UserError(f"{path}: {layer} has a magnitude for each input, and those of outputs alone are read")
        else:
            values[f"{part}.{layer}.{OTHER_ENDS.get(parsed[2], parsed[2])}"] = value
    return values, alphas


def _translated(path: Path, tensors: Mapping[str, Tensor], network: nn.Module | None, pipeline: Any) -> Translated:
    """Another tool's tensors by our names, and their alphas by part and layer, as the stock pipeline reads them."""
    if pipeline is None:
        return _of_older_diffusers(path, tensors), {}
    if not hasattr(pipeline, "lora_state_dict"):
        reader = f"a {pipeline.__name__}"
        raise UserError(f"{path}: its layers have another tool's names ({min(tensors)}), which {reader} does not read")
    further = next((name for name in tensors if re.search("dora_scale|lokr_|hada_", name)), None)
    if further is not None:
        raise UserError(f"{path}: its layers have another tool's names ({further}), which are read of plain LoRA alone")
    config = {"unet_config": network.config} if network is not None else {}
    try:
        read = pipeline.lora_state_dict(dict(tensors), return_alphas=True, **config)
    except Exception as error:  # the library raises what comes of names that it did not expect
        raise UserError(
            f"{path}: diffusers cannot read the names of its layers for a {pipeline.__name__} ({one_line(error)}); is "
            "it of another model?"
        ) from error
    renamed, alphas = read if isinstance(read, tuple) else (read, None)
    values = {_plain_name(name): value for name, value in renamed.items()}
    layers = {(m[1], m[2]) for m in map(_PLAIN.fullmatch, values) if m}
    scales = {}
    for name, value in (alphas or {}).items():
        stem = next((name.removesuffix(end) for end in _ALPHAS if name.endswith(end)), name)
        layer = _PLAIN.fullmatch(_plain_name(stem if stem.endswith(".weight") else f"{stem}.lora.down.weight"))
        if layer is None or (layer[1], layer[2]) not in layers:
            raise UserError(f"{path}: {name} is an alpha of no layer")
        scales[layer[1], layer[2]] = float(value)
    return values, scales


def _of_older_diffusers(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by the names that diffusers gave before it had peft's, for which no model has to be known."""
    values = {_plain_name(name): value for name, value in tensors.items()}
    odd = next((name for name in values if not _PLAIN.fullmatch(name)), None)
    if odd is None:
        return values
    if odd.startswith(("lora_unet_", "lora_te", "lora_transformer_")):
        raise UserError(f"{path}: has kohya's names already ({odd}), so that there is nothing to export")
    raise UserError(f"{path}: its layers have another tool's names ({odd}), which export does not read")


def _plain_name(name: str) -> str:
    """One name as diffusers' older forms have it, in peft's."""
    if _PLAIN.fullmatch(name):
        return name
    state: dict[str, Any] = {name: None}
    if name.startswith("text_encoder"):
        state = convert_state_dict_to_peft(state, StateDictType.DIFFUSERS_OLD)
    [name] = convert_unet_state_dict_to_peft(state)
    return name


def _paired(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, LayerAdapter]]:
    """The adapters of every layer, by part; scales come later."""
    of_layers: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, value in tensors.items():
        plain = _PLAIN.fullmatch(name)
        if plain is None:
            raise UserError(f"{path}: {name} is not part of a LoRA")
        of_layers.setdefault((plain[1], plain[2]), {})[plain[3]] = value
    parts: dict[str, dict[str, LayerAdapter]] = {}
    for (part, layer), of_layer in sorted(of_layers.items()):
        try:
            parts.setdefault(part, {})[layer] = assembled(of_layer)
        except Misshapen as error:
            raise UserError(f"{path}: {part}.{layer} {error}") from None
    return parts


def _settings(path: Path, notes: Mapping[str, str]) -> dict[str, Mapping[str, Any]]:
    """peft's settings by part, out of the header or of the file beside it; nothing where there are none."""
    if path.name == PEFT_FILE:
        config = path.parent / PEFT_CONFIG
        if not config.is_file():
            raise UserError(f"{path}: {PEFT_CONFIG} is missing beside it, which tells its rank and alpha")
        of_network = load_json(config)
        if not isinstance(of_network, dict):
            raise UserError(f"{config}: is not a JSON object")
        return dict.fromkeys(DENOISERS, of_network)
    if "lora_adapter_metadata" not in notes:
        return {}
    try:
        of_all_parts = json.loads(notes["lora_adapter_metadata"])
    except (ValueError, RecursionError):
        of_all_parts = None
    if not isinstance(of_all_parts, dict):
        raise UserError(f"{path}: broken, its header's lora_adapter_metadata is not a JSON object")
    settings: dict[str, dict[str, Any]] = {}
    for name, value in of_all_parts.items():
        part, _, setting = name.partition(".")
        settings.setdefault(part, {})[setting] = value
    return dict(settings)


def _scaled(
    path: Path,
    part: str,
    layers: Mapping[str, LayerAdapter],
    settings: Mapping[str, Any] | None,
    alphas: Mapping[tuple[str, str], float],
) -> dict[str, LayerAdapter]:
    """Every layer with its alpha / rank: as the settings say, as the file's alphas do, or 1 where there are neither."""
    scaled: dict[str, LayerAdapter] = {}
    for layer, adapter in layers.items():
        # LoKr whose factors are both whole tells no rank; elsewhere than in peft it has a scale of 1
        rank: float = adapter.rank or 1
        alpha = alphas.get((part, layer), rank) if adapter.rank else 1.0
        by_root = False  # alpha / sqrt(rank): rank-stabilised LoRA (Kalajdzievski 2023, arXiv 2312.03732)
        if settings is not None:
            rank = _setting(path, settings, "r", layer)
            alpha = _setting(path, settings, "lora_alpha" if "lora_alpha" in settings else "alpha", layer)
            if rank != (adapter.rank or rank) or rank < 1:
                raise UserError(f"{path}: {part}.{layer} has rank {adapter.rank}, and its header says {rank:g}")
            by_root = bool(settings.get("use_rslora"))
        if not math.isfinite(alpha) or alpha <= 0:
            raise UserError(f"{path}: {part}.{layer} has alpha {alpha:g}, where a number above 0 is expected")
        scaled[layer] = adapter.scaled(alpha / (math.sqrt(rank) if by_root else rank), int(rank))
    return scaled


def _setting(path: Path, settings: Mapping[str, Any], name: str, layer: str) -> float:
    """A layer's rank or alpha, which a pattern may set apart from the others'."""
    patterns = settings.get("rank_pattern" if name == "r" else "alpha_pattern") or {}
    try:
        value = patterns.get(get_pattern_key(list(patterns.keys()), layer), settings.get(name))
    except (AttributeError, TypeError, re.error):
        raise UserError(f"{path}: broken, its header's patterns of ranks and alphas are none") from None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UserError(f"{path}: broken, its header says {name} {value!r:.40}, where a number is expected")
    return value


def _check_count(stored: AdapterFile) -> None:
    """Raise `UserError` where layers are missing that the file once had, as far as it tells."""
    noted = stored.notes.get(NUM_LAYERS)
    num_layers = len(stored.parts[stored.denoiser])
    if noted is not None and noted != str(num_layers):
        raise UserError(f"{stored.path}: has adapters of {num_layers} layers, and its header says {noted:.20}")
    settings = stored.settings.get(stored.denoiser, {})
    targets = settings.get("target_modules")
    for target in targets if isinstance(targets, list) else []:
        if not any(layer == target or layer.endswith(f".{target}") for layer in stored.parts[stored.denoiser]):
            raise UserError(f"{stored.path}: its header names {target!s:.100}, and no layer of it is there")


def usual_rank(layers: Adapter) -> tuple[int, float]:
    """The rank and the alpha, scale times rank, that most layers have."""
    of_layers = Counter((adapter.rank, adapter.scale * adapter.rank) for adapter in layers.values())
    return of_layers.most_common(1)[0][0]


def check_fit(stored: AdapterFile, part: str, network: nn.Module) -> dict[str, LayerAdapter]:
    """The adapters of one part; `UserError` for a layer that the network has not, or that is of another width."""
    layers = stored.parts.get(part)
    if layers is None:
        raise UserError(f"{stored.path}: holds no adapters of this model's {part}, but of {stored.denoiser}")
    modules = dict(network.named_modules())
    if part.startswith("text_encoder") and not hasattr(network, "text_model"):
        # as transformers once named a text encoder's layers
        layers = {name.removeprefix("text_model."): adapter for name, adapter in layers.items()}
    for name, adapter in layers.items():
        if not adapter.fits(modules.get(name)):
            raise UserError(f"{stored.path}: does not fit this model at {part}.{name}; was it trained on another one?")
    return layers


@torch.no_grad()
def add_to(network: nn.Module, layers: Adapter, share: float = 1.0) -> None:
    """Add a share of what the adapters change to the weights of the layers."""
    for name, adapter in layers.items():
        weight = network.get_submodule(name).weight
        assert isinstance(weight, Tensor), "check_fit has passed"
        here = adapter.cast(lambda value, device=weight.device: value.to(device))  # type: ignore[misc]
        weight.add_(here.change(weight), alpha=share)
