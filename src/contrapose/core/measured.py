"""What is known of a comparison once all predictions are there: all that a link sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_ANCHORED = "drift_from/"  # before an anchor's name, where the numbers that depend on the trainee go by name


@dataclass(frozen=True, eq=False)
class Measured:
    """`b` groups with `n` sides each; errors are means over a sample's elements, in the objective's space.

    Rewards follow from T and R, but count as read by themselves: a link's slopes are taken in r, T, D and the distances
    from anchors, each where the link reads it.
    """

    rewards: Float[Tensor, "b n"]
    """r = (beta / 2) (R - T)."""
    T: Float[Tensor, "b n"]
    """mse(truth, trainee)."""
    R: Float[Tensor, "b n"] | None
    """mse(truth, reference); None without a reference."""
    D: Float[Tensor, "b n"] | None
    """mse(trainee, reference), how far the trainee has gone; None without a reference."""
    overlap: Float[Tensor, "b n n"]
    """Mean product of two sides' residuals, truth - trainee, without gradient; its diagonal is T."""
    labels: Float[Tensor, "b n"]
    """Each side's share of preference: (1, 0) for a decided pair, halves for a tie; 1 or 0 for a like or a dislike."""
    level: Float[Tensor, " b"]
    """Noise level, 0 for data and 1 for noise."""
    scores: Mapping[str, Float[Tensor, "b n"]] = field(default_factory=dict)
    """What judges say of the samples, by name."""
    drift_from: Mapping[str, Float[Tensor, "b n"]] = field(default_factory=dict)
    """mse(trainee, anchor) for each of the objective's anchors, further frozen policies, by the policy's name."""
    errors_of: Mapping[str, Float[Tensor, "b n"]] = field(default_factory=dict)
    """mse(truth, anchor), likewise."""
    running: Mapping[str, float] = field(default_factory=dict)
    """Means over earlier batches, by name (`running.Running`)."""

    def live(self) -> dict[str, Float[Tensor, "b n"]]:
        """What depends on the trainee, through which the gradient flows, by name; D only where there is a reference."""
        # R is not among them: truth and reference are both frozen
        live = {"rewards": self.rewards, "T": self.T}
        if self.D is not None:
            live["D"] = self.D
        for policy, drift in self.drift_from.items():
            live[_ANCHORED + policy] = drift
        return live

    def with_live(self, live: Mapping[str, Float[Tensor, "b n"]]) -> Measured:
        """The same groups, with these numbers in the place of those that `live` gave."""
        # r is replaced as given and not computed anew from T, or a link's slope in r would be counted in T too
        drift_from = {policy: live[_ANCHORED + policy] for policy in self.drift_from}
        return replace(self, rewards=live["rewards"], T=live["T"], D=live.get("D"), drift_from=drift_from)

    def detached(self) -> Measured:
        """The same numbers without gradient."""
        return self.with_live({name: value.detach() for name, value in self.live().items()})

    def scaled(self, kept: Float[Tensor, "b n"]) -> Measured:
        """The same numbers, with each side's gradient multiplied by what is `kept` of it."""

        def scale(value: Tensor) -> Tensor:
            # the value stays what it is, since the difference is zero; of the gradient, `kept` is left
            fixed = value.detach()
            return fixed + kept * (value - fixed)

        return self.with_live({name: scale(value) for name, value in self.live().items()})
