"""A run, as far as its cost goes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from contrapose.backbones.settings import Loading, Precision
from contrapose.core.group import OwnSteps
from contrapose.errors import UserError
from contrapose.ranges import Count, Pixels, Positive, ShareAbove0, Tokens, checked
from contrapose.train.settings import DEFAULT_RANK, First, Optimisation, Run, Watching
from contrapose.train.sharding_settings import Sharding

if TYPE_CHECKING:
    from contrapose.backbones.family import Family
    from contrapose.core.group import OnPolicy
    from contrapose.core.objective import Objective

# Of a run's settings, those that its cost depends on; its method and its adapters have theirs, which all count.
_COUNTED = {
    "model", "full", "lora_rank", "precision", "gradient_checkpointing", "split_pairs", "train_steps",
    "reference_decay", "first_train_steps", "batch_size", "micro_batch", "optimizer", "ema_decay", "text_length",
    "quantize", "shard", "shard_over",
}  # fmt: skip
_SECTIONS = (Run, Optimisation, First, Watching, Loading, Sharding)
UNCOUNTED = {setting.name for section in _SECTIONS for setting in fields(section)} - _COUNTED | {"latent"}
_USUAL = 1000  # pairs, and distinct prompts, of a run whose pairs are not here


@dataclass(frozen=True)
@checked
class Setup:
    """A run as `align` takes it, and what its cost depends on besides."""

    run: Run
    """The run; of its model only configurations are read, and the name of a shipped one will do."""
    size: str | None = None
    """Size of the images as WIDTHxHEIGHT in pixels; that of the run's pairs, or the model's usual one, when unset."""
    text_tokens: Tokens | None = None
    """Rows of text that the network reads; those of the longest prompt when unset."""
    num_prompts: Count | None = None
    """Distinct prompts whose embeddings are cached, degraded ones among them; those of the run's pairs, or 1000, when
    unset."""
    num_pairs: Count | None = None
    """Pairs of latents on disk; the run's, or 1000, when unset."""
    num_processes: Count = 1
    """Processes that share the networks where the run has --shard, a card each: memory is that of one card,
    hours are those of all."""
    latent: tuple[Pixels, ...] | None = None
    """Shape of one latent of the run's pairs, where they have been looked at; `size` goes before it."""

    def __post_init__(self) -> None:
        if self.num_processes > 1 and self.run.sharding.shard == "none":
            raise UserError("num_processes: counts with --shard alone, as each card holds the whole run without")
        self.run.sharding.check_processes(self.num_processes)

    @property
    def precision(self) -> Precision:
        """Of the networks: bf16 when the run leaves it open, as on a GPU that has it."""
        return self.run.precision or "bf16"

    @property
    def lora_rank(self) -> int:
        """Rank of the adapters; the usual one where it is left to the run that this one starts at."""
        return self.run.lora_rank or DEFAULT_RANK

    @property
    def num_shards(self) -> int:
        """Over how many cards the networks are cut up; 1 where each has all."""
        return self.run.sharding.num_shards(self.num_processes)

    @property
    def num_copies(self) -> int:
        """Frozen copies of the network on the cards, where it is trained in full."""
        if self.num_processes > 1 and self.run.sharding.shard == "offload":
            return len(self.objective.moving)
        return self.needs_reference + self.num_others

    @property
    def prompts(self) -> int:
        """How many distinct prompts there are."""
        return self.num_prompts or _USUAL

    @property
    def pairs(self) -> int:
        """How many pairs there are."""
        return self.num_pairs or _USUAL

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
    def walking_rows(self) -> int:
        """Rows of a pair that a walk takes through the network at once, without gradient; 0 without a walk."""
        return 0 if self.objective.walk is None else len(self.run.method.composition().samples)

    @property
    def walked(self) -> int:
        """Predictions without gradient that a pair's walk takes."""
        return 0 if self.objective.walk is None else self.objective.walk.num_calls * self.walking_rows

    @property
    def objective(self) -> Objective:
        """What the method computes."""
        return self.run.objective()

    @property
    def on_policy(self) -> OnPolicy | None:
        """How the method draws samples of its own, if it does."""
        return self.run.method.composition().on_policy

    def drawn_rows(self, family: Family) -> float:
        """Predictions of a step, on average, by which the method draws groups of its own; 0 where it draws none."""
        drawn = self.run.method.composition().own_groups
        if drawn is None:
            return 0.0
        # a pipeline that feeds its network guidance asks it once, but steps are guided outside of pipelines
        asks_twice = family.unconditional_rows != "none" or isinstance(drawn, OwnSteps)
        rows = 2 if asks_twice and drawn.guidance_scale not in (0, 1) else 1
        num_steps = drawn.num_steps or family.steps
        return drawn.num_prompts * drawn.num_predictions(num_steps) * rows / drawn.every

    @property
    def needs_reference(self) -> bool:
        """Whether the model that the run begins with is asked."""
        return "reference" in self.objective.plan()

    @property
    def num_others(self) -> int:
        """Policies beside the trained ones and the model that the run begins with."""
        objective = self.objective
        return len({*objective.frozen, *objective.moving} - {"reference"})

    @property
    def num_averages(self) -> int:
        """Policies that are an average of the trainee."""
        return sum(following.mixes for following in self.objective.moving.values())


@dataclass(frozen=True)
@checked
class Speed:
    """How fast a card is taken to be."""

    peak_tflops: Positive | None = None
    """The card's peak in the run's precision, in 10^12 operations a second, dense, by its data sheet; an A100's when
    unset: 312 in half precision, 19.5 in fp32."""
    utilisation: ShareAbove0 = 0.3
    """Share of the peak that training reaches; a guess until it has been measured on the card."""

    def peak(self, precision: Precision) -> float:
        """Operations a second at best."""
        usual = 19.5 if precision == "fp32" else 312.0
        return 1e12 * (self.peak_tflops or usual)


def sized(setup: Setup) -> Setup:
    """The setup with size and number of its run's pairs, where they are on this machine and it does not say others."""
    folders = (setup.run.pairs,) if isinstance(setup.run.pairs, Path) else setup.run.pairs
    if not folders:
        return setup
    import numpy as np

    from contrapose.store.mixture import Mixture
    from contrapose.store.prompt_list import PromptList
    from contrapose.store.record_table import key_of

    with suppress(UserError):  # they are still to be drawn
        pairs = Mixture(folders)
        prompts = np.union1d(pairs.records.keys("prompt"), pairs.records.keys("degraded"))
        draws_all = setup.run.method.composition().own_groups is not None
        # which a method without draws of its own refuses when it begins
        has_prompts_alone = any(isinstance(store, PromptList) for store in pairs.stores)
        return replace(
            setup,
            latent=setup.latent if draws_all or has_prompts_alone else pairs.usual_shape,
            num_pairs=setup.num_pairs or len(pairs),
            num_prompts=setup.num_prompts or int((prompts != key_of("")).sum()) or 1,
        )
    return setup
