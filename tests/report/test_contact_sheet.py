"""A folder of images has a contact sheet: a bounded number of its images by lot, each under its prompt."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from contrapose import runfile
from contrapose.cli.main import main
from contrapose.evaluate.images import digest_of_images, prompt_folders
from contrapose.guiding.images import SETTINGS, Job, jobs
from contrapose.guiding.settings import CONVERTER, Sampling
from contrapose.report.contact_sheet import by_lot, write_contact_sheet
from contrapose.store.prompts import Prompt

SCRIPT = "<script>alert(1)</script>"


def planned(num_prompts: int, num_images: int, out: Path) -> list[Job]:
    return jobs([Prompt(f"prompt {number}") for number in range(num_prompts)], num_images, out)


@pytest.mark.parametrize(
    ("num_prompts", "num_images", "prompts", "images"),
    [(3, 2, 3, 6), (100, 4, 48, 48), (5, 12, 5, 45), (1, 100, 1, 48), (48, 1, 48, 48), (30, 3, 30, 30)],
)
def test_as_many_prompts_as_possible(num_prompts: int, num_images: int, prompts: int, images: int) -> None:
    out = Path("out")
    rows = by_lot(out, planned(num_prompts, num_images, out), 48, 0)
    assert len(rows) == len({row.prompt for row in rows}) == prompts
    paths = [image.path for row in rows for image in row.images]
    assert len(paths) == images and paths == sorted(set(paths))


def test_the_lot_is_the_seeds_alone() -> None:
    out = Path("out")
    drawn = [by_lot(out, planned(100, 4, out), 48, seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_page_shows_the_folders_own_images_and_escapes_prompts(tmp_path: Path) -> None:
    prompts = [Prompt(f"{number} {SCRIPT}") for number in range(3)]
    todo = jobs(prompts, 2, tmp_path)
    for job in todo:
        job.path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 8)).save(job.path)
    runfile.claim(tmp_path / SETTINGS, Sampling(SCRIPT, ("p.txt",)), CONVERTER)
    html = write_contact_sheet(tmp_path, todo).read_text()
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 7
    sources = re.findall(r'<img src="([^"]*)" width="16" height="8"', html)
    assert [tmp_path / source for source in sources] == [job.path for job in todo]
    assert "all 6 images" in html


def test_sampling_ends_with_it_and_readers_leave_it_alone(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.txt").write_text("a red circle\ntwo stars\n")
    out = tmp_path / "out"
    line = ["sample", "--model", str(tiny_model), "--prompts", str(tmp_path / "p.txt"), "--out", str(out)]
    line += ["--num-images", "1", "--steps", "1", "--device", "cpu"]
    assert main(line) == 0
    sheet = out / "contact.html"
    assert capsys.readouterr().out == f"{sheet}\n"
    assert "two stars" in sheet.read_text()
    before = (digest_of_images(out), sheet.read_bytes(), sheet.stat().st_mtime_ns)
    assert len(list(prompt_folders(out))) == 2
    assert main(line) == 0
    assert (digest_of_images(out), sheet.read_bytes(), sheet.stat().st_mtime_ns) == before
    sheet.write_text("cut sho")
    assert main(line) == 0
    assert sheet.read_bytes() == before[1]
