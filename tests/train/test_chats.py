"""Two policies trained jointly: each is saved by itself, and both learn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from contrapose.backbones.families.table import load_backbone
from contrapose.core.path import DiffusionPath
from contrapose.methods import CHATS
from contrapose.store.mixture import Mixture
from contrapose.store.records import GroupRecord
from contrapose.train.align import align
from contrapose.train.data import Groups
from contrapose.train.settings import Optimisation, Run, Watching


def _run(model: Path, pairs: Path, out: Path, **settings: object) -> list[dict[str, float]]:
    optimisation = Optimisation(learning_rate=1e-2, train_steps=4, batch_size=4, micro_batch=2)
    run = Run(str(model), pairs, CHATS(beta=100.0), optimisation=optimisation, watching=Watching(holdout=2), **settings)
    for _ in align(run, out):
        pass
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_both_policies_learn_and_are_saved(
    tiny_model: Path, tiny_pairs: Path, tmp_path: Path, kind: str, checkpointing: bool
) -> None:
    metrics = _run(tiny_model, tiny_pairs, tmp_path, full=kind == "full", gradient_checkpointing=checkpointing)
    assert metrics[-1]["winner_error_gain"] > 0 and metrics[-1]["loser_error_gain"] > 0
    x_t, t = torch.randn(1, 4, 8, 8), torch.tensor([500])
    answers = []
    for policy in ("positive", "negative"):
        backbone = load_backbone(tiny_model, adapter=tmp_path / policy)
        with torch.no_grad():
            answers.append(
                backbone.denoiser.denoise(backbone.denoiser.network, x_t, t, backbone.text.embed(["a red circle"]))
            )
    base = load_backbone(tiny_model)
    with torch.no_grad():
        answers.append(base.denoiser.denoise(base.denoiser.network, x_t, t, base.text.embed(["a red circle"])))
    first, second, reference = answers
    assert min((a - b).abs().max() for a, b in ((first, second), (first, reference), (second, reference))) > 1e-5


def test_checkpointing_changes_nothing(tiny_model: Path, tiny_pairs: Path, tmp_path: Path) -> None:
    """The recomputed forward of one policy must not be another's: adapters are switched on one module."""
    runs = [_run(tiny_model, tiny_pairs, tmp_path / str(on), gradient_checkpointing=on) for on in (False, True)]
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
