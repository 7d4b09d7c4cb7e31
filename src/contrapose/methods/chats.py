"""CHATS (ICML 2025, arXiv 2502.12579): a policy of winners and one of losers, trained jointly, contrasted in sampling.

    L = -E log sigmoid( -B [ (mse_w^{+} - mse_w^{ref}) + (mse_l^{-} - mse_l^{ref}) ] ),   mse to the forward noise

Each policy fits its own images (a sum, where DPO has a difference); the losing one's prompt is left out half of the
time. Published: B 1000 (no factor of a half, so beta is 2000 here), batch 128 (1 x 16 accumulated x 8 GPUs), warm-up
100; SD1.5 2000 steps at an effective learning rate of 1.28e-7 (1e-9 with --scale_lr: times the batch), SDXL 6000 steps
of Adafactor at 3.84e-7 (3e-9), its gradients taken as they come (`max_grad_norm: 0`). Sampling: 50 steps, `contrapose
sample --guidance chats --positive RUN/positive --negative RUN/negative`, at a guidance scale of 6 for the paper's
s = 5.

Differs from the authors' code: without a prompt the losing policy reads what the family reads for none (SD1.5 the
empty text, SDXL zeros) both in training and in sampling. Theirs is trained on zeros in place of the text's embedding
and sampled with the empty text, on SDXL too; `--negative-prompt ""` is theirs in sampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from contrapose.core.choices import Space
from contrapose.core.group import Composition, Pick
from contrapose.core.links import Signed
from contrapose.methods.method import AlignmentMethod
from contrapose.ranges import Positive, Share, checked

if TYPE_CHECKING:
    from contrapose.core.objective import Objective


@dataclass(frozen=True)
@checked
class CHATS(AlignmentMethod):
    """A policy for winners and one for losers, under one loss."""

    beta: Positive = 2000.0
    """Strength in the unit of Diffusion-DPO's code: twice the paper's B, whose loss has no factor of a half."""
    dropout: Share = 0.5
    """How often the losing policy sees no prompt."""
    space: Space | None = None
    """Where errors are measured; the model's own prediction space when unset."""

    instead_of_swap: ClassVar[str | None] = "exchange its two policies in sampling instead"

    def objective(self) -> Objective:
        from contrapose.core.objective import Objective, Side

        sides = (Side("winner", policy="positive"), Side("loser", policy="negative", slot="dropped"))
        return Objective(sides, Signed((1.0, 1.0)), self.beta, space=self.space)

    def composition(self) -> Composition:
        prompt = Pick("own", "prompt")
        return Composition(prompts={"prompt": prompt, "dropped": prompt}, dropout={"dropped": self.dropout})
