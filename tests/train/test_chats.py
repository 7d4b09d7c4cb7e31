"""Two policies trained jointly: each is saved by itself, and both learn."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import load_backbone
from contrapose.core.path import DiffusionPath
from contrapose.methods import CHATS
from contrapose.store.mixture import Mixture
from contrapose.store.records import GroupRecord
from contrapose.train.align import align
from contrapose.train.data import Groups
from contrapose.train.settings import Optimisation, Run, Watching

pytestmark = pytest.mark.usefixtures("few_levels")


@pytest.fixture(scope="module")
def run_of(tiny_model: Path, tiny_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A finished run's folder, of LoRA or full, with gradient checkpointing or without."""

    @cache
    def finished(kind: str, checkpointing: bool) -> Path:
        optimisation = Optimisation(learning_rate=1e-2, train_steps=4, batch_size=4, micro_batch=2)
        run = Run(
            str(tiny_model), tiny_pairs, CHATS(beta=100.0), optimisation=optimisation, watching=Watching(holdout=2),
            full=kind == "full", gradient_checkpointing=checkpointing,
        )  # fmt: skip
        folder = tmp_path_factory.mktemp("chats")
        for _ in align(run, folder):
            pass
        return folder

    return finished


def _metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _answer(backbone: Backbone) -> torch.Tensor:
    x_t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    condition = backbone.text.embed(["a red circle"])
    with torch.no_grad():
        return backbone.denoiser.denoise(backbone.denoiser.network, x_t, torch.tensor([500]), condition)


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_both_policies_learn_and_are_saved(
    tiny_model: Path, run_of: Callable[..., Path], kind: str, checkpointing: bool
) -> None:
    run = run_of(kind, checkpointing)
    last = _metrics(run)[-1]
    assert last["winner_error_gain"] > 0 and last["loser_error_gain"] > 0
    first, second = (_answer(load_backbone(tiny_model, adapter=run / policy)) for policy in ("positive", "negative"))
    reference = _answer(load_backbone(tiny_model))
    assert min((a - b).abs().max() for a, b in ((first, second), (first, reference), (second, reference))) > 1e-5


def test_checkpointing_changes_nothing(run_of: Callable[..., Path]) -> None:
    """The recomputed forward of one policy must not be another's: adapters are switched on one module."""
    runs = [_metrics(run_of("lora", checkpointing)) for checkpointing in (False, True)]
    for plain, recomputed in zip(*runs, strict=True):
        assert recomputed["loss"] == pytest.approx(plain["loss"], rel=1e-5)
        assert recomputed["grad_norm"] == pytest.approx(plain["grad_norm"], rel=1e-4)


class Numbered:
    """Each prompt embeds as its number, and no prompt as -1."""

    def __call__(self, prompts: list[str | None]) -> dict[str, torch.Tensor]:
        return {"text": torch.tensor([[-1.0 if p is None else float(p.split()[-1])] for p in prompts])}


def test_prompts_are_dropped_as_often_as_asked(tmp_path: Path, write_store: Callable[..., Path]) -> None:
    records = [GroupRecord.pair(f"id-{i}", f"prompt {i}", "", i) for i in range(400)]
    latents = {side: torch.zeros(400, 4, 2, 2) for side in ("winner", "loser")}
    store = Mixture(write_store(tmp_path, records, latents, shard_size=400))
    path = DiffusionPath(torch.linspace(0.999, 0.005, 1000))
    groups = Groups(store, CHATS(dropout=0.3).composition(), Numbered(), path, 0, 0)  # type: ignore[arg-type]
    group = groups.training_batch(range(400), torch.device("cpu"))
    kept, dropped = (group.prompts[slot]["text"] for slot in ("prompt", "dropped"))
    assert (kept >= 0).all()
    assert ((dropped == kept) | (dropped == -1)).all()
    assert (dropped == -1).float().mean() == pytest.approx(0.3, abs=0.07)
