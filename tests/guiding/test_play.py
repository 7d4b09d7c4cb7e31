"""Playing shows what `contrapose sample` makes, draws each base image once, and overwrites nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from changing import changed
from PIL import Image
from training import with_lora

from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import load_backbone
from contrapose.core.guidance import PGD
from contrapose.errors import UserError
from contrapose.guiding.images import Sampling, sample_images
from contrapose.guiding.play import Drawn, Play, Player, Wish
from contrapose.worlds.examples import example_prompts
from contrapose.worlds.shapes.shipped import shipped_model


@pytest.fixture(scope="module")
def runs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        backbone = with_lora(load_backbone(tiny_model), 4, 4)
        torch.manual_seed(seed)
        for name, value in backbone.denoiser.network.named_parameters():
            if "lora" in name:
                torch.nn.init.normal_(value, std=0.1)
        backbone.save(folder / str(seed) / "run")
    return folder / "0/run", folder / "1/run"


@pytest.fixture(scope="module")
def backbone(tiny_model: Path) -> Backbone:
    return load_backbone(tiny_model)


@pytest.fixture
def player(tiny_model: Path, backbone: Backbone, runs: tuple[Path, ...]) -> Player:
    return Player(Play(str(tiny_model), runs, guidance=PGD(interval=(0.2, 1.0)), steps=2), backbone)


@pytest.fixture
def calls(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Grows by one with every image that is made."""
    made: list[int] = []
    generate = backbone.sampler.generate
    monkeypatch.setattr(backbone.sampler, "generate", lambda *args: made.append(1) or generate(*args))
    return made


RED = "a red circle"


def _same(one: Image.Image, other: Image.Image) -> bool:
    return np.array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize("negative_prompt", ["", "a blue star"])
def test_shows_what_sample_makes(player: Player, backbone: Backbone, tmp_path: Path, negative_prompt: str) -> None:
    """Of the base and of two runs side by side, at settings other than the page began with."""
    wish = Wish(RED, ("1/run", "0/run"), 2.0, 0, 2, steps=3, guidance_scale=2.0, negative_prompt=negative_prompt)
    drawn = player.draw(wish)
    plain = Sampling(player.settings.model, (RED,), num_images=2, steps=3, guidance_scale=2.0, batch_size=1)
    plain = changed(plain, negative_prompt=negative_prompt or None)
    columns = {"base": drawn.base, **drawn.guided}
    assert list(columns) == ["base", "1/run", "0/run"]
    for number, (name, images) in enumerate(columns.items()):
        settings = plain
        if name != "base":
            settings = changed(plain, positive=player.runs[name], guidance=PGD(2.0, interval=(0.2, 1.0)))
        list(sample_images(settings, backbone, tmp_path / str(number)))
        for seed, image in enumerate(images):
            assert _same(image, Image.open(tmp_path / str(number) / f"00000/samples/{seed:04d}.png"))
    first = [images[0] for images in columns.values()]
    assert not _same(first[0], first[1]) and not _same(first[1], first[2])


def test_each_base_image_is_drawn_once(player: Player, calls: list[int]) -> None:
    first = player.draw(Wish(RED, ("0/run",)))
    assert len(calls) == 2
    assert player.draw(Wish(RED, ("1/run",), 3.0)).base == first.base
    assert len(calls) == 3
    off = player.draw(Wish(RED, ("1/run",), 0.0))
    assert off.guided["1/run"] == off.base == first.base
    assert len(calls) == 3
    player.draw(Wish(RED, ("0/run",), seed=1))
    assert len(calls) == 5
    for other in (
        Wish(RED, steps=3),
        Wish(RED, size="8x8"),
        Wish(RED, guidance_scale=3.0),
        Wish(RED, negative_prompt="x"),
    ):
        before = len(calls)
        player.draw(replace(other, runs=("0/run",)))
        assert len(calls) == before + 2, "another base image"


def test_progress_is_told_before_each_image(player: Player) -> None:
    told: list[tuple[int, int, str]] = []
    player.draw(Wish("a green star", ("0/run", "1/run"), num_images=2), lambda *now: told.append(now))
    assert told == [
        (0, 6, "0/run, seed 0"), (1, 6, "0/run, seed 1"), (2, 6, "1/run, seed 0"), (3, 6, "1/run, seed 1"),
        (4, 6, "base, seed 0"), (5, 6, "base, seed 1"),
    ]  # fmt: skip
    told.clear()
    player.draw(Wish("a green star", ("0/run",), num_images=2), lambda *now: told.append(now))
    assert [total for _, total, _ in told] == [2, 2], "the base's are there"


def _drawn(player: Player) -> Drawn:
    return player.draw(Wish(RED, ("0/run", "1/run"), 2.0, 7, negative_prompt="a star"))


