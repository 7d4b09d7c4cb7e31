"""The toy's result: a table for the terminal and for files, and the picture."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from rich.table import Table

from contrapose.files import write_bytes, write_text
from contrapose.worlds.gaussians.measure import ModeScores
from contrapose.worlds.gaussians.modes import Modes

Key = tuple[str, int]  # a row of the table: its name, and its pairs a class (0 where no pairs are used)

_PANELS_A_ROW = 5
HEADINGS = {"right_mode": "right mode ↑", "distance": "distance to mode ↓", "energy": "energy distance ↓"}


@dataclass(frozen=True)
class ToyResult:
    """Scores of every row, one a seed, in the order of the seeds."""

    scores: dict[Key, tuple[ModeScores, ...]]

    def average(self, key: Key, measure: str) -> tuple[float, float]:
        """Mean and standard deviation over seeds; the deviation of a single seed is 0."""
        values = [getattr(scores, measure) for scores in self.scores[key]]
        return mean(values), stdev(values) if len(values) > 1 else 0.0

    def rows(self) -> list[list[str]]:
        """The table as text: name, pairs a class, and `mean ± deviation` of each measure."""
        rows = []
        for name, num_pairs in self.scores:
            averages = [self.average((name, num_pairs), measure) for measure in HEADINGS]
            written = [f"{middle:.3f} ± {deviation:.3f}" for middle, deviation in averages]
            rows.append([name, str(num_pairs or "–"), *written])
        return rows


def rich_table(result: ToyResult) -> Table:
    """The table for the terminal."""
    num_seeds = len(next(iter(result.scores.values())))
    table = Table(title=f"Gaussians toy, mean ± standard deviation over {num_seeds} seeds")
    for column, heading in enumerate(_headings()):
        table.add_column(heading, justify="right" if column else "left")
    for row in result.rows():
        table.add_row(*row)
    return table


def save_tables(result: ToyResult, out: Path) -> None:
    """`table.md` and `table.csv` with means and deviations, `table.json` with every seed's numbers too."""
    rows = [_headings(), ["---", *["---:"] * (1 + len(HEADINGS))], *result.rows()]
    write_text(out / "table.md", "".join(f"| {' | '.join(row)} |\n" for row in rows))
    flat = [_numbers(result, key) for key in result.scores]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(flat[0]))
    writer.writeheader()
    writer.writerows(flat)
    write_text(out / "table.csv", text.getvalue())
    for row, of_seeds in zip(flat, result.scores.values(), strict=True):
        row["seeds"] = [asdict(scores) for scores in of_seeds]
    write_text(out / "table.json", json.dumps(flat, indent=1) + "\n")


def _numbers(result: ToyResult, key: Key) -> dict[str, Any]:
    """One row for files: its name, its pairs a class, and mean and deviation of each measure."""
    name, num_pairs = key
    row: dict[str, Any] = {"name": name, "pairs_per_class": num_pairs}
    for measure in HEADINGS:
        row[f"{measure}_mean"], row[f"{measure}_std"] = result.average(key, measure)
    return row


def _headings() -> list[str]:
    return ["", "pairs a class", *(HEADINGS[field.name] for field in fields(ModeScores))]


def save_picture(points: Mapping[str, np.ndarray], modes: Modes, methods: Sequence[str], path: Path) -> None:
    """Panels as in the paper's Figure 2: noisy data, target and pairs, then samples of reference and methods.

    `points` holds `noisy`, `clean`, `reference` and each method's, ordered by condition, and the pairs' `winner` and
    `loser`. Colour is the condition; a ring marks each mode at two standard deviations.
    """
    from matplotlib.figure import Figure

    titles = {
        "noisy": "noisy training data",
        "clean": "target and pairs",
        "reference": "reference",
        **{name: name for name in methods},
    }
    num_rows = -(-len(titles) // _PANELS_A_ROW)
    num_columns = min(len(titles), _PANELS_A_ROW)
    figure = Figure(figsize=(3.4 * num_columns, 3.9 * num_rows), layout="constrained")
    panels = figure.subplots(num_rows, num_columns, sharex=True, sharey=True).flatten()
    for panel in panels[len(titles) :]:
        panel.set_axis_off()
    reach = 1.75 * modes.radius
    # the target is drawn faintly, since its panel shows the pairs on top
    for panel, (name, title) in zip(panels, titles.items(), strict=False):
        _scatter(panel, points[name], modes, faint=name == "clean")
        panel.set(title=title, aspect="equal", xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[])
    for name, marker, label in (("winner", "*", "winners"), ("loser", "X", "losers")):
        colors = _colors(modes, len(points[name]))
        panels[1].scatter(
            *points[name].T, c=colors, marker=marker, s=95, edgecolors="black", linewidths=0.8, zorder=3, label=label
        )
    legend = panels[1].legend(loc="center", fontsize=9, frameon=False, title="colour: the prompt")
    # markers in the legend stand for all conditions, so they have no condition's colour
    for handle in legend.legend_handles:
        handle.set_facecolor("lightgrey")
    picture = io.BytesIO()
    figure.savefig(picture, dpi=110, format="png")
    write_bytes(path, picture.getvalue())


def _colors(modes: Modes, count: int) -> list[tuple[float, ...]]:
    from matplotlib import colormaps

    of_modes: list[tuple[float, ...]] = []
    for mode in range(modes.num_modes):
        few = modes.num_modes <= 10  # tab10 has ten colours that are easy to tell apart
        of_modes.append(colormaps["tab10"](mode) if few else colormaps["hsv"](mode / modes.num_modes))
    each = count // modes.num_modes
    return [color for color in of_modes for _ in range(each)]


def _scatter(panel: Any, points: np.ndarray, modes: Modes, faint: bool) -> None:
    from matplotlib.patches import Circle

    panel.scatter(*points.T, c=_colors(modes, len(points)), s=5, alpha=0.3 if faint else 0.6, linewidths=0)
    for centre in modes.centres:
        panel.add_patch(Circle(tuple(centre.tolist()), 2 * modes.spread, fill=False, color="0.25", linewidth=0.8))
