"""Random conditioning and noise of each sample's own: who sees what, by position alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from contrapose.core.group import Group, RandomPrompts
from contrapose.core.path import DiffusionPath
from contrapose.errors import UserError
from contrapose.methods import DDSPO
from contrapose.store.mixture import Mixture
from contrapose.store.records import GroupRecord
from contrapose.train.data import Groups
from contrapose.train.folder import inputs_of
from contrapose.train.settings import Run
from contrapose.train.stages import Stage

CPU = torch.device("cpu")
PATH = DiffusionPath(torch.linspace(0.999, 0.005, 1000))
NUM = 12
ALWAYS = DDSPO(random_conditioning="always")


class Numbered:
    """Stands for the text encoder: each prompt ends in a number, and that is its embedding."""

    def __call__(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        return {"text": torch.tensor([[float(p.split()[-1])] for p in prompts])}


@pytest.fixture
def pairs(tmp_path: Path, write_store: Callable[..., Path]) -> Mixture:
    """Prompt i embeds as i, its degraded prompt as 100 + i."""
    records = [GroupRecord.pair(f"id-{i}", f"prompt {i}", f"degraded {100 + i}", i) for i in range(NUM)]
    latents = torch.zeros(NUM, 4, 8, 8)
    return Mixture(write_store(tmp_path / "pairs", records, {"winner": latents, "loser": latents}))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Prompts 500 to 502, each with two degraded ones of numbers 1000 and 2000 higher; and one of the pairs' own."""
    lines = [{"prompt": "prompt 3", "neg_prompts": ["worse 9999"]}]
    for number in (500, 501, 502):
        degraded = [f"worse {number + 1000}", f"worse {number + 2000}"]
        lines.append({"prompt": f"prompt {number}", "neg_prompts": degraded})
    path = tmp_path / "further.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def groups_of(pairs: Mixture, method: DDSPO, holdout: int = 0) -> Groups:
    return Groups(pairs, method.composition(), Numbered(), PATH, 0, holdout)  # type: ignore[arg-type]


def batch(pairs: Mixture, method: DDSPO, positions: Sequence[int] = range(60)) -> Group:
    return groups_of(pairs, method).training_batch(positions, CPU)


def numbers(group: Group, slot: str) -> list[int]:
    return [int(number) for number in group.prompts[slot]["text"].flatten()]


def test_chances_are_the_authors() -> None:
    """p(t) of DDSPO's code, with k = 20 and of Kim et al.'s with 5."""
    for level in (0.0, 0.3, 0.7, 1.0):
        assert RandomPrompts("sigmoid", 20.0).chance(level) == pytest.approx(1 / (1 + math.exp(-20 * (level - 0.7))))
        assert RandomPrompts("exponential", 5.0).chance(level) == pytest.approx(math.exp(-5 * (1 - level)))
        assert RandomPrompts("always", 20.0).chance(level) == 1
    assert [RandomPrompts("sigmoid", 1e6).chance(level) for level in (0.0, 1.0)] == [0, 1]


def test_of_the_other_pairs_prompts_the_two_of_one_pair_stay_together(pairs: Mixture) -> None:
    plain, exchanged = batch(pairs, DDSPO()), batch(pairs, ALWAYS)
    prompts = numbers(exchanged, "prompt")
    assert set(prompts) == set(range(NUM)) and prompts != numbers(plain, "prompt")
    assert numbers(exchanged, "degraded") == [100 + number for number in prompts]


def test_a_files_prompts_are_others_than_the_pairs(pairs: Mixture, file: Path) -> None:
    method = replace(ALWAYS, random_prompts=file)
    group = batch(pairs, method)
    drawn = set(zip(numbers(group, "prompt"), numbers(group, "degraded"), strict=True))
    assert drawn == {(n, n + more) for n in (500, 501, 502) for more in (1000, 2000)}
    texts = groups_of(pairs, method).prompts()
    assert {"prompt 500", "worse 2502", "prompt 3", "degraded 103"} <= set(texts) and "worse 9999" not in texts


