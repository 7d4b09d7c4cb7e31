"""The Backbone contract: a model over its stock diffusers pipeline, in four parts with one reason to change each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from contrapose.backbones.coherence import check_fit
from contrapose.backbones.denoiser import Denoiser
from contrapose.backbones.family import Family
from contrapose.backbones.images import Autoencoder
from contrapose.backbones.loading import Source, free_memory
from contrapose.backbones.pipeline import LoadedPipeline
from contrapose.backbones.precision import precision_of
from contrapose.backbones.sampler import Sampler
from contrapose.backbones.settings import Loading, Precision
from contrapose.backbones.text import TextReader


@dataclass(frozen=True, eq=False)
class Backbone:
    """A text-to-image model that predicts: ask the part that you need."""

    pipeline: LoadedPipeline
    text: TextReader
    """Reads prompts."""
    images: Autoencoder
    """Encodes images into latents and decodes them."""
    denoiser: Denoiser
    """Predicts, and is trained."""
    sampler: Sampler
    """The stock pipeline."""

    @classmethod
    def over(
        cls, family: Family, source: Source, stock: DiffusionPipeline, device: str | torch.device, loading: Loading
    ) -> Backbone:
        """The four parts over one stock pipeline; `UserError` where its networks do not fit each other."""
        pipeline = LoadedPipeline(family, source, stock, device, loading)
        check_fit(pipeline)
        denoiser = Denoiser(pipeline)
        return cls(pipeline, TextReader(pipeline), Autoencoder(pipeline), denoiser, Sampler(pipeline, denoiser))

    @property
    def family(self) -> Family:
        """What is declared of models of this kind."""
        return self.pipeline.family

    @property
    def source(self) -> Source:
        """Where the model is."""
        return self.pipeline.source

    @property
    def device(self) -> torch.device:
        """Where its parts compute."""
        return self.pipeline.device

    @property
    def precision(self) -> Precision:
        """What settings call the denoiser's type as it was loaded; `UserError` for one that they have no name for."""
        return precision_of(self.pipeline.dtype)

    @property
    def fingerprint(self) -> str:
        """Which denoiser and autoencoder these are, by the files that they were read from."""
        return self.pipeline.fingerprint

    def release_encoders(self, keep_text: bool = False, keep_images: bool = False) -> None:
        """Drop text encoders and autoencoder from memory; prompts and images can no longer be read after this."""
        if not keep_text:
            self.text.release()
        if not keep_images:
            self.images.release()
        free_memory()
