"""Merged runs on every family: against weights merged by hand, in stock diffusers, and to first order guidance."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aligned
import families
import pytest
import stock
import torch
import yaml
from adapting import Notes, Tensors, rewrite
from aligned import apart
from diffusers import DiffusionPipeline
from peft import PeftModel
from safetensors import safe_open
from torch import Tensor, nn
from training import with_lora, with_own_network

import contrapose
from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import load_backbone
from contrapose.errors import UserError
from contrapose.guiding.merge import Merge, merge, stacked, truncated
from contrapose.runs.adapter_layers import LowRank
from contrapose.runs.folder import RunFolder
from contrapose.runs.names import LORA_FILE, PEFT_FILE

pytestmark = pytest.mark.slow

EXACT = 2e-5  # of the largest value: adapters beside the weights are rounded otherwise than in them
SCALE = 0.7


def _by_hand(base: nn.Module, positive: nn.Module, negative: nn.Module | None, scale: float) -> nn.Module:
    """theta + w (theta_pos - theta_neg), in double precision on the way."""
    network = copy.deepcopy(base)
    theirs = dict(positive.named_parameters()), dict((negative or base).named_parameters())
    for name, value in network.named_parameters():
        first, second = (of[name].double() for of in theirs)
        value.data = (value.double() + scale * (first - second)).to(value.dtype)
    return network


def _stock(name: str, folder: Path, out: Path, **parts: Any) -> DiffusionPipeline:
    """The merge as a user of diffusers loads it; parts that are given are not read."""
    if (out / "model_index.json").is_file():
        return stock.load(name, out, **parts)
    pipe = stock.load(name, folder, **parts)
    if (out / LORA_FILE).is_file():
        pipe.load_lora_weights(out)
    else:
        pipe.transformer = PeftModel.from_pretrained(pipe.transformer, out)
    return pipe


def _call(name: str, pipe: DiffusionPipeline) -> dict[str, Any]:
    with stock.recorded(stock.denoiser_of(pipe)) as calls:
        stock.draw(name, pipe, num_inference_steps=1)
    return calls[0].inputs


@pytest.mark.parametrize("sides", [1, 2], ids=["positive", "both"])
def test_by_hand_in_stock_diffusers(
    name: str, folder: Path, pipe: DiffusionPipeline, runs: aligned.Runs, sides: int, tmp_path: Path
) -> None:
    negative = runs.negative if sides == 2 else None
    merged = merge(Merge(str(folder), runs.positive, negative, SCALE), tmp_path / "out")
    assert merged.rank == (aligned.RANK * sides if runs.kind == "lora" else None)
    inputs, base = _call(name, pipe), stock.denoiser_of(pipe)
    by_hand = _by_hand(base, runs.networks["positive"], runs.networks["negative"] if negative else None, SCALE)
    expected = aligned.answered(by_hand, inputs)
    rest = stock.rest_of(pipe) if runs.kind == "lora" else {}
    made = aligned.answered(stock.denoiser_of(_stock(name, folder, tmp_path / "out", **rest)), inputs)
    assert apart(made, expected) < EXACT
    assert apart(aligned.answered(base, inputs), expected) > 100 * EXACT, "the test must see the merge"


@pytest.mark.parametrize("runs", ["lora"], indirect=True)
def test_adapters_are_the_whole_merge(
    name: str, folder: Path, plain: Backbone, pipe: DiffusionPipeline, runs: aligned.Runs, tmp_path: Path
) -> None:
    """Adapters as `sample --adapter` puts them on, and the pipeline as `--model`."""
    for out, whole in (("adapters", False), ("whole", True)):
        merge(Merge(str(folder), runs.positive, runs.negative, SCALE, full=whole), tmp_path / out)
    found = {path.name for path in (tmp_path / "adapters").iterdir()}
    peft = {PEFT_FILE, "adapter_config.json", "merge.yaml"}
    assert found == (peft if name == "pixart" else {LORA_FILE, "merge.yaml"})
    inputs = _call(name, pipe)
    on_base = load_backbone(folder, adapter=tmp_path / "adapters").denoiser.network
    whole = load_backbone(tmp_path / "whole").denoiser.network
    assert apart(aligned.answered(on_base, inputs), aligned.answered(whole, inputs)) < EXACT


def _partway(base: nn.Module, run: Path, share: float, out: Path) -> Path:
    """A run that has gone a share of another's way."""
    shutil.copytree(run, out)
    [path] = out.rglob("*.safetensors")
    full = path.parent != out
    start = base.state_dict()

    def go(tensors: Tensors, notes: Notes) -> None:
        for name, value in tensors.items():
            if full:
                tensors[name] = torch.lerp(start[name], value, share)
            elif ".lora_B." in name:
                tensors[name] = value * share

    rewrite(path, go)
    return out


