"""Scores by strength of guidance, from a study with `guided` models: a panel for each metric and guidance scale.

    python studies/dial.py results/world/guidance --scales 3 1 --metrics correct roughness \\
        --lines "PGD over Diffusion-DPO=pgd,dpo" "cPGD=cpgd" --out docs/guidance.svg

A line is the mean of the training seeds, its band goes from the lowest to the highest. Strength 0 is the base; of a
line that names a method after the comma, strength 1 is that method's run itself. docs/guidance.md's picture is made so.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from contrapose.evaluate.evidence import SUMMARY

Seeds = list[float]
"""A metric of each training seed."""
WIDTH, HEIGHT = 3.6, 2.6  # inches of a panel
DASHES = ("-", "--", ":")
MARKERS = "osD"


def groups_of(models: dict[str, Any]) -> list[str]:
    """The models' names, those of several training seeds once."""
    return list(dict.fromkeys(name.partition("/")[0] for name in models))


def seeds_of(models: dict[str, Any], group: str, metric: str) -> Seeds:
    """What a model's training seeds score; a model without seeds has one. Ends the program where there is none."""
    scores: Seeds = []
    for name, model in models.items():
        if name.partition("/")[0] == group:
            if metric not in model["metrics"]:
                raise SystemExit(f"{metric} was not measured (known: {', '.join(model['metrics'])})")
            scores.append(model["metrics"][metric]["overall"]["value"])
    if not scores:
        raise SystemExit(f"{group} is no model of this study (known: {', '.join(groups_of(models))})")
    return scores


def by_strength(models: dict[str, Any], line: str, metric: str) -> dict[float, Seeds]:
    """A line's scores by rising strength; `line` is a guided model's name, and after a comma the run at strength 1."""
    guided, _, run = line.partition(",")
    named = {0.0: "base", 1.0: run} if run else {0.0: "base"}
    groups = [group for group in groups_of(models) if group.startswith(f"{guided}-w")]
    if not groups:
        raise SystemExit(f"{guided} is no guided model of this study (known: {', '.join(groups_of(models))})")
    for group in groups:
        named[float(group.removeprefix(f"{guided}-w"))] = group
    return {strength: seeds_of(models, named[strength], metric) for strength in sorted(named)}


def draw(axes: Axes, points: dict[float, Seeds], number: int, label: str) -> None:
    """One line with its band."""
    strengths = list(points)
    means = [sum(seeds) / len(seeds) for seeds in points.values()]
    low = [min(seeds) for seeds in points.values()]
    high = [max(seeds) for seeds in points.values()]
    axes.plot(strengths, means, label=label, color=f"C{number}", linestyle=DASHES[number], marker=MARKERS[number])
    axes.fill_between(strengths, low, high, color=f"C{number}", alpha=0.15, linewidth=0)


def dial(study: Path, scales: list[str], metrics: list[str], lines: dict[str, str], out: Path) -> None:
    """Write the picture."""
    size = (WIDTH * len(metrics), HEIGHT * len(scales))
    figure, grid = plt.subplots(len(scales), len(metrics), figsize=size, squeeze=False, layout="constrained")
    for scale, row in zip(scales, grid, strict=True):
        summary = json.loads((study / "evidence" / f"scale-{scale}" / SUMMARY).read_text(encoding="utf-8"))
        for metric, axes in zip(metrics, row, strict=True):
            for number, (label, line) in enumerate(lines.items()):
                draw(axes, by_strength(summary["models"], line, metric), number, label)
            axes.set_title(f"{metric}, guidance scale {scale}", fontsize=10)
            axes.set_xlabel("strength w (0 is the base)")
    grid[0][-1].legend(frameon=False, fontsize=8)
    # the same picture is the same file
    plt.rcParams["svg.hashsalt"] = "contrapose"
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("study", type=Path, help="the study's folder, which has run to its end")
    parser.add_argument("--scales", nargs="+", required=True, help="guidance scales, a row of panels each")
    parser.add_argument("--metrics", nargs="+", required=True, help="metrics, a column of panels each")
    parser.add_argument("--lines", nargs="+", required=True, help="LABEL=GUIDED, or LABEL=GUIDED,METHOD")
    parser.add_argument("--out", type=Path, required=True, help="the picture")
    given = parser.parse_args()
    labelled = dict(line.split("=", 1) for line in given.lines)
    dial(given.study, given.scales, given.metrics, labelled, given.out)
