"""Self-NPO (AAAI 2026, arXiv 2505.11777): a negative policy for guidance, without preferences, from the model itself.

    L = E mean( sqrt(d^2 + c^2) - c ),   d = x0_theta(x_u, u, c) - x0_teacher(x_t', t', no prompt)

x_t' is where the teacher, an average of theta, arrives from x_t in k steps of DDIM without a prompt, on a grid of n; it
is noised to a later time u, uniform after t'. So theta learns to answer under a prompt as the model does without one
and a little later, which is what guidance then leads away from: `contrapose sample --guidance npo --negative RUN`.

Losers are not looked at, nor is there a reference: the winners of any pairs will do, the model's own among them. A
group costs k + 1 forwards of the teacher, and a forward and a backward of theta.

Published with SD1.5 on LAION's images: k 5, n 25, c 0.001, average 0.999, full UNet in fp16, AdamW of 8 bits, learning
rate 1e-6, weight decay 1e-3, batch 20 a GPU, 1000 steps; SDXL learning rate 1e-7, batch 10.
Differs from the authors' code: it asks the teacher with the prompt too, at a guidance of -1, which leaves the
prediction without one alone; here it is asked once. Where all of a batch has reached the data it stops early, and takes
the prediction before; here every row is predicted at its own last state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from contrapose.core.group import Composition, Pick
from contrapose.core.links import Identity
from contrapose.core.moving import Average
from contrapose.errors import UserError
from contrapose.methods.method import AlignmentMethod
from contrapose.ranges import Positive, ShareBelow1, Steps, checked

if TYPE_CHECKING:
    from contrapose.core.objective import Objective

_TEACHER = "teacher"
_BLANK = "blank"


@dataclass(frozen=True)
@checked
class SelfNPO(AlignmentMethod):
    """The model's answers without a prompt, some steps on, as a negative policy's answers under the prompt."""

    descent_steps: Steps = 5
    """Steps of DDIM that the teacher takes before its answer is learnt."""
    descent_grid: Steps = 25
    """Equal steps of the whole way from noise to data."""
    teacher_decay: ShareBelow1 = 0.999
    """What the teacher, an average of the trained weights, keeps of its own at each step."""
    huber_scale: Positive = 1e-3
    """Scale below which an error counts by its square, and above which by its size."""

    instead_of_swap: ClassVar[str | None] = "it trains a negative policy already"

    def __post_init__(self) -> None:
        if self.descent_steps > self.descent_grid:
            raise UserError(f"descent_steps {self.descent_steps}: the whole way has {self.descent_grid}; take fewer")

    def objective(self) -> Objective:
        """beta = 2 makes the reward -T and the loss T, the mean distance."""
        from contrapose.core.objective import Objective, Side
        from contrapose.core.walks import Descent

        return Objective(
            (Side("winner"),),
            Identity(),
            beta=2.0,
            reference=None,
            space="x0",
            moving={_TEACHER: Average(self.teacher_decay)},
            walk=Descent(self.descent_steps, self.descent_grid, _TEACHER, _BLANK),
            huber=self.huber_scale,
        )

    def composition(self) -> Composition:
        prompt = Pick("own", "prompt")
        return Composition(
            samples={"winner": Pick("own", "winner")},
            prompts={"prompt": prompt, _BLANK: prompt},
            dropout={_BLANK: 1.0},
            num_draws=2,  # a normal draw for the noise, and one for the time
            needs_labels=False,
        )
