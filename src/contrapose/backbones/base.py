"""The Backbone contract."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any, Protocol

from torch import Tensor, nn

from contrapose.core.group import Condition
from contrapose.core.path import Path, Space


class Policies(Protocol):
    """The named policies of one denoiser: `trainee`, `reference`, and any further ones."""

    def denoiser(self, policy: str) -> nn.Module:
        """The module that predicts as this policy; valid until the next call."""

    @property
    def trainee(self) -> nn.Module:
        """The module that holds the trainable parameters."""

    def parameters(self) -> list[nn.Parameter]:
        """The trainee's trainable parameters, in a fixed order."""

    def state(self) -> dict[str, Tensor]:
        """The trainee's own weights by name."""

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Put weights back that `state` gave."""


class Backbone(Protocol):
    """A text-to-image model that predicts."""

    path: Path
    space: Space
    policies: Policies

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one latent, without the batch."""

    def embed(self, prompts: Sequence[str]) -> Condition:
        """What the denoiser reads of each prompt."""

    def encode(self, images: Tensor) -> Tensor:
        """Latents [b, c, h, w] of images [b, 3, H, W] in -1..1, in the denoiser's scale."""

    def decode(self, latents: Tensor) -> Tensor:
        """Images [b, 3, H, W] in -1..1 of latents."""

    def predict(self, policy: str, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The policy's prediction in the backbone's space."""

    def call_arguments(self, condition: Condition, unconditional: Condition) -> dict[str, Any]:
        """Keyword arguments that make the stock pipeline use these embeddings."""

    def save(self, folder: FilePath) -> None:
        """The trainee in the form that stock diffusers loads."""

    def release_encoders(self) -> None:
        """Drop text encoders and autoencoder from memory; `embed`, `encode` and `decode` are gone after this."""
