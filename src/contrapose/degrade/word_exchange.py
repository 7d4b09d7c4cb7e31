"""The rules behind `Swap`: which words of an English prompt can be exchanged, replaced or turned round."""

import random
import re
from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

# Each class: senses between spaces, the words of one sense between slashes, the plainest first. Exchanging two words of
# one sense would say nothing new.
ATTRIBUTES = {
    "colour": "red/crimson/scarlet orange yellow green blue purple/violet pink/magenta brown black white grey/gray "
    "cyan/teal/turquoise beige golden silver",
    "material": "wooden metal/metallic/steel/iron glass plastic leather stone/marble brick concrete ceramic/porcelain "
    "paper copper/bronze gold rubber cotton/silk/velvet/woolen clay",
    "size": "tiny/small/little/miniature big/large/huge/giant/enormous/gigantic",
    "height": "tall short",
    "shape": "round/circular/spherical square/cubic rectangular triangular oval cylindrical pyramidal",
    "texture": "fluffy/furry smooth rough shiny/glossy matte spiky",
    # "one" is left out, since its noun would have to change with it
    "number": "two three four five six seven eight nine ten",
    "digit": "2 3 4 5 6 7 8 9 10",
}
OPPOSITES = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
    "on top of": "underneath",
    "atop": "underneath",
    "underneath": "on top of",
    "beneath": "on top of",
    "over": "under",
    "under": "over",
    "in front of": "behind",
    "behind": "in front of",
    "inside": "outside",
    "outside": "inside",
}
# Words that tie two objects and mean another thing the other way round; `OPPOSITES` belongs to them too.
ONE_WAY = ("with", "on", "in", "holding", "riding", "chasing", "wearing", "eating", "watching")
# These mean the same the other way round: only the head nouns are exchanged, and their attributes stay.
BOTH_WAYS = ("and", "next to", "beside", "near", "by the side of")
DETERMINERS = frozenset({"a", "an", "the", "this", "that", "these", "those", "some", "one"})
NUMBERS = frozenset(ATTRIBUTES["number"].split() + ATTRIBUTES["digit"].split())
# May stand between an object and its relation: "a cube is placed to the left of a ball".
_BETWEEN = """is are was were be being sitting standing lying resting placed positioned located hanging floating
    directly just immediately to on at the"""
BETWEEN = frozenset(_BETWEEN.split())
# Where a noun group ends.
_STOPS = """and or with of in by for from into onto near beside next left right above below over under underneath
    beneath atop behind inside outside between through while that which who has have holding riding chasing wearing
    eating watching looking as against top front both there"""
STOPS = BETWEEN - {"the"} | frozenset(_STOPS.split())
MAX_OCCURRENCES = 24  # per class: pairs grow with the square, and a prompt of 10,000 characters may be a word list
MAX_GROUP = 5


class Span(NamedTuple):
    """A stretch of the prompt, `prompt[start:end]`."""

    start: int
    end: int


Edit = tuple[tuple[Span, str], ...]


def exchanges(prompt: str, rng: random.Random) -> Iterator[str]:
    """Yield altered prompts: the exchanges in random order, then the replacements; a text may come twice."""
    words = [Span(*match.span()) for match in re.finditer(r"[^\W_]+(?:[-'’][^\W_]+)*", prompt)]
    exchanged: list[Edit] = [*_relations_turned(prompt), *_objects_exchanged(prompt, words)]
    replaced: list[Edit] = []
    for senses in _CLASSES.values():
        found = _occurrences(prompt, words, senses)
        pairs = [pair for pair in combinations(found, 2) if _exchangeable(prompt, words, senses, *pair)]
        exchanged += [((a, _text(prompt, b)), (b, _text(prompt, a))) for a, b in pairs]
        partnered = {span for pair in pairs for span in pair}
        said = {senses[_text(prompt, span)] for span in found}
        plainest = {sense: word for word, sense in reversed(senses.items())}
        alone = [span for span in found if span not in partnered]
        replaced += [((span, word),) for span in alone for sense, word in plainest.items() if sense not in said]
    for edits in (exchanged, replaced):
        rng.shuffle(edits)
        yield from (_edited(prompt, edit) for edit in edits)


def _senses(table: str) -> dict[str, int]:
    return {word: sense for sense, words in enumerate(table.split()) for word in words.split("/")}


def _phrases(*phrases: str) -> re.Pattern[str]:
    longest_first = sorted(phrases, key=len, reverse=True)
    return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w-])", re.IGNORECASE)


_CLASSES = {name: _senses(table) for name, table in ATTRIBUTES.items()}
_ATTRIBUTE_WORDS = frozenset(word for senses in _CLASSES.values() for word in senses)
_OPPOSITE = _phrases(*OPPOSITES)
_VOWEL_SOUND = re.compile(r"(?!eu|one\b|uni|use)[aeiou]|hour|honest|8", re.IGNORECASE)
_TIE = _phrases(*OPPOSITES, *ONE_WAY, *BOTH_WAYS)


def _text(prompt: str, span: Span) -> str:
    return prompt[span.start : span.end].lower()


def _touch(prompt: str, left: Span, right: Span) -> bool:
    return prompt[left.end : right.start].isspace()


