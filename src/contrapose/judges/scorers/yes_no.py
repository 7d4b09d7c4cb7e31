"""A yes/no question about the image, put to a vision-language model: how sure is it of yes?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL.Image import Image
from torch import Tensor

from contrapose.errors import UserError
from contrapose.judges.pretrained import Precision
from contrapose.judges.scorers.scorer import Batched, Scorer
from contrapose.judges.vision_language import VisionLanguage

PHOTOGRAPH = "Is this image a photograph, rather than a drawing, painting, anime or rendering? Answer yes or no."


@dataclass(frozen=True)
class YesNo:
    """score = P(yes) / (P(yes) + P(no)), 0 to 1, of the answer's first token, over every spelling of the two words.

    Differs from the authors' code: RealAlign reads the written answer, which is this score over or under 1/2 and tells
    nothing of how near it was. Images are asked about one by one, so that no other image moves a score.
    """

    model: str = "Qwen/Qwen3-VL-8B-Instruct"
    """Folder or hub id of a chat model that sees images."""
    question: str = PHOTOGRAPH
    """What is asked; `{prompt}` in it stands for the image's prompt."""
    dtype: Precision = "bf16"
    """Precision of the network."""

    def load(self, device: str) -> Scorer:
        """Raises `UserError` when the weights are missing or broken, or the model cannot be asked."""
        model = VisionLanguage("yes-no", self.model, self.dtype, device)
        if not model.can_be_asked:
            raise UserError(f"yes-no: {self.model} has no chat template, so it cannot be asked; use a chat model")
        yes, no = (spellings(model, word) for word in ("yes", "no"))

        def sure(images: list[Image], prompts: list[str]) -> Tensor:
            logits = [
                model.first_token(image, self.question.replace("{prompt}", prompt))
                for image, prompt in zip(images, prompts, strict=True)
            ]
            return torch.stack([(row[yes].logsumexp(0) - row[no].logsumexp(0)).sigmoid() for row in logits])

        return Batched("yes-no", model.version, sure)


def spellings(model: VisionLanguage, word: str) -> list[int]:
    """The tokens that are this word alone, with or without a space or capitals; `UserError` if it has none."""
    tokenizer = model.tokenizer
    found = [
        index
        for token, index in tokenizer.get_vocab().items()
        if word in token.lower() and tokenizer.convert_tokens_to_string([token]).strip().lower() == word
    ]
    if not found:
        raise UserError(f"yes-no: the model has no token for '{word}'; use another")
    return sorted(found)