def test_prompts_are_exchanged_near_the_noise(pairs: Mixture, file: Path) -> None:
    """By the sigmoid, hardly below a level of a half and nearly always above nine tenths; times are as they were."""
    positions = range(400)
    method = DDSPO(random_conditioning="sigmoid", random_prompts=file)
    group, plain = batch(pairs, method, positions), batch(pairs, DDSPO(), positions)
    is_exchanged = torch.tensor(numbers(group, "prompt")) >= 500
    level = PATH.level(group.t)
    assert is_exchanged[level < 0.5].float().mean() < 0.02 and is_exchanged[level > 0.9].float().mean() > 0.95
    assert torch.equal(group.t, plain.t) and torch.equal(group.samples["loser"].noise, plain.samples["loser"].noise)


def test_held_out_pairs_keep_their_prompts(pairs: Mixture) -> None:
    groups = groups_of(pairs, ALWAYS, holdout=2)
    group = groups.held_out_batch(0.9, CPU, groups.held_out)
    assert numbers(group, "prompt") == groups.held_out


def test_with_own_noise_only_the_noise_is_another(pairs: Mixture) -> None:
    plain, own = batch(pairs, DDSPO()), batch(pairs, DDSPO(noise="own"))
    winner, loser = own.samples["winner"], own.samples["loser"]
    assert not torch.equal(winner.noise, loser.noise)
    correlation = (winner.noise * loser.noise).mean()
    assert abs(correlation) < 0.03 and winner.noise.std() == pytest.approx(1, abs=0.03)
    assert torch.equal(own.t, plain.t) and plain.samples["winner"].noise is plain.samples["loser"].noise


@pytest.mark.parametrize("size", [1, 5])
def test_a_position_does_not_depend_on_its_batch(pairs: Mixture, size: int) -> None:
    method = DDSPO(noise="own", random_conditioning="sigmoid", random_rate=2.0)
    whole = batch(pairs, method, range(10))
    parts = [batch(pairs, method, range(start, start + size)) for start in range(0, 10, size)]
    for slot in ("prompt", "degraded"):
        assert torch.equal(torch.cat([part.prompts[slot]["text"] for part in parts]), whole.prompts[slot]["text"])
    for name, sample in whole.samples.items():
        assert torch.equal(torch.cat([part.samples[name].noise for part in parts]), sample.noise)


def test_settings_that_go_against_each_other_are_refused(file: Path) -> None:
    with pytest.raises(UserError, match="random_prompts is unused"):
        DDSPO(random_prompts=file)
    with pytest.raises(UserError, match="random-positive"):
        DDSPO(losers="random-positive", random_conditioning="sigmoid")
    for course in (None, "always"):
        with pytest.raises(UserError, match="random_rate: is of a random_conditioning that rises"):
            DDSPO(random_conditioning=course, random_rate=5.0)  # type: ignore[arg-type]


def test_a_file_without_further_prompts_is_refused(pairs: Mixture, tmp_path: Path) -> None:
    known = tmp_path / "known.jsonl"
    known.write_text(json.dumps({"prompt": "prompt 3", "neg_prompts": ["worse 1"]}), encoding="utf-8")
    with pytest.raises(UserError, match="has no degraded prompt of any other prompt"):
        groups_of(pairs, replace(ALWAYS, random_prompts=known))
    with pytest.raises(UserError, match="no such file"):
        groups_of(pairs, replace(ALWAYS, random_prompts=tmp_path / "missing.jsonl"))


def test_the_files_content_is_among_the_runs_inputs(
    pairs: Mixture, file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """So that a run is not carried on with other prompts."""
    run = Run(str(tiny_model), tmp_path / "pairs", replace(ALWAYS, random_prompts=file))
    digests = []
    for _ in range(2):
        digests.append(inputs_of(Stage(run, tmp_path / "out"), pairs)["random_prompts"])
        file.write_text(file.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert digests[0] != digests[1]
    plain = Stage(replace(run, method=DDSPO()), tmp_path / "out")
    assert "random_prompts" not in inputs_of(plain, pairs)
