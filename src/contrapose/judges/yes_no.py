"""A yes/no question about the image, put to a vision-language model: how sure is it of yes?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL.Image import Image

from contrapose.asking import Asking
from contrapose.backbones.settings import Precision
from contrapose.errors import UserError
from contrapose.judges.endpoint import yes_no_judge
from contrapose.judges.judge import Judge
from contrapose.judges.vision_endpoint import Reading, VisionEndpoint
from contrapose.ranges import check_unused
from contrapose.runfile import Practical

if TYPE_CHECKING:
    from torch import Tensor

PHOTOGRAPH = "Is this image a photograph, rather than a drawing, painting, anime or rendering? Answer yes or no."


@dataclass(frozen=True)
class YesNo:
    """score = P(yes) / (P(yes) + P(no)), 0 to 1, of the answer's first token, over every spelling of the two words.

    Differs from the authors' code: RealAlign reads the written answer, which is this score over or under 1/2 and tells
    nothing of how near it was. Images are asked about one by one, so that no other image moves a score. Behind an
    address it is the judge `endpoint` that expects yes or no, with this question.
    """

    model: str = "Qwen/Qwen3-VL-8B-Instruct"
    """Folder or hub id of a chat model that sees images; with address, the name that the server knows the model by,
    its only one when empty."""
    question: str = PHOTOGRAPH
    """What is asked; `{prompt}` in it stands for the image's prompt."""
    precision: Precision = "bf16"
    """Precision of a model on this machine."""
    address: Practical[str | None] = None
    """Address of a server that speaks OpenAI's protocol and asks the model there, such as http://127.0.0.1:8000/v1."""
    reading: Reading = "either"
    """With address: a yes or no by the chances of its first token, by the word written, or the first where told."""
    asking: Asking = field(default_factory=Asking)

    def __post_init__(self) -> None:
        if self.address is None:
            check_unused(self, ("reading", "asking"), "is of a server, and no address is named")
        else:
            check_unused(self, ("precision",), "is the server's")

    def load(self, device: str) -> Judge:
        """Raises `UserError` when the weights are missing or broken, or the model cannot be asked."""
        if self.address is not None:
            endpoint = VisionEndpoint("yes-no", self.address, self.model, self.asking)
            return yes_no_judge("yes-no", endpoint, self.question, self.reading)
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
