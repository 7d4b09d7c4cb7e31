"""Tables say what the summary says, in every form, and each form reads back whatever people call their models."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from contrapose import runfile
from contrapose.cli.main import main
from contrapose.evaluate.evidence import CONVERTER, EVIDENCE, Record, read_evidence
from contrapose.evaluate.geneval.suite import TITLE
from contrapose.evaluate.rows import EvidenceRow, write_rows
from contrapose.evaluate.sets.numbers import SetNumber, SetNumbers
from contrapose.evaluate.statistics import Interval
from contrapose.evaluate.summary import Summary, write_summary
from contrapose.evaluate.summing import SummarySettings, summarize
from contrapose.report.evidence import Judged
from contrapose.report.forms import FORMS
from contrapose.report.numbers import MINUS
from contrapose.report.tables import best_of, heading, sheets

NASTY = 'a|b & 50%_#$ {x} ~^ \\ <i>*y*</i> `z` "q"'
MARKUP = "<script>alert(1)</script>"
DIRECTIONS = {"correct": True, "score_2": True, "artefacts": False, "drift": None}


def judged_rows(gains: dict[str, float], seed: int = 0) -> list[EvidenceRow]:
    """Verdicts, two scores and a drift of these models, whose chances and scores are higher by this."""
    rows: list[EvidenceRow] = []
    for number, (model, gain) in enumerate(gains.items()):
        rng = np.random.default_rng([seed, number])
        for prompt in range(60):
            tag = ("counting", "two_object")[prompt % 2]
            values = {
                "correct": float(rng.random() < 0.3 + gain),
                "score_2": 20 + gain + 0.3 * float(rng.normal()),
                "artefacts": 0.5 - gain / 10 + 0.02 * float(rng.normal()),
                "drift": gain + 0.01 * float(rng.normal()),
            }
            rows += [EvidenceRow(model, f"p{prompt}", tag, 0, metric, value) for metric, value in values.items()]
    return rows


GAINS = {"base": 0.0, NASTY: 0.3, "m/0": 0.5, "m/1": 0.55, "m/2": 0.45, "floor": -0.3, "ceiling": 0.7}


def write_evidence(folder: Path, gains: dict[str, float], title: str = MARKUP) -> Summary:
    rows = judged_rows(gains)
    summary = summarize(rows, SummarySettings("base", DIRECTIONS, 400))
    runfile.write_claim(folder / EVIDENCE, Record(title, {"name": "scores"}, {}, "base", 400), CONVERTER, {})
    write_rows(rows, folder / "rows.parquet")
    write_summary(summary, folder / "summary.json")
    return summary


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tables") / "evidence"
    write_evidence(place, GAINS)
    return place


@pytest.fixture(scope="module")
def judged(folder: Path) -> Judged:
    return Judged(read_evidence(folder))


class Cells(HTMLParser):
    """The text of every cell, by table and row, and the tags that are open at the end."""

    def __init__(self, page: str):
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.captions: list[str] = []
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag != "meta":
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "caption":
            self.captions.append("")
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data
        if "caption" in self.open:
            self.captions[-1] += data


def test_the_main_table_says_what_the_summary_says(judged: Judged) -> None:
    main_table, against, *by_tag = sheets(judged)
    assert main_table.head == ("model", "correct (%) ↑", "score 2 ↑", "artefacts ↓", "drift")
    names = [row[0].text for row in main_table.rows]
    assert names[:3] == ["base", NASTY, "m (3 training seeds)"] and names[3:6] == ["m/0", "m/1", "m/2"]
    assert [name.split()[0] for name in names[6:]] == ["ceiling", "floor"]
    overall = judged.summary.methods["m"].metrics["correct"].overall
    cell = main_table.rows[2][1]
    assert cell.text == f"{100 * overall.value:.1f}"
    assert cell.interval == f"[{100 * overall.low:.1f}, {100 * overall.high:.1f}]".replace("-", MINUS)
    # a share is no more, though an interval over seeds is symmetric
    assert overall.high <= 1 and judged.summary.methods["m"].comparisons["correct"].difference.high <= 1
    compared = judged.summary.comparisons[NASTY]["score_2"]
    row = next(row for row in against.rows if (row[0].text, row[1].text) == (NASTY, "score 2 ↑"))
    assert row[2].text == f"{compared.difference.value:+.3f}" and row[3].text == f"{compared.p_holm:.3f}"
    assert row[4].text == f"{100 * compared.win_rate.value:.1f}"
    drift = next(row for row in against.rows if (row[0].text, row[1].text) == (NASTY, "drift"))
    assert (drift[3].text, drift[4].text) == ("–", "–")  # no claim to be better
    assert len(by_tag) == 4 and by_tag[0].head == (
        "model",
        "overall",
        "two object (30 prompts)",
        "counting (30 prompts)",
    )
    tag = judged.summary.models["base"].metrics["correct"].tags["counting"]
    assert by_tag[0].rows[0][3].text == f"{100 * tag.value:.1f}"


def marked(judged: Judged, metric: str) -> list[str]:
    main_table = next(sheets(judged))
    column = main_table.head.index(heading(judged, metric))
    return [row[0].text.split(" (")[0] for row in main_table.rows if row[column].is_best]


def test_the_best_is_marked_where_it_is_clearly_better(tmp_path: Path) -> None:
    cases = {
        "clear": ({"base": 0.0, "a": 0.3, "b": 2.0}, "b"),
        "two alike": ({"base": 0.0, "a": 0.6, "b": 0.61}, None),
        "none better": ({"base": 0.0, "a": 0.0, "b": -0.5}, None),
        "alone": ({"base": 0.0, "a": 0.5}, "a"),
    }
    for name, (gains, best) in cases.items():
        write_evidence(tmp_path / name, gains)
        judged = Judged(read_evidence(tmp_path / name))
        for metric in ("score_2", "artefacts"):  # of which one is better where it is lower
            assert best_of(judged, metric) == best, name
            assert marked(judged, metric) == ([best] if best else [])
        assert best_of(judged, "drift") is None


def test_a_table_is_worked_out_once(judged: Judged) -> None:
    """Every row's heading asks for it: of a hundred models each row took as long as all of them."""
    assert judged.table("correct") is judged.table("correct")


