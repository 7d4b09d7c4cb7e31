"""A yes/no question about the image, put to a vision-language model: how sure is it of yes?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL.Image import Image

from contrapose.backbones.settings import Precision
from contrapose.errors import UserError
from contrapose.judges.judge import Judge

if TYPE_CHECKING:
    from torch import Tensor

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
    precision: Precision = "bf16"
    """Precision of the network."""

    def load(self, device: str) -> Judge:
        """Raises `UserError` when the weights are missing or broken, or the model cannot be asked."""
        import torch

        from contrapose.judges.batched import Batched
        from contrapose.judges.vision_language import load_chat_model

        model = load_chat_model("yes-no", self.model, self.precision, device)
        yes = model.spellings("yes")
        no = model.spellings("no")
        for word, tokens in (("yes", yes), ("no", no)):
            if not tokens:
                raise UserError(f"yes-no: the model has no token for '{word}'; use another")

        def sure(images: list[Image], prompts: list[str]) -> Tensor:
            answers = []
            for image, prompt in zip(images, prompts, strict=True):
                logits = model.first_token(image, self.question.replace("{prompt}", prompt))
                # P(yes) / (P(yes) + P(no)), each the sum over its spellings
                answers.append((logits[yes].logsumexp(0) - logits[no].logsumexp(0)).sigmoid())
            return torch.stack(answers)

        return Batched("yes-no", model.version, sure)
