"""Playing shows what `contrapose sample` makes, draws each base image once, and overwrites nothing."""

from __future__ import annotations

from collections.abc import Iterator
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
from contrapose.guiding.play import Play, Player


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


def test_shows_what_sample_makes(player: Player, backbone: Backbone, tmp_path: Path) -> None:
    drawn = player.draw("a red circle", 0, "1/run", 2.0)
    (tmp_path / "p.txt").write_text("a red circle\n")
    plain = Sampling(player.settings.model, tmp_path / "p.txt", num_images=1, steps=2)
    guided = changed(plain, positive=player.runs["1/run"], guidance=PGD(2.0, interval=(0.2, 1.0)))
    for name, settings, image in (("base", plain, drawn.base), ("guided", guided, drawn.guided)):
        list(sample_images(settings, backbone, tmp_path / name))
        there = Image.open(tmp_path / name / "00000/samples/0000.png")
        assert np.array_equal(np.asarray(image), np.asarray(there))
    assert not np.array_equal(np.asarray(drawn.base), np.asarray(drawn.guided))


def test_each_base_image_is_drawn_once(player: Player, calls: list[int]) -> None:
    first = player.draw("a red circle", 0, "0/run", 1.0)
    assert len(calls) == 2
    assert player.draw("a red circle", 0, "1/run", 3.0).base is first.base
    assert len(calls) == 3
    off = player.draw("a red circle", 0, "1/run", 0.0)
    assert off.guided is off.base is first.base
    assert len(calls) == 3
    player.draw("a red circle", 1, "0/run", 1.0)
    assert len(calls) == 5


def test_saving_never_overwrites(player: Player, tmp_path: Path) -> None:
    drawn = player.draw("a red circle", 7, "0/run", 2.0)
    (tmp_path / "play/00004").mkdir(parents=True)
    (tmp_path / "play/notes.txt").write_text("mine")
    folders = [player.save(drawn, tmp_path / "play") for _ in range(2)]
    assert [folder.name for folder in folders] == ["00005", "00006"]
    assert {path.name for path in folders[0].iterdir()} == {"base.png", "guided.png", "settings.yaml"}
    settings = yaml.safe_load((folders[0] / "settings.yaml").read_text())
    assert settings["prompt"] == "a red circle"
    assert settings["seed"] == 7
    assert settings["guidance"] == {
        "name": "pgd", "scale": 2.0, "schedule": "constant", "interval": [0.2, 1.0], "rescale": 0.0,
    }  # fmt: skip
    assert settings["positive"] == [str(player.runs["0/run"])]
    assert np.array_equal(np.asarray(Image.open(folders[0] / "guided.png")), np.asarray(drawn.guided))


def test_no_more_than_so_many_are_saved(player: Player, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = player.draw("a red circle", 7, "0/run", 2.0)
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
    monkeypatch.setattr("contrapose.guiding.play_page.build", lambda *_: SimpleNamespace(launch=lambda **_: None))
    play.main(["--model", str(tiny_model), "--positive", str(runs[0]), "--host", host], "contrapose play")
    assert ("there is no login" in capsys.readouterr().err) is warned


@pytest.mark.parametrize(
    ("prompt", "run", "scale", "naming"),
    [
        ("  ", "0/run", 1.0, "the prompt is empty"),
        ("a star", "2/run", 1.0, "no such run"),
        ("a star", "0/run", float("nan"), "scale nan"),
    ],
)
def test_what_cannot_be_drawn(
    player: Player, calls: list[int], prompt: str, run: str, scale: float, naming: str
) -> None:
    with pytest.raises(UserError, match=naming):
        player.draw(prompt, 0, run, scale)
    assert calls == []


def test_without_gradio_one_line(
    tiny_model: Path, runs: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    from contrapose.cli.main import main

    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["play", "--model", str(tiny_model), "--positive", str(runs[0]), str(runs[1])]) == 2
    assert "play needs gradio; run 'pip install gradio'" in capsys.readouterr().err
