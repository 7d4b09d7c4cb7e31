"""What a run would cost, from the model's configuration alone: parameters, bytes by part, FLOPs, caches.

The passes are metered on tensors without values (`memory.py`), one row at a time; rows add up. Bytes are of the
training steps: text is read before them and the encoders dropped, so they count apart, unless they are trained.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import get_args

import torch

from contrapose.backbones.base import Backbone
from contrapose.backbones.loading import DTYPES
from contrapose.backbones.meta import encoding, example, example_text, num_parameters, skeleton
from contrapose.backbones.settings import Quantisation
from contrapose.estimate.memory import Cost, inference_cost, training_cost
from contrapose.estimate.settings import Setup
from contrapose.estimate.standing import (
    Memory,
    float32_bytes,
    gathered_bytes,
    module_bytes,
    state_bytes,
    weight_bytes,
)
from contrapose.methods import METHODS
from contrapose.train.judging import RolloutJudging
from contrapose.train.settings import First, Optimisation, Watching
from contrapose.train.sharding_settings import Sharding

TYPICAL_TOKENS = 40  # of a prompt, where padding is not kept


@dataclass(frozen=True)
class Flops:
    """FLOPs of a run, two for every multiply-add."""

    forward: int
    """One row through a frozen network."""
    trained: int
    """One row through the trainee, forward and backward."""
    pair: int
    step: int
    """One step of the optimiser, with what the method draws for it."""
    image: int
    """Encoding one image, whose latents are then kept."""
    prompt: int
    """Encoding one prompt, whose embeddings are then kept."""


@dataclass(frozen=True)
class RunCost:
    """What a run costs."""

    setup: Setup
    tokens: int
    """Rows of text that the network reads."""
    latent: tuple[int, ...]
    """Shape of one image's latents."""
    parameters: dict[str, int]
    """Their number by part of the pipeline."""
    trainable: int
    """Number of trained parameters."""
    memory: Memory
    checkpointed: Memory
    """The same with gradient checkpointing."""
    flops: Flops
    embeddings: int
    """Bytes of the cached embeddings, at 40 tokens a prompt where padding is not kept."""
    latents: int
    """Bytes of the pairs' latents on disk."""
    encoders: int
    """Bytes of the text encoders, on the GPU before training alone."""


class Skeleton:
    """A model without values in the form that a run would train, and what its passes cost; each is metered once."""

    def __init__(self, setup: Setup, has_frozen: bool, trained: tuple[str, ...]):
        self.setup = setup
        self.dtype = DTYPES[setup.precision]
        self.has_frozen = has_frozen
        run = setup.run
        backbone = skeleton(run.model, torch.float32 if run.full else self.dtype, run.loading)
        self.backbone = backbone
        self.parameters = num_parameters(backbone)
        of_encoders = [count for part, count in self.parameters.items() if part.startswith("text")]
        self.encoders = sum(of_encoders) * self.dtype.itemsize
        self.shape = setup.latent if setup.latent and not setup.size else backbone.images.shape_for(setup.size)
        self.tokens = setup.text_tokens or backbone.text.rows
        network = backbone.denoiser.network
        self._network = network
        self._weights = {kind: weight_bytes(network, kind) for kind in get_args(Quantisation)}
        if run.full:
            self.trainable = backbone.denoiser.full(self.dtype, has_frozen, trained)
        else:
            rank = setup.lora_rank
            self.trainable = backbone.denoiser.lora(rank, rank, trained, adapters=run.adapters)
        self.trained = self.trainable.policies.parameters()
        self._passes: dict[bool, Cost] = {}

    @property
    def autocast(self) -> torch.dtype | None:
        return None if self.setup.precision == "fp32" else self.dtype

    def trainee(self, checkpointing: bool) -> Cost:
        """One row through the trainee, forward and backward."""
        if checkpointing not in self._passes:
            self._passes[checkpointing] = self._metered(checkpointing)
        return self._passes[checkpointing]

    def _metered(self, checkpointing: bool) -> Cost:
        one_row = self._pass(1, checkpointing)
        if not self.setup.run.full:
            return one_row  # with adapters, all bytes grow with the rows, near enough
        return one_row.beside(self._pass(2, checkpointing))

    def _pass(self, rows: int, checkpointing: bool) -> Cost:
        """Forward and backward of so many rows."""
        inputs = example(self.backbone, rows, self.shape, self.tokens)
        policies = self.trainable.policies
        module = policies.modules()[0]
        policy = policies.trained[0]
        return training_cost(lambda: self.trainable.predict(policy, *inputs), module, self.autocast, checkpointing)

    @cached_property
    def reference(self) -> Cost:
        """One row through a frozen network."""
        policy = "reference" if self.has_frozen else self.trainable.policies.trained[0]
        row = example(self.backbone, 1, self.shape, self.tokens)
        return inference_cost(lambda: self.trainable.predict(policy, *row), self.autocast)

    def standing(self, setup: Setup) -> Memory:
        """Bytes that do not depend on the batch."""
        trained = sum(parameter.nbytes for parameter in self.trained)
        o = setup.run.optimisation
        states = sum(state_bytes(parameter, o.optimizer) for parameter in self.trained)
        average = trained if o.ema_decay else 0
        if setup.run.full:
            weights = 0
            frozen = self.trainable.policies.denoiser("reference") if self.has_frozen else None
            copies = module_bytes(frozen) * setup.num_copies if frozen else 0
            # an average goes on from its weights in float32, beside those that predict
            copies += float32_bytes(frozen) * setup.num_averages if frozen else 0
        else:
            weights = self._weights[setup.run.loading.quantize]
            weights += self.encoders if setup.run.adapters.train_text_encoder else 0  # which then stay
            copies = trained * setup.num_others  # adapters on the same network
        of_all = Memory(
            weights, copies, trained, gradients=trained, optimizer=states, average=average, activations=0, working=0
        )
        return of_all.of_one(setup.num_shards)

    def memory(self, setup: Setup) -> Memory:
        """Bytes by part of this setup, which may differ from the skeleton's in what does not change the network."""
        num_frozen, num_trained = setup.rows
        micro_batch = setup.run.optimisation.micro_batch
        with_gradient = num_trained * micro_batch
        without_gradient = max(num_frozen, setup.walking_rows) * micro_batch
        if setup.run.split_pairs:
            # every trained row is predicted once without gradient, then half of them at a time with it
            without_gradient = max(without_gradient, with_gradient)
            with_gradient = math.ceil(with_gradient / 2)
        cost = self.trainee(setup.run.gradient_checkpointing)
        gathered = 0
        if setup.num_shards > 1:
            # weights are gathered in the precision that products take, so that autocast keeps no copies of them
            cost = cost.without_fixed()
            gathered = gathered_bytes(self._network, self.dtype, setup.run.full)
        saved = cost.saved_for(with_gradient)
        peak = cost.peak_for(with_gradient)
        if without_gradient:
            peak = max(peak, without_gradient * self.reference.peak)
        working = max(peak - saved, 0) + gathered
        return replace(self.standing(setup), activations=saved, working=working)