def _occurrences(prompt: str, words: list[Span], senses: dict[str, int]) -> list[Span]:
    """Return where the class's words stand as attributes: "an orange cube", "is orange", but not "an orange"."""
    found = []
    for place, word in enumerate(words):
        if _text(prompt, word) not in senses:
            continue
        after = words[place + 1] if place + 1 < len(words) else None
        describes = after is not None and _touch(prompt, word, after) and _text(prompt, after) not in STOPS
        predicate = place > 0 and _text(prompt, words[place - 1]) in ("is", "are")
        # "red and white cube": red is followed by "and", and describes all the same
        joined = after is not None and _text(prompt, after) == "and" and place + 2 < len(words)
        joined = joined and _text(prompt, words[place + 2]) in senses
        if describes or ((predicate or joined) and _text(prompt, word) not in NUMBERS):
            found.append(word)
    return found[:MAX_OCCURRENCES]


def _exchangeable(prompt: str, words: list[Span], senses: dict[str, int], a: Span, b: Span) -> bool:
    """Tell whether the two mean different things and a noun stands between them: "red and white cube" is one group."""
    between = [_text(prompt, word) for word in words if a.end <= word.start and word.end <= b.start]
    has_noun = any(word not in STOPS | DETERMINERS | _ATTRIBUTE_WORDS for word in between)
    return has_noun and senses[_text(prompt, a)] != senses[_text(prompt, b)]


def _relations_turned(prompt: str) -> list[Edit]:
    return [((Span(*match.span()), OPPOSITES[match[0].lower()]),) for match in _OPPOSITE.finditer(prompt)]


def _objects_exchanged(prompt: str, words: list[Span]) -> list[Edit]:
    """Exchange what stands left and right of a tie: whole groups, or only the head nouns where the tie is two-way."""
    edits: list[Edit] = []
    for match in list(_TIE.finditer(prompt))[:MAX_OCCURRENCES]:
        left = _group_before(prompt, [word for word in words if word.end <= match.start()], match.start())
        right = _group_after(prompt, [word for word in words if word.start >= match.end()], match.end())
        if not left or not right or _described(prompt, left) == _described(prompt, right):
            continue
        if match[0].lower() not in BOTH_WAYS:
            a, b = Span(left[0].start, left[-1].end), Span(right[0].start, right[-1].end)
        elif _described(prompt, left[:-1]) != _described(prompt, right[:-1]):
            a, b = left[-1], right[-1]
        else:
            continue
        edits.append(((a, prompt[b.start : b.end]), (b, prompt[a.start : a.end])))
    return edits


def _described(prompt: str, group: list[Span]) -> list[str]:
    return [text for text in (_text(prompt, word) for word in group) if text not in DETERMINERS]


def _group_before(prompt: str, words: list[Span], end: int) -> list[Span]:
    """Return the noun group that ends before `end`, back to its determiner, a stop word or punctuation."""
    group: list[Span] = []
    for word in reversed(words[-2 * MAX_GROUP :]):
        text = _text(prompt, word)
        if not prompt[word.end : end].isspace() or len(group) == MAX_GROUP:
            break
        if group or text not in BETWEEN:
            if text in STOPS:
                break
            group.insert(0, word)
            if text in DETERMINERS | NUMBERS:
                break
        end = word.start
    return _named(prompt, group)


def _group_after(prompt: str, words: list[Span], start: int) -> list[Span]:
    """Return the noun group that begins after `start`, up to a stop word, a second determiner or punctuation."""
    group: list[Span] = []
    for word in words[:MAX_GROUP]:
        text = _text(prompt, word)
        if text in STOPS or (group and text in DETERMINERS) or not prompt[start : word.start].isspace():
            break
        group.append(word)
        start = word.end
    return _named(prompt, group)


def _named(prompt: str, group: list[Span]) -> list[Span]:
    """Return the group if its last word can be a noun, else nothing."""
    return group if group and _text(prompt, group[-1]) not in DETERMINERS | _ATTRIBUTE_WORDS else []


def _edited(prompt: str, edit: Edit) -> str:
    """Return the prompt with every span replaced, its capitals kept and the article before it mended."""
    out, done = "", 0
    for span, word in sorted(edit):
        new = _cased(word, prompt[span.start : span.end])
        out += prompt[done : span.start]
        out = re.sub(r"\b([Aa])[Nn]?(\s+)$", lambda m, new=new: m[1] + _n(new, m[0]) + m[2], out) + new
        done = span.end
    return out + prompt[done:]


def _cased(new: str, old: str) -> str:
    first, _, _ = new.partition(" ")
    if old.isupper() and len(old) > 1:
        return new.upper()
    if old[0].isupper():
        return new[0].upper() + new[1:]
    return new[0].lower() + new[1:] if first.lower() in DETERMINERS | _ATTRIBUTE_WORDS else new


def _n(word: str, article: str) -> str:
    """Return the "n" of "an" where the word begins with a vowel sound."""
    if not _VOWEL_SOUND.match(word):
        return ""
    return "N" if article.strip() == "AN" or (word.isupper() and len(word) > 1) else "n"
