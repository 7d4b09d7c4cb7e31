"""The page says what the files say, escapes what people wrote, and needs nothing but itself."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from contrapose.errors import UserError
from contrapose.evaluate.rows import read_rows, write_rows
from contrapose.report.numbers import MINUS
from contrapose.report.page import Evidence, Report, render, write_report

VOID = {"meta", "img", "br", "hr", "link", "input", "path", "use"}


class Page(HTMLParser):
    """Tags with their attributes, the text of each table's row, all text, and whether tags are balanced."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.headings: list[int] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data):
        if not self._open or self._open[-1] == "style":
            return
        self.text += data
        if "td" in self._open or "th" in self._open:
            self.rows[-1][-1] += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def row_of(page: Page, name: str) -> list[str]:
    """The first row of a table with this model or category."""
    return next(row for row in page.rows if row[0].split()[:1] == [name] and len(row) > 1)


def written(interval: dict[str, float]) -> list[str]:
    return [
        f"{100 * interval['value']:.1f}",
        f"[{100 * interval['low']:.1f},",
        f"{100 * interval['high']:.1f}]",
    ]


def test_tables_say_what_the_summary_says(shared, html):
    summary = json.loads((shared.evidence.folder / "summary.json").read_text())
    page = Page(html)
    row = row_of(page, "ddspo")
    scores, compared = summary["models"]["ddspo"]["metrics"]["correct"], summary["comparisons"]["ddspo"]["correct"]
    assert row[1].split() == written(scores["overall"])
    difference = compared["difference"]
    assert row[2].split()[0] == f"{100 * difference['value']:+.1f}".replace("-", MINUS)
    p = compared["p_holm"]
    assert row[3] == (f"{p:.3f}" if p >= 0.001 else "< 0.001")
    assert row[4].split()[0] == f"{100 * compared['win_rate']['value']:.1f}"
    for tag in ("single_object", "counting", "position"):
        of_models = [summary["models"][model]["metrics"]["correct"]["tags"][tag] for model in ("base", "ddspo")]
        assert [cell.split() for cell in row_of(page, tag.split("_")[0])[1:]] == list(map(written, of_models))


def test_bounds_stand_apart_from_models_and_beside_the_first_metric_alone(html):
    table = html[html.index('<table class="scores') : html.index('<table class="categories')]
    first, second = table.split("artefact rate")
    assert first.index("ddspo") < first.index('<tr class="bound"') < first.index("ceiling") < first.index("floor")
    assert "ddspo" in second and "ceiling" not in second and "floor" not in second


def test_lower_is_better_turns_the_verdict_but_not_the_sign(html):
    # right images are brighter here, so ddspo has the larger artefact rate: worse, and its difference positive
    other = html[html.index("lower is better") :]
    cell = re.search(r'<td class="number (\w+)" data-label="against base"><b>(.)', other)
    assert cell and cell.groups() == ("worse", "+")


def sections_of(html: str) -> list[str]:
    return [section["id"] for section in Page(html).named("section")]


def test_what_came_out_stands_first_and_how_it_was_made_last(html):
    assert sections_of(html) == ["images", "scores", "more", "pairs", "training", "made"]
    head, first, scores = html[: html.index('id="images"')], *html[html.index('id="images"') :].split('id="scores"')
    assert "ddspo is better than base" in head
    assert re.search(r"Besides, [^.]*worse: [^.]*artefact rate [.\d]+ against", head)
    assert "<img" not in head and first.count("<img ") == 2 * 4 and "<table" not in first
    assert "verdict right" in first and "verdict wrong" in first and "artefact rate 0" in first
    assert scores.count("<img ") == 2 * 8


def test_settings_that_are_not_set_are_not_told(shared, html):
    made = html[html.index('id="made"') : html.index("<h3>Commands")]
    assert "steps <b>17</b>" in made and "guidance scale <b>7.5</b>" in made
    # no run guides these images, so that nothing of a guidance holds
    assert not re.search("pgd|schedule|interval|negative|nag|adapter|size|offload|quantize|none|None|–", made)
    pairs = html[html.index('id="pairs"') : html.index('id="training"')]
    assert "pairs per prompt" in pairs
    assert not re.search("None|–|False|offload|sizes", pairs)


def test_what_differs_between_models_is_a_table_and_what_does_not_is_a_sentence(project):
    path = project.evidence.images["ddspo"] / "images.yaml"
    path.write_text(path.read_text().replace("positive: null", "positive: runs/a").replace("steps: 17", "steps: 18"))
    html = render(project.report(runs=()))
    page = Page(html[html.index('id="made"') - len("<section ") : html.index("<h3>Commands")] + "</section>")
    assert [row for row in page.rows if row[0] in ("Steps", "Positive")] == [
        ["Steps", "17", "18"],
        ["Positive", "–", "runs/a"],
    ]
    guidance = next(row for row in page.rows if row[0] == "Guidance")
    assert guidance[1] == "–" and guidance[2].startswith("pgd")
    assert "guidance scale 7.5" in page.text and "Guidance scale" not in [row[0] for row in page.rows]


