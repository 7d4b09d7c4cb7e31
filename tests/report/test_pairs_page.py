"""A page of pairs shows what the store holds: its images decoded, its prompts escaped, its scores subtracted."""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from contrapose.backbones.decoder import Decoder
from contrapose.cli.main import main
from contrapose.errors import UserError
from contrapose.judges.judge import Marks
from contrapose.report.changed_words import changed_words
from contrapose.report.pairs_page import gap_lines, render_pairs, write_pairs_page
from contrapose.report.shown_groups import ShownGroup, show_groups
from contrapose.report.thumbnails import thumbnail
from contrapose.store.groups import GroupStore
from contrapose.store.manifest import MANIFEST
from contrapose.store.prompts import Prompt
from contrapose.store.records import GroupRecord
from contrapose.store.shard_files import write_shard

SCRIPT = "<script>alert(1)</script>"
BREAKOUT = '"><img src=x onerror=alert(1)>'


def grey(latents: torch.Tensor) -> list[Image.Image]:
    """Stands in for an autoencoder: the mean of a latent is the grey of its image."""
    levels = (latents.mean(dim=(1, 2, 3)) * 100).round().int().tolist()
    return [Image.new("RGB", (8, 4), (level, level, level)) for level in levels]


class Darkness:
    """Judges by the grey of an image: `dark` is better when lower, `light` when higher."""

    name = "darkness"
    version = "1"
    higher_is_better: Mapping[str, bool] = {"light": True, "dark": False}

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> dict[str, Marks]:
        self.prompts += [prompt.text for prompt in prompts]
        values = np.array([float(np.asarray(image).mean()) for image in images])
        return {"light": Marks(values), "dark": Marks(255 - values)}


def write(folder: Path, groups: Sequence[tuple[GroupRecord, Sequence[float]]], **manifest: object) -> GroupStore:
    """A store, a shard a group, whose latents are constant: each sample's own level."""
    for number, (record, levels) in enumerate(groups):
        latents = torch.tensor(levels).view(1, -1, 1, 1, 1).expand(1, len(levels), 4, 2, 2).contiguous()
        write_shard(folder, number, [record], latents)
    (folder / MANIFEST).write_text(yaml.safe_dump({"num_groups": len(groups), **manifest}))
    return GroupStore(folder)


def one(store: GroupStore, judge: Darkness | None = None) -> ShownGroup:
    [group] = show_groups(store, grey, 1, 0, judge)
    return group


def level(url: str) -> int:
    image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    return int(np.asarray(image).mean())


def test_winner_first_whatever_its_place_is_in_the_store(tmp_path: Path) -> None:
    record = GroupRecord("a", "two dogs", "two", 0, (0.0, 1.0), {"votes": (1.0, 4.5)})
    group = one(write(tmp_path, [(record, (0.1, 0.9))]))
    assert [(sample.name, level(sample.image.url)) for sample in group.samples] == [("winner", 90), ("loser", 10)]
    assert [score.text for sample in group.samples for score in sample.scores] == ["4.5", "1"]
    assert [(gap.name, gap.text, gap.verdict) for gap in group.gaps] == [("votes", "+3.5", "")]


def test_names_of_every_kind_of_group(tmp_path: Path) -> None:
    records = [
        (GroupRecord("share", "p", "", 0, (0.7, 0.3)), (0.1, 0.2)),
        (GroupRecord("tie", "p", "", 0, (0.5, 0.5), {"votes": (1.0, 2.0)}), (0.1, 0.2)),
        (GroupRecord("like", "p", "", 0, (1.0,)), (0.1,)),
        (GroupRecord("dislike", "p", "", 0, (0.0,)), (0.1,)),
        (GroupRecord("rank", "p", "", 0, (0.25, 1.0, 0.5)), (0.1, 0.2, 0.3)),
    ]
    groups = {group.id: group for group in show_groups(write(tmp_path, records), grey, 9, 0)}
    names = {name: [sample.name for sample in group.samples] for name, group in groups.items()}
    assert names == {
        "share": ["winner, share 0.7", "loser, share 0.3"],
        "tie": ["tied", "tied"],
        "like": ["liked"],
        "dislike": ["disliked"],
        "rank": ["label 1", "label 0.5", "label 0.25"],
    }
    assert [level(sample.image.url) for sample in groups["rank"].samples] == [20, 30, 10]
    assert not groups["tie"].gaps, "neither of a tie is the winner"


def test_a_judge_scores_each_image_by_the_prompt(tmp_path: Path) -> None:
    judge = Darkness()
    record = GroupRecord.pair("a", "two dogs", "two", 0)
    group = one(write(tmp_path, [(record, (0.1, 0.9))]), judge)
    assert judge.prompts == ["two dogs", "two dogs"]
    gaps = [(gap.name, gap.value, gap.verdict) for gap in group.gaps]
    assert gaps == [("light", -80.0, "worse"), ("dark", 80.0, "worse")]
    assert gap_lines([group]) == [
        "light: higher for the winner in 0 of 1 pairs, by \N{MINUS SIGN}80 on average",
        "dark: higher for the winner in 1 of 1 pairs, by +80 on average",
    ]


