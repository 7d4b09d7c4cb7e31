"""The film strip of a run and what its judges said, on the page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from watching import draw_step

from contrapose.errors import UserError
from contrapose.report.film import shown_film
from contrapose.report.plots import judged_curves
from contrapose.report.runs import ShownRun
from contrapose.runs.best import read_best
from contrapose.runs.watched import About, Scored, film, read_about, watched_folder, write_about


def test_strips_go_by_prompt_and_seed(tmp_path: Path) -> None:
    draw_step(tmp_path, 0, ["a cat", "a dog"], seeds=2)
    draw_step(tmp_path, 9, ["a dog"])
    told = [(strip.prompt, strip.seed, list(strip.paths)) for strip in film(tmp_path)]
    assert told == [("a cat", 0, [0]), ("a cat", 1, [0]), ("a dog", 0, [0, 9]), ("a dog", 1, [0])]


def test_a_strip_shows_both_ends_and_leaves_room_for_what_is_missing(tmp_path: Path) -> None:
    assert shown_film(tmp_path) is None
    for step in range(0, 21, 2):
        draw_step(tmp_path, step, ["a cat"] if step == 4 else ["a cat", "a dog"])
    shown = shown_film(tmp_path)
    assert shown is not None
    assert (len(shown.steps), shown.steps[0], shown.steps[-1]) == (8, 0, 20)
    assert [image is None for image in shown.rows[1].images] == [step == 4 for step in shown.steps]
    assert shown.about == "8 of 11 steps"


def test_of_many_prompts_the_first_are_shown(tmp_path: Path) -> None:
    draw_step(tmp_path, 0, [f"cat {number}" for number in range(9)])
    shown = shown_film(tmp_path)
    assert shown is not None and shown.about == "6 of 9 prompts"
    assert [row.prompt for row in shown.rows] == [f"cat {number}" for number in range(6)]


def test_how_a_step_was_watched_is_read_as_written(tmp_path: Path) -> None:
    about = About({"steps": 3}, ["a", "b"], ["all", "all"], {"beauty": Scored(True, "1", [0.1, 0.7])})
    write_about(tmp_path, about)
    assert read_about(tmp_path) == about
    write_about(tmp_path, replace(about, prompts=["a"]))
    with pytest.raises(UserError, match=r"watched.json: has more or fewer scores than prompts"):
        read_about(tmp_path)
    (tmp_path / "watched.json").write_text('{"drawn": 3}')
    with pytest.raises(UserError, match=r"watched.json: .*setting prompts is missing .*remove the step's folder"):
        read_about(tmp_path)


def test_scores_are_drawn_with_their_interval(tmp_path: Path) -> None:
    lines = [{"step": step, "judged/beauty": 0.1 * step} for step in (0, 5)]
    lines[1] |= {"judged/beauty/low": 0.4, "judged/beauty/high": 0.6}
    run = ShownRun(tmp_path, "", {"method": {"name": "ddspo"}}, 5, tuple(lines), None)
    [plot] = judged_curves(run, "run-1")
    assert plot.title == "Judged: beauty"
    assert "At the end: beauty 0.5" in plot.caption


BROKEN = {
    "an image": ("samples/0000.png", b"\x89PNG", r"samples/0000.png: "),
    "a line": ("metadata.jsonl", b'{"prompt": ', r"metadata.jsonl: line 1"),
    "no prompt": ("metadata.jsonl", b'{"tag": "x"}\n', r"metadata.jsonl: tells no prompt; remove the step's folder"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named(tmp_path: Path, name: str) -> None:
    file, content, told = BROKEN[name]
    draw_step(tmp_path, 0, ["a cat"])
    (watched_folder(tmp_path, 0) / "00000" / file).write_bytes(content)
    with pytest.raises(UserError, match=told) as caught:
        shown_film(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_broken_best_step_is_named(tmp_path: Path) -> None:
    assert read_best(tmp_path) is None
    for content in ("", "[]", '{"step": 3}'):
        (tmp_path / "best.json").write_text(content)
        with pytest.raises(UserError, match=r"best.json: .*delete it"):
            read_best(tmp_path)
