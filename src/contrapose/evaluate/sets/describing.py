"""Diversity and drift as rows of evidence, which have intervals as scores have them, and no better direction."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from contrapose.errors import UserError
from contrapose.evaluate.rows import EvidenceRow, Key
from contrapose.evaluate.sets.distances import Features
from contrapose.evaluate.sets.within import diversity, drift, vendi_score

DIVERSITY = "diversity"
VENDI = "vendi"
DRIFT = "drift"
DESCRIBING = (DIVERSITY, VENDI, DRIFT)
"""Metrics of images that say how a model draws and not how well."""

_log = logging.getLogger(__name__)


def check_metrics(names: Iterable[str]) -> None:
    """Raise `UserError` for a judge's number that has the name of one of these, and would lose its better direction."""
    for name in names:
        if name in DESCRIBING:
            raise UserError(f"judges: {name} is what a number by --features is called; give theirs another name")


def rows_of(model: str, tags: Mapping[Key, str], features: Features, base: Features) -> Iterator[EvidenceRow]:
    """Yield a model's rows; row i of the features is of the i-th key, and row i of the base's of the same.

    `diversity` of an image is its mean distance to the other images of its prompt, so that the mean over a prompt is
    that over all its pairs; `vendi` is the prompt's number, which all its images bear; `drift` is the distance from the
    base's image of the same prompt and noise, 0 for the base itself. Where a prompt has but one image, only drift is
    there.
    """
    columns: dict[str, NDArray[np.float64]] = {}
    of_prompt = _by_prompt(tags)
    if min(map(len, of_prompt.values())) > 1:
        columns[DIVERSITY] = np.empty(len(features))
        columns[VENDI] = np.empty(len(features))
        for numbers in of_prompt.values():
            columns[DIVERSITY][numbers] = diversity(features[numbers])
            columns[VENDI][numbers] = vendi_score(features[numbers])
    columns[DRIFT] = drift(features, base)
    for metric, values in columns.items():
        for (name, seed), value in zip(tags, values.tolist(), strict=True):
            yield EvidenceRow(model, name, tags[name, seed], seed, metric, value)


def tell_of_single_images(tags: Mapping[Key, str]) -> None:
    """Say so where diversity is left out."""
    of_prompt = _by_prompt(tags)
    single = sum(len(numbers) == 1 for numbers in of_prompt.values())
    if single:
        _log.info(f"diversity is left out, since {single} of {len(of_prompt)} prompts have one image; drift is there")


def _by_prompt(tags: Mapping[Key, str]) -> dict[str, list[int]]:
    """The rows of each prompt."""
    of_prompt: dict[str, list[int]] = {}
    for number, (name, _) in enumerate(tags):
        of_prompt.setdefault(name, []).append(number)
    return of_prompt