def test_bounds_and_runs_of_a_method_are_never_the_best(judged: Judged) -> None:
    assert best_of(judged, "artefacts") == "m"
    assert marked(judged, "artefacts") == ["m"]


def test_csv_reads_back_with_numbers_in_columns(judged: Judged) -> None:
    lines = list(csv.DictReader(io.StringIO(FORMS["csv"]([judged]))))
    assert len(lines) == 4 * 8 * 3  # metrics, models and the method, overall and two categories
    numbers = [name for name in lines[0] if name.startswith(("value", "low", "high", "diff", "p_", "win", "small"))]
    for line in lines:
        for name in numbers:
            assert not line[name] or np.isfinite(float(line[name]))
    line = next(x for x in lines if (x["model"], x["metric"], x["category"]) == ("m", "correct", "overall"))
    compared = judged.summary.methods["m"].comparisons["correct"]
    assert float(line["difference"]) == round(100 * compared.difference.value, 1) and line["unit"] == "%"
    assert float(line["p_holm"]) == pytest.approx(compared.p_holm, rel=0.01)
    assert float(line["win_rate_low"]) == round(100 * compared.win_rate.low, 1)
    assert {x["evaluation"] for x in lines} == {MARKUP} and NASTY in {x["model"] for x in lines}
    base = next(x for x in lines if (x["model"], x["category"]) == ("base", "overall"))
    assert base["difference"] == base["p_holm"] == base["best"] == ""
    assert [x["model"] for x in lines if x["best"]] == [
        best for best in (best_of(judged, metric) for metric in judged.metrics) if best
    ]


def test_numbers_by_genevals_rules_name_their_detector_in_every_form(judged: Judged) -> None:
    evidence = replace(judged.evidence, called=TITLE)
    for form in FORMS.values():
        assert "GenEval (HF detector): correct" in form([Judged(evidence)])


def test_csv_starts_no_formula(tmp_path: Path) -> None:
    write_evidence(tmp_path, {"base": 0.0, "=1+1": 0.5}, title="@sum(a)")
    lines = list(csv.DictReader(io.StringIO(FORMS["csv"]([Judged(read_evidence(tmp_path))]))))
    assert {line["model"] for line in lines} == {"base", "'=1+1"} and lines[0]["evaluation"] == "'@sum(a)"


def test_html_reads_back(judged: Judged) -> None:
    page = Cells(FORMS["html"]([judged, judged]))
    assert page.open == [] and "script" not in page.tags and "i" not in page.tags
    expected = [*sheets(judged), *sheets(judged)]
    assert page.captions == [sheet.title for sheet in expected]
    for table, sheet in zip(page.tables, expected, strict=True):
        assert table[0] == list(sheet.head)
        assert [row[0] for row in table[1:]] == [row[0].text for row in sheet.rows]
        assert table[1][1] == f"{sheet.rows[0][1].text} {sheet.rows[0][1].interval}".strip()


