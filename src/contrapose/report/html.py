"""From a template to a page: every text that comes from files is escaped, and a page needs nothing but itself.

Only the style sheet and the plots, whose texts matplotlib has escaped, go in as they are. What several pages show,
such as images side by side, is a macro of `macros.html.j2`.
"""

from __future__ import annotations

from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from contrapose import __version__
from contrapose.report.evidence import spoken
from contrapose.report.numbers import count


def fill(template: str, **values: object) -> str:
    """The page that a template of this folder makes of the values; each of them that it names must be there."""
    environment = Environment(
        loader=PackageLoader("contrapose.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"spoken": spoken, "count": count}
    # the style sheet is ours, and must not be escaped
    style = Markup(resources.files("contrapose.report").joinpath("style.css").read_text(encoding="utf-8"))
    return environment.get_template(template).render(version=__version__, style=style, **values)
