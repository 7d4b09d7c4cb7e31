"""Preference as guidance: how the predictions of several policies are combined at inference.

    score = base + w (positive - negative)                                     before classifier-free guidance

A guidance says, for a noise level and a kind of row, each policy's share of the prediction. Shares of zero are not
asked for, so w = 0 costs nothing and PGD at w = 1 is the aligned model itself. Classifier-free guidance is linear, so
shares on both of its rows are shares of the guided prediction.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, get_args

from contrapose.core.shares import Shares, mix
from contrapose.ranges import Interval, Range, Share, checked

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Schedule = Literal["constant", "linear", "cosine"]
Course = Callable[[float], float]  # w's factor by noise level, where none of the named schedules will do
BASE: Shares[str] = {"base": 1.0}
MAX_SCALE = 1000.0
Strength = Annotated[float, Range(-MAX_SCALE, MAX_SCALE)]
"""What a difference of predictions is multiplied by."""
FreeScale = Annotated[float, Range(0, MAX_SCALE)]
"""Scale of classifier-free guidance; at 0 and 1 it is off."""
AttentionScale = Annotated[float, Range(1, MAX_SCALE)]
"""Strength of attention guidance; at 1 it is off."""
AttentionLimit = Annotated[float, Range(0, MAX_SCALE, low_open=True)]
"""How many times longer guided attention may be."""


@dataclass(frozen=True)
@checked
class Guidance(ABC):
    """Strength w by noise level l (0 data, 1 noise), and what it does with the policies `base`, `positive`, `negative`.

    Numbers are checked as they are declared. Raises `ValueError` for a schedule of another name.
    """

    scale: Strength = 1.0
    """Strength w at its highest; 0 is off."""
    schedule: Schedule = "constant"
    """Course of w by noise level l: constant; linear w l; cosine w (1 - cos(pi l)) / 2."""
    interval: Interval = (0.0, 1.0)
    """Noise levels, 0 data to 1 noise, between which guidance is on; outside, only the base is asked."""
    rescale: Share = 0.0
    """How far the result is brought back to the base's spread, 0 to 1, so that a large w does not burn the image."""

    needs_negative: ClassVar[bool] = False
    """Whether there is nothing to do without a negative policy."""
    by_row: ClassVar[bool] = False
    """Whether conditional and unconditional rows are predicted by different policies."""

    def __post_init__(self) -> None:
        if self.schedule not in get_args(Schedule):
            raise ValueError(f"schedule {self.schedule}: not known (choose from {', '.join(get_args(Schedule))})")

    def strength(self, level: float, course: Course | None = None) -> float:
        """w(l), zero outside the interval; a `course` stands in for the schedule."""
        if not self.interval[0] <= level <= self.interval[1]:
            return 0.0
        if course is not None:
            return self.scale * course(level)
        if self.schedule == "linear":
            return self.scale * level
        return self.scale * (1 - math.cos(math.pi * level)) / 2 if self.schedule == "cosine" else self.scale

    def shares(self, level: float, conditional: bool = True, course: Course | None = None) -> Shares[str]:
        """Each policy's share of the prediction; only those that are not zero, and the base if its spread is wanted."""
        w = self.strength(level, course)
        if not w:
            return BASE
        # the base's spread is what `rescale` brings the result to, also where its own share is zero
        wanted = {"base"} if self.rescale else set()
        return {policy: share for policy, share in self.at(w, conditional).items() if share or policy in wanted}

    @property
    def proxy_strength(self) -> float | None:
        """How far the unconditional row's prompt lies on the other side of no prompt; None where it is no prompt."""
        return None

    @abstractmethod
    def at(self, w: float, conditional: bool) -> Shares[str]:
        """Shares at strength w."""


@dataclass(frozen=True)
class PGD(Guidance):
    """Preference-guided diffusion: base + w (positive - base) (arXiv 2602.18799).

    Published w = 10, at every step, with policies that Diffusion-DPO has moved little (effective learning rate 2.05e-6,
    at most 2000 steps); the default here is w = 1, the aligned model itself, since most runs have moved farther.

    Differs from the authors' code: its SDXL pipeline replaces the base by 0.9 e(t) + 0.1 e(t = 500), which is in no
    formula of the paper and not here.
    """

    def at(self, w: float, conditional: bool) -> Shares[str]:
        return {"base": 1 - w, "positive": w}


@dataclass(frozen=True)
class ContrastivePGD(Guidance):
    """cPGD: base + w (positive - negative), two modules fitted on winners and on losers (arXiv 2602.18799).

    Published w = 10 here too; plain fits of the whole network at an effective learning rate of 2.05e-6.
    """

    needs_negative = True

    def at(self, w: float, conditional: bool) -> Shares[str]:
        return {"base": 1.0, "positive": w, "negative": -w}