def test_markdown_reads_back(judged: Judged) -> None:
    text = FORMS["md"]([judged])
    assert "<script" not in text and "<i>" not in text
    expected = list(sheets(judged))
    tables = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    assert len(tables) == len(expected)
    for table, sheet in zip(tables, expected, strict=True):
        lines = table.splitlines()
        assert len(lines) == 2 + len(sheet.rows)
        # a bar that is escaped divides no cells
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {len(sheet.head) + 1}
    assert text.count("**") == 2 * sum(cell.is_best for sheet in expected for row in sheet.rows for cell in row) > 0


def test_latex_reads_back(judged: Judged) -> None:
    text = FORMS["latex"]([judged])
    expected = list(sheets(judged))
    bodies = re.findall(r"\\midrule\n(.*?)\\bottomrule", text, re.DOTALL)
    assert len(bodies) == len(expected)
    for body, sheet in zip(bodies, expected, strict=True):
        lines = body.splitlines()
        assert len(lines) == len(sheet.rows) and all(line.endswith(r" \\") for line in lines)
        assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {len(sheet.head) - 1}
    # outside of what was written as a command, nothing is special
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert not re.search(r"(?<!\\)[#_]", text) and MINUS not in text and "<script" not in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == len(expected)


def test_numbers_of_sets_have_a_table(folder: Path, judged: Judged, tmp_path: Path) -> None:
    interval = Interval(12.31, 11.2, 13.6)
    number = SetNumber(12.34, interval)
    difference = SetNumber(-1.5, None)
    sets = SetNumbers("clip", 60, 60, 20, {"fid": False}, {"base": {"fid": number}, "m/0": {"fid": number}},
                      {"m/0": {"fid": difference}})  # fmt: skip
    values = {name: getattr(judged.summary, name) for name in judged.summary.__dataclass_fields__} | {"sets": sets}
    runfile.write_claim(tmp_path / EVIDENCE, Record("t", {"name": "set"}, {}, "base", 400), CONVERTER, {})
    (tmp_path / "rows.parquet").write_bytes((folder / "rows.parquet").read_bytes())
    write_summary(Summary(**values), tmp_path / "summary.json")
    *_, table = sheets(Judged(read_evidence(tmp_path)))
    assert table.title == "t: fid (lower is better)" and table.head == ("model", "value", "difference")
    assert [cell.text for cell in table.rows[1]] == ["m/0", "12.3", f"{MINUS}1.5"]
    assert table.rows[0][1].interval == "[11.2, 13.6]" and table.rows[0][2].text == "–"
    lines = list(csv.DictReader(io.StringIO(FORMS["csv"]([Judged(read_evidence(tmp_path))]))))[-2:]
    assert [line["metric"] for line in lines] == ["fid", "fid"] and lines[0]["better"] == "lower"
    assert (lines[0]["value"], lines[0]["low"], lines[0]["difference"]) == ("12.3", "11.2", "")
    assert (lines[1]["difference"], lines[1]["difference_low"]) == ("-1.5", "")


@pytest.mark.parametrize(
    ("out", "more", "start"),
    [
        ("t.md", (), "### "), ("t.tex", (), "% needs"), ("t.csv", (), "evaluation,"), ("t.html", (), "<!DOCTYPE"),
        ("t.txt", ("--format", "latex"), "% needs"),
    ],
)  # fmt: skip
def test_the_command(
    out: str, more: tuple[str, ...], start: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["tables", "--evidence", str(folder), "--out", str(tmp_path / out), *more]
    assert main(line) == 0
    assert (tmp_path / out).read_text(encoding="utf-8").startswith(start)
    assert "already" not in capsys.readouterr().out
    assert main(line) == 0
    assert "already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("out", "evidence", "message"),
    [("t.txt", None, "name one with --format"), ("t.md", "nowhere", "nowhere"), ("t.md", ".", "evidence.yaml")],
)
def test_what_the_command_refuses(
    out: str, evidence: str | None, message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(folder) if evidence is None else str(tmp_path / evidence)
    assert main(["tables", "--evidence", place, "--out", str(tmp_path / out)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert list(tmp_path.iterdir()) == []
