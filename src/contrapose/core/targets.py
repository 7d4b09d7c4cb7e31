"""What each sample's denoiser should have predicted.

A target names the one prediction that it takes as the truth for each side of a comparison, or none, which means the
forward noise itself. The objective sees to it that every named prediction is computed once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable


class Row(NamedTuple):
    """One prediction: this policy's, on this sample of the group, under this prompt slot."""

    policy: str
    sample: int
    slot: str


@runtime_checkable
class Target(Protocol):
    """Says which prediction is the truth for side `side` (0 wins) of a comparison whose sample is `sample`."""

    def row(self, side: int, sample: int) -> Row | None: ...


@dataclass(frozen=True)
class ForwardNoise:
    """e* = the noise that was added (Diffusion-DPO, SFT, KTO, ...)."""

    def row(self, side: int, sample: int) -> Row | None:
        return None


@dataclass(frozen=True)
class PromptContrast:
    """e*_w = e_ref(x_t^w, t, c), e*_l = e_ref(x_t^l, t, c-): DDSPO training-free, Eq. 7 of arXiv 2512.23426.

    Plain conditional predictions: no classifier-free guidance enters the targets.
    """

    slots: tuple[str, ...] = ("prompt", "degraded")
    policy: str = "reference"

    def row(self, side: int, sample: int) -> Row | None:
        return Row(self.policy, sample, self.slots[side])


@dataclass(frozen=True)
class OwnScore:
    """e*_0 = the noise that was added; e*_1 = the score of the policy that drew the second sample."""

    policy: str = "lagged"

    def row(self, side: int, sample: int) -> Row | None:
        return Row(self.policy, sample, "prompt") if side else None


@dataclass(frozen=True)
class PolicyContrast:
    """e*_w = phi_w(x_t^w, t, c), e*_l = phi_l(x_t^l, t, c): DDSPO data-driven, two policies fitted on either side."""

    policies: tuple[str, ...] = ("winner", "loser")

    def row(self, side: int, sample: int) -> Row | None:
        return Row(self.policies[side], sample, "prompt")
