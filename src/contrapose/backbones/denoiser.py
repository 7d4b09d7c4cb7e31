"""The part of a backbone that predicts, and the policies that are trained on it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path as FilePath

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from contrapose.backbones.adapters import frozen_policy, put_on, starting_loras
from contrapose.backbones.kinds import name_of_kind
from contrapose.backbones.loading import open_pipeline
from contrapose.backbones.networks import Network, network_in_one_piece
from contrapose.backbones.pipeline import LoadedPipeline, cast
from contrapose.backbones.policies import ENCODER_PROJECTIONS, FullPolicies, Lora, LoraPolicies, Policies
from contrapose.backbones.settings import ATTENTION, USUAL_ADAPTERS, Adapters
from contrapose.backbones.targets import chosen
from contrapose.backbones.trained_text import PROMPT, JointPolicies, NumberedPrompts, TrainedText
from contrapose.core.choices import Density
from contrapose.core.group import Condition
from contrapose.core.path import DiffusionPath, Path
from contrapose.errors import UserError
from contrapose.processes import rank
from contrapose.runs import saving
from contrapose.runs.folder import RunFolder
from contrapose.runs.saving import PartAdapters
from contrapose.tensors import in_one_piece


class Denoiser:
    """The network that predicts, over the noising path that it was trained on.

    `path` is that path and `space` what the network predicts.
    """

    def __init__(self, pipeline: LoadedPipeline):
        self._pipeline = pipeline
        family = pipeline.family
        self._fed = family.guidance_scale
        self.path = self.noising()
        self.space = family.process.space(pipeline.stock.scheduler)
        if family.prepare is not None:
            family.prepare(pipeline.stock, self.network, pipeline.device)

    @property
    def part(self) -> str:
        """The network's name in the pipeline."""
        return self._pipeline.family.denoiser_part

    @property
    def model(self) -> str:
        """The model's name, as its user wrote it."""
        return self._pipeline.source.model

    @property
    def network(self) -> ModelMixin:
        """The pipeline's own network, whatever is loaded on it."""
        return self._pipeline.network

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the network as it was loaded."""
        return self._pipeline.dtype

    def noising(self, shape: Sequence[int] | None = None, density: Density | None = None, shifted: bool = True) -> Path:
        """The path for latents of this shape, with times drawn by this density; the family's usual where left out.

        Raises `UserError` where times are to be not `shifted` that have no shift.
        """
        pipeline = self._pipeline
        _, height, width = shape or pipeline.latent_shape
        num_tokens = (height // pipeline.patch) * (width // pipeline.patch)
        usual = pipeline.family.density
        path = pipeline.family.process.path(pipeline.stock.scheduler, num_tokens, density or usual, shifted)
        if not shifted and isinstance(path, DiffusionPath):
            raise UserError(f"time_shift: {self.model} is no flow model, so its times have none; leave the setting out")
        return path

    def feed_guidance(self, scale: float) -> None:
        """Feed this scale to a network that takes guidance as an input, wherever a policy predicts.

        Raises `UserError` for the others.
        """
        if not self._pipeline.family.takes_guidance(self.network.config):
            raise UserError(f"distilled_guidance: {self.model} takes no guidance as an input; leave the setting out")
        self._fed = scale

    @property
    def fed(self) -> float | None:
        """The guidance that the network is fed wherever a policy predicts; None where it takes none as an input."""
        return self._fed if self._pipeline.family.takes_guidance(self.network.config) else None

    def denoise(
        self, network: nn.Module, x_t: Tensor, t: Tensor, condition: Condition, fed: float | None = None
    ) -> Tensor:
        """One call of a network, in `space`; `fed` is the guidance that it may take as an input, else training's."""
        guidance = self._fed if fed is None else fed
        return self._pipeline.family.denoise(self._pipeline.stock, network, x_t, t, condition, guidance)

    def lora(
        self,
        rank: int | None,
        alpha: float | None,
        trained: tuple[str, ...] = ("trainee",),
        start: FilePath | None = None,
        frozen: Mapping[str, FilePath | None] = {},
        adapters: Adapters = USUAL_ADAPTERS,
        prompts: NumberedPrompts | None = None,
        placed: bool = True,
    ) -> Trainable:
        """Train adapters of a kind on the layers that are asked for, one a policy; the base stays as loaded.

        `start` is an earlier run's folder, at whose adapters all that is trained begins, and the reference; rank,
        alpha, kind and layers are theirs. `frozen` names policies that never train: a run's folder, or None for a copy
        of the first trained one as it starts. Where text encoders have adapters too, conditions are of these numbered
        `prompts`. The network is moved to the device if it is to be `placed`, and left where it is for who cuts it up.
        Raises `UserError` for a run that is broken, unfinished or another model's, a start that was trained in full, a
        rank, alpha, kind or layers that are not the start's, and layers that are not there.
        """
        pipeline = self._pipeline
        kind = type(pipeline.stock)
        if placed:
            pipeline.place(self.part)
        self._check_runs(start, *frozen.values())
        begun: dict[str, Lora] = {}
        if start is not None:
            networks = {self.part: self.network, **pipeline.encoders}
            begun = starting_loras(start, self.part, networks, kind, rank, alpha, adapters)
            lora = begun[self.part]
        else:
            assert rank is not None and alpha is not None, "what a start would tell"
            usual = pipeline.family.lora_targets
            targets = chosen(self.network, self.part, adapters.lora_targets or (ATTENTION,), usual)
            lora = Lora(rank, alpha, targets, kind=adapters.lora_kind, dropout=adapters.lora_dropout)
        further: dict[str, Lora | nn.Module | None] = {}
        for name, run in frozen.items():
            further[name] = self._frozen(run, lora) if run else None
        policies = LoraPolicies(self.network, lora, trained, further)
        if not adapters.train_text_encoder:
            return Trainable(pipeline, self, policies)
        encoders: dict[str, LoraPolicies] = {}
        for part, encoder in self._adaptable_encoders().items():
            pipeline.place(part)
            of_encoder = begun.get(part) or Lora(lora.rank, lora.alpha, ENCODER_PROJECTIONS, kind=lora.kind)
            encoders[part] = LoraPolicies(encoder, of_encoder, trained, dict.fromkeys(further))
        text = TrainedText(pipeline, prompts or NumberedPrompts(), encoders)
        return Trainable(pipeline, self, JointPolicies(self.part, policies, encoders), text)

    def _frozen(self, run: FilePath, lora: Lora) -> Lora | nn.Module:
        """A run as a policy beside adapters that are trained: adapters on the same network, or a network of its own."""
        kind = type(self._pipeline.stock)
        policy = frozen_policy(run, self.part, self.network, kind)
        if isinstance(policy, nn.Module) or type(policy.config()) is type(lora.config()):
            return policy
        # peft would wrap the layers of one kind in those of the other, and call their weights otherwise
        if getattr(self.network, "is_quantized", False):
            raise UserError(
                f"{run}: is {name_of_kind(policy.kind)}, which does not go beside other adapters when quantised"
            )
        return put_on(copy.deepcopy(self.network), run, self.part, kind)

    def _adaptable_encoders(self) -> dict[str, Network]:
        """The text encoders that the stock pipeline puts adapters on; `UserError` where there are none."""
        parts = getattr(type(self._pipeline.stock), "_lora_loadable_modules", ())
        encoders = {name: encoder for name, encoder in self._pipeline.encoders.items() if name in parts}
        if not encoders:
            raise UserError(
                f"train_text_encoder: stock diffusers puts no adapters on the text encoders of {self.model}; leave the "
                "setting out"
            )
        return encoders

    def full(
        self,
        frozen_dtype: torch.dtype,
        needs_reference: bool = True,
        trained: tuple[str, ...] = ("trainee",),
        start: FilePath | None = None,
        frozen: Mapping[str, FilePath | None] = {},
        placed: bool = True,
    ) -> Trainable:
        """Train the whole network, once a policy, beside a frozen copy (none when no reference is asked for).

        `start`, `frozen` and `placed` as in `lora`, of runs in full and adapters alike: their weights are put on the
        network and on frozen copies of it.
        """
        pipeline = self._pipeline
        kind = type(pipeline.stock)
        if placed:
            pipeline.place(self.part)
        self._check_runs(start, *frozen.values())
        network = self.network.float()
        further: dict[str, nn.Module | None] = {}
        for name, run in frozen.items():
            further[name] = put_on(copy.deepcopy(network), run, self.part, kind) if run else None
        # After the copies, which are of the model itself.
        if start is not None:
            put_on(network, start, self.part, kind)
        return Trainable(pipeline, self, FullPolicies(network, frozen_dtype, needs_reference, trained, further))

    def _check_runs(self, *runs: FilePath | None) -> None:
        for run in filter(None, runs):
            RunFolder(run).check(self.part, self._pipeline.source)


