"""Which images are judged: of a list's prompts, the same of every model, and whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from said import said

from contrapose.cli.main import main
from contrapose.errors import UserError
from contrapose.evaluate.images import check_image, prompt_folders
from contrapose.evaluate.rows import read_rows
from contrapose.evaluate.taking import Taking, taken

PROMPTS = ["a red cat", "two dogs", "a cup left of a dog", "a bird"]


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Two models' images, two seeds of each prompt, and a list with a category for each prompt."""
    monkeypatch.chdir(tmp_path)
    for model in ("base", "ddspo"):
        for number, prompt in enumerate(PROMPTS):
            samples = Path(model, f"{number:05d}", "samples")
            samples.mkdir(parents=True)
            (samples.parent / "metadata.jsonl").write_text(json.dumps({"prompt": prompt}), encoding="utf-8")
            for seed in range(2):
                Image.new("RGB", (16, 16), (60 * number, 100 * seed, 0)).save(samples / f"{seed:04d}.png")
    listed = [
        {"prompt": prompt.upper(), "Category": "few" if number < 2 else "many"} for number, prompt in enumerate(PROMPTS)
    ]
    Path("list.jsonl").write_text("\n".join(map(json.dumps, listed)), encoding="utf-8")
    return {model: Path(model) for model in ("base", "ddspo")}


def test_a_list_completes_the_lines_beside_the_images(images):
    folders, left_out = taken(images, Taking(Path("list.jsonl")))
    prompts = [folder.prompt for folder in prompt_folders(folders["base"])]
    assert [prompt.text for prompt in prompts] == PROMPTS
    assert [prompt.tag for prompt in prompts] == ["few", "few", "many", "many"]
    assert left_out == []
    Path("base/00001/metadata.jsonl").write_text('{"prompt": "two dogs", "Category": "other"}')
    with pytest.raises(UserError, match="base/00001: its line has another `Category` than the list"):
        taken(images, Taking(Path("list.jsonl")))


def test_prompts_without_images_are_refused_unless_told(images, caplog):
    for model in images:
        shutil.rmtree(Path(model, "00001"))
        shutil.rmtree(Path(model, "00003"))
    words = "base: has no images of 2 of the 4 prompts in list.jsonl, such as 'TWO DOGS', 'A BIRD'"
    with pytest.raises(UserError, match=f"{words}; sample them, or judge the others with --allow-missing"):
        taken(images, Taking(Path("list.jsonl")))
    folders, _ = taken(images, Taking(Path("list.jsonl"), allow_missing=True))
    assert words in caplog.text
    assert len(list(prompt_folders(folders["ddspo"]))) == 2


def test_images_of_other_prompts_are_refused(images):
    Path("list.jsonl").write_text(json.dumps({"prompt": "a red cat"}), encoding="utf-8")
    with pytest.raises(
        UserError, match=r"base: 3 of its prompts are not in list\.jsonl, the first 'two dogs' in 00001"
    ):
        taken(images, Taking(Path("list.jsonl"), allow_missing=True))


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("ddspo/00002", "ddspo: 2 images that other models have are missing, the first of seed 0 of prompt 00002"),
        ("base/00001/samples/0001.png", "base: 1 images that other models have are missing, the first of seed 1"),
    ],
)
def test_models_of_other_prompts_or_seeds_are_refused(images, gone, words):
    shutil.rmtree(gone) if Path(gone).is_dir() else Path(gone).unlink()
    with pytest.raises(UserError, match=words):
        taken(images, Taking())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:45])


def test_broken_images_are_counted_and_left_out_of_all_models_on_request(images, caplog):
    cut(Path("ddspo/00000/samples/0001.png"))
    cut(Path("ddspo/00002/samples/0000.png"))
    cut(Path("base/00002/samples/0000.png"))
    words = r"base/00002/samples/0000\.png: not a whole PNG .* --skip-broken; 3 are broken in all"
    with pytest.raises(UserError, match=words):
        taken(images, Taking())
    folders, left_out = taken(images, Taking(skip_broken=True))
    assert [entry.name for entry in left_out] == [
        "base/00002/samples/0000.png", "ddspo/00000/samples/0001.png", "ddspo/00002/samples/0000.png",
    ]  # fmt: skip
    assert "left out 2 images of each model, since 3 are broken" in caplog.text
    for folder in folders.values():
        seeds = {prompt_folder.name: list(prompt_folder.samples) for prompt_folder in prompt_folders(folder)}
        assert seeds == {"00000": [0], "00001": [0, 1], "00002": [1], "00003": [0, 1]}


def test_nothing_but_broken_images(images):
    for path in Path().glob("*/*/samples/*.png"):
        cut(path)
    with pytest.raises(UserError, match="is broken, and so are all others"):
        taken(images, Taking(skip_broken=True))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_every_format_is_looked_at_to_its_end(tmp_path, form):
    path = tmp_path / "0.png"
    Image.effect_noise((64, 64), 50).convert("RGB").save(path, format=form)
    check_image(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="not a whole"):
        check_image(path)


Judging = Callable[..., str]


@pytest.fixture
def judging(images: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> Judging:
    """Evaluates both models; what it printed, or its one line of complaint."""

    def run(*more: str) -> str:
        flags = ["--suite", "scores", "--judges", "colourfulness", "--replicates", "20", "--out", "out", *more]
        code = main(["evaluate", "--images", *(f"{name}={path}" for name, path in images.items()), *flags])
        return said(code, capsys)

    return run


def test_rows_have_the_lists_categories(judging):
    judging("--prompts", "list.jsonl")
    assert {row.tag for row in read_rows(Path("out/rows.parquet"))} == {"few", "many"}
    assert "judged already" in judging("--prompts", "list.jsonl")
    shutil.copy("list.jsonl", "again.jsonl")
    assert "judged already" in judging("--prompts", "again.jsonl")
    with Path("list.jsonl").open("a") as file:
        file.write('\n{"prompt": "another"}')
    assert "such as 'another'" in judging("--prompts", "list.jsonl")
    assert "another content of taking.prompts" in judging("--prompts", "list.jsonl", "--allow-missing")
    assert "taking" in judging()


def test_what_was_left_out_is_noted(judging):
    cut(Path("ddspo/00000/samples/0001.png"))
    assert "--skip-broken" in judging()
    assert not Path("out").exists()
    judging("--skip-broken")
    (line,) = Path("out/skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["name"] == "ddspo/00000/samples/0001.png"
    rows = read_rows(Path("out/rows.parquet"))
    assert len(rows) == 14
    assert "judged already" in judging("--skip-broken")


def test_a_broken_line_of_a_list_is_told_by_its_number(judging):
    with Path("list.jsonl").open("a") as file:
        file.write('\n{"prompt": ')
    assert "list.jsonl: line 5: not readable as JSON" in judging("--prompts", "list.jsonl")
    assert "name one with --prompts" in judging("--allow-missing")
