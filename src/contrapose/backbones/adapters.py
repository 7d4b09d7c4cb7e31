"""Putting an aligned run's weights on a pipeline, on its network, or beside it as adapters."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer, check_target_module_exists
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from contrapose.backbones.fingerprint import noted_fingerprint, stored_fingerprints, weights_fingerprint
from contrapose.backbones.loading import FULL_FOLDER, LORA_FILE, PEFT_FILE, UNREADABLE, Source, one_line
from contrapose.backbones.policies import Lora
from contrapose.backbones.row_adapters import has_adapter, read_adapter, stored_adapter
from contrapose.errors import UserError


def check_run(run: Path, source: Source, part: str) -> None:
    """Raise `UserError` for a folder without weights of this model's `part`, and a run of another model."""
    if not run.is_dir():
        raise UserError(f"{run}: no such run")
    if not has_adapter(run) and not (run / FULL_FOLDER / part).is_dir():
        raise UserError(f"{run}: holds no weights of this model's {part}; has the run finished?")
    parts = (part, "vae")
    ours = stored_fingerprints(source.path, parts) if source.path.is_dir() else {weights_fingerprint(source, parts)}
    theirs = noted_fingerprint(run)
    if theirs is not None and theirs not in ours:
        known = ", ".join(sorted(ours))
        raise UserError(f"{run}: was trained on another model ({theirs}) than {source.model} ({known})")


def read_lora(run: Path, part: str, network: nn.Module) -> Lora:
    """A run's adapters as they are stored; `UserError` when they are broken, or not this network's."""
    layers, settings = stored_adapter(run, part, network)
    halves = [(name, half) for name, one in layers.items() for half in (("A", one.down), ("B", one.up))]
    weights = {f"{name}.lora_{half}.weight": value for name, (half, value) in halves}
    told = settings.get("target_modules") or list(layers)
    targets = told if isinstance(told, str) else tuple(told)
    lora = Lora(int(settings["r"]), float(settings["lora_alpha"]), targets, weights)
    config = lora.config()
    if {name for name, _ in network.named_modules() if check_target_module_exists(config, name)} != layers.keys():
        raise UserError(f"{run}: broken, its adapters are not on the layers that it names; train it again")
    return lora


def starting_lora(start: Path, part: str, network: nn.Module, rank: int | None, alpha: float | None) -> Lora:
    """The adapters that training starts from; `UserError` for a run in full, and another rank or alpha than theirs."""
    if not has_adapter(start):
        raise UserError(f"{start}: was trained in full; use --model {start / FULL_FOLDER} instead, or --full")
    lora = read_lora(start, part, network)
    for name, asked, theirs in (("lora_rank", rank, lora.rank), ("lora_alpha", alpha, lora.alpha)):
        if asked not in (None, theirs):
            raise UserError(f"{name} {asked:g}: {start} has {theirs:g}, which is kept; leave the setting out")
    return lora


def frozen_policy(run: Path, part: str, network: nn.Module) -> Lora | nn.Module:
    """What a run adds to a network that other policies share: adapters, or a whole network beside it."""
    return read_lora(run, part, network) if has_adapter(run) else whole_network(run, part, network).to(network.device)


@torch.no_grad()
def put_on(network: nn.Module, run: Path, part: str) -> nn.Module:
    """The network with a run's weights in place of its own; `UserError` when they are broken, or do not fit."""
    if has_adapter(run):
        for name, one in read_adapter(run, part, network).items():
            network.get_submodule(name).weight.add_(one.up.to(network.device) @ one.down.to(network.device) * one.scale)
    else:
        network.load_state_dict(whole_network(run, part, network).state_dict())
    return network


def apply_adapter(pipe: DiffusionPipeline, part: str, adapter: Path) -> None:
    """Put an aligned run's weights on top; `UserError` when there are none, or they do not fit."""
    if not adapter.exists():
        raise UserError(f"{adapter}: no such run")
    if (adapter / FULL_FOLDER / part).is_dir():
        setattr(pipe, part, whole_network(adapter, part, getattr(pipe, part)))
        return
    try:
        if (adapter / LORA_FILE).is_file():
            _load_lora(pipe, part, adapter)
        elif (adapter / PEFT_FILE).is_file():
            _load_peft(getattr(pipe, part), adapter)
        else:
            raise UserError(f"{adapter}: holds neither {LORA_FILE} nor {FULL_FOLDER}/; has the run finished?")
    except UNREADABLE as error:
        raise UserError(f"{adapter}: its weights are broken or do not fit this model: {one_line(error)}") from error


def whole_network(run: Path, part: str, like: nn.Module) -> nn.Module:
    """A run's whole network, in the precision and with the processors of `like`.

    Raises `UserError` when it is broken, or has other layers.
    """
    try:
        network = type(like).from_pretrained(run / FULL_FOLDER / part, torch_dtype=like.dtype, local_files_only=True)
    except UNREADABLE as error:
        raise UserError(f"{run}: its weights are broken or not this model's: {one_line(error)}") from error
    shapes = [{name: tuple(value.shape) for name, value in net.named_parameters()} for net in (network, like)]
    if shapes[0] != shapes[1]:
        raise UserError(f"{run}: was trained on another model, whose network has other layers")
    if hasattr(network, "set_attn_processor"):
        network.set_attn_processor(dict(like.attn_processors))
    return network


def _load_lora(pipe: DiffusionPipeline, part: str, adapter: Path) -> None:
    """diffusers' own form; its loader passes over what is of another model with no more than a warning."""
    network = getattr(pipe, part)
    with safe_open(adapter / LORA_FILE, "pt") as file:
        keys = [key for key in file.keys() if key.startswith(f"{part}.")]  # noqa: SIM118 (it is no mapping)
    named = {key.removeprefix(f"{part}.").split(".lora_")[0] for key in keys}
    missing = named - {name for name, _ in network.named_modules()}
    if missing:
        raise ValueError(f"{len(missing)} of its {len(named)} layers are not in this model")
    pipe.load_lora_weights(adapter, weight_name=LORA_FILE)
    if not any(isinstance(module, BaseTunerLayer) for module in network.modules()):
        raise ValueError("none of its layers are in this model")


def _load_peft(network: nn.Module, adapter: Path) -> None:
    """peft's own files, for networks whose stock pipeline has no `load_lora_weights`."""
    inject_adapter_in_model(LoraConfig.from_pretrained(adapter), network, adapter_name="default")
    weights = {name.removeprefix("base_model.model."): v for name, v in load_file(adapter / PEFT_FILE).items()}
    found = set_peft_model_state_dict(network, weights, adapter_name="default")
    if found.unexpected_keys:
        raise ValueError(f"{len(found.unexpected_keys)} of its layers are not in this model")
    network.to(network.dtype)
