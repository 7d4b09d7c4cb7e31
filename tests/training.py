"""A backbone and the policies that are trained on it, under one name, as most tests want them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from contrapose.backbones.base import Backbone
from contrapose.backbones.denoiser import Trainable
from contrapose.backbones.policies import Policies
from contrapose.core.group import Condition


@dataclass(frozen=True, eq=False)
class Training(Backbone):
    """A backbone with what is trained on it."""

    trainable: Trainable

    @property
    def policies(self) -> Policies:
        return self.trainable.policies

    def predict(self, policy: str, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.trainable.predict(policy, x_t, t, condition)

    def save(self, folder: Path, notes: dict[str, str] | None = None, whole: bool = True) -> None:
        self.trainable.save(folder, notes, whole)


def with_own_network(backbone: Backbone, *others: str) -> Backbone:
    """A backbone whose denoiser is a copy, and other parts by name; the further ones are those of the first."""
    pipe = copy.copy(backbone.sampler.stock)
    for part in (backbone.denoiser.part, *others):
        setattr(pipe, part, copy.deepcopy(getattr(pipe, part)))
    return Backbone.over(backbone.family, backbone.source, pipe, backbone.device, backbone.pipeline.loading)


def with_lora(backbone: Backbone, *settings: Any, **named: Any) -> Training:
    """The backbone with adapters in training, as `Denoiser.lora` is asked for them."""
    return _with(backbone, backbone.denoiser.lora(*settings, **named))


def with_full(backbone: Backbone, *settings: Any, **named: Any) -> Training:
    """The backbone with its network in training, as `Denoiser.full` is asked for it."""
    return _with(backbone, backbone.denoiser.full(*settings, **named))


def _with(backbone: Backbone, trainable: Trainable) -> Training:
    parts = (backbone.pipeline, backbone.text, backbone.images, backbone.denoiser, backbone.sampler)
    return Training(*parts, trainable)
