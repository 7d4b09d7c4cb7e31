"""Putting an aligned run's weights on a pipeline, on its network, or beside it as adapters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from peft.tuners.tuners_utils import check_target_module_exists
from torch import Tensor, nn

from contrapose.backbones.folders import INDEX, variant_of
from contrapose.backbones.kinds import kind_of, name_of_kind
from contrapose.backbones.networks import Network, network_without_values, read_network
from contrapose.backbones.policies import Lora, inject
from contrapose.backbones.settings import USUAL_ADAPTERS, Adapters
from contrapose.errors import UserError, one_line
from contrapose.runs.adapter_files import Adapter, add_to
from contrapose.runs.folder import RunFolder, StoredAdapter
from contrapose.runs.names import FULL_FOLDER

_NAME = "default_0"  # of the first adapters that diffusers loads


def read_lora(run: RunFolder, part: str, network: Network, pipeline: type[DiffusionPipeline]) -> Lora:
    """A run's adapters as they are stored; `UserError` when they are broken, or not this network's alone."""
    return _as_stored(run, run.adapter(part, network, pipeline), network)


def _as_stored(run: RunFolder, stored: StoredAdapter, network: Network) -> Lora:
    layers, settings = stored
    modules = settings.get("target_modules") or list(layers)
    targets = modules if isinstance(modules, str) else tuple(modules)
    forms = {adapter.kind for adapter in layers.values()}
    if len(forms) > 1:
        raise UserError(
            f"{run}: has adapters of several kinds ({', '.join(sorted(forms))}), which none is trained with"
        )
    if _divides_otherwise(layers, settings):
        raise UserError(f"{run}: is a LoKr without peft's settings, by which alone training goes on from one")
    lora = lora_of(layers, targets, settings)
    config = lora.config()
    # peft would put fresh adapters on layers that match and have none stored, and say nothing
    if {name for name, _ in network.named_modules() if check_target_module_exists(config, name)} != layers.keys():
        raise UserError(f"{run}: broken, its adapters are not on the layers that it names; train it again")
    return lora


def state_of(layers: Adapter) -> dict[str, Tensor]:
    """Adapters by the names that peft gives their tensors."""
    state = {}
    for name, layer in layers.items():
        for end, value in layer.tensors().items():
            state[f"{name}.{end}"] = value
    return state


def lora_of(layers: Adapter, targets: tuple[str, ...] | str, settings: Mapping[str, Any] = {}) -> Lora:
    """Stored adapters of one kind as those of a policy, with peft's settings of them, if any.

    Layers of another rank or alpha than most are named by peft's patterns.
    """
    kind = kind_of(settings, next(iter(layers.values())))
    of_layers = {name: (layer.rank, kind.alpha(layer.scale, layer.rank)) for name, layer in layers.items()}
    rank, alpha = Counter(of_layers.values()).most_common(1)[0][0]
    ranks = {f"^{name}": of_layer for name, (of_layer, _) in of_layers.items() if of_layer != rank}
    alphas = {f"^{name}": of_layer for name, (_, of_layer) in of_layers.items() if of_layer != alpha}
    return Lora(rank, alpha, targets, state_of(layers), ranks, alphas, kind)


def starting_loras(
    start: Path,
    part: str,
    networks: Mapping[str, Network],
    pipeline: type[DiffusionPipeline],
    rank: int | None,
    alpha: float | None,
    adapters: Adapters,
) -> dict[str, Lora]:
    """The adapters that training starts from, by the part of the pipeline: the denoiser's, and text encoders' if any.

    Raises `UserError` for a run in full, and for another rank, alpha or kind than theirs, or layers; for text encoders'
    adapters that are not to be trained on, and where they are of a kind that has none.
    """
    run = RunFolder(start)
    if not run.has_adapters:
        model = run.weights / FULL_FOLDER
        # of a kept step there is the denoiser alone
        instead = f"use --model {model} instead, or --full" if (model / INDEX).is_file() else "use --full"
        raise UserError(f"{start}: was trained in full; {instead}")
    loras: dict[str, Lora] = {}
    if adapters.train_text_encoder:
        for name, stored in run.adapters(part, networks, pipeline).items():
            loras[name] = _as_stored(run, stored, networks[name])
    else:
        loras[part] = read_lora(run, part, networks[part], pipeline)
    lora = loras[part]
    for name, asked, begun in (("lora_rank", rank, lora.rank), ("lora_alpha", alpha, lora.alpha)):
        if asked not in (None, begun):
            raise UserError(f"{name} {asked:g}: {start} has {begun:g}, which is kept; leave the setting out")
    if adapters.lora_targets is not None:
        raise UserError(f"lora_targets: {start} has layers of its own, which are kept; leave the setting out")
    if adapters.lora_kind not in (USUAL_ADAPTERS.lora_kind, lora.kind):
        asked_kind = name_of_kind(adapters.lora_kind)
        raise UserError(
            f"lora_kind {asked_kind}: {start} is {name_of_kind(lora.kind)}, which is kept; leave the setting out"
        )
    if adapters.train_text_encoder and not lora.kind.on_text:
        raise UserError(f"train_text_encoder: {start} is {name_of_kind(lora.kind)}, which text encoders do not have")
    return loras | {part: replace(lora, dropout=adapters.lora_dropout)}


def frozen_policy(run: Path, part: str, network: Network, pipeline: type[DiffusionPipeline]) -> Lora | nn.Module:
    """What a run adds to a network that other policies share: adapters, or a whole network beside it."""
    folder = RunFolder(run)
    if folder.has_adapters:
        return read_lora(folder, part, network, pipeline)
    return whole_network(folder, part, network).to(network.device)


def put_on(network: Network, run: Path, part: str, pipeline: type[DiffusionPipeline]) -> nn.Module:
    """The network with a run's weights in place of its own; `UserError` when they are broken, or do not fit."""
    folder = RunFolder(run)
    if folder.has_adapters:
        add_to(network, folder.adapter(part, network, pipeline).cast(network.dtype))
    else:
        network.load_state_dict(whole_network(folder, part, network).state_dict())
    return network


