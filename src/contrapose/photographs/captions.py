"""Captions for photographs that have none, written by a vision-language model on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from PIL.Image import Image

from contrapose.backbones.settings import Precision
from contrapose.ranges import Batch, Tokens, checked

_QUOTATION_MARKS = ('""', "''", "“”")


@dataclass(frozen=True)
@checked
class Captioner:
    """Writes the likeliest caption, word by word; nothing is drawn, so an image is always told the same way.

    In fp32 that holds whatever else is in the batch; in lower precision two words as likely may change places.
    """

    model: str = "Salesforce/blip-image-captioning-large"
    """Folder or hub id of a captioner such as BLIP, or of a chat model that sees images."""
    prompt: str = "Describe this photograph in one sentence, as its caption."
    """What a chat model is told; BLIP and its like are asked nothing."""
    max_new_tokens: Tokens = 64
    """Tokens after which a caption is cut off."""
    batch_size: Batch = 8
    """Images in the network at a time."""
    precision: Precision = "fp32"
    """Precision of the network."""

    networks: ClassVar[tuple[str, ...]] = ("model",)

    def load(self, device: str) -> Callable[[Sequence[Image]], list[str]]:
        """A function from images to a caption of each, in one line; it is empty where the model had nothing to say.

        Raises `UserError` when the weights are missing or broken.
        """
        from contrapose.judges.vision_language import VisionLanguage

        model = VisionLanguage("captions", self.model, self.precision, device)

        def write(images: Sequence[Image]) -> list[str]:
            captions = []
            for first in range(0, len(images), self.batch_size):
                batch = images[first : first + self.batch_size]
                captions += [tidy(text) for text in model.write(batch, self.prompt, self.max_new_tokens)]
            return captions

        return write


def tidy(text: str) -> str:
    """A model's words as a caption: in one line, without unprintable characters or quotation marks around all of it."""
    unprintable = {ord(letter): " " for letter in text if not letter.isprintable() or letter == "\ufffd"}
    line = " ".join(text.translate(unprintable).split())
    quoted = len(line) > 1 and line[0] + line[-1] in _QUOTATION_MARKS
    return line[1:-1].strip() if quoted else line
