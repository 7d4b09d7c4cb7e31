"""The questions of a prompt, as the fields of its line ask them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contrapose.errors import UserError
from contrapose.store.prompts import Prompt

ONE_WORD = "{question} Answer in one word."  # as GenEval 2 asks
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


@dataclass(frozen=True)
class Question:
    """One question about an image, and the answer that is right."""

    text: str
    answer: str = "yes"
    """One word; a number may be answered in letters or digits."""
    needs: tuple[int, ...] = ()
    """Questions, by their place in the list, without whose right answer this one counts as wrong."""

    @property
    def answers(self) -> tuple[str, ...]:
        """Every word that is right, in small letters."""
        word = self.answer.strip().lower()
        if word in NUMBERS:
            return (word, str(NUMBERS.index(word)))
        if word.isdigit() and int(word) < len(NUMBERS):
            return (word, NUMBERS[int(word)])
        return (word,)


def questions_of(prompt: Prompt) -> list[Question]:
    """The questions of a prompt's line.

    Either GenEval 2's `vqa_list`, pairs of question and answer, or `questions`: texts whose answer is yes, or objects
    of `question`, `answer` and `needs`. Raises `UserError` naming the prompt for a line with neither, or a broken one.
    """
    if "vqa_list" in prompt.fields:
        pairs = _listed(prompt, "vqa_list")
        for pair in pairs:
            is_pair = isinstance(pair, list) and len(pair) == 2
            if not is_pair or not all(isinstance(part, str) and part.strip() for part in pair):
                raise UserError(
                    f"prompt {prompt.text!r}: {pair!r} in `vqa_list` is not [question, answer]; fix the line"
                )
        return [Question(text, answer) for text, answer in pairs]
    if "questions" not in prompt.fields:
        raise UserError(
            f"prompt {prompt.text!r}: its line asks no questions; give a `vqa_list` as GenEval 2 has it, or `questions`"
        )
    listed = _listed(prompt, "questions")
    return [_of_entry(prompt, entry, number) for number, entry in enumerate(listed)]


def _listed(prompt: Prompt, name: str) -> Sequence[Any]:
    entries = prompt.fields[name]
    if not isinstance(entries, list) or not entries:
        raise UserError(f"prompt {prompt.text!r}: `{name}` is not a list with questions in it; fix the line")
    return entries


def _of_entry(prompt: Prompt, entry: Any, number: int) -> Question:
    where = f"prompt {prompt.text!r}: question {number}"
    if isinstance(entry, str):
        entry = {"question": entry}
    if not isinstance(entry, Mapping):
        raise UserError(f"{where} is neither a text nor an object; fix the line")
    text = entry.get("question")
    answer = entry.get("answer", "yes")
    needs = entry.get("needs", [])
    if not isinstance(text, str) or not text.strip() or not isinstance(answer, str) or not answer.strip():
        raise UserError(f"{where} needs a `question`, and an `answer` of one word unless it is yes; fix the line")
    earlier = isinstance(needs, list) and all(type(place) is int and 0 <= place < number for place in needs)
    if not earlier:
        raise UserError(f"{where}: `needs` is not a list of places of earlier questions; fix the line")
    return Question(text, answer, tuple(needs))
