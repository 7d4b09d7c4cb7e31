"""Groups that the model draws itself while it trains: of prompts alone, judged, kept, and the same after a kill."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL.Image import Image
from trained import check_killed_ends_the_same, metrics_of, until

from contrapose.backbones.settings import Adapters
from contrapose.cli.main import main
from contrapose.core.group import REWARD
from contrapose.errors import UserError
from contrapose.judges.colours import Colours, colourfulness
from contrapose.judges.judge import Judge, Jury, Marks, judge_of, marks_of
from contrapose.judges.self_confidence import SelfConfidence
from contrapose.methods import DGPO, DiffusionDPO, OnlineDPO
from contrapose.methods.judged_groups import JudgedGroups
from contrapose.methods.own_samples import OwnSamples
from contrapose.seeds import generator, starting_noise
from contrapose.store.mixture import Mixture
from contrapose.store.prompts import Prompt
from contrapose.train.align import _backbone, _trainer, align
from contrapose.train.comparable import comparable
from contrapose.train.judging import RolloutJudging
from contrapose.train.loop import Trainer
from contrapose.train.settings import Optimisation, Run, Watching
from contrapose.train.stages import stages
from contrapose.worlds.shapes.suite import Shapes

pytestmark = pytest.mark.slow

OWN = OwnSamples(samples_per_prompt=3, prompts_per_draw=4, sync_every=2, buffer=6, rollout_steps=2)
METHOD = OnlineDPO(beta=2.0, sampling=OWN)
FAST = Optimisation(learning_rate=1e-2, train_steps=5, batch_size=4, micro_batch=4)
CPU = torch.device("cpu")


@pytest.fixture(params=["lora", "full"])
def run(request: pytest.FixtureRequest, tiny_model: Path, prompts_file: Path) -> Run:
    watching = Watching(save_every=1, keep=9)
    judging = RolloutJudging((Colours(),))
    is_full = request.param == "full"
    return Run(
        str(tiny_model), prompts_file, METHOD, full=is_full, optimisation=FAST, watching=watching, judging=judging
    )


def trainer_of(run: Run, out: Path) -> Trainer:
    stage = stages(run.resolved(), out)[-1]
    accelerator = Accelerator()
    pairs = comparable(Mixture(run.pairs), run)
    return _trainer(stage, pairs, accelerator, _backbone(stage.run, accelerator), None)


def test_a_group_has_the_best_and_the_worst_of_what_was_drawn(run: Run, tmp_path: Path) -> None:
    """Each sample is what the stock pipeline draws from its own noise, and its scores are of its image."""
    trainer = trainer_of(run, tmp_path)
    told = trainer.rollouts.draw(0)
    drawn = trainer.groups.drawn
    backbone = trainer.rollouts.backbone
    assert [group.number for group in drawn.groups] == [0, 1, 2, 3]
    for group, record in zip(drawn.groups, drawn.records, strict=True):
        assert record.prompt == trainer.groups.store.records[trainer.groups.prompt_of(group.number)].prompt
        alone = trainer.rollouts._latents([(group.number, 1)])
        torch.testing.assert_close(group.latents[1], alone[0], atol=1e-4, rtol=1e-4)
        images = trainer.rollouts._images(group.latents)
        assert record.scores["colourfulness"] == pytest.approx([colourfulness(image) for image in images], abs=0.5)
        assert record.scores[REWARD] == record.scores["colourfulness"]
        assert record.scores[REWARD][record.place("winner")] == max(record.scores[REWARD])
        assert record.scores[REWARD][record.place("loser")] == min(record.scores[REWARD])
    assert told["rollouts/reward"] == pytest.approx(sum(sum(g.scores[REWARD]) for g in drawn.groups) / 12)
    group = trainer.groups.training_batch(range(4), CPU)
    winner, loser = group.samples["winner"], group.samples["loser"]
    assert winner.label.tolist() == [1.0] * 4 and loser.label.tolist() == [0.0] * 4
    assert (winner.scores[REWARD] > loser.scores[REWARD]).all() and winner.noise is loser.noise
    noise = starting_noise([generator(run.seed, "own sample", 0, 1)], trainer.rollouts.shape)
    assert noise.shape[1:] == backbone.images.latent_shape


def test_each_group_is_seen_once_before_any_is_seen_again(run: Run, tmp_path: Path) -> None:
    trainer = trainer_of(run, tmp_path)
    trainer.rollouts.draw(0)
    drawn = trainer.groups.drawn
    assert sorted(map(drawn.index_at, range(4))) == sorted(map(drawn.index_at, range(4, 8))) == [0, 1, 2, 3]
    trainer.rollouts.draw(2)
    assert [group.number for group in drawn.groups] == [2, 3, 4, 5, 6, 7], "the latest six"
    assert sorted(map(drawn.index_at, range(8, 14))) == list(range(6))


@pytest.mark.parametrize("kill", [2, 3])
def test_a_killed_run_ends_the_same(run: Run, tmp_path: Path, kill: int) -> None:
    """Killed at a draw and between two: the buffer comes back, and no draw is repeated."""
    check_killed_ends_the_same(run, tmp_path, kill)


def test_a_run_goes_on_by_the_judges_that_it_began_with(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    until(align(run, tmp_path / "out"), 1)
    monkeypatch.setattr(Colours, "version", "2")
    with pytest.raises(UserError, match="another content of rollout_judges"):
        list(align(run, tmp_path / "out"))


def test_micro_batches_change_nothing(run: Run, tmp_path: Path) -> None:
    """Samples of one prompt are drawn in batches of other prompts' or their own."""
    lines = []
    for size in (1, 4):
        changed = replace(FAST, micro_batch=size, train_steps=3, learning_rate=1e-3, epsilon=1e-2)
        list(align(replace(run, optimisation=changed), tmp_path / str(size)))
        lines.append(metrics_of(tmp_path / str(size)))
    for name in ("loss", "margin", "rollouts/reward", "rollouts/spread"):
        values = [[line[name] for line in of_size if name in line] for of_size in lines]
        assert values[0] == pytest.approx(values[1], rel=1e-2, abs=1e-4)
        assert len(values[0]) == (2 if "rollouts" in name else 3), "told of the steps of a draw"


