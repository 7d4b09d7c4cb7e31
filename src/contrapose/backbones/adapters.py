"""Putting an aligned run's weights on a pipeline, on its network, or beside it as adapters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from peft.tuners.tuners_utils import check_target_module_exists
from torch import Tensor, nn

from contrapose.backbones.folders import INDEX, variant_of
from contrapose.backbones.networks import Network, read_network
from contrapose.backbones.policies import Lora, inject
from contrapose.errors import UserError, one_line
from contrapose.runs.adapter_files import Adapter, add_to, check_fit, usual_rank
from contrapose.runs.folder import RunFolder
from contrapose.runs.names import FULL_FOLDER

_NAME = "default_0"  # of the first adapters that diffusers loads


def read_lora(run: RunFolder, part: str, network: Network, pipeline: type[DiffusionPipeline]) -> Lora:
    """A run's adapters as they are stored; `UserError` when they are broken, or not this network's."""
    layers, settings = run.adapter(part, network, pipeline)
    modules = settings.get("target_modules") or list(layers)
    targets = modules if isinstance(modules, str) else tuple(modules)
    lora = lora_of(layers, targets)
    config = lora.config()
    if {name for name, _ in network.named_modules() if check_target_module_exists(config, name)} != layers.keys():
        raise UserError(f"{run}: broken, its adapters are not on the layers that it names; train it again")
    return lora


def state_of(layers: Adapter) -> dict[str, Tensor]:
    """Adapters by the names that peft gives their tensors."""
    state = {}
    for name, layer in layers.items():
        state[f"{name}.lora_A.weight"] = layer.down
        state[f"{name}.lora_B.weight"] = layer.up
    return state


def lora_of(layers: Adapter, targets: tuple[str, ...] | str) -> Lora:
    """Stored adapters as those of a policy; layers of another rank or alpha than most are named by peft's patterns."""
    rank, alpha = usual_rank(layers)
    ranks = {f"^{name}": layer.rank for name, layer in layers.items() if layer.rank != rank}
    alphas = {f"^{name}": layer.alpha for name, layer in layers.items() if layer.alpha != alpha}
    return Lora(rank, alpha, targets, state_of(layers), ranks, alphas)


def starting_lora(
    start: Path,
    part: str,
    network: Network,
    pipeline: type[DiffusionPipeline],
    rank: int | None,
    alpha: float | None,
) -> Lora:
    """The adapters that training starts from; `UserError` for a run in full, and another rank or alpha than theirs."""
    run = RunFolder(start)
    if not run.has_adapters:
        model = run.weights / FULL_FOLDER
        # of a kept step there is the denoiser alone
        instead = f"use --model {model} instead, or --full" if (model / INDEX).is_file() else "use --full"
        raise UserError(f"{start}: was trained in full; {instead}")
    lora = read_lora(run, part, network, pipeline)
    for name, asked, stored in (("lora_rank", rank, lora.rank), ("lora_alpha", alpha, lora.alpha)):
        if asked not in (None, stored):
            raise UserError(f"{name} {asked:g}: {start} has {stored:g}, which is kept; leave the setting out")
    return lora


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
    stored = run.read(part, getattr(pipe, part), type(pipe))
    fitting = {part: check_fit(stored, part, getattr(pipe, part))}
    for name in sorted(stored.parts.keys() - {part}):
        if getattr(pipe, name, None) is None:
            raise UserError(f"{stored.path}: has adapters of a {name}, and this model has none; is it another's?")
        fitting[name] = check_fit(stored, name, getattr(pipe, name))
    for name, layers in fitting.items():
        _inject(getattr(pipe, name), layers)


def _inject(network: Network, layers: Adapter) -> None:
    """Put adapters on a network as diffusers would, whose `unload_lora_weights` takes them off again."""
    for parameter in inject(network, _NAME, lora_of(layers, tuple(layers)), network.dtype):
        parameter.requires_grad_(False)
    if hasattr(network, "_hf_peft_config_loaded"):
        network._hf_peft_config_loaded = True


def whole_network(run: RunFolder, part: str, like: Network) -> nn.Module:
    """A run's whole network, in the precision and with the processors of `like`.

    Raises `UserError` when it is broken, or has other layers.
    """
    folder = run.network_folder(part)
    try:
        network: Network = read_network(type(like), folder, variant_of(folder, None), like.dtype)
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