def apply_adapter(pipe: DiffusionPipeline, part: str, run: RunFolder) -> None:
    """Put a run's weights on top, or the adapters of another folder or file, text encoders' too.

    Raises `UserError` when they are broken or do not fit; nothing is put on then.
    """
    if not run.has_adapters:
        setattr(pipe, part, whole_network(run, part, getattr(pipe, part)))
        return
    for name, stored in run.adapters(part, networks_of(pipe), type(pipe)).items():
        _inject(getattr(pipe, name), *stored)


def networks_of(pipe: DiffusionPipeline) -> dict[str, nn.Module]:
    """The networks of a pipeline by their parts."""
    return {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}


def _inject(network: Network, layers: Adapter, settings: Mapping[str, Any]) -> None:
    """Put adapters on a network as diffusers would, whose `unload_lora_weights` takes them off again.

    A LoKr that does not tell how it divides widths is added to the weights, since peft would divide them its own way.
    """
    if _divides_otherwise(layers, settings):
        if getattr(network, "is_quantized", False):
            raise UserError("a LoKr of another tool is added to weights, which a quantised network has none of")
        add_to(network, layers)
        return
    for parameter in inject(network, _NAME, lora_of(layers, tuple(layers), settings), network.dtype):
        parameter.requires_grad_(False)
    if hasattr(network, "_hf_peft_config_loaded"):
        network._hf_peft_config_loaded = True


def _divides_otherwise(layers: Adapter, settings: Mapping[str, Any]) -> bool:
    """Whether there is a LoKr among the layers without peft's settings of it."""
    return not settings and any(adapter.kind == "lokr" for adapter in layers.values())


def whole_network(run: RunFolder, part: str, like: Network) -> nn.Module:
    """A run's whole network, in the precision and with the processors of `like`; without values where that has none.

    Raises `UserError` when it is broken, or has other layers.
    """
    folder = run.network_folder(part)
    try:
        network: Network
        if like.device.type == "meta":
            network = network_without_values(type(like), folder, like.dtype)
        else:
            network = read_network(type(like), folder, variant_of(folder, None), like.dtype)
    except UserError:
        raise
    except Exception as error:  # a broken file makes the library raise anything at all
        raise UserError(f"{run}: its weights are broken or not this model's: {one_line(error)}") from error
    shapes = [_shapes(network), _shapes(like)]
    if shapes[0] != shapes[1]:
        raise UserError(f"{run}: was trained on another model, whose network has other layers")
    if hasattr(network, "set_attn_processor"):
        network.set_attn_processor(dict(like.attn_processors))
    return network


def _shapes(network: Network) -> Mapping[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.named_parameters()}