@pytest.mark.parametrize("name", families.DISTINCT)
def test_guidance_to_first_order(
    name: str, folder: Path, pipe: DiffusionPipeline, runs: aligned.Runs, tmp_path: Path
) -> None:
    """For runs an e of the way off the base, merge and guidance change the images by O(e), and differ by O(e^2)."""
    base = stock.draw(name, pipe)
    gaps, effects = [], []
    for share in (0.2, 0.02) if runs.kind == "full" else (0.05, 0.005):  # adapters of noise are far from the base
        place = tmp_path / f"{share}"
        near = [
            _partway(stock.denoiser_of(pipe), run, share, place / side)
            for side, run in (("positive", runs.positive), ("negative", runs.negative))
        ]
        merge(Merge(str(folder), *near, scale=2.0, full=True), place / "out")
        made = stock.draw(name, _stock(name, folder, place / "out", **stock.rest_of(pipe)))
        with contrapose.guide(pipe, *near, scale=2.0):
            guided = stock.draw(name, pipe)
        gaps.append(float((made - guided).norm()))
        effects.append(float((guided - base).norm()))
    assert gaps[1] < 0.1 * effects[1]
    assert gaps[1] < gaps[0] / 20  # a hundredth, but for SANA's kinks


@pytest.mark.parametrize("name", ["sd", "pixart", "flux"])
def test_adapters_and_a_whole_network(
    name: str,
    folder: Path,
    pipe: DiffusionPipeline,
    aligned_runs: Callable[[str, str], tuple[Path, Path, dict[str, nn.Module]]],
    tmp_path: Path,
) -> None:
    """Either way round; that makes a whole pipeline."""
    kinds = {kind: aligned.Runs(kind, *aligned_runs(name, kind)) for kind in ("lora", "full")}
    inputs, base = _call(name, pipe), stock.denoiser_of(pipe)
    for first, second in (("lora", "full"), ("full", "lora")):
        one, other, out = kinds[first], kinds[second], tmp_path / first
        assert merge(Merge(str(folder), one.positive, other.negative, SCALE), out).rank is None
        by_hand = _by_hand(base, one.networks["positive"], other.networks["negative"], SCALE)
        made = aligned.answered(stock.denoiser_of(_stock(name, folder, out)), inputs)
        assert apart(made, aligned.answered(by_hand, inputs)) < EXACT


def _random(rank: int, seed: int, shape: tuple[int, int] = (24, 32), scale: float = 2.5) -> LowRank:
    random = torch.Generator().manual_seed(seed)
    down, up = torch.randn(rank, shape[1], generator=random), torch.randn(shape[0], rank, generator=random)
    return LowRank(down, up, scale)


def _product(one: LowRank) -> Tensor:
    return one.scale * one.up @ one.down


