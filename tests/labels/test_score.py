"""Groups are scored sample by sample, by their prompts, and a run that was killed asks nothing again."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL.Image import Image

from contrapose.backbones.decoder import Decoder
from contrapose.cli.main import main
from contrapose.errors import UserError
from contrapose.judges.colours import Colours
from contrapose.judges.judge import Marks
from contrapose.labels.regrouped import Regrouped, Samples
from contrapose.labels.score import score_groups
from contrapose.labels.settings import Scoring
from contrapose.store.check import check_pairs
from contrapose.store.groups import GroupStore
from contrapose.store.prompts import Prompt
from contrapose.store.records import GroupRecord
from contrapose.store.shard_files import shard_path


@dataclass
class Darkness:
    """How dark an image is, and how long its prompt; counts the images that it saw."""

    name: str = "darkness"
    version: str = "1"
    higher_is_better: dict[str, bool] = field(default_factory=lambda: {"darkness": False, "length": True})
    num_seen: int = 0

    def __call__(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> dict[str, Marks]:
        self.num_seen += len(images)
        darkness = [255 - float(np.asarray(image).mean()) for image in images]
        lengths = [float(prompt.fields.get("length", len(prompt.text))) for prompt in prompts]
        return {"darkness": Marks(np.array(darkness)), "length": Marks(np.array(lengths))}


@pytest.fixture(scope="module")
def decoder(tiny_model: Path) -> Decoder:
    return Decoder(tiny_model)


SETTINGS = Scoring((Colours(),), shard_size=5, batch_size=3)


def scored(pairs: Path, out: Path, decoder: Decoder, judge: Darkness, settings: Scoring = SETTINGS) -> GroupStore:
    for _ in score_groups(settings, GroupStore(pairs), judge, decoder, decoder.fingerprint, out):
        pass
    return GroupStore(out)


def test_each_sample_has_its_scores_and_all_else_stays(tiny_pairs: Path, decoder: Decoder, tmp_path: Path) -> None:
    before = GroupStore(tiny_pairs)
    after = scored(tiny_pairs, tmp_path / "out", decoder, Darkness())
    assert after.manifest["scores"] == {"darkness": "lower", "length": "higher"}
    assert after.settings == before.settings and after.fingerprint == before.fingerprint
    for row, (record, old) in enumerate(zip(after.records, before.records, strict=True)):
        assert (record.id, record.degraded, record.labels) == (old.id, old.degraded, old.labels)
        assert record.scores["length"] == (len(record.prompt),) * 2
        for place in (0, 1):
            image = np.asarray(decoder(before.latent(place, row)[None])[0])
            assert record.scores["darkness"][place] == pytest.approx(255 - image.mean(), abs=0.5)
            assert bool((after.latent(place, row) == before.latent(place, row)).all())
    assert not check_pairs(after).problems


def test_a_run_that_was_killed_judges_only_what_is_missing(tiny_pairs: Path, decoder: Decoder, tmp_path: Path) -> None:
    scored(tiny_pairs, tmp_path / "whole", decoder, Darkness())
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shard_path(tmp_path / "cut", 1).unlink()
    (tmp_path / "cut" / "pairs.yaml").unlink()
    judge = Darkness()
    scored(tiny_pairs, tmp_path / "cut", decoder, judge)
    assert judge.num_seen == 2 * 5
    contents = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("whole", "cut")]
    assert contents[0] == contents[1]
    with pytest.raises(UserError, match="another content of judges"):
        scored(tiny_pairs, tmp_path / "cut", decoder, Darkness(version="2"))
    with pytest.raises(UserError, match="darkness, length already"):
        scored(tmp_path / "whole", tmp_path / "twice", decoder, Darkness())
    assert not (tmp_path / "twice").exists()


def test_a_sample_that_is_not_finite_is_named(tmp_path: Path, write_store: Callable[..., Path]) -> None:
    """Where whole groups are wanted; one that is left out matters to nobody."""
    latents = torch.randn(3, 3, 4, 2, 2)
    latents[1, 2, 0, 0, 0] = float("nan")
    groups = [GroupRecord(f"id-{i}", "a prompt", "", i, (0.5, 0.5, 0.5)) for i in range(3)]
    store = GroupStore(write_store(tmp_path, groups, latents))
    whole = Samples.all_of(store)
    for kind, records in whole.shards(3):
        with pytest.raises(UserError, match="record id-1: its sample 3 holds values that are not finite"):
            whole.latents(kind, records)
    pairs = [replace(record, labels=(1.0, 0.0)) for record in groups]
    without = Samples.of(store, [Regrouped(record, row, (1, 0)) for row, record in enumerate(pairs)])
    for kind, records in without.shards(3):
        assert torch.equal(without.latents(kind, records), latents[:, [1, 0]])


def test_a_server_is_given_as_many_images_as_it_asks_for(tiny_pairs: Path, decoder: Decoder, tmp_path: Path) -> None:
    """Which are decoded a batch at a time."""

    class OfServer(Darkness):
        at_once = 7

        def __call__(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> dict[str, Marks]:
            given.append(len(images))
            return super().__call__(images, prompts)

    given: list[int] = []
    decoded: list[int] = []

    def decode(latents: torch.Tensor) -> list[Image]:
        decoded.append(len(latents))
        return decoder(latents)

    for _ in score_groups(SETTINGS, GroupStore(tiny_pairs), OfServer(), decode, decoder.fingerprint, tmp_path / "out"):
        pass
    assert given == [7, 3, 7, 3, 4] and decoded == [3, 3, 1, 3, 3, 3, 1, 3, 3, 1]
    usual = scored(tiny_pairs, tmp_path / "usual", decoder, Darkness())
    assert GroupStore(tmp_path / "out").records == usual.records


def test_judges_are_told_what_a_file_says_of_the_prompts(tiny_pairs: Path, decoder: Decoder, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    texts = [record.prompt for record in GroupStore(tiny_pairs).records]
    file.write_text("".join(f'{{"prompt": "{text}", "length": 7}}\n' for text in texts))
    settings = Scoring((Colours(),), prompts=file)
    store = scored(tiny_pairs, tmp_path / "out", decoder, Darkness(), settings)
    assert {record.scores["length"] for record in store.records} == {(7.0, 7.0)}
    file.write_text(f'{{"prompt": "{texts[0]}"}}\n')
    with pytest.raises(UserError, match=r"lacks 11 of the groups' 12 prompts"):
        scored(tiny_pairs, tmp_path / "other", decoder, Darkness(), settings)


@pytest.mark.slow
def test_own_samples_are_drawn_scored_labelled_and_trained_on(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["shapes", "prompts", "p.jsonl", "--split", "train", "--per-tag", "2"]) == 0
    model = ["--model", str(tiny_model)]
    draw = ["pairs", "draw", *model, "--prompts", "p.jsonl", "--samples-per-prompt", "3", "--steps", "1"]
    assert main([*draw, "--out", "groups", "--device", "cpu"]) == 0
    training = [
        "--train-steps",
        "1",
        "--batch-size",
        "2",
        "--micro-batch",
        "2",
        "--holdout",
        "0",
        "--evaluate-every",
        "0",
    ]
    align = ["align", "diffusion-dpo", *model, *training]
    assert main([*align, "--pairs", "groups", "--out", "none"]) == 2
    assert "nobody has said yet" in capfd.readouterr().err
    judges = ["--judges", "shapes", "colourfulness", "--prompts", "p.jsonl", "--device", "cpu"]
    assert main(["pairs", "score", "groups", *judges, "--out", "scored"]) == 0
    by = ["--by", "correct:10", "colourfulness:0.1"]
    label = ["pairs", "label", "scored", *by, "--mistakes", "0.15", "--out", "pairs"]
    assert main(label) == 0
    capfd.readouterr()
    monkeypatch.setattr(logging.getLogger("contrapose"), "handlers", [])  # as in a process that labels alone
    assert main(label) == 0
    assert "pairs: all pairs were there already" in capfd.readouterr().err
    assert main(["pairs", "check", "pairs"]) == 0
    assert "12 decided" in capfd.readouterr().out
    assert main(["pairs", "show", "scored", "--out", "groups.html", "--device", "cpu"]) == 0
    assert "samples of the prompt itself" in Path("groups.html").read_text()
    assert main([*align, "--pairs", "pairs", "--out", "run"]) == 0
