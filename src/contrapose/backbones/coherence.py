"""Whether the parts of a pipeline that are loaded fit each other, and what is asked of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor

from contrapose.backbones.times import why_no_sampling
from contrapose.core.choices import Space
from contrapose.errors import UserError

if TYPE_CHECKING:
    from contrapose.backbones.denoiser import Denoiser
    from contrapose.backbones.pipeline import LoadedPipeline

_FEW = 0.9  # of the encoder's words; published tokenizers leave a few of its last rows unused
_AGAIN = "download the model again"
_SHORT = 8  # tokens
_SHORTEST = 3  # tokens: a word between the marks of beginning and end
_TIMES = 1001  # that are looked at along a path


def check_tokenizers(model: str, pipe: DiffusionPipeline) -> None:
    """Raise `UserError` for a tokenizer that does not know its text encoder's words, or would give it too many."""
    for name, tokenizer in pipe.components.items():
        if not name.startswith("tokenizer") or tokenizer is None:
            continue
        encoder = getattr(pipe, name.replace("tokenizer", "text_encoder"), None)
        if encoder is not None:
            _check_words(f"{model}: {name}", tokenizer, encoder.config.get_text_config())


def _check_words(where: str, tokenizer: Any, config: Any) -> None:
    num_words = len(tokenizer)
    num_rows = config.vocab_size
    if not _FEW * num_rows <= num_words <= num_rows:
        raise UserError(f"{where} knows {num_words} words and its text encoder {num_rows}; download the model again")
    try:
        tokenizer("a", padding="max_length", max_length=_SHORT, truncation=True)
    except Exception as error:  # settings that are never looked at before make these raise anything at all
        reason = " ".join(str(error).split())
        raise UserError(f"{where} cannot read a prompt: {reason:.200}; download the model again") from error
    if str(config.model_type).startswith("clip") and not isinstance(config.eos_token_id, int):
        raise UserError(f"{where}: its text encoder's config.json says no eos_token_id, where a text ends; {_AGAIN}")
    # CLIP's texts are padded to what the tokenizer says, the others' to what the pipeline does.
    limit = config.max_position_embeddings if str(config.model_type).startswith("clip") else None
    length = tokenizer.model_max_length
    if limit is not None and not (type(length) is int and _SHORTEST <= length <= limit):
        raise UserError(
            f"{where}: model_max_length is {length!r:.30} in its tokenizer_config.json and its text encoder reads "
            f"{limit} tokens; download the model again"
        )


def check_fit(pipeline: LoadedPipeline) -> None:
    """Raise `UserError` for a scheduler, an autoencoder or text encoders that are another network's."""
    stock = pipeline.stock
    family = pipeline.family
    model = pipeline.source.model
    misfit = family.process.misfit(stock.scheduler) or why_no_sampling(stock.scheduler, family.steps)
    if misfit is not None:
        kind = type(stock.scheduler).__name__
        raise UserError(f"{model}: its scheduler is a {kind}, which does not fit this {type(stock).__name__}: {misfit}")
    if family.latent_scale(stock)[0] is None:
        raise UserError(f"{model}: shift_factor in vae/config.json is null, which its pipeline cannot add")
    channels_read = pipeline.latent_shape[0]
    channels_made = family.latent_channels(stock.vae.config)
    if channels_read != channels_made:
        raise UserError(
            f"{model}: its {family.denoiser_part} reads latents of {channels_read} channels and its vae makes "
            f"{channels_made}; name a model that makes images from text alone"
        )
    _check_text_widths(pipeline)
    _check_counting(pipeline)


def _check_counting(pipeline: LoadedPipeline) -> None:
    """Prompts are counted as they are read, such as in the turns of a chat, whose template may be missing."""
    for name, tokenizer in pipeline.tokenizers.items():
        try:
            pipeline.family.count(tokenizer, "a")
        except Exception as error:  # as above
            reason = " ".join(str(error).split())
            raise UserError(
                f"{pipeline.source.model}: {name} cannot read a prompt: {reason:.200}; download the model again"
            ) from error


def _check_text_widths(pipeline: LoadedPipeline) -> None:
    """Text is as wide as the widest encoder, or as all of them side by side.

    Where an encoder is left out, the pipeline pads the text of the others, and nothing can be told of its width.
    """
    wanted = pipeline.network.config[pipeline.family.text_width]
    encoders = pipeline.encoders
    layers = pipeline.family.text_layers
    widths: list[int] = [layers * encoder.config.get_text_config().hidden_size for encoder in encoders.values()]
    is_padded = len(encoders) < len(pipeline.encoder_parts)
    if not is_padded and isinstance(wanted, int) and wanted not in (max(widths), sum(widths)):
        raise UserError(
            f"{pipeline.source.model}: its {pipeline.family.denoiser_part} reads text of width {wanted} and its text "
            f"encoders make {' and '.join(map(str, widths))}, so they are another model's; download the model again"
        )


def check_space(denoiser: Denoiser, space: Space, times: Tensor | None = None) -> None:
    """Raise `UserError` where predictions do not tell what they would be in this space, at all times or these alone."""
    if times is None:
        times = denoiser.path.times(torch.linspace(0, 1, _TIMES))
    if not denoiser.path.converts(denoiser.space, space, times):
        raise UserError(
            f"{denoiser.model}: its noise schedule ends in nothing but noise (zero terminal SNR), where its "
            f"predictions ({denoiser.space}) do not tell {space}; measure in {denoiser.space}, or take a model that "
            "predicts v"
        )
