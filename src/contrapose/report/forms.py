"""Tables in the forms that they are wanted in: Markdown, LaTeX, CSV and HTML; each escapes what people wrote."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from contrapose.errors import UserError
from contrapose.evaluate.evidence import Evidence
from contrapose.files import check_file, one_writer, write_text
from contrapose.report.evidence import Judged
from contrapose.report.records import COLUMNS, records
from contrapose.report.tables import Sheet, TableCell, sheets

_ENDINGS = {".md": "md", ".markdown": "md", ".tex": "latex", ".csv": "csv", ".html": "html", ".htm": "html"}
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$", '"': "''",
    "−": "$-$", "–": "--", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
}  # fmt: skip
_MARKDOWN = re.compile(r"([\\`*_\[\]|~$])")


def form_of(out: Path) -> str:
    """The form that a file's ending asks for; `UserError` for another ending."""
    if out.suffix.lower() not in _ENDINGS:
        raise UserError(f"{out}: does not end as a form of tables ({', '.join(_ENDINGS)}); name one with --format")
    return _ENDINGS[out.suffix.lower()]


def write_tables(evidence: Sequence[Evidence], out: Path, form: str | None = None, first: Sequence[Sheet] = ()) -> bool:
    """Write the tables of evaluations to one file; False where the same were there already.

    The form is one of md, latex, csv and html; the ending of `out` says it where it is left open. `first` are tables
    that stand before them, but in CSV, whose lines are measurements alone.

    Raises `UserError` for an ending that is of no form, and naming the folder and the fix for evidence that cannot be
    read.
    """
    check_file(out)
    form = form or form_of(out)
    for each in evidence:
        if not each.is_judged:
            raise UserError(f"{each.folder}: was judged by nobody (suite none), so it has no numbers; leave it out")
    with one_writer(out, beside=True):
        return write_text(out, FORMS[form]([Judged(each) for each in evidence], first))


def markdown(judged: Sequence[Judged], first: Sequence[Sheet] = ()) -> str:
    """Tables as GitHub's Markdown has them, the best in bold."""
    parts: list[str] = []
    for sheet in _sheets(judged, first):
        parts += [f"### {_markdown(sheet.title)}", ""]
        parts.append(_line(map(_markdown, sheet.head)))
        parts.append(_line(["---"] * sheet.num_names + ["---:"] * (len(sheet.head) - sheet.num_names)))
        for row in sheet.rows:
            cells: list[str] = []
            for cell in row:
                text = _markdown(cell.text)
                text = f"**{text}**" if cell.is_best else text
                cells.append(f"{text} {cell.interval}".rstrip())  # the interval is numbers alone
            parts.append(_line(cells))
        parts += ["", _markdown(sheet.note), ""]
    return "\n".join(parts)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown(text: str) -> str:
    # HTML within Markdown is HTML, and a line's end is a row's end
    return _MARKDOWN.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))


def latex(judged: Sequence[Judged], first: Sequence[Sheet] = ()) -> str:
    r"""Tables for `\usepackage{booktabs}`, the best in bold."""
    parts = [r"% needs \usepackage{booktabs}"]
    for sheet in _sheets(judged, first):
        parts += [r"\begin{table}", r"\centering", rf"\caption{{{_latex(sheet.title)}. {_latex(sheet.note)}}}"]
        columns = "l" * sheet.num_names + "r" * (len(sheet.head) - sheet.num_names)
        parts += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
        parts.append(_row(map(_latex, sheet.head)))
        parts.append(r"\midrule")
        parts += [_row(map(_in_latex, row)) for row in sheet.rows]
        parts += [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    return "\n".join(parts)


def _row(cells: Iterable[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _in_latex(cell: TableCell) -> str:
    text = _latex(cell.text)
    text = rf"\textbf{{{text}}}" if cell.is_best else text
    return rf"{text} {{\scriptsize {_latex(cell.interval)}}}" if cell.interval else text


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def comma_separated(judged: Sequence[Judged], first: Sequence[Sheet] = ()) -> str:
    """A line for each evaluation, metric, model and category; the text of a cell that a spreadsheet would compute
    begins with an apostrophe."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for evaluation in judged:
        for record in records(evaluation):
            for name in ("evaluation", "model", "category"):
                is_formula = record[name].startswith(("=", "+", "-", "@", "\t", "\r"))
                record[name] = f"'{record[name]}" if is_formula else record[name]
            writer.writerow(record)
    return text.getvalue()


def page(judged: Sequence[Judged], first: Sequence[Sheet] = ()) -> str:
    """A page of nothing but tables, to be copied into another one."""
    parts = ["<!DOCTYPE html>", '<html lang="en">', "<head>", '<meta charset="utf-8">', "<title>Tables</title>"]
    parts += ["<style>td, th { text-align: right; padding: .2em .6em } tbody th { text-align: left }</style>"]
    parts += ["</head>", "<body>"]
    for sheet in _sheets(judged, first):
        parts += ["<table>", f"<caption>{html.escape(sheet.title)}</caption>", "<thead>"]
        parts.append(f"<tr>{''.join(f'<th>{html.escape(name)}</th>' for name in sheet.head)}</tr>")
        parts += ["</thead>", "<tbody>"]
        for row in sheet.rows:
            names = "".join(f"<th>{_in_html(cell)}</th>" for cell in row[: sheet.num_names])
            numbers = "".join(f"<td>{_in_html(cell)}</td>" for cell in row[sheet.num_names :])
            parts.append(f"<tr>{names}{numbers}</tr>")
        parts += ["</tbody>", "</table>", f"<p>{html.escape(sheet.note)}</p>"]
    return "\n".join([*parts, "</body>", "</html>", ""])


def _in_html(cell: TableCell) -> str:
    text = html.escape(cell.text)
    text = f"<b>{text}</b>" if cell.is_best else text
    return f"{text} <small>{html.escape(cell.interval)}</small>" if cell.interval else text


def _sheets(judged: Sequence[Judged], first: Sequence[Sheet]) -> list[Sheet]:
    return [*first, *(sheet for evaluation in judged for sheet in sheets(evaluation))]


FORMS: dict[str, Callable[[Sequence[Judged], Sequence[Sheet]], str]] = {
    "md": markdown,
    "latex": latex,
    "csv": comma_separated,
    "html": page,
}
