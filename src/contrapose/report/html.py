"""From a template to a page: every text that comes from files is escaped, and a page needs nothing but itself.

Only the style sheet and the plots, whose texts matplotlib has escaped, go in as they are. What several pages show,
such as images side by side, is a macro of `macros.html.j2`.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from contrapose import __version__
from contrapose.report.evidence import spoken
from contrapose.report.numbers import count


def fill(template: str, **values: object) -> str:
    """The page that a template of this folder makes of the values; each of them that it names must be there."""
    return _templates().get_template(template).render(**values)


@cache
def _templates() -> Environment:
    """The templates of this folder, each compiled once a process, and what all of them may name."""
    templates = Environment(
        loader=PackageLoader("contrapose.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"spoken": spoken, "count": count}
    # the style sheet is ours, and must not be escaped
    style = Markup(resources.files("contrapose.report").joinpath("style.css").read_text(encoding="utf-8"))
    templates.globals |= {"version": __version__, "style": style}
    return templates