class Trainable:
    """Policies under training on one denoiser, asked by name."""

    def __init__(
        self, pipeline: LoadedPipeline, denoiser: Denoiser, policies: Policies, text: TrainedText | None = None
    ):
        self._pipeline = pipeline
        self._text = text
        self.denoiser = denoiser
        self.policies = policies
        self.space = denoiser.space
        """What the policies predict."""

    @property
    def fingerprint(self) -> str:
        """Which model the policies are trained on, as `Backbone.fingerprint`."""
        return self._pipeline.fingerprint

    def read(self, policy: str, condition: Condition) -> Condition:
        """What the policy reads: numbered prompts by text encoders of its own, else the condition itself."""
        if self._text is None or PROMPT not in condition:
            return condition
        return self._text(policy, condition[PROMPT])

    def predict(self, policy: str, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The policy's prediction in `space`."""
        dtype = self.policies.dtype(policy)
        self.policies.rows.count = len(x_t)
        condition = self.read(policy, condition)
        return self.denoiser.denoise(self.policies.denoiser(policy), x_t.to(dtype), t, cast(condition, dtype))

    @contextmanager
    def sampled(self, policy: str) -> Iterator[None]:
        """Let the stock pipeline ask this policy while the block lasts, and leave everything as it was in training."""
        stock = self._pipeline.stock
        part = self.denoiser.part
        network = self.policies.denoiser(policy)
        usual_network = getattr(stock, part)
        scheduler = stock.scheduler
        in_training = network.training
        setattr(stock, part, network.eval())
        stock.scheduler = copy.deepcopy(scheduler)  # sampling sets its times, and training reads them
        try:
            yield
        finally:
            network.train(in_training)
            setattr(stock, part, usual_network)
            stock.scheduler = scheduler

    def save(self, folder: FilePath, notes: Mapping[str, str] | None = None, with_pipeline: bool = True) -> None:
        """What was trained in the form that stock diffusers loads: adapters, or a whole pipeline folder `model/`.

        `notes` go into the adapters' file beside their rank and alpha. Several policies have a folder each. Where not
        `with_pipeline`, `model/` holds the denoiser alone. Where networks are cut up over processes, all of these are
        to call this together, and the first one writes.
        """
        source = self._pipeline.source
        kind = type(self._pipeline.stock)
        part = self.denoiser.part
        base = FilePath(source.model).name
        for policy, where in self._folders(folder).items():
            adapted = self._adapted()
            if adapted:
                parts: dict[str, PartAdapters] = {}
                for name, of_part in adapted.items():
                    state = {key: in_one_piece(value) for key, value in of_part.state(policy).items()}
                    parts[name] = PartAdapters(state, of_part.config)
                if rank() == 0:
                    saving.save_lora(where, parts, notes or {}, kind)
                continue
            network = network_in_one_piece(self.policies.denoiser(policy))
            if network is None:
                continue
            if with_pipeline:
                rest = open_pipeline(source, kind, leave_out=(part, *self._pipeline.family.unused_parts))
                saving.save_full(where, rest, part, network, base)
            else:
                saving.save_network(where, part, network, base)

    def saved(self, folder: FilePath) -> dict[str, dict[str, Tensor]]:
        """By policy, the weights that `save` wrote, as `policies.load_state` takes them."""
        folders = self._folders(folder)
        several = len(self._adapted()) > 1
        return {policy: saving.read_saved(where, self.denoiser.part, several) for policy, where in folders.items()}

    def _adapted(self) -> Mapping[str, LoraPolicies]:
        """The parts of the pipeline that have adapters, the denoiser first."""
        if isinstance(self.policies, JointPolicies):
            return self.policies.parts
        return {self.denoiser.part: self.policies} if isinstance(self.policies, LoraPolicies) else {}

    def _folders(self, folder: FilePath) -> dict[str, FilePath]:
        """Where each policy lies: in a folder of its own where there are several."""
        trained = self.policies.trained
        if len(trained) == 1:
            return {trained[0]: folder}
        return {policy: folder / policy for policy in trained}