def test_layers_of_one_adapter_alone() -> None:
    first = {"both": _random(3, 0), "mine": _random(3, 1)}
    second = {"both": _random(5, 2), "theirs": _random(5, 3)}
    found = stacked([(first, 2.0), (second, -2.0)])
    expected = {
        "both": 2 * (_product(first["both"]) - _product(second["both"])),
        "mine": 2 * _product(first["mine"]),
        "theirs": -2 * _product(second["theirs"]),
    }
    assert set(found) == set(expected)
    for layer, one in found.items():
        assert (one.down.shape[0], one.up.shape[1], one.scale) == (8, 8, 1.0)
        torch.testing.assert_close(_product(one), expected[layer])


@pytest.mark.parametrize("shape", [(24, 32), (6, 32), (24, 5)])
def test_truncation_is_the_best_there_is(shape: tuple[int, int]) -> None:
    """Exact at the full rank, Eckart and Young's error below it, also in layers narrower than the rank."""
    adapter = stacked([({"a": _random(4, 0, shape)}, 1.0), ({"a": _random(4, 1, shape)}, -1.0)])
    product = _product(adapter["a"]).double()
    values = torch.linalg.svdvals(product)
    errors = []
    for rank in range(1, 9):
        cut, kept = truncated(adapter, rank)
        assert len(cut["a"].down) == rank
        errors.append(float((_product(cut["a"]).double() - product).norm()))
        assert errors[-1] == pytest.approx(float(values[rank:].norm()), abs=1e-4)
        assert kept == pytest.approx(float(values[:rank].square().sum() / values.square().sum()))
    assert errors[0] > 1
    assert errors[-1] < 1e-4


@pytest.mark.parametrize("name", ["sd", "pixart"])
@pytest.mark.parametrize("runs", ["lora"], indirect=True)
def test_ranks_in_stock_diffusers(
    name: str, folder: Path, pipe: DiffusionPipeline, runs: aligned.Runs, tmp_path: Path
) -> None:
    inputs, base = _call(name, pipe), stock.denoiser_of(pipe)
    exact = aligned.answered(_by_hand(base, runs.networks["positive"], runs.networks["negative"], SCALE), inputs)
    errors, kept = [], []
    for rank in (1, 4, 8):
        out = tmp_path / f"{rank}"
        merged = merge(Merge(str(folder), runs.positive, runs.negative, SCALE, rank=rank), out)
        assert merged.rank == rank
        kept.append(merged.kept)
        made = stock.denoiser_of(_stock(name, folder, out, **stock.rest_of(pipe)))
        errors.append(apart(aligned.answered(made, inputs), exact))
    assert kept == sorted(kept)
    assert kept[-1] == pytest.approx(1)
    assert errors[0] > errors[1] > 100 * EXACT
    assert errors[2] < EXACT


@pytest.mark.parametrize("name", ["sd", "pixart"])
def test_what_was_merged_is_written_down(
    name: str, folder: Path, plain: Backbone, runs: aligned.Runs, tmp_path: Path
) -> None:
    """Names without their folders, everywhere; and a merge can be merged again."""
    out = tmp_path / "out"
    merge(Merge(str(folder), runs.positive, runs.negative, SCALE), out)
    note = yaml.safe_load((out / "merge.yaml").read_text())
    rank = 2 * aligned.RANK if runs.kind == "lora" else None
    assert all(re.fullmatch("[0-9a-f]{16}", note.pop(key)) for key in ("made_of", "holds"))
    assert note == {
        "base": folder.name,
        "positive": "positive",
        "negative": "negative",
        "scale": SCALE,
        "base_fingerprint": plain.fingerprint,
        "whole": rank is None,
        "rank": rank,
        "kept": 1.0,
    }
    told = [path.read_text() for path in out.rglob("*") if path.suffix in (".json", ".yaml", ".md")]
    if rank:
        with safe_open(next(out.glob("*.safetensors")), "pt") as file:
            header = file.metadata()
        told.append(json.dumps(header))
        expected = {"base": folder.name, "base_fingerprint": plain.fingerprint, "method": "merge", "scale": "0.7"}
        assert expected.items() <= header.items()
        assert merge(Merge(str(folder), out), tmp_path / "again").rank == rank
    assert not [text for text in told if str(folder.parent) in text or str(runs.positive.parent) in text]


