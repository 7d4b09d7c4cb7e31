"""Captions for photographs that have none, written by a vision-language model on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL.Image import Image

from contrapose.judges.judge import Precision
from contrapose.judges.vision_language import VisionLanguage
from contrapose.ranges import Batch, Tokens, checked


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
    dtype: Precision = "fp32"
    """Precision of the network."""

    def load(self, device: str) -> CaptionWriter:
        """Raises `UserError` when the weights are missing or broken."""
        return CaptionWriter(self, VisionLanguage("captions", self.model, self.dtype, device))


class CaptionWriter:
    """A captioner with its model in memory."""

    def __init__(self, settings: Captioner, model: VisionLanguage) -> None:
        self.settings, self.model, self.version = settings, model, model.version

    def write(self, images: Sequence[Image]) -> list[str]:
        """One line an image, empty where the model had nothing to say."""
        prompt, length, size = self.settings.prompt, self.settings.max_new_tokens, self.settings.batch_size
        batches = [images[first : first + size] for first in range(0, len(images), size)]
        return [one_line(text) for batch in batches for text in self.model.write(batch, prompt, length)]


def one_line(text: str) -> str:
    """The words alone: no line breaks, no characters that are none, no quotation marks around the whole."""
    words = "".join(letter if letter.isprintable() else " " for letter in text.replace("\ufffd", " ")).split()
    line = " ".join(words)
    quoted = len(line) > 1 and (line[0], line[-1]) in {('"', '"'), ("'", "'"), ("“", "”")}
    return line[1:-1].strip() if quoted else line
