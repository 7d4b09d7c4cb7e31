"""Whether the parts of a pipeline that are loaded fit each other."""

from __future__ import annotations

from typing import Any

from diffusers import DiffusionPipeline

from contrapose.errors import UserError

_FEW = 0.9  # of the encoder's words; published tokenizers leave a few of its last rows unused


def check_tokenizers(model: str, pipe: DiffusionPipeline) -> None:
    """Raise `UserError` for a tokenizer that does not know its text encoder's words, or would give it too many."""
    for name, tokenizer in pipe.components.items():
        if not name.startswith("tokenizer") or tokenizer is None:
            continue
        encoder = getattr(pipe, name.replace("tokenizer", "text_encoder"), None)
        if encoder is not None:
            _check_words(f"{model}: {name}", tokenizer, encoder.config)


def _check_words(where: str, tokenizer: Any, config: Any) -> None:
    known, read = len(tokenizer), config.vocab_size
    if not _FEW * read <= known <= read:
        raise UserError(f"{where} knows {known} words and its text encoder {read}; download the model again")
    # CLIP's texts are padded to what the tokenizer says, the others' to what the pipeline does.
    limit = config.max_position_embeddings if config.model_type.startswith("clip") else None
    if limit is not None and not 0 < tokenizer.model_max_length <= limit:
        raise UserError(
            f"{where}: model_max_length is {tokenizer.model_max_length:.3g} in its tokenizer_config.json and its text "
            f"encoder reads {limit} tokens; download the model again"
        )