_skeleton = lru_cache(maxsize=8)(Skeleton)


def skeleton_of(setup: Setup) -> Skeleton:
    """The skeleton of a setup; setups whose network is the same share one."""
    # what the network does not depend on is as usual: of the method, only which policies there are is metered
    any_method = next(iter(METHODS.values()))()
    of_network = replace(
        setup.run, pairs=(), method=any_method, precision=setup.precision, policies=None, swap=False, seed=0,
        mask_floor=None, reference_decay=None, reference_every=None, gradient_checkpointing=False, split_pairs=False,
        optimisation=Optimisation(), first=First(),
        watching=Watching(), judging=RolloutJudging(), loading=replace(setup.run.loading, quantize="none"),
        sharding=Sharding(),
    )  # fmt: skip
    of_shapes = replace(setup, run=of_network, num_prompts=None, num_pairs=None, num_processes=1)
    has_frozen = setup.needs_reference or setup.num_others > 0
    return _skeleton(of_shapes, has_frozen, setup.objective.trained)


def estimate_run(setup: Setup) -> RunCost:
    """What this setup costs; raises `UserError` for a model or size that is not to be had."""
    bones = skeleton_of(setup)
    texts = bones.backbone
    elements = torch.Size(bones.shape).numel()
    typical = min(TYPICAL_TOKENS, bones.tokens) if texts.family.trims_text else bones.tokens
    row_bytes = 0  # one prompt's, in the networks' precision but for whole numbers
    for value in example_text(texts, 1, typical).values():
        row_bytes += value.numel() * (bones.dtype.itemsize if value.is_floating_point() else 8)
    return RunCost(
        setup=setup,
        tokens=bones.tokens,
        latent=tuple(bones.shape),
        parameters=bones.parameters,
        trainable=sum(p.numel() for p in bones.trained),
        memory=bones.memory(setup),
        checkpointed=bones.memory(replace(setup, run=replace(setup.run, gradient_checkpointing=True))),
        flops=_flops(setup, bones),
        embeddings=setup.prompts * row_bytes,
        latents=setup.pairs * 2 * 4 * elements,  # winner and loser, in float32
        encoders=bones.encoders,
    )


def _flops(setup: Setup, bones: Skeleton) -> Flops:
    num_frozen, num_trained = setup.rows
    cost = bones.trainee(setup.run.gradient_checkpointing)
    pair = (num_frozen + setup.walked) * bones.reference.total + num_trained * cost.total
    if setup.run.split_pairs:
        pair += num_trained * cost.forward  # predicted once more, without gradient
    step = pair * setup.run.optimisation.batch_size
    if setup.on_policy:
        step += setup.on_policy.num_rollouts * setup.on_policy.num_steps * bones.reference.total
    step += round(setup.drawn_rows(bones.backbone.family) * bones.reference.total)
    image, prompt = once_flops(bones.backbone, bones.shape)
    return Flops(bones.reference.total, cost.total, pair, step, image, prompt)


def once_flops(backbone: Backbone, shape: tuple[int, ...]) -> tuple[int, int]:
    """FLOPs of encoding one image whose latent has this shape, and one prompt by all text encoders at their length."""
    image, prompts = encoding(backbone, shape)
    return inference_cost(image).total, sum(inference_cost(prompt).total for prompt in prompts)
