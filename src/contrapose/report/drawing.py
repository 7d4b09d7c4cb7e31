"""Inline SVG from matplotlib: real text in the page's own font and colours, which follow light and dark mode."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from contrapose.report.numbers import MINUS

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType  # of 3.11 and later

# Matplotlib knows no CSS, so it is given colours that stand for CSS's; the style sheet defines the variables.
TEXT = "#010203"
FRAME = "#010204"
QUIET = "#010205"
SERIES = ("#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05", "#0a0b06")
MARKERS = "osD^vP"
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), "-", "--")
_CSS = {TEXT: "currentColor", FRAME: "var(--line)", QUIET: "var(--quiet)"} | {
    color: f"var(--series-{number})" for number, color in enumerate(SERIES, start=1)
}
_STYLE: dict[RcKeyType, Any] = {
    "svg.fonttype": "none",  # text stays text, which is found, read aloud, and set in the page's font
    "svg.hashsalt": "contrapose",  # the same plot is the same text
    "text.parse_math": False,  # a model's name may hold dollars
    "axes.unicode_minus": True,
    "figure.facecolor": "none",  # the page's own shows
    "figure.edgecolor": "none",
    "axes.facecolor": "none",
    "font.size": 11,
    "axes.titlesize": 12,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.titlecolor": TEXT,
    "axes.edgecolor": FRAME,
    "xtick.color": FRAME,
    "ytick.color": FRAME,
    "xtick.labelcolor": TEXT,
    "ytick.labelcolor": TEXT,
    "grid.color": FRAME,
    "axes.grid": True,
    "grid.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 10,
}


class Drawing:
    """An axes to draw on, and afterwards its SVG."""

    def __init__(self, axes: Axes):
        self.axes = axes
        self.svg = Markup("")


@contextmanager
def drawing(key: str, label: str, width: float, height: float) -> Iterator[Drawing]:
    """Yield a `Drawing`; when the block ends its `svg` is ready. `key` makes ids unique, `label` is read aloud.

    Width and height are the view box's, in pixels of a phone: there the text keeps about its size.
    """
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's fonts decide, not matplotlib's
        # matplotlib counts 72 points an inch, and a point of its SVG is a pixel of the view box
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        drawn = Drawing(figure.add_subplot())
        drawn.axes.set_axisbelow(True)
        # each tick in full: a common factor would stand where the legend does
        drawn.axes.yaxis.set_major_formatter(lambda value, _: short(value))
        yield drawn
        buffer = io.StringIO()
        # as figure.savefig does, which draws everything once more beforehand
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    drawn.svg = _inline(buffer.getvalue(), key, label)


def short(value: float, digits: int = 6) -> str:
    """A number on a plot: -1e-07 is −1e−7."""
    return re.sub(r"e([+-])0", r"e\1", f"{value:.{digits}g}").replace("e+", "e").replace("-", MINUS)


def _inline(svg: str, key: str, label: str) -> Markup:
    """Strip what only a file of its own needs, and put the page's colours in; matplotlib has escaped its texts."""
    svg = svg[svg.index("<svg") :]  # without the XML declaration, which a page cannot hold
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    head, body = svg.split(">", 1)
    # without a size of its own the plot is as wide as its column, by the view box
    head = re.sub(r'\s(xmlns(:\w+)?|width|height|version)="[^"]*"', "", head)
    # ids are the page's, where other plots have the same ones
    body = re.sub(r'\bid="', f'id="{key}-', body)
    body = re.sub(r'(url\(|href=")#', rf"\1#{key}-", body)
    for color, css in _CSS.items():
        body = body.replace(color, css)
    return Markup(f'{head} role="img" aria-label={quoteattr(label)}>{body}')
