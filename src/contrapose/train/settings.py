"""A run's settings: everything that decides its outcome, written beside the result as `run.yaml`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from contrapose import runfile
from contrapose.backbones.kinds import ADAPTER_KINDS, AdapterKind
from contrapose.backbones.settings import ATTENTION, USUAL_ADAPTERS, Adapters, Haste, Loading, Precision
from contrapose.core.choices import Density, TimeDraws
from contrapose.core.guards import GUARDS, PairGuard
from contrapose.core.guidance import FreeScale
from contrapose.core.links import LINKS, PairLink
from contrapose.errors import UserError
from contrapose.methods import METHODS, Method, name_of
from contrapose.ranges import (
    AtLeast0,
    Batch,
    Count,
    CountOrNone,
    Few,
    Positive,
    Range,
    Rank,
    Seed,
    ShareBelow1,
    Steps,
    checked,
)
from contrapose.runfile import Practical
from contrapose.train.judging import RolloutJudging
from contrapose.train.sharding_settings import Sharding
from contrapose.train.unused import check_used
from contrapose.worlds.judges import IMAGE_JUDGES, ImageJudge, check_without_ceiling

if TYPE_CHECKING:
    from contrapose.core.objective import Objective

DEFAULT_RANK = 16
FOLLOWING = "following"
"""The reference, where it follows the trainee."""
OptimizerName = Literal["adamw", "adamw-8bit", "adamw-paged-8bit", "adafactor"]
TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio", "comet", "swanlab"]
Folders = Path | tuple[Path, ...]


@dataclass(frozen=True)
@checked
class Optimisation:
    """The optimiser and its schedule."""

    learning_rate: Positive = 1e-5
    """Peak learning rate for the whole effective batch (it is not multiplied by anything)."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Course of the learning rate after warm-up."""
    warmup: CountOrNone = 0
    """Optimiser steps of linear warm-up."""
    train_steps: Count = 200
    """Optimiser steps; a finished run on a constant schedule is lengthened by more of them, and cut by fewer."""
    batch_size: Batch = 32
    """Pairs for each optimiser step, over all processes and micro-batches."""
    micro_batch: Practical[Batch] = 8
    """Pairs that go through the network at once; does not change the result beyond rounding."""
    optimizer: OptimizerName = "adamw"
    """AdamW, the same with moments in 8 bits (which needs bitsandbytes and CUDA; paged ones may leave the GPU), or
    Adafactor as in Diffusion-DPO's runs of SDXL."""
    beta1: ShareBelow1 = 0.9
    """AdamW's first decay."""
    beta2: ShareBelow1 = 0.999
    """AdamW's second decay."""
    weight_decay: AtLeast0 = 1e-2
    """Weight decay."""
    epsilon: Annotated[float, Range(1e-30, 1)] = 1e-8  # much smaller ones are 0 in single precision
    """AdamW's epsilon."""
    max_grad_norm: AtLeast0 = 1.0
    """Gradients are scaled down to this norm; 0 leaves them as they are."""
    ema_decay: ShareBelow1 = 0.0
    """Decay of an exponential moving average of the weights, which is then what is saved; 0 is off. It rises to this
    number as (1 + step) / (10 + step), as diffusers' does: after 60 steps it is at most .87, after 1600 .994."""

    def __post_init__(self) -> None:
        for name in ("beta1", "beta2", "epsilon"):
            if self.optimizer == "adafactor" and getattr(self, name) != type(self).__dict__[name]:
                raise UserError(f"{name} is unused with optimizer adafactor; leave one of the two out")


@dataclass(frozen=True)
@checked
class First:
    """How the runs that a method begins with differ: RealAlign's first stage, the two fits of data-driven DDSPO."""

    first_learning_rate: Positive | None = None
    """Learning rate of the runs that a method begins with (RealAlign's first stage, data-driven DDSPO's two fits),
    constant; the run's own rate and schedule when unset."""
    first_train_steps: Count | None = None
    """Optimiser steps of the runs that a method begins with; as many as the run's own when unset."""
    first_ema_decay: ShareBelow1 | None = None
    """Decay of the average of weights in the runs that a method begins with, 0 for none; the run's own when unset."""
    first_caption_dropout: ShareBelow1 | None = None
    """Share of comparisons without the prompt in the runs that a method begins with; the run's own when unset."""

    def of(self, run: Run) -> Run:
        """The run with these settings in place of its own."""
        changes = {name.removeprefix("first_"): value for name, value in vars(self).items() if value is not None}
        if "learning_rate" in changes:
            changes |= {"schedule": "constant", "warmup": 0}
        dropout = changes.pop("caption_dropout", run.caption_dropout)
        return replace(run, optimisation=replace(run.optimisation, **changes), caption_dropout=dropout, first=First())


