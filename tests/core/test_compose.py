"""From records to groups of any number of named samples."""

from __future__ import annotations

import torch
from torch import Tensor

from contrapose.core.compose import OwnState, compose
from contrapose.core.group import Composition, OnPolicy, Pick

B = 3
T, NOISE = torch.tensor([1, 2, 3]), torch.full((B, 2), 7.0)
STATE = OwnState(torch.tensor([4, 5, 6]), torch.full((B, 2), 8.0), torch.full((B, 2), 9.0))


class Records:
    """Whose field was taken can be read off the numbers: 10 of the group's own record, 20 of another's, plus 1 to 4."""

    numbers = ("0", "1", "2", "winner", "loser", "prompt", "degraded")

    def latent(self, pick: Pick) -> Tensor:
        return torch.full((B, 2), self._number(pick))

    def label(self, sample: str) -> Tensor:
        return torch.full((B,), {"winner": 0.75, "loser": 0.25}.get(sample, 0.5))

    def scores(self, pick: Pick) -> dict[str, Tensor]:
        return {"judge": torch.full((B,), -self._number(pick))}

    def condition(self, slot: str, pick: Pick) -> dict[str, Tensor]:
        return {slot: torch.full((B, 1), self._number(pick))}

    def _number(self, pick: Pick) -> float:
        return (10.0 if pick.whose == "own" else 20.0) + self.numbers.index(pick.field)


def first(values: Tensor) -> float:
    return float(values.flatten()[0])


def test_a_pair_is_composed_by_name() -> None:
    group = compose(Composition(), Records(), T, NOISE)
    assert {name: first(sample.latent) for name, sample in group.samples.items()} == {"winner": 13.0, "loser": 14.0}
    assert {name: first(sample.label) for name, sample in group.samples.items()} == {"winner": 0.75, "loser": 0.25}
    assert group.prompts["prompt"]["prompt"].tolist() == [[15.0]] * B
    assert all(sample.noise is NOISE for sample in group.samples.values()) and group.t is T


def test_a_sample_may_be_another_records() -> None:
    """Its label is still that of the group's own sample of this name; what judges say goes with the image."""
    composition = Composition({"winner": Pick("own", "winner"), "loser": Pick("other", "winner")})
    loser = compose(composition, Records(), T, NOISE).samples["loser"]
    assert (first(loser.latent), first(loser.label), first(loser.scores["judge"])) == (23.0, 0.25, -23.0)
    assert composition.fields == {"winner", "prompt"}


def test_a_group_may_have_any_number_of_samples() -> None:
    names = ("0", "1", "2")
    group = compose(Composition({name: Pick("own", name) for name in names}), Records(), T, NOISE)
    assert tuple(group.samples) == names
    assert [first(sample.scores["judge"]) for sample in group.samples.values()] == [-10.0, -11.0, -12.0]


def on_policy(renoised: bool) -> Composition:
    return Composition({"winner": Pick("own", "winner")}, on_policy=OnPolicy(4, 2, 2, 8, renoised))


def test_a_state_brings_its_time_and_its_noise() -> None:
    group = compose(on_policy(renoised=False), Records(), T, NOISE, STATE)
    assert (first(group.samples["own"].latent), first(group.samples["own"].noise)) == (8.0, 9.0)
    assert group.samples["winner"].noise is NOISE and group.t is STATE.t


def test_a_renoised_sample_is_looked_at_as_the_others_are() -> None:
    group = compose(on_policy(renoised=True), Records(), T, NOISE, STATE)
    assert first(group.samples["own"].latent) == 8.0
    assert group.samples["own"].noise is NOISE and group.t is T


def test_what_the_policy_drew_is_worse_than_the_record_whatever_that_was_compared_with() -> None:
    for renoised in (False, True):
        samples = compose(on_policy(renoised), Records(), T, NOISE, STATE).samples
        assert {name: first(sample.label) for name, sample in samples.items()} == {"winner": 1.0, "own": 0.0}


def test_where_nothing_was_drawn_the_stored_loser_stands_in() -> None:
    own = compose(on_policy(renoised=False), Records(), T, NOISE).samples["own"]
    assert (first(own.latent), first(own.label)) == (14.0, 0.25) and own.noise is NOISE
