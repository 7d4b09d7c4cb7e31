"""The rules behind `Swap`: which words of an English prompt can be exchanged, replaced or turned round."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

from contrapose.degrade.vocabulary import (
    ATTRIBUTE_WORDS,
    BETWEEN,
    BOTH_WAYS,
    CLASSES,
    DETERMINERS,
    NUMBERS,
    ONE_WAY,
    OPPOSITES,
    SMALL_WORDS,
    STOPS,
    AttributeClass,
)

MAX_OCCURRENCES = 24  # per class: pairs grow with the square, and a prompt of 10,000 characters may be a word list
MAX_GROUP = 5


class Span(NamedTuple):
    """A stretch of the prompt, `prompt[start:end]`."""

    start: int
    end: int


Edit = tuple[tuple[Span, str], ...]
"""What is put in place of which stretches of the prompt."""


@dataclass(frozen=True)
class Sentence:
    """A prompt and where its words stand in it; a hyphen or an apostrophe within a word belongs to it."""

    prompt: str
    words: Sequence[Span]

    @classmethod
    def of(cls, prompt: str) -> Sentence:
        """Find the words of a prompt: letters and digits of any script."""
        matches = re.finditer(r"[^\W_]+(?:[-'’][^\W_]+)*", prompt)
        return cls(prompt, [Span(*match.span()) for match in matches])

    def text(self, span: Span) -> str:
        """What stands there, in small letters."""
        return self.prompt[span.start : span.end].lower()

    def only_space(self, start: int, end: int) -> bool:
        """Tell whether nothing but space stands between, and some does: no comma, no full stop."""
        return self.prompt[start:end].isspace()


def exchanges(prompt: str, rng: random.Random) -> Iterator[str]:
    """Yield altered prompts: the exchanges in random order, then the replacements; a text may come twice."""
    sentence = Sentence.of(prompt)
    exchanged: list[Edit] = []
    replaced: list[Edit] = []
    for match in _OPPOSITE.finditer(prompt):
        opposite = OPPOSITES[match[0].lower()]
        exchanged.append(((Span(*match.span()), opposite),))
    exchanged += _objects_exchanged(sentence)
    for attributes in CLASSES.values():
        spans = _occurrences(sentence, attributes)
        pairs = [pair for pair in combinations(spans, 2) if _exchangeable(sentence, attributes, *pair)]
        exchanged += [((a, sentence.text(b)), (b, sentence.text(a))) for a, b in pairs]
        partnered = {span for pair in pairs for span in pair}
        present = {attributes.senses[sentence.text(span)] for span in spans}
        # a sense that the prompt has already would make two objects alike, or say the same again
        absent = [word for sense, word in attributes.plainest.items() if sense not in present]
        alone = [span for span in spans if span not in partnered]
        replaced += [((span, word),) for span in alone for word in absent]
    for edits in (exchanged, replaced):
        # the second list is shuffled only when the first is used up: what is drawn before depends on the first alone
        rng.shuffle(edits)
        for edit in edits:
            yield _edited(prompt, edit)


def _phrases(*phrases: str) -> re.Pattern[str]:
    """A pattern that finds each phrase as whole words, the longest that fits."""
    return re.compile(rf"(?<![\w-])(?:{either_of(phrases)})(?![\w-])", re.IGNORECASE)


def either_of(phrases: Iterable[str]) -> str:
    """A pattern's alternatives, the longest first, so that none is cut short by another that it begins with."""
    longest_first = sorted(phrases, key=len, reverse=True)
    return "|".join(map(re.escape, longest_first))


_OPPOSITE = _phrases(*OPPOSITES)
_TIE = _phrases(*OPPOSITES, *ONE_WAY, *BOTH_WAYS)
# "a European", "a one-eyed cat", "a unicorn", "a used car", but "an hour", "an honest man", "an 8"
_VOWEL_SOUND = re.compile(r"(?!eu|one\b|uni|use)[aeiou]|hour|honest|8", re.IGNORECASE)
_ARTICLE_AT_THE_END = re.compile(r"\b([Aa])[Nn]?(\s+)$")


def _occurrences(sentence: Sentence, attributes: AttributeClass) -> list[Span]:
    """Return where the class's words stand as attributes: "an orange cube", "is orange", but not "an orange"."""
    spans = []
    texts = [sentence.text(word) for word in sentence.words]
    for place, word in enumerate(sentence.words):
        if texts[place] not in attributes.senses:
            continue
        following = texts[place + 1 : place + 3]
        describes = False
        if following and following[0] not in STOPS:
            describes = sentence.only_space(word.end, sentence.words[place + 1].start)
        predicate = place > 0 and texts[place - 1] in ("is", "are")
        # "red and white cube": red is followed by "and", and describes all the same
        joined = len(following) == 2 and following[0] == "and" and following[1] in attributes.senses
        # "there are two" does not say of what
        counts_alone = texts[place] in NUMBERS and not describes
        if (describes or predicate or joined) and not counts_alone:
            spans.append(word)
    return spans[:MAX_OCCURRENCES]