@dataclass(frozen=True)
@checked
class Watching:
    """What is measured and saved along the way."""

    holdout: CountOrNone = 64
    """Pairs kept out of training for diagnostics (at most a fifth of the store); none where a method draws and judges
    its own samples."""
    evaluate_every: CountOrNone = 25
    """Optimiser steps between measurements on the held-out pairs; 0 is at the first and the last alone."""
    save_every: Practical[CountOrNone] = 50
    """Optimiser steps between checkpoints; 0 is none before the last step, so that a stopped run begins anew."""
    keep: Practical[Count] = 2
    """Checkpoints that are kept, the latest ones; each draws, merges and exports as RUN@STEP."""
    prompts: Practical[tuple[str, ...]] = ()
    """Prompts whose images are drawn before the first step, on the way and after the last one: as texts, or files of
    them as `contrapose sample` reads. The weights' average draws them where there is one, and of chats the
    positive policy."""
    images_every: Practical[CountOrNone] = 50
    """Optimiser steps between these images; 0 is before the first step and after the last one alone. With --keep-best
    they are drawn at every kept step besides."""
    num_images: Practical[Few] = 1
    """Images for each watched prompt, of the seeds 0, 1, ..."""
    image_steps: Practical[Steps | None] = None
    """Sampling steps of these images; what is usual for the model when unset."""
    image_guidance_scale: Practical[FreeScale | None] = None
    """Guidance scale of these images, 1 is off; what is usual for the model when unset."""
    image_size: Practical[str | None] = None
    """Size of these images as WIDTHxHEIGHT; the model's usual size when unset."""
    judges: Practical[tuple[ImageJudge, ...]] = ()
    """What scores these images, each with a 95 % interval over prompts: pickscore, aesthetic, ..., or shapes for
    prompts of the shapes world; options are --judges.0.model and so on."""
    dev_prompts: Practical[Path | None] = None
    """File of prompts whose images are judged and not kept; those of --prompts are judged when unset."""
    keep_best: Practical[str | None] = None
    """Judge, by its name such as pickscore, by whose scores the best step is kept beside the latest ones, as RUN@best;
    it is asked first, and need not stand among --judges."""
    trackers: Practical[tuple[TrackerName, ...]] = ("tensorboard",)
    """Where metrics, images and settings are shown, beside metrics.jsonl, which is always written; each but TensorBoard
    needs a pip install of its own."""
    project: Practical[str] = "contrapose"
    """Project of the trackers (MLflow: experiment) under which the run is listed; TensorBoard has none."""
    run_name: Practical[str | None] = None
    """Name of the run in the trackers; its folder's name when unset."""
    max_drift: Positive = 1.0
    """Stop as diverged when the mean squared distance to the reference passes this (the noise has variance 1). It is in
    the method's space, and of guided predictions where these are learnt, in which it may be much larger."""

    @property
    def draws(self) -> bool:
        """Whether any images are drawn."""
        return bool(self.prompts) or self.dev_prompts is not None

    @property
    def jury(self) -> tuple[ImageJudge, ...]:
        """The judges, that by which the best step is chosen first."""
        if self.keep_best is None:
            return self.judges
        kind = IMAGE_JUDGES[self.keep_best]
        first = [judge for judge in self.judges if isinstance(judge, kind)] or [kind()]
        return (*first, *(judge for judge in self.judges if not isinstance(judge, kind)))

    def __post_init__(self) -> None:
        if self.keep_best is not None and self.keep_best not in IMAGE_JUDGES:
            raise UserError(f"keep_best {self.keep_best}: no such judge (known: {', '.join(IMAGE_JUDGES)})")
        if self.keep_best is not None and not self.draws:
            raise UserError("keep_best: there is nothing to judge; set prompts, or dev_prompts")
        check_without_ceiling(self.judges, "while a run trains")
        if self.judges and not self.draws:
            raise UserError("judges: there is nothing to judge; set prompts, or dev_prompts")
        if self.dev_prompts is not None and not self.jury:
            raise UserError("dev_prompts: nobody judges them; set judges, or leave the setting out")


