"""Pairs from elsewhere and back again, through the command line."""

from __future__ import annotations

import io
import json
import shlex
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from contrapose.backbones.networks import read_network
from contrapose.cli.main import main
from contrapose.store.groups import GroupStore


def _picture(seed: int, size: tuple[int, int] = (20, 20)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize(size).save(file, "PNG")
    return file.getvalue()


def _run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_pick_a_pic_in_and_out(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A data set folder becomes pairs, which are sound, and those become a file, which becomes the same pairs."""
    labels = [1.0, 0.0, 0.5, 0.8, 1.0]
    sizes = [(20, 20), (24, 16), (20, 20), (40, 40), (20, 20)]
    rows: list[dict[str, Any]] = [
        {"jpg_0": _picture(2 * n, size), "jpg_1": _picture(2 * n + 1), "label_0": label, "caption": f"a red star {n}"}
        for n, (label, size) in enumerate(zip(labels, sizes, strict=True))
    ]
    rows[4]["jpg_1"] = rows[4]["jpg_1"][:50]
    (tmp_path / "set" / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set" / "data" / "train-00000-of-00001.parquet")

    common = ["--model", tiny_model, "--device", "cpu", "--max-scale-up", 2]
    assert _run("pairs", "import", *common, "--source", tmp_path / "set", "--out", tmp_path / "pairs") == 0
    assert "left out 2 of 5 pairs" in capsys.readouterr().out
    skipped = [json.loads(line) for line in (tmp_path / "pairs" / "skipped.jsonl").read_text().splitlines()]
    assert [row["name"].rpartition(" ")[2] for row in skipped] == ["3", "5"]
    assert str(tmp_path) not in str(skipped)
    manifest = yaml.safe_load((tmp_path / "pairs" / "pairs.yaml").read_text())
    assert manifest["import"]["format"] == "pick-a-pic"
    assert _run("pairs", "check", tmp_path / "pairs") == 0
    assert "3 pairs of 3 prompts" in capsys.readouterr().out

    out = tmp_path / "pairs.parquet"
    assert _run("pairs", "export", tmp_path / "pairs", "--out", out, "--device", "cpu") == 0
    assert _run("pairs", "export", tmp_path / "pairs", "--out", out, "--device", "cpu") == 0, "it is there already"
    other = ("pairs", "export", tmp_path / "pairs", "--out", out, "--device", "cpu", "--image-format", "jpeg")
    assert _run(*other) == 2, "it is there already, of other settings"
    assert _run("pairs", "export", tmp_path / "pairs", "--out", out, "--device", "cpu", "--overwrite") == 0
    assert _run("pairs", "import", *common, "--source", out, "--out", tmp_path / "again") == 0
    before, after = (
        {r.prompt: r.preference for r in GroupStore(tmp_path / name).records} for name in ("pairs", "again")
    )
    assert after == pytest.approx(before)
    assert set(before.values()) == {1.0, 0.8}


def test_webdataset_again_is_what_the_report_says(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command that a report prints makes the same pairs, and finds that they are made."""
    from contrapose.report.provenance import commands

    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for number in range(3):
            fields = {"jpg_0.jpg": _picture(2 * number), "jpg_1.jpg": _picture(2 * number + 1), "label_0.txt": b"0"}
            for name, data in (fields | {"original_prompt.txt": f"a blue ring {number}".encode()}).items():
                member = tarfile.TarInfo(f"{number}.{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    source = ["--source", tmp_path / "0.tar", "--out", tmp_path / "pairs", "--device", "cpu"]
    assert _run("pairs", "import", "--model", tiny_model, *source) == 0
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "pairs").glob("shard-*")}
    (line,) = commands(tmp_path / "pairs", [], [])
    assert "--format webdataset" in line
    assert main(shlex.split(line)[1:]) == 0
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "pairs").glob("shard-*")}
    assert "left out" not in capsys.readouterr().out


