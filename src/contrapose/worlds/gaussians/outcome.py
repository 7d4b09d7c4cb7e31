"""The toy's result: a table for the terminal and for files, and the picture."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from rich.table import Table

from contrapose.files import write_bytes, write_text
from contrapose.worlds.gaussians.measure import Scores
from contrapose.worlds.gaussians.modes import Modes

Key = tuple[str, int]  # a row of the table: its name, and its pairs a class (0 where no pairs are used)

HEADINGS = {"right_mode": "right mode ↑", "distance": "distance to mode ↓", "energy": "energy distance ↓"}


@dataclass(frozen=True)
class ToyResult:
    """Scores of every row, one a seed, in the order of the seeds."""

    scores: dict[Key, tuple[Scores, ...]]

    def average(self, key: Key, measure: str) -> tuple[float, float]:
        """Mean and standard deviation over seeds; the deviation of a single seed is 0."""
        values = [getattr(found, measure) for found in self.scores[key]]
        return mean(values), stdev(values) if len(values) > 1 else 0.0

    def rows(self) -> list[list[str]]:
        """The table as text: name, pairs a class, and `mean ± deviation` of each measure."""
        return [
            [name, str(n or "–"), *("{:.3f} ± {:.3f}".format(*self.average((name, n), m)) for m in HEADINGS)]
            for name, n in self.scores
        ]


def rich_table(result: ToyResult) -> Table:
    """The table for the terminal."""
    num_seeds = len(next(iter(result.scores.values())))
    table = Table(title=f"Gaussians toy, mean ± standard deviation over {num_seeds} seeds")
    for i, heading in enumerate(_headings()):
        table.add_column(heading, justify="right" if i else "left")
    for row in result.rows():
        table.add_row(*row)
    return table


def save_tables(result: ToyResult, out: Path) -> None:
    """`table.md` and `table.csv` with means and deviations, `table.json` with every seed's numbers too."""
    rows = [_headings(), ["---", *["---:"] * (1 + len(HEADINGS))], *result.rows()]
    write_text(out / "table.md", "".join(f"| {' | '.join(row)} |\n" for row in rows))
    flat = [
        {"name": name, "pairs_per_class": n}
        | {
            f"{m}_{kind}": value
            for m in HEADINGS
            for kind, value in zip(("mean", "std"), result.average((name, n), m), strict=True)
        }
        for name, n in result.scores
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(flat[0]))
    writer.writeheader()
    writer.writerows(flat)
    write_text(out / "table.csv", text.getvalue())
    full = [
        row | {"seeds": [asdict(found) for found in of_seeds]}
        for row, of_seeds in zip(flat, result.scores.values(), strict=True)
    ]
    write_text(out / "table.json", json.dumps(full, indent=1) + "\n")


def _headings() -> list[str]:
    return ["", "pairs a class", *(HEADINGS[field.name] for field in fields(Scores))]


def save_picture(points: Mapping[str, np.ndarray], modes: Modes, path: Path) -> None:
    """Five panels as in the paper's Figure 2: noisy data, target and pairs, then samples of the three models.

    `points` holds `noisy`, `clean`, `reference`, `Diffusion-DPO` and `DDSPO`, ordered by condition, and the pairs'
    `winner` and `loser`. Colour is the condition; a ring marks each mode at two standard deviations.
    """
    from matplotlib.figure import Figure

    titles = {
        "noisy": "noisy training data",
        "clean": "target and pairs",
        "reference": "reference",
        "Diffusion-DPO": "Diffusion-DPO",
        "DDSPO": "DDSPO",
    }
    figure = Figure(figsize=(17, 3.9), layout="constrained")
    panels = figure.subplots(1, len(titles), sharex=True, sharey=True)
    reach = 1.75 * modes.radius
    for panel, (name, title) in zip(panels, titles.items(), strict=True):
        _scatter(panel, points[name], modes, faint=name == "clean")
        panel.set(title=title, aspect="equal", xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[])
    for name, marker, label in (("winner", "*", "winners"), ("loser", "X", "losers")):
        colors = _colors(modes, len(points[name]))
        panels[1].scatter(
            *points[name].T, c=colors, marker=marker, s=95, edgecolors="black", linewidths=0.8, zorder=3, label=label
        )
    legend = panels[1].legend(loc="center", fontsize=9, frameon=False, title="colour: the prompt")
    for handle in legend.legend_handles:
        handle.set_facecolor("lightgrey")
    picture = io.BytesIO()
    figure.savefig(picture, dpi=110, format="png")
    write_bytes(path, picture.getvalue())


def _colors(modes: Modes, count: int) -> list[tuple[float, ...]]:
    from matplotlib import colormaps

    colormap = colormaps["tab10" if modes.num_modes <= 10 else "hsv"]
    each = count // modes.num_modes
    return [
        colormap(c if modes.num_modes <= 10 else c / modes.num_modes)
        for c in range(modes.num_modes)
        for _ in range(each)
    ]


def _scatter(panel, found: np.ndarray, modes: Modes, faint: bool) -> None:
    from matplotlib.patches import Circle

    panel.scatter(*found.T, c=_colors(modes, len(found)), s=5, alpha=0.3 if faint else 0.6, linewidths=0)
    for centre in modes.centres:
        panel.add_patch(Circle(tuple(centre.tolist()), 2 * modes.spread, fill=False, color="0.25", linewidth=0.8))