def test_a_server_judges_the_samples_of_several_micro_batches(run: Run, tmp_path: Path) -> None:
    """Of which each is decoded by itself."""

    class OfServer:
        name, version, higher_is_better, at_once = "number", "1", {"number": True}, 3

        def __call__(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> dict[str, Marks]:
            given.append(len(images))
            return {"number": Marks(np.arange(len(images)))}

    given: list[int] = []
    trainer = trainer_of(replace(run, optimisation=replace(FAST, micro_batch=2)), tmp_path)
    rollouts = trainer.rollouts
    rollouts.jury = Jury([OfServer()])
    rollouts.weights = {"number": 1.0}
    groups = rollouts.groups_of([0, 1, 2])
    assert given == [4, 4, 1], "two micro-batches have the three images that it asks for"
    assert [group.scores["number"] for group in groups] == [(0, 1, 2), (3, 0, 1), (2, 3, 0)]


def test_guidance_leads_the_samples(run: Run, tmp_path: Path) -> None:
    latents = []
    for scale in (1.0, 3.0):
        sampling = replace(OWN, rollout_guidance_scale=scale)
        trainer = trainer_of(replace(run, method=replace(METHOD, sampling=sampling)), tmp_path)
        latents.append(trainer.rollouts._latents([(0, 0)]))
    assert not torch.allclose(latents[0], latents[1], atol=1e-3)


def test_the_policy_judges_itself_as_it_stands(run: Run, tmp_path: Path) -> None:
    """At the start it is the model; after a step it is not, and says something else of the same samples."""
    settings = SelfConfidence(probes=2, probe_steps=4)
    trainer = trainer_of(replace(run, judging=RolloutJudging((settings,))), tmp_path)
    rollouts = trainer.rollouts
    latents = rollouts._latents([(0, 0), (0, 1)])
    prompts = [trainer.groups.store.prompt(trainer.groups.prompt_of(0))] * 2

    def said(judge: Judge) -> list[float]:
        return marks_of(judge, latents, prompts, rollouts._images)["self-confidence"].values.tolist()

    (judge,) = rollouts.jury.judges
    alone = judge_of(settings, "cpu", run.model, rollouts.backbone.fingerprint)
    assert said(judge) == pytest.approx(said(alone), rel=1e-4)
    before = said(judge)
    next(trainer.steps())
    assert said(judge) != pytest.approx(before, rel=1e-4)
    assert said(alone) == said(alone)
    of_model = replace(settings, model=run.model)
    trainer = trainer_of(replace(run, judging=RolloutJudging((of_model,))), tmp_path)
    next(trainer.steps())
    assert said(trainer.rollouts.jury.judges[0]) == pytest.approx(said(alone), rel=1e-4), "a named model stays"


@pytest.mark.usefixtures("one_precision_a_process")
@pytest.mark.parametrize("change", [{"precision": "bf16"}, {"adapters": Adapters(train_text_encoder=True)}], ids=str)
def test_half_precision_and_trained_text_draw_and_judge_as_well(
    change: dict[str, object], tiny_model: Path, prompts_file: Path, tmp_path: Path
) -> None:
    judging = RolloutJudging((SelfConfidence(probes=2, probe_steps=4), Colours()), ("self-confidence",))
    one_step = replace(FAST, train_steps=1)
    run = Run(str(tiny_model), prompts_file, METHOD, optimisation=one_step, judging=judging, **change)
    *_, last = align(run, tmp_path)
    assert math.isfinite(last.metrics["rollouts/self-confidence"]) and last.metrics["rollouts/tied"] == 0


def test_what_makes_no_sense_is_refused(run: Run, tmp_path: Path, tiny_pairs: Path) -> None:
    def refused(message: str, **changes: object) -> None:
        with pytest.raises(UserError, match=message):
            list(align(replace(run, **changes), tmp_path / "out"))

    refused("name a judge", judging=RolloutJudging())
    refused("no judge gives taste", judging=RolloutJudging((Colours(),), ("taste",)))
    refused("holds no prompts|no such file|cannot be read", pairs=tmp_path / "missing.txt")
    refused("is a file of prompts, and diffusion-dpo takes pairs", method=DiffusionDPO(), judging=RolloutJudging())
    stored = DGPO(groups=JudgedGroups(stored=True, judge="taste"))
    refused("is a file of prompts, and dgpo takes pairs", method=stored, judging=RolloutJudging())
    refused("its metadata is not of the shapes world", judging=RolloutJudging((Shapes(),)))
    refused("make no difference between the 3 samples", method=replace(METHOD, tie_margin=1e6))
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="foreign_pairs: online-dpo takes the prompts of any pairs"):
        replace(run, foreign_pairs=True)
    with pytest.raises(UserError, match="draws no samples to be judged"):
        replace(run, method=DiffusionDPO())
    with pytest.raises(UserError, match="say how much each counts"):
        RolloutJudging((Colours(), Shapes()))
    assert len(list(align(replace(run, pairs=tiny_pairs), tmp_path / "pairs"))) == 6, "pairs give their prompts"


def test_prompts_alone_are_enough(tiny_model: Path, prompts_file: Path, tmp_path: Path) -> None:
    """The best and the worst of the model's own samples by its own judgement: no label and no other network."""
    command = ["align", "online-dpo", "--model", str(tiny_model), "--pairs", str(prompts_file)]
    judge = ["--rollout-judges", "self-confidence", "--rollout-judges.0.probes", "2"]
    small = [
        "--train-steps",
        "2",
        "--batch-size",
        "4",
        "--micro-batch",
        "4",
        "--prompts-per-draw",
        "4",
        "--rollout-steps",
        "2",
    ]
    assert main([*command, *judge, *small, "--out", str(tmp_path / "run")]) == 0
    assert all("rollouts/self-confidence" in line for line in metrics_of(tmp_path / "run"))