def test_a_label_that_is_a_text_ends_it(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"jpg_0": _picture(0), "jpg_1": _picture(1), "label_0": "0", "caption": "a star"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    where = ["--source", tmp_path / "a.parquet", "--out", tmp_path / "pairs"]
    assert _run("pairs", "import", "--model", tiny_model, *where) == 2
    told = capsys.readouterr().err
    assert "a.parquet: row 1: `label_0` is '0'; write a number" in told
    assert not (tmp_path / "pairs").exists()


LISTINGS = {
    "hpdv3": ("hpd.json", lambda rows: json.dumps([{"path1": w, "path2": bad, "prompt": p} for p, w, bad in rows])),
    "real-fake": (
        "real.csv",
        lambda rows: "\n".join(
            [
                "uid,prompt,real_image_path,fake_image_path",
                *(f"{i},{p},{w},{bad}" for i, (p, w, bad) in enumerate(rows)),
            ]
        ),
    ),
    "kto": (
        "kto.csv",
        lambda rows: "\n".join(
            [
                "file_path,caption,label",
                *(f"{image},{p},{good}" for p, w, bad in rows for image, good in ((w, 1), (bad, 0))),
            ]
        ),
    ),
    "metadata": (
        "metadata.jsonl",
        lambda rows: "\n".join(
            json.dumps({"image_0": bad, "image_1": w, "prompt": p, "prefer_0": 0, "prefer_1": 1}) for p, w, bad in rows
        ),
    ),
}


@pytest.mark.parametrize("format", LISTINGS)
def test_every_other_listing_becomes_pairs_that_are_sound(
    format: str, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(f"a green star {number}", f"good-{number}.png", f"bad-{number}.png") for number in range(3)]
    for number, (_, winner, loser) in enumerate(rows):
        (tmp_path / winner).write_bytes(_picture(2 * number))
        (tmp_path / loser).write_bytes(_picture(2 * number + 1))
    name, written = LISTINGS[format]
    (tmp_path / name).write_text(written(rows))
    source = ["--model", tiny_model, "--device", "cpu", "--source", tmp_path / name]
    assert _run("pairs", "import", *source, "--out", tmp_path / "pairs") == 0
    assert _run("pairs", "check", tmp_path / "pairs") == 0
    assert "3 pairs of 3 prompts" in capsys.readouterr().out
    store = GroupStore(tmp_path / "pairs")
    assert store.manifest["import"]["format"] == format
    assert sorted(record.prompt for record in store.records) == [prompt for prompt, _, _ in rows]


def test_neither_denoiser_nor_text_encoder_is_read(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images pass through the autoencoder alone."""
    read: list[str] = []

    def noted(kind: Any, *rest: Any, **options: Any) -> Any:
        read.append(kind.__name__)
        return read_network(kind, *rest, **options)

    monkeypatch.setattr("contrapose.backbones.loading.read_network", noted)
    (tmp_path / "0.png").write_bytes(_picture(0))
    (tmp_path / "1.png").write_bytes(_picture(1))
    (tmp_path / "pairs.csv").write_text("prompt,chosen,rejected\na star,0.png,1.png\n")
    source = ["--model", tiny_model, "--source", tmp_path / "pairs.csv"]
    bring_in = ["pairs", "import", *source, "--out", tmp_path / "pairs"]
    hand_out = ["pairs", "export", tmp_path / "pairs", "--out", tmp_path / "p.parquet"]
    for command in (bring_in, hand_out):
        read.clear()
        assert _run(*command, "--device", "cpu") == 0
        assert read == ["AutoencoderKL"]
    for command in (bring_in, hand_out):
        assert _run(*command, "--quantize", "nf4") == 2
        assert "--quantize" in capsys.readouterr().err, "there is no denoiser to quantise"


@pytest.mark.slow
def test_likes_and_dislikes_one_by_one(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Imported, checked, shown, trained on where that is possible, exported in TRL's form and imported again."""
    lines = ["file_path,caption,label"]
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(_picture(number))
        lines.append(f"{number}.png,a green star {number % 2},{number < 3}")
    (tmp_path / "likes.csv").write_text("\n".join(lines))
    common = ["--model", tiny_model, "--device", "cpu", "--likes", "single"]
    likes = tmp_path / "likes"
    assert _run("pairs", "import", *common, "--source", tmp_path / "likes.csv", "--out", likes) == 0
    assert _run("pairs", "check", likes) == 0
    counted = capsys.readouterr().out
    assert "5 single samples of 2 prompts" in counted and "single samples: 3 liked, 2 disliked" in counted
    assert _run("pairs", "show", likes, "--out", tmp_path / "likes.html", "--device", "cpu") == 0
    page = (tmp_path / "likes.html").read_text()
    assert "All 5 likes and dislikes" in page and page.count(">liked") == 3 and page.count(">disliked") == 2
    training = ["--model", tiny_model, "--pairs", likes, "--train-steps", 1, "--batch-size", 2, "--micro-batch", 2]
    assert _run("align", "diffusion-dpo", *training, "--out", tmp_path / "dpo") == 2
    assert "diffusion-dpo compares winner and loser, so take sft" in capsys.readouterr().err
    assert not (tmp_path / "dpo").exists()
    assert _run("align", "sft", *training, "--holdout", 0, "--out", tmp_path / "sft") == 0
    assert '"training_pairs": 3' in (tmp_path / "sft" / "finished.json").read_text()
    out = tmp_path / "likes.parquet"
    assert _run("pairs", "export", likes, "--out", out, "--device", "cpu") == 0
    assert _run("pairs", "import", *common, "--source", out, "--out", tmp_path / "again") == 0
    before, after = (
        sorted((record.prompt, record.labels) for record in GroupStore(folder).records)
        for folder in (likes, tmp_path / "again")
    )
    assert before == after
