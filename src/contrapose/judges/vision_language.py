"""A vision-language model through transformers, shown one image at a time with at most one question."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from PIL.Image import Image
from torch import Tensor

from contrapose.backbones.settings import Precision
from contrapose.errors import UserError
from contrapose.judges.pretrained import (
    check_words,
    find,
    fingerprint,
    load_image_processor,
    load_network,
    reading,
)

if TYPE_CHECKING:
    from jaxtyping import Float


class VisionLanguage:
    """A chat model (Qwen-VL, LLaVA, Idefics3, ...) or a captioner that is asked nothing (BLIP).

    Loading raises `UserError` naming `user`, what needs the model, when it is missing, broken or of an unknown kind.
    """

    def __init__(self, user: str, model: str, dtype: Precision, device: str) -> None:
        from transformers import AutoModelForImageTextToText

        folder = find(user, model)
        with reading(user, folder):
            self.processor = load_processor(user, folder)
        self.network = load_network(user, folder, AutoModelForImageTextToText, dtype, device)
        self.version = fingerprint(self.network)
        self._starts: dict[str, list[int]] = {}
        self.tokenizer = self.processor.tokenizer
        self.tokenizer.padding_side = "left"  # answers start where the longest question ends
        if self.tokenizer.pad_token_id is None:
            # any token will do, as padding is masked out
            self.tokenizer.pad_token = self.tokenizer.eos_token or self.tokenizer.convert_ids_to_tokens(0)

    @property
    def can_be_asked(self) -> bool:
        """Whether it has a chat template to put a question into."""
        return bool(self.processor.chat_template or self.tokenizer.chat_template)

    @torch.inference_mode()
    def write(self, images: Sequence[Image], question: str, max_new_tokens: int) -> list[str]:
        """The likeliest words one after the other, an answer per image; `question` only where it can be asked."""
        inputs = self._inputs(images, [question] * len(images))
        tokens = self.network.generate(**inputs, max_new_tokens=max_new_tokens, **_GREEDY)
        read = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
        return self.tokenizer.batch_decode(tokens[:, read:], skip_special_tokens=True)

    @torch.inference_mode()
    def first_token(self, image: Image, question: str) -> Float[Tensor, " vocabulary"]:
        """Logits of the answer's first token, before any of the model's own rules for drawing one."""
        answer = self.network.generate(
            **self._inputs([image], [question]), max_new_tokens=1, output_logits=True, return_dict_in_generate=True,
            **_GREEDY,
        )  # fmt: skip
        return answer.logits[0][0].float()

    def chance(self, image: Image, question: str, words: Sequence[str]) -> Float[Tensor, ""]:
        """P(the answer is one of these words): the sum over the first tokens of every spelling of them."""
        tokens: set[int] = set()  # one that begins two of the words counts once
        for word in words:
            if word not in self._starts:  # a vocabulary takes long to look through
                self._starts[word] = self.spellings(word) or self.beginnings(word)
            tokens.update(self._starts[word])
        return self.first_token(image, question).softmax(0)[torch.tensor(sorted(tokens))].sum()

    def spellings(self, word: str) -> list[int]:
        """The tokens that are this word alone, with or without a space or capitals; none where it takes several."""
        tokens = []
        for token, index in self.tokenizer.get_vocab().items():
            # the cheap test first: a vocabulary has 150,000 tokens
            if word in token.lower() and self.tokenizer.convert_tokens_to_string([token]).strip().lower() == word:
                tokens.append(index)
        return sorted(tokens)

    def beginnings(self, word: str) -> list[int]:
        """The first tokens of a word that takes several, in small letters, with a capital, and after a space."""
        spelled = (word, word.capitalize(), f" {word}", f" {word.capitalize()}")
        firsts = {self.tokenizer.encode(text, add_special_tokens=False)[0] for text in spelled}
        # a space alone begins every word
        return sorted(token for token in firsts if self.tokenizer.decode([token]).strip())

    def _inputs(self, images: Sequence[Image], questions: Sequence[str]) -> Any:
        shown = [[image.convert("RGB")] for image in images]
        if self.can_be_asked:
            text = []
            for question in questions:
                turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
                text.append(self.processor.apply_chat_template([turn], add_generation_prompt=True))
            start = self.tokenizer.bos_token
            inputs = self.processor(
                images=shown, text=text, padding=True, return_tensors="pt",
                add_special_tokens=not (start and text[0].startswith(start)),  # some templates write it, some do not
            )  # fmt: skip
        else:
            inputs = self.processor(images=[image for (image,) in shown], return_tensors="pt")
        return inputs.to(self.network.device, self.network.dtype)


def load_chat_model(user: str, model: str, precision: Precision, device: str) -> VisionLanguage:
    """A vision-language model that can be asked; `UserError` as for any other, and where it has no chat template."""
    chat_model = VisionLanguage(user, model, precision, device)
    if not chat_model.can_be_asked:
        raise UserError(f"{user}: {model} has no chat template, so it cannot be asked; use a chat model")
    return chat_model


# Not what a model's own settings for drawing say; they also warn of each other's absence.
_GREEDY: dict[str, Any] = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}


def load_processor(user: str, folder: Path) -> Any:
    """A vision-language model's processor without its video part, which cannot be loaded without torchvision.

    Raises `UserError` where the model is none; other faults of its files are for the caller's `reading` to tell.
    """
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, PROCESSOR_MAPPING, AutoConfig, ProcessorMixin

    check_words(folder)
    config = type(AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False))
    if config not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise UserError(f"{user}: {folder}: a {config.model_type} is not a model that tells what it sees")
    # annotated as the pairs of tokenizers that its base class holds, but this mapping holds classes of processors
    of_model = cast("type[ProcessorMixin]", PROCESSOR_MAPPING[config])

    class StillImages(of_model):  # type: ignore[misc, valid-type]
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [part for part in super().get_attributes() if part != "video_processor"]

    StillImages.__name__ = of_model.__name__  # which the folder's own settings name
    processor = StillImages.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    processor.image_processor = load_image_processor(user, folder)
    return processor
