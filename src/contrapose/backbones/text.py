"""The part of a backbone that reads prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from contrapose.backbones.pipeline import LoadedPipeline
from contrapose.backbones.text_encoders import encoders_digest, tokenizers_digest
from contrapose.core.group import Condition

_READING = 1  # to be counted up when what a family reads changes, so that nothing kept from before is used


class TextReader:
    """Reads prompts as the stock pipeline does."""

    def __init__(self, pipeline: LoadedPipeline):
        self._pipeline = pipeline
        self._dtype: torch.dtype = pipeline.stock.text_encoder.dtype
        self._settings = ""
        self.tokens = pipeline.tokens
        """Tokens that the largest text encoder reads at most."""

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Condition:
        """What the denoiser reads of each prompt; padding is cut off where the network masks it."""
        pipeline = self._pipeline
        pipeline.place(*pipeline.encoder_parts)
        return pipeline.family.read(pipeline.stock, list(prompts), pipeline.device, self.tokens)

    @torch.no_grad()
    def unconditional(self, negative_prompt: str | None = None) -> Condition:
        """What the denoiser reads where there is no prompt, or a negative one (it may be "") in its place, one row."""
        pipeline = self._pipeline
        pipeline.place(*pipeline.encoder_parts)
        return pipeline.family.read_unconditional(pipeline.stock, negative_prompt, pipeline.device, self.tokens)

    @property
    def rows(self) -> int:
        """Rows of text that the network reads of the longest prompt."""
        return self._pipeline.family.text_rows(self._pipeline.stock, self.tokens)

    @property
    def settings(self) -> str:
        """Everything that decides what `embed` gives for a prompt, and adapters on the encoders too.

        Of encoders that have left memory, what they were when they left.
        """
        pipeline = self._pipeline
        if pipeline.encoders:
            encoders = encoders_digest(pipeline.encoders)
            tokenizers = tokenizers_digest(pipeline.source.path, pipeline.tokenizers)
            reading = f"{self.tokens} {self._dtype} reading {_READING}"
            self._settings = f"{pipeline.family.name} {encoders} {tokenizers} {reading}"
        return self._settings

    @property
    def encoder_parts(self) -> tuple[str, ...]:
        """The text encoders' names in the pipeline."""
        return self._pipeline.encoder_parts

    @property
    def encoder_bytes(self) -> int:
        """Bytes that the text encoders take."""
        modules = self._pipeline.encoders.values()
        return sum(weight.numel() * weight.element_size() for module in modules for weight in module.parameters())

    def release(self) -> None:
        """Drop the text encoders from memory; `embed` and `unconditional` are gone after this."""
        self._settings = self.settings  # while there are encoders to tell
        self._pipeline.release(*self._pipeline.encoder_parts)