@dataclass(frozen=True)
class DiffusionNPO(Guidance):
    """neg(null) + s (pos(c) - neg(null)): the negative policy predicts the unconditional row (Diffusion-NPO).

    s is the pipeline's own guidance scale. At strength w the rows are moved from the base's to the two policies'
    predictions; the paper is w = 1, the default.
    """

    needs_negative = True
    by_row = True

    def at(self, w: float, conditional: bool) -> Shares[str]:
        # the contrast of both policies is made by classifier-free guidance itself, from the two kinds of rows
        return {"base": 1 - w, ("positive" if conditional else "negative"): w}


@dataclass(frozen=True)
@checked
class CHATSGuidance(DiffusionNPO):
    """win(c) + s (win(c) - lose(proxy)), proxy = (1 + a) emb(null) - a emb(c) (CHATS, ICML 2025).

    The pipeline's u + s' (c - u) is this with s' = s + 1.
    """

    proxy: Strength = 0.5
    """How far the losing policy's prompt lies on the other side of no prompt, a; 0 leaves it there."""

    @property
    def proxy_strength(self) -> float:
        return self.proxy


AnyGuidance = PGD | ContrastivePGD | DiffusionNPO | CHATSGuidance
GUIDANCES: dict[str, type[AnyGuidance]] = {
    "pgd": PGD,
    "cpgd": ContrastivePGD,
    "npo": DiffusionNPO,
    "chats": CHATSGuidance,
}


def combine(
    predictions: Mapping[str, Float[Tensor, "b ..."]], shares: Shares[str], rescale: float = 0.0
) -> Float[Tensor, "b ..."]:
    """sum of share x prediction, brought back to the base's standard deviation as far as `rescale` says (0 to 1).

    One policy alone is given back as it is, to the bit.
    """
    mixed = mix(predictions, shares)
    alone = len(shares) == 1 and 1.0 in shares.values()
    if alone or not rescale or "base" not in predictions:
        return mixed
    # one factor a sample, as Lin et al. 2023 (arXiv 2305.08891, section 3.4) rescale guided predictions
    axes = tuple(range(1, mixed.ndim))
    spread = predictions["base"].std(axes, keepdim=True) / mixed.std(axes, keepdim=True).clamp_min(1e-8)
    return mixed * (rescale * spread + 1 - rescale)


@dataclass(frozen=True)
@checked
class NAG:
    """Normalized attention guidance: attention away from a negative prompt, no further than tau (Chen et al., 2025).

        Z~ = s Z+ - (s - 1) Z-     r = |Z~| / |Z+|     Z^ = Z~ min(r, tau) / r     out = a Z^ + (1 - a) Z+

    Z+ and Z- are what attention reads in the prompt and in the negative one, before its output layer; norms go over
    channels. So |out| <= (a tau + 1 - a) |Z+|, for every s.

    Differs from the paper: norms are L2, as in the authors' code, where the paper writes L1.
    """

    scale: AttentionScale = 5.0
    """s: 1 is off."""
    tau: AttentionLimit = 2.5
    """How many times longer than Z+ the guided attention may be."""
    alpha: Share = 0.25
    """a: share of the guided attention; 0 is off."""
    interval: Interval = (0.0, 1.0)
    """Noise levels, 0 data to 1 noise, between which it is on; outside, Z- is not asked for."""

    @property
    def off(self) -> bool:
        """Whether Z+ is given back as it is, so that Z- need not be asked for."""
        return self.scale == 1 or self.alpha == 0

    def acts_at(self, level: float) -> bool:
        """Whether it is on at a noise level."""
        return self.interval[0] <= level <= self.interval[1]

    def combine(self, positive: Float[Tensor, "*b c"], negative: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
        """out, in the precision of Z+; norms are taken in single precision."""
        import torch

        if self.off:
            return positive
        kept = positive.float()
        # Z~, so written that equal Z+ and Z- give Z+ to the bit
        guided = kept + (self.scale - 1) * (kept - negative.float())
        limit = self.tau * kept.norm(dim=-1, keepdim=True)
        length = guided.norm(dim=-1, keepdim=True)
        # Z^ = Z~ min(1, tau |Z+| / |Z~|), which is the formula's min(r, tau) / r; where Z~ is zero it stays zero
        bounded = guided * (limit / length.clamp_min(torch.finfo(length.dtype).tiny)).clamp_max(1.0)
        return torch.lerp(kept, bounded, self.alpha).to(positive.dtype)