def test_saving_never_overwrites(player: Player, tmp_path: Path) -> None:
    drawn = _drawn(player)
    (tmp_path / "play/00004").mkdir(parents=True)
    (tmp_path / "play/notes.txt").write_text("mine")
    folders = [player.save(drawn, tmp_path / "play") for _ in range(2)]
    assert [folder.name for folder in folders] == ["00005", "00006"]
    assert {path.name for path in folders[0].iterdir()} == {
        "base-7.png", "guided-7.png", "guided-2-7.png", "settings.yaml",
    }  # fmt: skip
    settings = yaml.safe_load((folders[0] / "settings.yaml").read_text())
    told = {"prompt": RED, "seed": 7, "num_images": 1, "negative_prompt": "a star", "steps": 2}
    assert told.items() <= settings.items()
    assert settings["guidance"] == {
        "name": "pgd", "scale": 2.0, "schedule": "constant", "interval": [0.2, 1.0], "rescale": 0.0,
    }  # fmt: skip
    assert settings["positive"] == [str(player.runs["0/run"]), str(player.runs["1/run"])]
    assert _same(Image.open(folders[0] / "guided-2-7.png"), drawn.guided["1/run"][0])


def test_no_more_than_so_many_are_saved(player: Player, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = _drawn(player)
    monkeypatch.setattr("contrapose.guiding.play.MOST_SAVED", 2)
    for _ in range(2):
        player.save(drawn, tmp_path / "play")
    with pytest.raises(UserError, match="play: holds 2 saved images; choose another --out"):
        player.save(drawn, tmp_path / "play")
    assert sorted(path.name for path in (tmp_path / "play").iterdir()) == ["00001", "00002"]


@pytest.mark.parametrize(
    ("host", "warned"),
    [("127.0.0.1", False), ("127.8.0.3", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("h", True)],
)
def test_an_open_address_is_warned_of(
    tiny_model: Path, runs: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    host: str, warned: bool,
) -> None:  # fmt: skip
    from contrapose.cli import play

    monkeypatch.setattr("contrapose.guiding.play_page.gradio_module", lambda: None)
    monkeypatch.setattr("contrapose.backbones.families.table.load_backbone", lambda *_, **__: None)
    monkeypatch.setattr("contrapose.guiding.play.Player", lambda *_: None)
    monkeypatch.setattr(
        "contrapose.guiding.play_page.build_play_page", lambda *_: SimpleNamespace(launch=lambda **_: None)
    )
    play.main(["--model", str(tiny_model), "--positive", str(runs[0]), "--host", host], "contrapose play")
    assert ("there is no login" in capsys.readouterr().err) is warned


@pytest.mark.parametrize(
    ("wish", "naming"),
    [
        (lambda: Wish("  ", ("0/run",)), "the prompt is empty"),
        (lambda: Wish(RED, ("2/run",)), "no such run"),
        (lambda: Wish(RED), "no run is chosen"),
        (lambda: Wish(RED, ("0/run", "1/run", "0/run")), "3 runs: 2 are drawn side by side at most"),
        (lambda: Wish(RED, ("0/run",), float("nan")), "scale nan"),
        (lambda: Wish(RED, ("0/run",), num_images=9), "num_images 9"),
        (lambda: Wish(RED, ("0/run",), size="9x9"), "size 9x9"),
        (lambda: Wish(RED, ("0/run",), guidance_scale=1.0, negative_prompt="a star"), "negative_prompt: nothing reads"),
    ],
)
def test_what_cannot_be_drawn(player: Player, calls: list[int], wish: Callable[[], Wish], naming: str) -> None:
    with pytest.raises(UserError, match=naming):
        player.draw(wish())
    assert calls == []


def test_examples_are_of_the_words_that_a_model_knows(tiny_model: Path) -> None:
    of_shapes = example_prompts(str(shipped_model()))
    assert len(of_shapes) == 6 and any("ring" in text or "circle" in text for text in of_shapes)
    assert not set(example_prompts(str(tiny_model))) & set(of_shapes)


def test_the_page(player: Player, tmp_path: Path) -> None:
    """Its two endpoints by name, what they draw and save, and what they refuse."""
    gradio = pytest.importorskip("gradio")
    from contrapose.guiding.play_page import build_play_page

    page = build_play_page(player, tmp_path / "play", 4.0, ["a red circle", "a star"])
    endpoints = page.get_api_info()["named_endpoints"]
    assert set(endpoints) == {"/draw", "/save"}
    assert [entry["parameter_name"] for entry in endpoints["/draw"]["parameters"]] == [
        "prompt", "negative_prompt", "towards", "scale", "seed", "num_images", "steps", "guidance_scale", "size",
    ]  # fmt: skip
    words = json.dumps(page.get_config_file(), default=str)
    assert player.settings.model.rpartition("/")[2] in words and "a star" in words
    functions = {function.api_name: function.fn for function in page.fns.values()}
    draw = functions["draw"]
    *columns, shown, history, past, message = draw(RED, "", ["0/run"], 2.0, 3, 2, 2, 1.0, "", [])
    assert [column.get("visible") for column in columns] == [None, True, False]
    assert [caption for _, caption in columns[0]["value"]] == ["seed 3", "seed 4"]
    assert history == [shown] and len(past) == 1 and message == ""
    assert "00001" in functions["save"](shown)
    for asked in (("", "", ["0/run"]), (RED, "", [])):
        with pytest.raises(gradio.Error):
            draw(*asked, 2.0, 3, 2, 2, 1.0, "", [])
    with pytest.raises(gradio.Error, match="nothing is shown yet"):
        functions["save"](None)


def test_without_gradio_one_line(
    tiny_model: Path, runs: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    from contrapose.cli.main import main

    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["play", "--model", str(tiny_model), "--positive", str(runs[0]), str(runs[1])]) == 2
    assert "play needs gradio; run 'pip install contrapose[play]'" in capsys.readouterr().err
