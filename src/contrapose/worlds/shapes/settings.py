"""Everything that decides the shapes model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from contrapose.ranges import AtLeast0, Batch, Count, CountOrNone, Number, Positive, Range, Share, ShareBelow1, checked


@dataclass(frozen=True)
@checked
class Pretraining:
    """Settings of the shapes model's pretraining; the shipped model was made with earlier ones."""

    seed: Annotated[int, Range(0, 2**40, integer=True)] = 0
    """Seed of images, captions, initial weights, times and noise."""
    start: str = ""
    """Shapes model whose weights training begins with: a pipeline folder, or `shapes` for the shipped one; empty is
    random weights."""
    num_images: Count = 80_000
    """Training images, rendered and encoded once."""
    carelessness: Share = 0.25
    """Share of captions that are wrong or incomplete."""
    vae_steps: Count = 3000
    """Optimiser steps of the autoencoder."""
    vae_batch_size: Batch = 16
    """Images for each step of the autoencoder."""
    vae_learning_rate: Positive = 2e-3
    """Peak learning rate of the autoencoder."""
    kl_weight: AtLeast0 = 1e-4
    """Weight of the latents' divergence from a standard normal, per latent element."""
    train_steps: Count = 18_000
    """Optimiser steps of the denoiser and the text encoder."""
    batch_size: Batch = 32
    """Images for each step of the denoiser."""
    learning_rate: Positive = 1e-3
    """Peak learning rate of the denoiser."""
    warmup: CountOrNone = 200
    """Steps of linear warm-up."""
    ema_decay: ShareBelow1 = 0.999
    """Decay of the averaged weights, which are what is kept."""
    caption_dropout: ShareBelow1 = 0.1
    """Share of captions replaced by the empty prompt, which classifier-free guidance needs."""
    log_snr_mean: Number = -1.5
    """Mean of the noise levels trained at, as natural logarithms of signal over noise (power)."""
    log_snr_spread: Positive = 2.4
    """Standard deviation of those logarithms."""
    save_every: CountOrNone = 250
    """Steps between saves; a run that is killed carries on from the last. 0 is none before the end."""

    def saves_after(self, step: int) -> bool:
        """Whether the step of this number, counted from 0, is followed by a save."""
        return self.save_every > 0 and (step + 1) % self.save_every == 0