def _refused(out: Path, line: str, *settings: Any, **named: Any) -> None:
    before = sorted(out.parent.rglob("*"))
    with pytest.raises(UserError, match=line) as error:
        merge(Merge(*settings, **named), out)
    assert "\n" not in str(error.value)
    assert sorted(out.parent.rglob("*")) == before, "nothing is left behind"


@pytest.mark.parametrize("name", ["sd"])
def test_runs_that_do_not_merge(
    name: str,
    folder: Path,
    runs: aligned.Runs,
    tiny_v_model: Path,
    wider_model: Path,
    tiny_family: Callable[[str], Path],
    loaded: Callable[[str], Backbone],
    aligned_runs: Callable[[str, str], tuple[Path, Path, dict[str, nn.Module]]],
    tmp_path: Path,
) -> None:
    out, base = tmp_path / "results" / "out", str(folder)
    out.parent.mkdir()
    same = "positive: has the weights of .*positive: nothing to merge"
    _refused(out, same, base, runs.positive, runs.positive)
    _refused(out, "no such run", base, tmp_path / "none")
    _refused(out, "holds no weights of this model's unet", base, out.parent)
    _refused(out, "no such model", str(tmp_path / "none"), runs.positive)
    _refused(out, "does not fit|other layers|not this model's", str(wider_model), runs.positive)
    other_family = aligned_runs("pixart", runs.kind)[0]
    _refused(out, "does not fit|holds no weights|holds no adapters", base, other_family)
    noted = tmp_path / "noted"
    made = with_lora(with_own_network(loaded("sd")), 2, 2.0)
    made.save(noted, {"base_fingerprint": "0123"})
    _refused(out, r"noted: was trained on another model \(0123\)", base, noted)
    made.save(tmp_path / "untrained")
    _refused(out, "untrained: has the weights of .*sd: nothing to merge", base, tmp_path / "untrained")
    if runs.kind == "full":
        _refused(out, "was trained in full and has none", base, runs.positive, rank=4)
    else:
        _refused(out, "the merge has rank 8", base, runs.positive, runs.negative, rank=9)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"scale": float("nan")}, "scale nan"),
        ({"scale": float("inf")}, "scale inf"),
        ({"scale": 1000.5}, "scale 1000.5: a number from -1000 up to 1000"),
        ({"scale": 0.0}, "scale 0"),
        ({"rank": 0}, "rank 0: a whole number from 1"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        Merge("base", Path("run"), **settings)


@pytest.mark.parametrize("name", ["sd"])
@pytest.mark.parametrize("runs", ["lora"], indirect=True)
def test_nothing_is_written_over(name: str, folder: Path, runs: aligned.Runs, tmp_path: Path) -> None:
    for path in (tmp_path / "file", tmp_path / "folder" / "file"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("precious")
        out = path if path.parent == tmp_path else path.parent
        _refused(out, "is there already", str(folder), runs.positive)
        assert path.read_text() == "precious"
    (tmp_path / "empty").mkdir()
    assert merge(Merge(str(folder), runs.positive), tmp_path / "empty").rank == aligned.RANK


def test_broken_adapters(tiny_model: Path, loaded: Callable[[str], Backbone], tmp_path: Path) -> None:
    """One whose rank is not what its header says, and one that is cut short."""
    run = aligned.write_run(loaded("sd"), "lora", 0, tmp_path / "run")
    whole = RunFolder(run).adapter("unet", loaded("sd").denoiser.network).layers
    assert {len(one.down) for one in whole.values()} == {aligned.RANK}
    path = run / LORA_FILE
    path.write_bytes(path.read_bytes()[:-100])
    _refused(tmp_path / "out", "broken", str(tiny_model), run)
