"""The English of looks that `Quality` knows: praise of a picture, words of bad looks, and where both stand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from contrapose.degrade.vocabulary import DETERMINERS, NUMBERS, STOPS
from contrapose.degrade.word_exchange import either_of, with_article

# The orders here decide, with the seed, which text a prompt gets: after any change the same seed gives other ones.
BAD_ADJECTIVES = (
    "blurry", "washed out", "low resolution", "grainy", "out of focus", "low quality", "pixelated", "overexposed",
    "underexposed", "noisy", "dull", "faded", "murky", "badly lit", "poorly composed", "amateurish", "smudged",
)  # fmt: skip
BAD_PHRASES = (
    "muddy colors", "uneven shading", "harsh lighting", "poor composition", "low contrast", "flat lighting",
    "compression artifacts", "blown-out highlights", "sloppy details", "cluttered framing", "motion blur",
)  # fmt: skip
PRAISE = (
    "sharp", "sharp focus", "in focus", "crisp", "crisp detail", "crisp details", "clean", "clear", "4k", "8k", "16k",
    "hd", "uhd", "hdr", "high resolution", "high-resolution", "hi-res", "highres", "absurdres", "high quality",
    "high-quality", "best quality", "top quality", "masterpiece", "detailed", "intricate", "intricate detail",
    "intricate details", "fine detail", "fine details", "hyperdetailed", "professional", "professionally lit",
    "professional lighting", "studio lighting", "perfect lighting", "beautiful lighting", "cinematic lighting",
    "dramatic lighting", "volumetric lighting", "soft lighting", "perfect composition", "well composed",
    "well-composed", "stunning", "beautiful", "gorgeous", "breathtaking", "award winning", "award-winning", "vivid",
    "vivid colors", "vibrant", "vibrant colors", "rich colors", "trending", "trending on artstation", "artstation",
    "octane render", "unreal engine",
)  # fmt: skip

_STRENGTHS = ("very", "highly", "extremely", "ultra", "super", "insanely", "incredibly", "hyper")
_JOINERS = ("a", "the", "and", "with", "in", "at", "of", "shot", "taken", "rendered")
_QUANTITIES = ("quality", "resolution", "detail", "details")
_MEDIA = """photo photos photograph photographs photography picture pictures image images drawing drawings painting
    paintings illustration illustrations render renders rendering sketch portrait portraits art artwork shot snapshot
    close-up print poster watercolor watercolour wallpaper still"""
_KINDS_OF_MEDIA = """digital oil acrylic watercolor pencil ink matte concept fantasy studio stock film analog vintage
    color colour 35mm 3d cgi macro aerial wide angle full body close-up landscape nature wildlife street fashion"""

_MEDIUM = rf"(?:{either_of(_MEDIA.split())})\b"
# up to three words between the article and the medium: "a wide angle photo", but not "a man taking a photo"
_UP_TO_MEDIUM = rf"(?:(?!(?:{either_of(STOPS | DETERMINERS)})\b)(?!\w*ing\b)[\w-]+,?\s+){{0,3}}?{_MEDIUM}"
_BEFORE_MEDIUM = re.compile(
    rf"\s*((?:an?|the|this|{either_of(NUMBERS)})\s+)?(?={_UP_TO_MEDIUM}\s+(?:of|showing|depicting)\b)", re.IGNORECASE
)
# what "a picture of" can be put before: an object, or a number of them
_OBJECT = re.compile(rf"\s*(?:an?|{either_of(NUMBERS)})\s", re.IGNORECASE)
_SENTENCE_END = (".", "!", "?")
_SEPARATOR = re.compile(r"(\s*(?:[,;|\n]|\.(?!\S))+\s*)")
# as Stable Diffusion's users weigh words: "((best quality))", "(masterpiece:1.2)"
_WEIGHT = re.compile(r":\s*\d+(?:\.\d+)?(?=\s*[)\]])|[()\[\]{}]")


class Praise:
    """Words and phrases that praise a picture, and what becomes of a prompt when they are taken out."""

    def __init__(self, phrases: Iterable[str]) -> None:
        # no repetition is without a bound: a prompt of 10,000 characters may be nothing but such words
        praise = rf"(?<![\w-])(?:(?:{either_of(_STRENGTHS)})[\s-]+){{0,3}}(?:{either_of(phrases)})(?![\w-])"
        joiners = rf"(?:(?:{either_of(_JOINERS)})\s+){{0,3}}"
        several = rf"{praise}(?:\s+{joiners}{praise}){{0,5}}(?:\s+(?:{either_of(_QUANTITIES)}))?"
        kinds = rf"(?:(?:{either_of(_KINDS_OF_MEDIA.split())})\s+){{0,3}}"
        self._before_medium = re.compile(
            rf"{praise}(?:(?:,\s*|\s+)(?:and\s+)?{praise}){{0,5}},?\s+(?={kinds}{_MEDIUM})", re.IGNORECASE
        )
        self._alone = re.compile(joiners + several, re.IGNORECASE)
        self._at_the_end = re.compile(rf"\s+(?:in|with|at)\s+{joiners}{several}\s*$", re.IGNORECASE)

    def taken_out(self, prompt: str) -> str:
        """Return the prompt without praise, empty where it was nothing else.

        Praise goes where it stands alone between commas, before a medium ("a crisp photo"), and after "in" or "with"
        at an end. Elsewhere it describes what is shown, and stays: "a beautiful woman, a clean kitchen".
        """
        plain = ""
        done = 0
        for match in self._before_medium.finditer(prompt):
            plain = with_article(plain + prompt[done : match.start()], prompt[match.end() :])
            done = match.end()
        # segments at even places, and what separates them at the odd ones
        pieces = _SEPARATOR.split(plain + prompt[done:])
        kept = [""]
        for place in range(0, len(pieces), 2):
            segment = pieces[place]
            if self._alone.fullmatch(_WEIGHT.sub("", segment).strip()):
                continue
            # the separator before it goes with what was taken out in front of the first one that stays
            kept += pieces[place - 1 : place] if len(kept) > 1 else []
            kept.append(self._at_the_end.sub("", segment))
        plain = "".join(kept)
        if not _SEPARATOR.sub("", plain).strip():
            return ""
        return plain[0].upper() + plain[1:] if prompt[0].isupper() else plain


def takes_lead_in(prompt: str) -> bool:
    """Tell whether adjectives of looks can stand at the beginning, before a medium or before "picture of"."""
    if _BEFORE_MEDIUM.match(prompt):
        return True
    # "a blurry picture of a cat sits on a mat." would be none
    return bool(_OBJECT.match(prompt)) and not prompt.rstrip().endswith(_SENTENCE_END)


def with_lead_in(prompt: str, adjectives: Sequence[str]) -> str:
    """Return the prompt with the adjectives before its medium, or before "picture of" where it names none."""
    words = ", ".join(adjectives)
    match = _BEFORE_MEDIUM.match(prompt)
    article = prompt[: match.end()] if match else ""
    rest = prompt[match.end() :] if match else f"picture of {_with_small_letter(prompt.lstrip())}"
    if match is None:
        article = "A " if prompt.lstrip()[0].isupper() else "a "
    elif not article.strip() and rest[0].isupper():
        # "Photo of a cat" hands its capital on
        words = words[0].upper() + words[1:]
        rest = _with_small_letter(rest)
    return f"{with_article(article, words)}{words} {rest}"


def with_tail(prompt: str, phrases: Sequence[str]) -> str:
    """Return the prompt with the phrases after it, as a sentence of their own where it ends with one."""
    words = ", ".join(phrases)
    text = prompt.rstrip()
    if text.endswith(_SENTENCE_END):
        return f"{text} {words[0].upper()}{words[1:]}."
    return f"{text.rstrip(' ,;|')}, {words}"


def says(prompt: str, phrase: str) -> bool:
    """Tell whether a phrase stands in the prompt, in whole words."""
    return bool(re.search(rf"(?<![\w-]){re.escape(phrase)}(?![\w-])", prompt, re.IGNORECASE))


def _with_small_letter(text: str) -> str:
    """The text with a small first letter, unless its first word is all capitals, such as LEGO."""
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]