def _exchangeable(sentence: Sentence, attributes: AttributeClass, a: Span, b: Span) -> bool:
    """Tell whether the two mean different things and a noun stands between them: "red and white cube" is one group."""
    if attributes.senses[sentence.text(a)] == attributes.senses[sentence.text(b)]:
        return False
    between = [word for word in sentence.words if a.end <= word.start and word.end <= b.start]
    return any(sentence.text(word) not in SMALL_WORDS for word in between)


def _objects_exchanged(sentence: Sentence) -> list[Edit]:
    """Exchange what stands left and right of a tie: whole groups, or only the head nouns where the tie is two-way."""
    edits: list[Edit] = []
    for match in list(_TIE.finditer(sentence.prompt))[:MAX_OCCURRENCES]:
        left = _group_before(sentence, match.start())
        right = _group_after(sentence, match.end())
        if not left or not right or _described(sentence, left) == _described(sentence, right):
            continue
        if match[0].lower() not in BOTH_WAYS:
            a = Span(left[0].start, left[-1].end)
            b = Span(right[0].start, right[-1].end)
        elif _described(sentence, left[:-1]) != _described(sentence, right[:-1]):
            # "a red ball and an orange cube" becomes "a red cube and an orange ball"
            a = left[-1]
            b = right[-1]
        else:
            # nothing tells the two apart but their nouns: "a dog and a cat" is "a cat and a dog"
            continue
        edits.append(((a, sentence.prompt[b.start : b.end]), (b, sentence.prompt[a.start : a.end])))
    return edits


def _described(sentence: Sentence, group: Sequence[Span]) -> list[str]:
    """The words of a group without its determiners, as which two groups are compared."""
    texts = [sentence.text(word) for word in group]
    return [text for text in texts if text not in DETERMINERS]


def _group_before(sentence: Sentence, end: int) -> list[Span]:
    """Return the noun group that ends before `end`, back to its determiner, a stop word or punctuation."""
    words = [word for word in sentence.words if word.end <= end]
    group: list[Span] = []
    for word in reversed(words[-2 * MAX_GROUP :]):
        text = sentence.text(word)
        if not sentence.only_space(word.end, end) or len(group) == MAX_GROUP:
            break
        # before the group begins, "is placed to the" of "is placed to the left of" is passed over
        if group or text not in BETWEEN:
            if text in STOPS:
                break
            group.insert(0, word)
            if text in DETERMINERS | NUMBERS:
                break
        end = word.start
    return _with_noun(sentence, group)


def _group_after(sentence: Sentence, start: int) -> list[Span]:
    """Return the noun group that begins after `start`, up to a stop word, a second determiner or punctuation."""
    words = [word for word in sentence.words if word.start >= start]
    group: list[Span] = []
    for word in words[:MAX_GROUP]:
        text = sentence.text(word)
        if text in STOPS or (group and text in DETERMINERS) or not sentence.only_space(start, word.start):
            break
        group.append(word)
        start = word.end
    return _with_noun(sentence, group)


def _with_noun(sentence: Sentence, group: list[Span]) -> list[Span]:
    """Return the group if its last word can be a noun, else nothing."""
    if group and sentence.text(group[-1]) not in DETERMINERS | ATTRIBUTE_WORDS:
        return group
    return []


def _edited(prompt: str, edit: Edit) -> str:
    """Return the prompt with every span replaced, its capitals kept and the article before it made to fit."""
    edited = ""
    done = 0
    for span, word in sorted(edit):
        new = _cased(word, prompt[span.start : span.end])
        edited = with_article(edited + prompt[done : span.start], new) + new
        done = span.end
    return edited + prompt[done:]


def _cased(new: str, old: str) -> str:
    """The new words with the capitals of those in whose place they stand."""
    if old.isupper() and len(old) > 1:
        return new.upper()
    if old[0].isupper():
        return new[0].upper() + new[1:]
    # the first word of the prompt loses its capital where it moves, but a name keeps it
    first, _, _ = new.partition(" ")
    if first.lower() in DETERMINERS | ATTRIBUTE_WORDS:
        return new[0].lower() + new[1:]
    return new


def with_article(before: str, word: str) -> str:
    """What stands before a word; an article at its end becomes "a" or "an" as the word asks for it."""
    article = _ARTICLE_AT_THE_END.search(before)
    if article is None:
        return before
    n = ""
    if _VOWEL_SOUND.match(word):
        shouted = article[0].strip() == "AN" or (word.isupper() and len(word) > 1)
        n = "N" if shouted else "n"
    return f"{before[: article.start()]}{article[1]}{n}{article[2]}"