def test_what_a_detector_counts_is_told_once(project):
    counted = "An object counts where <it> is found."
    evidence = replace(project.evidence, counted=counted)
    html = render(project.report(runs=(), evidence=(evidence, replace(evidence, title="another"))))
    assert html.count("An object counts where &lt;it&gt; is found.") == 1


def test_the_same_noise_is_told_of_images_that_have_it(project):
    """Not where one is the best of several by a judge, nor where another program drew it."""
    told = "every model starts from the same noise"
    path = project.evidence.images["ddspo"] / "images.yaml"
    drawn = path.read_text()
    report = project.report(runs=(), pairs=None)
    assert told in render(report)
    path.write_text(drawn.replace("best_of: 1", "best_of: 4"))
    assert told not in render(report)
    path.unlink()
    assert told not in render(report)


def test_images_without_a_judge(project):
    evidence = replace(project.evidence, suite={"name": "none"})
    (evidence.folder / "summary.json").unlink()
    html = render(project.report(runs=(), pairs=None, evidence=(evidence,)))
    assert sections_of(html) == ["images", "more", "made"]
    assert html.count("<img ") == 2 * 12
    assert "base and ddspo, side by side" in html and "right" not in html[html.index("<main") :]
    alone = render(Report("t", images=dict(evidence.images), num_examples=3))
    assert sections_of(alone) == ["images", "made"]
    shown = [image["src"] for image in Page(alone).named("img")]
    assert shown == [image["src"] for image in Page(html).named("img")][:6]


def test_images_without_a_judge_beside_judged_ones(project):
    images = dict(project.evidence.images)
    html = render(project.report(runs=(), pairs=None, images=images))
    assert sections_of(html) == ["images", "scores", "more", "made"]
    assert html.count("Intervals come from a bootstrap") == 1


def test_images_that_share_no_prompt(project, tmp_path):
    other = tmp_path / "other"
    (other / "00000" / "samples").mkdir(parents=True)
    (other / "00000" / "metadata.jsonl").write_text('{"prompt": "something else"}\n')
    Image.new("RGB", (8, 8)).save(other / "00000" / "samples" / "0000.png")
    with pytest.raises(UserError, match="share no prompt and seed"):
        render(Report("t", images={"base": project.evidence.images["base"], "other": other}))


def test_numbers_are_shown_where_images_are_gone(project):
    shutil.rmtree(project.evidence.images["ddspo"])
    report = project.report(runs=(), pairs=None)
    with pytest.raises(UserError, match="no such folder of images; put it back, or show numbers alone with --examples"):
        render(report)
    assert "<img " not in render(replace(report, num_examples=0))


def test_user_texts_are_escaped(html):
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    page = Page(html)
    assert "expected <script>alert(1)</script> >= 1" in page.text  # a verdict's reason
    assert not [attributes for _, attributes in page.tags if any(name.startswith("on") for name in attributes)]
    assert all((image["src"] or "").startswith("data:image/png;base64,") for image in page.named("img"))


def test_texts_in_plots_are_escaped(project):
    path = project.evidence.folder / "summary.json"
    name = '<script>alert("$x^$")</script>'
    text = path.read_text().replace('"ddspo"', json.dumps(name))
    path.write_text(text)
    rows = read_rows(path.with_name("rows.parquet"))
    renamed = [row._replace(model=name) if row.model == "ddspo" else row for row in rows]
    write_rows(renamed, path.with_name("rows.parquet"))
    html = render(project.report(evidence=(replace(project.evidence, images={}),)))
    assert "<script" not in html
    assert f"{name} overall" in next(svg["aria-label"] for svg in Page(html).named("svg") if name in svg["aria-label"])


