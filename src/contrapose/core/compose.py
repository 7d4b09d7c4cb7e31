"""From records to a group: the one place where a composition is filled in, for trainer, toy and tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

from contrapose.core.group import OWN, Composition, Condition, Group, Pick, Sample

if TYPE_CHECKING:
    from jaxtyping import Float, Num


@runtime_checkable
class Fields(Protocol):
    """What records hold, for `b` groups at once."""

    def latent(self, pick: Pick) -> Float[Tensor, "b ..."]:
        """The latents of one of their samples."""

    def label(self, sample: str) -> Float[Tensor, " b"]:
        """The share of preference that the group's own record gives to its sample of this name."""

    def scores(self, pick: Pick) -> Mapping[str, Float[Tensor, " b"]]:
        """What judges say of one of their samples, by the judge's name."""

    def condition(self, slot: str, pick: Pick) -> Condition:
        """One of their prompts, as it is to be read in this slot."""


@dataclass(frozen=True, eq=False)
class OwnState:
    """A state of a policy's own trajectory for each of `b` groups: its time, and data and noise as predicted there."""

    t: Num[Tensor, " b"]
    x0: Float[Tensor, "b ..."]
    eps: Float[Tensor, "b ..."]


def compose(
    composition: Composition,
    fields: Fields,
    t: Num[Tensor, " b"],
    noise: Float[Tensor, "b ..."],
    drawn: OwnState | None = None,
    draws: Mapping[str, Float[Tensor, "b k ..."]] | None = None,
) -> Group:
    """The groups that a composition makes of these records, at times `t` and under noise that their samples share.

    A composition with samples of the policy's own takes them from `drawn`, and from the records without it. `draws` are
    the k normal draws that it asks for of each sample's own, by the sample's name: its noise, if that is not shared,
    and then further ones.
    """
    samples = {}
    for name, pick in composition.samples.items():
        of_sample = noise
        further = draws[name] if draws else None
        if composition.own_noise:
            assert further is not None, "a draw for the noise of each sample"
            of_sample = further[:, 0]
            further = further[:, 1:]
        samples[name] = Sample(fields.latent(pick), of_sample, fields.label(name), fields.scores(pick), further)
    on_policy = composition.on_policy
    if on_policy and drawn:
        # the records' samples are better than what the policy drew, whatever they were compared with when stored
        samples = {name: replace(sample, label=torch.ones_like(sample.label)) for name, sample in samples.items()}
        worse = torch.zeros(len(drawn.x0), dtype=drawn.x0.dtype, device=drawn.x0.device)
        samples[OWN] = Sample(drawn.x0, noise if on_policy.renoised else drawn.eps, worse)
        # a state on the trajectory is looked at where it is, and its prompt's other samples with it
        t = t if on_policy.renoised else drawn.t
    elif on_policy:
        # held-out groups, whose numbers are to be the same at every step: nothing new is drawn for them
        pick = Pick("own", on_policy.stand_in)
        samples[OWN] = Sample(fields.latent(pick), noise, fields.label(pick.field), fields.scores(pick))
    prompts = {slot: fields.condition(slot, pick) for slot, pick in composition.prompts.items()}
    return Group(samples, prompts, t)
