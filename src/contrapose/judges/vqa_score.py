"""VQAScore (Lin et al. 2024, linzhiqiu/t2v_metrics): how sure a vision-language model is that the prompt is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL.Image import Image

from contrapose.backbones.settings import Precision
from contrapose.judges.judge import Judge

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class VQAScore:
    """score = P(yes) of the answer's first token, 0 to 1, over every spelling of the word, P(no) not looked at.

    Scores of different models do not compare, and the authors' CLIP-FlanT5 is none of transformers': name the model.
    Differs from the authors' code: theirs takes the one token "Yes", and with CLIP-FlanT5 pads images to squares.
    """

    model: str = "Qwen/Qwen3-VL-8B-Instruct"
    """Folder or hub id of a chat model that sees images."""
    question: str = 'Does this figure show "{prompt}"? Please answer yes or no.'
    """What is asked; `{prompt}` in it stands for the image's prompt."""
    precision: Precision = "bf16"
    """Precision of the network."""

    def load(self, device: str) -> Judge:
        """Raises `UserError` when the weights are missing or broken, or the model cannot be asked."""
        import torch

        from contrapose.judges.batched import Batched
        from contrapose.judges.vision_language import load_chat_model

        model = load_chat_model("vqascore", self.model, self.precision, device)

        def sure(images: list[Image], prompts: list[str]) -> Tensor:
            answers = []
            for image, prompt in zip(images, prompts, strict=True):
                answers.append(model.chance(image, self.question.replace("{prompt}", prompt), ["yes"]))
            return torch.stack(answers)

        return Batched("vqascore", model.version, sure)
