"""Kinds of adapters and dropout in whole runs: split anyhow, killed and carried on, and told in run.yaml."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from trained import check_killed_ends_the_same, until, weights_of

from contrapose.backbones.kinds import ADAPTER_KINDS, LoKr
from contrapose.backbones.settings import Adapters
from contrapose.errors import UserError
from contrapose.methods import DDSPO, METHODS
from contrapose.train.align import align
from contrapose.train.settings import Optimisation, Run, Watching

pytestmark = pytest.mark.usefixtures("few_levels")

FAST = Optimisation(learning_rate=1e-2, train_steps=3, batch_size=4, micro_batch=4, epsilon=1e-2)
WATCH = Watching(holdout=2, evaluate_every=2, save_every=2)
DROPPING = Adapters(lora_kind=ADAPTER_KINDS["dora"](), lora_dropout=0.4)


@pytest.fixture
def run(tiny_model: Path, tiny_pairs: Path) -> Run:
    return Run(str(tiny_model), tiny_pairs, DDSPO(beta=200.0), optimisation=FAST, watching=WATCH, lora_rank=2)


def _losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_dropout_is_the_same_however_the_batch_is_split(run: Run, tmp_path: Path) -> None:
    run = replace(run, adapters=DROPPING)
    ways: dict[str, Any] = {"whole": {}, "one": {"micro_batch": 1}, "split": {}, "without": {}}
    for way, changes in ways.items():
        changed = replace(run, optimisation=replace(FAST, **changes), split_pairs=way == "split")
        if way == "without":
            changed = replace(changed, adapters=replace(DROPPING, lora_dropout=0.0))
        list(align(changed, tmp_path / way))
    whole = _losses(tmp_path / "whole")
    assert _losses(tmp_path / "one") == pytest.approx(whole, rel=1e-4)
    assert _losses(tmp_path / "split") == pytest.approx(whole, rel=1e-4)
    assert _losses(tmp_path / "without")[1:] != pytest.approx(whole[1:], rel=1e-4), "the test must see it"
    first, second = weights_of(tmp_path / "whole"), weights_of(tmp_path / "one")
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    "adapters",
    [DROPPING, Adapters(lora_kind=LoKr(lokr_factor=4)), Adapters(train_text_encoder=True)],
    ids=["dora", "lokr", "text"],
)
def test_killed_and_resumed_is_uninterrupted(adapters: Adapters, run: Run, tmp_path: Path) -> None:
    run = replace(run, adapters=adapters, optimisation=replace(FAST, ema_decay=0.9))
    check_killed_ends_the_same(run, tmp_path, 2)
    told = yaml.safe_load((tmp_path / "whole" / "run.yaml").read_text())["adapters"]
    assert told["lora_targets"] == ["attention"]
    assert ADAPTER_KINDS[told["lora_kind"]["name"]] is type(adapters.lora_kind)


def test_what_has_no_dropout_says_so() -> None:
    with pytest.raises(UserError, match="lora_dropout: lokr has none; leave it out, or take lora, rslora or dora"):
        Adapters(lora_kind=LoKr(), lora_dropout=0.1)


@pytest.mark.slow
def test_text_encoders_learn_the_same_however_the_batch_is_split(run: Run, tmp_path: Path) -> None:
    """DDSPO's degraded prompts and dropped captions among what is read; nothing of it is kept on disk."""
    run = replace(run, adapters=Adapters(train_text_encoder=True), caption_dropout=0.3)
    for way, size in {"whole": 4, "one": 1}.items():
        list(align(replace(run, optimisation=replace(FAST, micro_batch=size)), tmp_path / way))
    assert _losses(tmp_path / "one") == pytest.approx(_losses(tmp_path / "whole"), rel=1e-4)
    whole, one = weights_of(tmp_path / "whole"), weights_of(tmp_path / "one")
    assert max(float(value.abs().max()) for name, value in whole.items() if name.startswith("text_encoder.")) > 0
    assert max(float((whole[name] - one[name]).abs().max()) for name in whole) < 1e-5
    split = replace(run, split_pairs=True)
    list(align(split, tmp_path / "split"))
    assert _losses(tmp_path / "split") == pytest.approx(_losses(tmp_path / "whole"), rel=1e-4)


@pytest.mark.slow
def test_a_run_begins_where_one_with_text_encoders_ended(run: Run, tmp_path: Path) -> None:
    """Undecided at first, since its reference reads prompts as it does itself; and carried on like any."""
    run = replace(run, adapters=Adapters(train_text_encoder=True))
    list(align(run, tmp_path / "first"))
    second = replace(run, start=tmp_path / "first", lora_rank=None)
    list(align(second, tmp_path / "whole"))
    assert _losses(tmp_path / "whole")[0] == pytest.approx(math.log(2), abs=1e-6)
    begun = weights_of(tmp_path / "first")
    ended = weights_of(tmp_path / "whole")
    of_text = [name for name in ended if name.startswith("text_encoder.")]
    assert begun.keys() == ended.keys() and of_text
    assert any(not torch.equal(begun[name], ended[name]) for name in of_text)
    until(align(second, tmp_path / "cut"), 2)
    list(align(second, tmp_path / "cut"))
    again = weights_of(tmp_path / "cut")
    assert all(torch.equal(again[name], ended[name]) for name in ended)


@pytest.mark.parametrize("settings", [{"method": "chats"}, {"method": "ddspo-data"}], ids=str)
def test_text_encoders_are_trained_alone(settings: dict[str, Any]) -> None:
    method = METHODS[settings.pop("method", "ddspo")]()
    with pytest.raises(UserError, match=r"^train_text_encoder: "):
        Run("m", Path("p"), method, adapters=Adapters(train_text_encoder=True), **settings)
    with pytest.raises(UserError, match="train_text_encoder: unused with full"):
        Run("m", Path("p"), DDSPO(), adapters=Adapters(train_text_encoder=True), full=True)
