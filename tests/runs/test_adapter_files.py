"""Adapters and whole runs that are broken or of another model: one line, the same whatever command reads them."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aligned
import pytest
import torch
from adapting import COMMANDS, SETTINGS, Notes, Tensors, refused, rewrite, use
from safetensors.torch import load_file, save_file

from contrapose.backbones.base import Backbone
from contrapose.runs.names import LORA_FILE


def _first(tensors: Tensors, half: str = "A") -> str:
    return min(name for name in tensors if name.endswith(f".lora_{half}.weight"))


def _set(half: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors, Notes], None]:
    def spoil(tensors: Tensors, notes: Notes) -> None:
        name = _first(tensors, half)
        tensors[name] = change(tensors[name]).contiguous()

    return spoil


def _value(number: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(value: torch.Tensor) -> torch.Tensor:
        changed = value.clone()
        changed.view(-1)[0] = number
        return changed

    return change


def _lose(*halves: str) -> Callable[[Tensors, Notes], None]:
    def spoil(tensors: Tensors, notes: Notes) -> None:
        for name in [_first(tensors, half) for half in halves]:
            tensors.pop(name)

    return spoil


def _lose_all(half: str) -> Callable[[Tensors, Notes], None]:
    def spoil(tensors: Tensors, notes: Notes) -> None:
        for name in [name for name in tensors if name.endswith(f".lora_{half}.weight")]:
            tensors.pop(name)

    return spoil


def _add(name: str) -> Callable[[Tensors, Notes], None]:
    return lambda tensors, notes: tensors.update({name: torch.ones(2, 3)})


def _say(**changes: Any) -> Callable[[Tensors, Notes], None]:
    """Change what the header says of the adapters."""

    def spoil(tensors: Tensors, notes: Notes) -> None:
        told = json.loads(notes[SETTINGS]) | {f"unet.{name}": value for name, value in changes.items()}
        notes[SETTINGS] = json.dumps(told)

    return spoil


def _head(text: str) -> Callable[[Tensors, Notes], None]:
    return lambda tensors, notes: notes.update({SETTINGS: text})


def _smaller_rank(tensors: Tensors, notes: Notes) -> None:
    for half, cut in (("A", slice(0, 2)), ("B", (slice(None), slice(0, 2)))):
        tensors[_first(tensors, half)] = tensors[_first(tensors, half)][cut].contiguous()


def _no_rank(tensors: Tensors, notes: Notes) -> None:
    for half, cut in (("A", slice(0, 0)), ("B", (slice(None), slice(0, 0)))):
        tensors[_first(tensors, half)] = tensors[_first(tensors, half)][cut].contiguous()


LAYER = r"unet\.[\w.]+"
BROKEN: dict[str, tuple[Callable[[Tensors, Notes], Any], str]] = {
    "an extra tensor": (_add("extra.weight"), "extra.weight is not part of a LoRA"),
    "all ups gone": (_lose_all("B"), rf"{LAYER} has its lora_A and no lora_B"),
    "one up gone": (_lose("B"), rf"{LAYER} has its lora_A and no lora_B"),
    "one down gone": (_lose("A"), rf"{LAYER} has its lora_B and no lora_A"),
    "a layer gone": (_lose("A", "B"), "has adapters of 31 layers, and its header says 32"),
    "another rank in a layer": (_smaller_rank, rf"{LAYER} has rank 2, and its header says 4"),
    "another rank in a half": (_set("A", lambda v: v[:2]), rf"{LAYER} has halves of shapes"),
    "rank 0": (_no_rank, rf"{LAYER} has halves of shapes"),
    "one dimension": (_set("A", lambda v: v[0]), rf"{LAYER} has halves of shapes"),
    "three dimensions": (_set("B", lambda v: v[None]), rf"{LAYER} has halves of shapes"),
    "whole numbers": (_set("A", lambda v: v.int()), rf"{LAYER} has weights that are not finite"),
    "NaN": (_set("B", _value(math.nan)), rf"{LAYER} has weights that are not finite"),
    "infinite": (_set("A", _value(math.inf)), rf"{LAYER} has weights that are not finite"),
    "rank 8 in the header": (_say(r=8), rf"{LAYER} has rank 4, and its header says 8"),
    "rank 0 in the header": (_say(r=0), rf"{LAYER} has rank 4, and its header says 0"),
    "rank a text": (_say(r="four"), "its header says r 'four', where a number"),
    "no rank": (_say(r=None), "its header says r None"),
    "alpha NaN": (_say(lora_alpha=math.nan), rf"{LAYER} has alpha nan"),
    "alpha infinite": (_say(lora_alpha=math.inf), rf"{LAYER} has alpha inf"),
    "alpha 0": (_say(lora_alpha=0), rf"{LAYER} has alpha 0"),
    "alpha -1": (_say(lora_alpha=-1), rf"{LAYER} has alpha -1"),
    "alpha a list": (_say(lora_alpha=[1]), r"its header says lora_alpha \[1\]"),
    "patterns a list": (_say(rank_pattern=["to_q"]), "patterns of ranks and alphas"),
    "patterns no pattern": (_say(rank_pattern={"(": 2}), "patterns of ranks and alphas"),
    "a header that is a list": (_head("[1]"), "lora_adapter_metadata is not a JSON object"),
    "a header that is no JSON": (_head("{"), "lora_adapter_metadata is not a JSON object"),
    "a deep header": (_head("[" * 100_000), "lora_adapter_metadata is not a JSON object"),
    "a layer that is named and not there": (
        _say(target_modules=["to_q", "to_w"]), "its header names to_w, and no layer of it is there",
    ),
    "magnitudes": (_add("unet.mid_block.lora_magnitude_vector"), "without lora_A and lora_B"),
    "OFT": (_add("lora_unet_mid_block.oft_blocks"), "is a LyCORIS of another form"),
    "a LoHa's factor gone": (_add("unet.mid_block.hada_w1_a"), "unet.mid_block has no hada_w1_b; a factor is missing"),
    "a LoKr's factors apart": (_add("unet.mid_block.lokr_w1"), "unet.mid_block has no lokr_w2_a; a factor is missing"),
    "a ControlNet": (_add("lora_controlnet"), "is a ControlNet"),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_a_whole_one_is_taken(command: str, adapter_run: Path, tiny_model: Path) -> None:
    use(command, adapter_run, tiny_model)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("broken", BROKEN)
def test_broken_adapters(broken: str, command: str, adapter_run: Path, tiny_model: Path) -> None:
    change, line = BROKEN[broken]
    rewrite(adapter_run / LORA_FILE, change)
    refused(command, adapter_run, tiny_model, line)


@pytest.mark.parametrize("command", COMMANDS)
def test_files_that_are_no_adapters(command: str, adapter_run: Path, tiny_model: Path) -> None:
    file = adapter_run / LORA_FILE
    whole = file.read_bytes()
    for left in (0, 4, 100, len(whole) - 1):
        file.write_bytes(whole[:left])
        refused(command, adapter_run, tiny_model, "truncated or broken")
    save_file({"text_model.encoder.layers.0.mlp.fc1.weight": torch.ones(2, 2)}, file)
    refused(command, adapter_run, tiny_model, "holds no adapters .*; a whole model is given as --model")
    save_file({}, file)
    refused(command, adapter_run, tiny_model, "holds no adapters .*it is empty")
    file.unlink()
    (adapter_run / "pytorch_lora_weights.bin").write_bytes(b"\x80\x04")
    refused(command, adapter_run, tiny_model, r"a \.bin, which can run code and is never read")
    for name in ("one", "other"):
        (adapter_run / f"{name}.safetensors").write_bytes(whole)
    refused(command, adapter_run, tiny_model, "holds 2 files of weights; name one of them")


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "export"])
def test_a_run_of_another_model(command: str, adapter_run: Path, tiny_model: Path, wider_model: Path) -> None:
    refused(command, adapter_run, wider_model, r"does not fit this model at unet\..+; was it trained on another one\?")
    rewrite(adapter_run / LORA_FILE, lambda tensors, notes: notes.update(base_fingerprint="0123"))
    refused(command, adapter_run, tiny_model, r"was trained on another model \(0123\)")


def test_a_run_whose_adapters_are_another_runs(adapter_run: Path, tiny_model: Path) -> None:
    """Which only export cannot compare with a model; it has the run's own word."""
    (adapter_run / "run.yaml").write_text("{model: m, pairs: p, method: {name: sft}}")
    (adapter_run / "finished.json").write_text(json.dumps({"base_fingerprint": "4567"}))
    rewrite(adapter_run / LORA_FILE, lambda tensors, notes: notes.update(base_fingerprint="0123"))
    refused("export", adapter_run, tiny_model, r"trained on another model \(0123\) than its run \(4567\)")


