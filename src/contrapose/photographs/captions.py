"""Captions for photographs that have none, written by a vision-language model here or behind an address."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from PIL.Image import Image

from contrapose.asking import Asking
from contrapose.backbones.settings import Precision
from contrapose.errors import UserError
from contrapose.ranges import Batch, Tokens, checked
from contrapose.runfile import Practical

_QUOTATION_MARKS = ('""', "''", "“”")


@dataclass(frozen=True)
@checked
class Captioner:
    """Writes the likeliest caption, word by word; nothing is drawn, so an image is always told the same way.

    In fp32 that holds whatever else is in the batch; in lower precision two words as likely may change places. Raises
    `UserError` for an empty `model` without an address.
    """

    model: str = "Salesforce/blip-image-captioning-large"
    """Folder or hub id of a captioner such as BLIP, or of a chat model that sees images; with an address, the name that
    the server knows the model by, its only one when empty; a run that is carried on compares the name alone."""
    address: Practical[str | None] = None
    """Address of a server that speaks OpenAI's protocol, such as http://127.0.0.1:8000/v1; the model runs on this
    machine when unset."""
    prompt: str = "Describe this photograph in one sentence, as its caption."
    """What a chat model is told; BLIP and its like are asked nothing."""
    max_new_tokens: Tokens = 64
    """Tokens after which a caption is cut off."""
    batch_size: Batch = 8
    """Images in the network at a time."""
    precision: Precision = "fp32"
    """Precision of the network."""
    asking: Asking = field(default_factory=Asking)

    def __post_init__(self) -> None:
        if not self.model and self.address is None:
            raise UserError("captioner: model is empty; name a folder, a hub id or the model of an address")

    @property
    def networks(self) -> tuple[str, ...]:
        """The settings that name networks on this machine."""
        return () if self.address else ("model",)

    @property
    def at_once(self) -> int:
        """Images that it has to be given together to be asked as much at once as may be."""
        return self.asking.at_once if self.address else 1

    def load(self, device: str) -> Callable[[Sequence[Image]], list[str]]:
        """A function from images to a caption of each, in one line; it is empty where the model had nothing to say.

        Raises `UserError` when the weights are missing or broken, and for a server that cannot be worked with.
        """
        return self._asked() if self.address else self._loaded(device)

    def _loaded(self, device: str) -> Callable[[Sequence[Image]], list[str]]:
        from contrapose.judges.vision_language import VisionLanguage

        model = VisionLanguage("captions", self.model, self.precision, device)

        def write(images: Sequence[Image]) -> list[str]:
            captions = []
            for first in range(0, len(images), self.batch_size):
                batch = images[first : first + self.batch_size]
                captions += [tidy(text) for text in model.write(batch, self.prompt, self.max_new_tokens)]
            return captions

        return write

    def _asked(self) -> Callable[[Sequence[Image]], list[str]]:
        from contrapose.judges.vision_endpoint import Form, ImageQuestion, Said, VisionEndpoint

        assert self.address is not None
        endpoint = VisionEndpoint("captions", self.address, self.model, self.asking)
        form = Form(self.max_new_tokens, with_chances=False)

        def usable(said: Said) -> None:
            """Every answer is: where it has no words, that photograph is left out."""

        def write(images: Sequence[Image]) -> list[str]:
            shown = [ImageQuestion(image, self.prompt) for image in images]
            return [tidy(said.text) for said in endpoint.answers(shown, form, usable)]

        return write


def tidy(text: str) -> str:
    """A model's words as a caption: in one line, without unprintable characters or quotation marks around all of it."""
    unprintable = {ord(letter): " " for letter in text if not letter.isprintable() or letter == "\ufffd"}
    line = " ".join(text.translate(unprintable).split())
    quoted = len(line) > 1 and line[0] + line[-1] in _QUOTATION_MARKS
    return line[1:-1].strip() if quoted else line
