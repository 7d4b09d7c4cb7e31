"""What tables call the numbers of a suite, where the names of its metrics do not say enough."""

from __future__ import annotations

from collections.abc import Mapping

from contrapose.evaluate.compbench import suite as compbench
from contrapose.evaluate.geneval import suite as geneval


def title_of(suite: Mapping[str, object]) -> str:
    """By the suite's settings in a file: numbers by a detector never stand without it. Empty for other suites."""
    return geneval.title_of(suite) or compbench.title_of(suite)
