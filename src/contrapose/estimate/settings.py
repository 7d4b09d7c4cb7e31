"""A run, as far as its cost goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from contrapose.backbones.settings import Precision
from contrapose.core.moving import Average
from contrapose.errors import UserError
from contrapose.methods import METHODS
from contrapose.ranges import Batch, Count, Rank, Tokens, checked
from contrapose.train.settings import DEFAULT_RANK, OptimizerName

if TYPE_CHECKING:
    from contrapose.core.group import OnPolicy
    from contrapose.core.objective import Objective

    MethodName = str
else:
    MethodName = Literal[tuple(METHODS)]


@dataclass(frozen=True)
@checked
class Setup:
    """A run, as far as its cost goes."""

    model: str
    """Model folder, hub id, or the name of a shipped configuration; only configurations are read."""
    method: MethodName = "ddspo"
    """Method to align with; runs that it begins with are not counted."""
    full: bool = False
    """Train the whole denoiser instead of LoRA adapters."""
    lora_rank: Rank = DEFAULT_RANK
    """Rank of the LoRA adapters."""
    precision: Precision = "fp32"
    """Precision of the networks; trained weights stay in fp32."""
    batch_size: Batch = 32
    """Pairs for each optimiser step."""
    micro_batch: Batch = 8
    """Pairs that go through the network at once."""
    size: str | None = None
    """Size of the images as WIDTHxHEIGHT in pixels; the model's usual size when unset."""
    text_tokens: Tokens | None = None
    """Rows of text that the network reads; those of the longest prompt when unset."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    split_pairs: bool = False
    """Run winner and loser one after the other."""
    optimizer: OptimizerName = "adamw"
    """The optimiser."""
    quantize: Literal["none", "int8", "nf4"] = "none"
    """Precision of the frozen network's linear layers under LoRA."""
    num_prompts: Count = 1000
    """Distinct prompts whose embeddings are cached, degraded ones among them."""
    num_pairs: Count = 1000
    """Pairs of latents on disk."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"method {self.method}: not known (choose from {', '.join(METHODS)})")
        if self.batch_size % self.micro_batch:
            raise UserError(f"batch_size {self.batch_size} must be a multiple of micro_batch {self.micro_batch}")
        if self.full and self.quantize != "none":
            raise UserError("quantize is for the frozen network under LoRA; leave it or full out")

    @property
    def rows(self) -> tuple[int, int]:
        """Predictions of frozen policies and of trained ones that a pair needs."""
        num_frozen = 0
        num_trained = 0
        for policy, rows in self.objective.plan().items():
            if policy in self.objective.trained:
                num_trained += len(rows)
            else:
                num_frozen += len(rows)
        return num_frozen, num_trained

    @property
    def objective(self) -> Objective:
        """What the method computes."""
        return METHODS[self.method]().objective()

    @property
    def on_policy(self) -> OnPolicy | None:
        """How the method draws samples of its own, if it does."""
        return METHODS[self.method]().composition().on_policy

    @property
    def num_others(self) -> int:
        """Policies beside the trained ones and the reference."""
        return len(self.objective.frozen)

    @property
    def num_averages(self) -> int:
        """Policies that are an average of the trainee."""
        return sum(isinstance(following, Average) for following in self.objective.moving.values())