@dataclass(frozen=True)
@checked
class Run:
    """One alignment run."""

    model: str
    """Model folder or hub id."""
    pairs: Folders
    """Folder of pairs made by 'contrapose pairs draw', 'real', 'import' or 'label'; several are mixed, FOLDER:0.3
    being one of which each epoch sees three tenths. A method that draws and judges its own samples takes the prompts of
    pairs alone, and files of prompts too."""
    method: Method
    """The method and its settings."""
    start: Path | None = None
    """An earlier run of the same model, where both the trainee and the reference begin; RUN@100, RUN@best: a step of
    it."""
    policies: tuple[Path, Path] | None = None
    """For data-driven DDSPO: runs fitted on winners and on losers; they are trained on the way when unset."""
    full: bool = False
    """Train the whole denoiser instead of LoRA adapters."""
    lora_rank: Rank | None = None
    """Rank of the LoRA adapters; 16 when unset, or that of the run that this one starts at."""
    lora_alpha: Positive | None = None
    """Scale of the LoRA adapters; their rank when unset."""
    precision: Precision | None = None
    """Precision of the networks; trained weights stay in fp32. When unset, bf16 on a GPU that has it and fp32
    elsewhere; a run that is carried on keeps what it began with."""
    gradient_checkpointing: Practical[bool] = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    split_pairs: Practical[bool] = False
    """Backward pass of winner and loser one after the other: half the activations, the same gradient, one more forward
    of the trained network."""
    time_density: Density | None = None
    """Density of training times; the family's usual one when unset, uniform or logit-normal. linear falls from the data
    to the noise, sigmoid keeps to the noise (DDSPO's options)."""
    time_draws: TimeDraws = "independent"
    """Whether each comparison draws its time by itself, as published, or a run's times are spread evenly over their
    density, by which training seeds differ less. States of diffusion-dro's trajectories keep the times of these."""
    time_shift: Literal["scheduler", "none"] = "scheduler"
    """Flow models: times from the scheduler's own shifted table, or unshifted."""
    distilled_guidance: AtLeast0 | None = None
    """The guidance that a network with guidance as an input (FLUX.1-dev) is fed in training; 3.5 when unset."""
    caption_dropout: ShareBelow1 = 0.0
    """Share of comparisons that are made without the prompt, which keeps classifier-free guidance alive."""
    cache_limit: Practical[Positive] = 50.0
    """Gigabytes of text embeddings that may be kept on disk."""
    seed: Seed = 0
    """Seed of initialisation, data order, times and noise."""
    foreign_pairs: bool = False
    """Accept pairs that were drawn with another model."""
    mask_floor: Annotated[float, Range(1e-6, 1)] | None = None
    """What an error outside of a pair's mask counts for one inside, so that pairs of inpainted photographs are compared
    where they differ; all count alike when unset."""
    swap: bool = False
    """Exchange winners and losers, which trains the negative policy of Diffusion-NPO; accuracy, margin and error gains
    keep the pairs' own sense, by which accuracy and margin fall, and --like-share counts likes as they were."""
    reference_decay: ShareBelow1 | None = None
    """What the reference keeps of its weights when it moves towards the trainee, 0 being a copy of it (Rethinking-DPO);
    it stays where the run begins when unset."""
    reference_every: Count | None = None
    """Optimiser steps between two such moves; each step when unset."""
    optimisation: Optimisation = field(default_factory=Optimisation)
    first: First = field(default_factory=First)
    watching: Watching = field(default_factory=Watching)
    judging: RolloutJudging = field(default_factory=RolloutJudging)
    adapters: Adapters = field(default_factory=Adapters)
    loading: Loading = field(default_factory=Loading)
    speed: Practical[Haste] = field(default_factory=Haste)
    sharding: Practical[Sharding] = field(default_factory=Sharding)

    def __post_init__(self) -> None:
        o = self.optimisation
        if o.batch_size % o.micro_batch:
            raise UserError(
                f"batch_size {o.batch_size} must be a multiple of micro_batch {o.micro_batch}; set micro_batch to "
                f"{gcd(o.batch_size, o.micro_batch)}"
            )
        of_adapters = {"lora_rank": self.lora_rank, "lora_alpha": self.lora_alpha}
        # of the others, those that are not as they are when unset
        of_adapters |= {n: v for n, v in vars(self.adapters).items() if v != getattr(USUAL_ADAPTERS, n)}
        unused = [name for name, setting in of_adapters.items() if setting is not None]
        if self.full and unused:
            raise UserError(
                f"{', '.join(unused)}: unused with full fine-tuning; leave one of the two out (--lora-rank None and so "
                "on undo what a file says)"
            )
        instead = self.method.instead_of_swap
        if self.swap and instead:
            raise UserError(f"swap: {name_of(self.method)} prefers neither side to the other; {instead}")
        if self.mask_floor is not None and not self.method.composition().is_pair:
            raise UserError(
                f"mask_floor: {name_of(self.method)} as it is set does not compare the two images of a pair, and only "
                "they have a mask; leave the setting out"
            )
        if self.judging.rollout_judges and not self.method.composition().own_groups:
            raise UserError(
                f"rollout_judges: {name_of(self.method)} draws no samples to be judged; leave the setting out"
            )
        if self.foreign_pairs and self.method.composition().own_groups:
            raise UserError(
                f"foreign_pairs: {name_of(self.method)} takes the prompts of any pairs and none of their images; leave "
                "the setting out"
            )
        self.sharding.check(self)
        self._check_reference()
        self._check_first()
        check_used(self)
        if self.adapters.train_text_encoder:
            self._check_text()
        if self.full and self.loading.quantize != "none":
            raise UserError(f"quantize {self.loading.quantize}: a quantised network cannot be trained whole; use LoRA")
        kind = self.adapters.lora_kind
        if self.loading.quantize == "nf4" and not kind.on_nf4:
            raise UserError(
                f"quantize nf4: peft puts no {kind.title} on layers of four bits; take int8, or another kind"
            )

    def _check_reference(self) -> None:
        """A reference moves where there is one, towards the one policy that is trained."""
        if self.reference_decay is None:
            if self.reference_every is not None:
                raise UserError("reference_every is unused without reference_decay; set both, or neither")
            return
        objective = self.method.objective()
        if objective.reference is None:
            raise UserError(f"reference_decay: {name_of(self.method)} has no reference to move; leave the setting out")
        if len(objective.trained) > 1:
            raise UserError(f"reference_decay: {name_of(self.method)} trains several policies; leave the setting out")
        if objective.reference in objective.moving:
            raise UserError(
                f"reference_decay: {name_of(self.method)} measures rewards against a policy that follows already; set "
                "old_decay instead"
            )

    def _check_text(self) -> None:
        """Text encoders are trained where nothing else is asked that would have some of its own."""
        name = name_of(self.method)
        if self.policies or self.method.before:
            raise UserError(f"train_text_encoder: {name} with other runs would need theirs too; leave one of them out")
        if len(self.method.objective().trained) > 1:
            raise UserError(
                f"train_text_encoder: {name} trains policies for guidance, which shares one reading of text"
            )

    def _check_first(self) -> None:
        """Nothing is set for runs that there are none of."""
        wanted = self.method.before
        name = name_of(self.method)
        unused = [setting for setting, value in vars(self.first).items() if value is not None]
        if unused and (not wanted or self.policies):
            raise UserError(f"{', '.join(unused)}: {name} begins with no other run here; leave this out")
        if self.policies and set(wanted) != {"winner", "loser"}:
            raise UserError(f"policies: {name} asks no policies of other runs; leave the setting out")

    def objective(self) -> Objective:
        """What is computed: the method's objective, with a reference that follows the trainee where that is asked.

        Truths stay those of the method: where it asks the reference for one, it asks the model that the run began with.
        """
        from contrapose.core.moving import Every

        objective = self.method.objective()
        if self.reference_decay is None:
            return objective
        following = Every(self.reference_every or 1, self.reference_decay)
        return replace(objective, reference=FOLLOWING, moving={**objective.moving, FOLLOWING: following})

    @property
    def computes_in(self) -> Precision:
        """Precision of the networks; fp32 where nothing has been settled."""
        return self.precision or "fp32"

    def resolved(self, precision: Precision = "fp32") -> Run:
        """The same run with every default spelled out; `precision` is what is usual where it trains."""
        return replace(self, precision=self.precision or precision)._with_adapters()

    def _with_adapters(self) -> Run:
        if self.full or self.start:
            return self
        rank = DEFAULT_RANK if self.lora_rank is None else self.lora_rank
        alpha = float(rank) if self.lora_alpha is None else self.lora_alpha
        adapters = replace(self.adapters, lora_targets=self.adapters.lora_targets or (ATTENTION,))
        return replace(self, lora_rank=rank, lora_alpha=alpha, adapters=adapters)


def _folders(value: object, kind: object) -> Folders:
    """One folder, or a list of them."""
    if not isinstance(value, list) or not value:
        return runfile.as_path(value, kind)
    folders = [runfile.as_path(folder, kind) for folder in value]
    return tuple(folders)


CONVERTER = runfile.converter(
    (PairLink, LINKS),
    (PairGuard, GUARDS),
    (Method, METHODS),
    (AdapterKind, ADAPTER_KINDS),
    (ImageJudge, IMAGE_JUDGES),
)
CONVERTER.register_structure_hook_func(lambda kind: kind == Folders, _folders)


def read_run(file: Path) -> Run:
    """The run that a run.yaml or a recipe describes; `UserError` naming the file and the setting that is wrong."""
    return runfile.read(file, Run, CONVERTER)