def test_the_lot_is_the_seeds_alone_and_keeps_the_stores_order(tmp_path: Path) -> None:
    records = [(GroupRecord.pair(f"{number:02}", "p", "", number), (0.1, 0.2)) for number in range(20)]
    store = write(tmp_path, records)
    drawn = [[group.id for group in show_groups(store, grey, 6, seed)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] == sorted(drawn[0]) and len(set(drawn[0])) == 6
    assert len(show_groups(store, grey, 99, 0)) == 20


def test_changed_words() -> None:
    parts = changed_words("a keeper in a yellow coat, smiling", "a man in a coat, smiling")
    assert [part for part in parts if part.change] == [("keeper", "gone"), ("man", "new"), ("yellow", "gone")]
    left = "".join(part.text for part in parts if part.change != "gone")
    assert left.split() == ["a", "man", "in", "a", "coat,", "smiling"]
    assert changed_words("赤い猫", "青い猫") == (("赤", "gone"), ("青", "new"), ("い猫", ""))
    assert changed_words("same", "same") == (("same", ""),)


def test_thumbnails_keep_small_images_to_the_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    small = thumbnail(Image.fromarray(pixels), 384)
    assert small.pixelated and small[1:3] == (48, 64)
    stored = Image.open(io.BytesIO(base64.b64decode(small.url.partition(",")[2])))
    assert np.array_equal(np.asarray(stored), pixels)
    large = thumbnail(Image.new("RGB", (1024, 512)), 384)
    assert large[1:] == (384, 192, False)


def test_a_mask_stands_beside_its_images(tmp_path: Path) -> None:
    records = [(GroupRecord.pair(name, "p", "", 0), (0.1, 0.2)) for name in ("a", "b")]
    write(tmp_path, records)
    mask = torch.tensor([[[0, 255], [0, 51]]], dtype=torch.uint8)
    write_shard(tmp_path, 0, [records[0][0]], torch.zeros(1, 2, 4, 2, 2), mask)
    store = GroupStore(tmp_path)
    masked, plain = show_groups(store, grey, 2, 0)
    assert masked.mask is not None and plain.mask is None
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(masked.mask.image.url.partition(",")[2]))))
    assert shown.shape == (4, 8, 3), "as large as the images"
    assert shown[[0, 0, 3, 3], [0, 7, 0, 7], 0].tolist() == [0, 255, 0, 51]
    html = render_pairs(store, [masked, plain], 0)
    assert html.count("where they differ</span>") == 1
    assert "masks: 1 of 2 groups say where they differ" in html


def test_every_text_is_escaped(tmp_path: Path) -> None:
    record = GroupRecord(BREAKOUT, f"a {SCRIPT}", f"b {BREAKOUT}", 0, (1.0, 0.0), {SCRIPT: (1.0, 2.0)})
    draw = {"model": SCRIPT, "degrade": {"name": BREAKOUT}}
    store = write(tmp_path, [(record, (0.1, 0.2))], draw=draw)
    html = render_pairs(store, show_groups(store, grey, 1, 0), 0)
    assert "<script" not in html and "<img src=x" not in html
    assert html.count("&lt;script&gt;") >= 4
    assert all(url.startswith("data:image/") for url in re.findall(r'src="([^"]*)', html))


@pytest.mark.parametrize(
    ("manifest", "sentence"),
    [
        ({"draw": {"model": "m", "degrade": {"name": "words"}}}, "Drawn by m"),
        ({"real": {"model": "m", "spoil": {"name": "inpaint"}}}, r"spoiling \(inpaint\) made of them; encoded by m"),
        ({"import": {"model": "m", "source": "a.csv", "format": "kto"}}, r"Imported from a\.csv \(format kto\)"),
        ({"import": {"model": "m", "winners": "good", "format": "auto"}}, "Imported from good"),
        ({}, "How these were made is not recorded"),
    ],
    ids=["drawn", "photographs", "imported", "folders", "unknown"],
)
def test_kinds_of_pairs_are_named(manifest: dict[str, object], sentence: str, tmp_path: Path) -> None:
    store = write(tmp_path, [(GroupRecord.pair("a", "p", "", 0), (0.1, 0.2))], **manifest)
    html = render_pairs(store, show_groups(store, grey, 1, 0), 0)
    assert re.search(sentence, html)
    assert "1 pairs of 1 prompts" in html


def test_an_unfinished_store_is_shown_as_such(tmp_path: Path) -> None:
    write(tmp_path, [(GroupRecord.pair("a", "p", "", 0), (0.1, 0.2))])
    (tmp_path / MANIFEST).write_text("num_groups: 3\n")
    store = GroupStore(tmp_path, complete=False)
    assert "holds 1 of 3 groups" in render_pairs(store, show_groups(store, grey, 1, 0), 0)


def test_a_latent_that_is_not_finite_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    store = write(tmp_path / "pairs", [(GroupRecord.pair("a", "p", "", 0), (0.1, float("nan")))])
    with pytest.raises(UserError, match="record a: its loser holds values that are not finite"):
        write_pairs_page(store, grey, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_the_command(tiny_pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    line = ["pairs", "show", str(tiny_pairs), "--out", str(page), "--num-pairs", "3", "--device", "cpu"]
    assert main(line) == 0
    html = page.read_text()
    store = GroupStore(tiny_pairs)
    assert html == render_pairs(store, show_groups(store, Decoder(store.model_or(None)), 3, 0), 0)
    assert html.count("<article") == 3
    assert f"3 of {len(store)} pairs, by lot" in html
    assert main(line) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{page} (was there already)"


def test_another_model_is_refused(
    tiny_pairs: Path, tiny_v_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = str(tmp_path / "page.html")
    line = ["pairs", "show", str(tiny_pairs), "--out", page, "--device", "cpu", "--model", str(tiny_v_model)]
    assert main(line) == 2
    assert "these pairs were made with another model" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_store_without_a_model(
    write_store: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_store(tmp_path / "pairs", [GroupRecord.pair("a", "p", "", 0)], torch.zeros(1, 2, 4, 2, 2))
    assert main(["pairs", "show", str(folder), "--out", str(tmp_path / "page.html")]) == 2
    assert "does not say which model made these pairs; name it with --model" in capsys.readouterr().err
    shutil.rmtree(folder)
    assert list(tmp_path.iterdir()) == []
