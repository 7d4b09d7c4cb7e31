"""Methods beside each other, from an evaluation's evidence: differences from the base, a panel for each metric.

    python studies/forest.py results/world/methods/evidence/scale-3 --metrics roughness correct \\
        --limits correct:-.25:.12 --out docs/methods.svg

A row is a method: its mean over the training seeds with the 95 % interval over prompts and seeds, and a dot for each
seed. Rows go by the first metric, the best above. docs/world.md's picture of every method is made so.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from contrapose.evaluate.evidence import SUMMARY

WIDTH = 3.6  # inches of a panel
HEIGHT = 0.19  # inches of a row
MARGIN = 0.8  # inches above and below the rows


def ordered(summary: dict[str, Any], metric: str) -> list[str]:
    """The methods, the best by this metric first. Ends the program where it was not measured."""
    if metric not in summary["metrics"]:
        raise SystemExit(f"{metric} was not measured (known: {', '.join(summary['metrics'])})")
    methods = summary["methods"]
    if not methods:
        raise SystemExit("no method here has several training seeds, so that there is nothing to show")

    def difference(name: str) -> float:
        return float(methods[name]["comparisons"][metric]["difference"]["value"])

    return sorted(methods, key=difference, reverse=summary["metrics"][metric]["higher_is_better"])


def draw(axes: Axes, summary: dict[str, Any], methods: list[str], metric: str) -> None:
    """One panel: a row for each method, from above."""
    for row, name in enumerate(methods):
        method = summary["methods"][name]
        found = method["comparisons"][metric]["difference"]
        axes.plot([found["low"], found["high"]], [row, row], color="C0", linewidth=1)
        axes.plot(found["value"], row, color="C0", marker="s", markersize=4)
        for run in method["runs"]:
            seed = summary["comparisons"][run][metric]["difference"]["value"]
            axes.plot(seed, row, color="C1", marker=".", markersize=3, linestyle="none")
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.set_title(f"{metric}, against the base", fontsize=10)


def forest(summary: dict[str, Any], metrics: list[str], limits: dict[str, list[float]], out: Path) -> None:
    """Write the picture; `limits` cut panels off where a single method's interval is much wider than the others'."""
    methods = ordered(summary, metrics[0])
    size = (WIDTH * len(metrics) + 1, HEIGHT * len(methods) + MARGIN)
    figure, grid = plt.subplots(1, len(metrics), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axes, metric in zip(grid[0], metrics, strict=True):
        ordered(summary, metric)
        draw(axes, summary, methods, metric)
        if metric in limits:
            axes.set_xlim(*limits[metric])
    grid[0][0].set_yticks(range(len(methods)), methods, fontsize=8)
    grid[0][0].invert_yaxis()
    # the same picture is the same file
    plt.rcParams["svg.hashsalt"] = "contrapose"
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("evidence", type=Path, help="folder that 'contrapose evaluate' made, of several training seeds")
    parser.add_argument("--metrics", nargs="+", required=True, help="metrics, a panel each; rows go by the first")
    parser.add_argument("--limits", nargs="+", default=[], help="METRIC:LOW:HIGH, the ends of a panel")
    parser.add_argument("--out", type=Path, required=True, help="the picture")
    given = parser.parse_args()
    ends = {metric: [float(low), float(high)] for metric, low, high in (text.split(":") for text in given.limits)}
    read = json.loads((given.evidence / SUMMARY).read_text(encoding="utf-8"))
    forest(read, given.metrics, ends, given.out)