def test_needs_nothing_from_outside(html):
    page = Page(html)
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\((?!#)", html)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        for name in ("href", "xlink:href", "src"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))


def test_is_accessible(html):
    page = Page(html)
    assert page.named("html") == [{"lang": "en"}]
    assert page.named("img") and all(image.get("alt") for image in page.named("img"))
    assert page.named("svg") and all(svg["role"] == "img" and svg["aria-label"] for svg in page.named("svg"))
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
    ids = Counter(attributes["id"] for _, attributes in page.tags if "id" in attributes)
    assert max(ids.values()) == 1
    for attributes in page.named("a") + page.named("use"):
        assert (attributes.get("href") or attributes.get("xlink:href"))[1:] in ids


def test_runs_finished_and_not(html):
    page = Page(html)
    assert "finished: 40 steps" in page.text
    assert "unfinished: 20 of 40 steps" in page.text
    assert "50 for training, 9 held out" in page.text
    assert "1 minute (" in page.text
    labels = [svg["aria-label"] for svg in page.named("svg")]
    assert any("held out 0.613" in label or "held out 0.612" in label for label in labels)
    assert any("at the end 0.51 at 0.1, 0.55 at 0.5" in label for label in labels)


def test_log_2_only_where_the_link_is_sigmoid(html):
    ddspo, sft = html[html.index("<h3>ddspo") :].split("<h3>sft", 1)
    assert "log 2" in ddspo and "log 2" not in sft


def test_run_that_never_took_a_step(project):
    (project.unfinished / "metrics.jsonl").unlink()
    assert "unfinished: 0 of 40 steps" in render(project.report(runs=(project.unfinished,)))


def test_pairs_and_sampling_settings_and_commands(shared, html):
    text = Page(html).text
    assert "12 pairs of 12 prompts" in text
    assert "their model shapes is not on this machine" in text
    assert "a red circle" in text
    assert f"contrapose align {shared.run}/run.yaml --out {shared.run}" in text
    sampled = next(line for line in text.splitlines() if line.endswith(f"--out {shared.evidence.images['base']}"))
    assert all(flag in sampled for flag in ("contrapose sample", "--steps 17", "--guidance-scale 7.5"))
    assert "--precision" not in sampled, "which the model was left to choose"
    assert "typed by hand" in render(Report("t", commands=("typed by hand",)))


def test_a_model_that_is_partly_in_the_hubs_cache_is_told_and_not_downloaded(shared, tiny_model, tmp_path, monkeypatch):
    cached = tmp_path / "snapshot"
    shutil.copytree(tiny_model, cached)
    shutil.rmtree(cached / "vae")
    asked = []
    monkeypatch.setattr("contrapose.report.provenance.try_to_load_from_cache", lambda model, name: str(cached / name))
    monkeypatch.setattr("contrapose.backbones.loading.hf_hub_download", lambda *names: asked.append(names))
    text = Page(render(Report("t", pairs=shared.pairs))).text
    assert "their model shapes cannot be loaded from the hub's cache" in text and "vae" in text
    assert asked == []


def test_images_are_embedded_small_and_whole(shared, html):
    found = Page(html).named("img")
    assert len(found) == 2 * 12
    assert all(image["class"] == "pixelated" for image in found)
    data = base64.b64decode(found[0]["src"].partition(",")[2])
    assert Image.open(io.BytesIO(data)).size == (16, 16)


def test_a_page_of_nothing_but_a_title(tmp_path):
    out = tmp_path / "deep" / "report.html"
    write_report(Report("Only <b>a title</b>"), out)
    assert "Only &lt;b&gt;a title&lt;/b&gt;" in out.read_text(encoding="utf-8")
    assert list(out.parent.iterdir()) == [out]


def test_same_input_same_page(shared, html):
    assert render(shared.report()) == html


def test_no_base_no_comparison(project):
    path = project.evidence.folder / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base": None, "comparisons": {}}))
    page = Page(render(project.report()))
    assert "against base" not in page.text
    assert len(row_of(page, "ddspo")) == 2


@pytest.mark.parametrize("kind", ["run", "evidence", "pairs"])
@pytest.mark.parametrize("exists", [True, False])
def test_missing_folders_are_named_with_the_mend(tmp_path, kind, exists):
    folder = tmp_path / "nowhere"
    if exists:
        folder.mkdir()
    reports = {
        "run": Report("t", runs=(folder,)),
        "evidence": Report("t", evidence=(Evidence("e", folder),)),
        "pairs": Report("t", pairs=folder),
    }
    with pytest.raises(UserError, match=r"nowhere.*contrapose"):
        write_report(reports[kind], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_broken_files_are_named(project):
    (project.run / "run.yaml").write_text("method: [")
    with pytest.raises(UserError, match=r"run\.yaml"):
        render(project.report(evidence=()))
    (project.evidence.folder / "summary.json").write_text('{"format": 3, "models": {}}')
    with pytest.raises(UserError, match=r"summary\.json: setting base is missing"):
        render(project.report(runs=()))


def test_out_must_not_be_a_folder(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        write_report(Report("t"), tmp_path)


def test_images_of_an_unknown_model(project):
    evidence = replace(project.evidence, images={"stranger": Path(project.evidence.images["base"])})
    with pytest.raises(UserError, match="stranger"):
        render(project.report(evidence=(evidence,)))


def test_images_that_were_not_judged(project, tmp_path):
    other = tmp_path / "other"
    (other / "00000" / "samples").mkdir(parents=True)
    (other / "00000" / "metadata.jsonl").write_text('{"prompt": "something else"}\n')
    Image.new("RGB", (8, 8)).save(other / "00000" / "samples" / "0000.png")
    with pytest.raises(UserError, match="are not those that"):
        render(project.report(evidence=(replace(project.evidence, images={"ddspo": other}),)))