# Runs that were trained in full


@pytest.fixture(scope="module")
def whole_network(loaded: Callable[[str], Backbone], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return aligned.write_run(loaded("sd"), "full", 0, tmp_path_factory.mktemp("runs") / "full")


@pytest.fixture
def full_run(whole_network: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole_network, tmp_path / "run")


def _half(tensors: Tensors, notes: Notes) -> None:
    for name in sorted(tensors)[::2]:
        tensors.pop(name)


def _nan(tensors: Tensors, notes: Notes) -> None:
    tensors["conv_in.weight"].view(-1)[0] = math.nan


BROKEN_NETWORKS: dict[str, tuple[Callable[[Tensors, Notes], Any], str]] = {
    "half of the tensors": (_half, r"tensors are missing, such as [\w.]+"),
    "a tensor gone": (lambda tensors, notes: tensors.pop("conv_in.bias"), "conv_in.bias"),
    "NaN": (_nan, "not finite .*conv_in.weight"),
    "an extra tensor": (_add("extra.weight"), "extra.weight"),
    "another shape": (lambda tensors, notes: tensors.update({"conv_in.bias": torch.ones(3)}), "conv_in.bias"),
}
OF_NETWORKS = [name for name in COMMANDS if name not in ("export", "start")]


@pytest.mark.parametrize("command", OF_NETWORKS)
@pytest.mark.parametrize("broken", BROKEN_NETWORKS)
def test_broken_networks(broken: str, command: str, full_run: Path, tiny_model: Path) -> None:
    change, line = BROKEN_NETWORKS[broken]
    [path] = full_run.rglob("*.safetensors")
    rewrite(path, change)
    refused(command, full_run, tiny_model, line)


@pytest.mark.parametrize("command", OF_NETWORKS)
def test_a_network_that_is_no_safetensors(command: str, full_run: Path, tiny_model: Path) -> None:
    """What a `.bin` is made of can run code."""
    [path] = full_run.rglob("*.safetensors")
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()
    refused(command, full_run, tiny_model, r"\.bin alone, which can run code and is never read")
