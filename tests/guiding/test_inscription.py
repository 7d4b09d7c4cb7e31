"""A PNG says its prompt, seed and settings, in a form that others read, and nothing of the machine or of the work."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import aligned
import numpy as np
import pytest
from changing import changed
from PIL import Image
from sampling import few_images

from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import load_backbone
from contrapose.core.guidance import PGD
from contrapose.evaluate.images import digest_of_images
from contrapose.guiding.images import Sampling, sample_images
from contrapose.guiding.inscription import Inscription
from contrapose.guiding.play import Player, Wish
from contrapose.guiding.settings import Play

PROMPTS = ["a red circle", "zwei Füße, rot: 猫"]
# as AUTOMATIC1111 takes the last line apart
ENTRY = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


@pytest.fixture(scope="module")
def backbone(tiny_model: Path) -> Backbone:
    return load_backbone(tiny_model)


@pytest.fixture
def settings(tiny_model: Path, tmp_path: Path) -> Sampling:
    return few_images(tiny_model, tmp_path, PROMPTS)


def sampled(settings: Sampling, backbone: Backbone, out: Path) -> list[Path]:
    for _ in sample_images(settings, backbone, out):
        pass
    return sorted(out.glob("*/samples/*.png"))


def texts(path: Path) -> dict[str, str]:
    with Image.open(path) as image:
        image.load()
        return {str(name): str(text) for name, text in image.text.items()}  # type: ignore[attr-defined]


def entries(text: str) -> dict[str, str]:
    return {name: json.loads(value) if value.startswith('"') else value for name, value in ENTRY.findall(text)}


def test_every_image_says_what_it_is(settings: Sampling, backbone: Backbone, tmp_path: Path) -> None:
    paths = sampled(changed(settings, negative_prompt="blurry, grey"), backbone, tmp_path / "out")
    for path, (prompt, seed) in zip(paths, [(p, s) for p in PROMPTS for s in (0, 1)], strict=True):
        said = texts(path)
        first, second, last = said["parameters"].splitlines()
        assert (first, second) == (prompt, "Negative prompt: blurry, grey")
        shown = entries(last)
        expected = {"Steps": "2", "CFG scale": "7.5", "Seed": str(seed), "Size": "16x16", "Model": "sd"}
        assert expected.items() <= shown.items()
        own = json.loads(said["contrapose"])
        assert (own["prompt"], own["seed"], own["size"], own["version"]) == (prompt, seed, "16x16", 1)
        assert own["settings"]["steps"] == 2
        assert own["settings"]["guiding"] == {"negative_prompt": "blurry, grey"}
        assert set(own["inputs"]) == {"model"}
        assert own["scheduler"].removesuffix("Scheduler") == shown["Sampler"]


def test_no_place_on_the_machine_is_told(settings: Sampling, backbone: Backbone, tmp_path: Path) -> None:
    run = aligned.write_run(backbone, "lora", 0, tmp_path / "secret" / "run")
    guided = changed(settings, positive=run, guidance=PGD(2.0), size="16x16")
    for path in sampled(guided, backbone, tmp_path / "out"):
        said = texts(path)
        assert not [text for text in said.values() if re.search(r"tmp|secret|prompts\.txt", text)]
        guiding = json.loads(said["contrapose"])["settings"]["guiding"]
        assert (guiding["positive"], guiding["guidance"]["scale"]) == ("run", 2.0)
        shown = entries(said["parameters"].splitlines()[-1])
        assert (shown["Guided towards"], shown["Guidance"], shown["Guidance strength"]) == ("run", "pgd", "2.0")


@pytest.mark.parametrize("change", [{"batch_size": 1}, {"num_images": 3}], ids=str)
def test_how_the_work_was_cut_is_not_said(
    settings: Sampling, backbone: Backbone, tmp_path: Path, change: dict[str, Any]
) -> None:
    first = {path.relative_to(tmp_path / "a"): texts(path) for path in sampled(settings, backbone, tmp_path / "a")}
    (tmp_path / "more.txt").write_text("\n".join([*PROMPTS, "a third"]))
    other = changed(settings, prompts=(str(tmp_path / "more.txt"),), **change)
    second = {path.relative_to(tmp_path / "b"): texts(path) for path in sampled(other, backbone, tmp_path / "b")}
    assert first.items() <= second.items()


def test_a_hub_id_is_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    names = {"owner/model": "owner/model", "models/mine": "mine", "./models/mine": "mine", "~/x": "x", "/a/b/c": "c"}
    for model, expected in names.items():
        settings = {"model": model, "steps": 1, "guidance_scale": 1.0}
        chunks = Inscription(settings, "DDIMScheduler").of("p", 0, (8, 8))
        Image.new("RGB", (8, 8)).save("image.png", pnginfo=chunks)
        assert json.loads(texts(Path("image.png"))["contrapose"])["settings"]["model"] == expected


def test_a_kept_step_of_a_run_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder has that name, as none has a hub id's."""
    monkeypatch.chdir(tmp_path)
    settings = {"model": "owner/model", "adapter": "secret/run@100", "steps": 1, "guidance_scale": 1.0}
    settings["guiding"] = {"positive": "secret/run@best", "negative": None, "guidance": {"name": "pgd", "scale": 1.0}}
    Image.new("RGB", (8, 8)).save("image.png", pnginfo=Inscription(settings, "DDIMScheduler").of("p", 0, (8, 8)))
    said = json.loads(texts(Path("image.png"))["contrapose"])["settings"]
    assert (said["adapter"], said["guiding"]["positive"]) == ("run@100", "run@best")


def test_a_name_with_signs_of_the_line_is_quoted(tmp_path: Path) -> None:
    settings = {"model": "m", "adapter": 'a, "b": c', "steps": 1, "guidance_scale": 1.0}
    chunks = Inscription(settings, "DDIMScheduler").of("p", 0, (8, 8))
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png", pnginfo=chunks)
    assert entries(texts(tmp_path / "image.png")["parameters"].splitlines()[-1])["Adapter"] == 'a, "b": c'


def test_images_without_texts_are_the_same_to_a_judge(settings: Sampling, backbone: Backbone, tmp_path: Path) -> None:
    """As those that an earlier version sampled."""
    paths = sampled(settings, backbone, tmp_path / "out")
    before = digest_of_images(tmp_path / "out")
    for path in paths:
        with Image.open(path) as image:
            image.load()
            plain = Image.fromarray(np.asarray(image))
        plain.save(path, format="PNG")
        assert texts(path) == {}
    assert digest_of_images(tmp_path / "out") == before
    pixels = np.array(plain)
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(paths[-1])
    assert digest_of_images(tmp_path / "out") != before


def test_what_is_saved_from_the_page_says_it_too(tiny_model: Path, backbone: Backbone, tmp_path: Path) -> None:
    run = aligned.write_run(backbone, "lora", 0, tmp_path / "secret" / "run")
    player = Player(Play(str(tiny_model), (run,), steps=1), backbone)
    folder = player.save(player.draw(Wish("a red circle", tuple(player.runs), 2.0, 7)), tmp_path / "out")
    own = {name: json.loads(texts(folder / f"{name}-7.png")["contrapose"]) for name in ("base", "guided")}
    assert all((said["prompt"], said["seed"]) == ("a red circle", 7) for said in own.values())
    assert own["guided"]["settings"]["positive"] == ["run"]
    assert not {"positive", "guidance"} & set(own["base"]["settings"])
    assert "secret" not in json.dumps(own)
