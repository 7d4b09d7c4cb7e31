"""Folders that a command carries on, and those that a report reads."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from contrapose.photographs.table import TABLE
from malformed.case import DEEP, Arguments, Case, Place, Tensors, copied, poisoned, put


def resumed(name: str, change: Callable[[Path], object]) -> Callable[[Path], Arguments]:
    """A copy of what a command wrote, as if it had been killed, changed, and the same command again."""
    line = commands.BY_NAME[name]

    def prepare(folder: Path) -> Arguments:
        out = copied(line.out, folder / "out")
        if name == "lora":
            (out / "finished.json").unlink()
        change(out)
        made = {made.out for made in commands.LINES} | {"model", "good", "bad"}
        command, *rest = line.at("out")
        return [command, rest[0], *(Place.of(a) if a in made else a for a in rest[1:])]

    return prepare


STEP = "checkpoints/step-000002"
CHECKPOINT, WEIGHTS = f"{STEP}/training.safetensors", f"{STEP}/pytorch_lora_weights.safetensors"


def checkpoint(change: Callable[[Tensors, dict[str, str]], object], name: str = CHECKPOINT) -> Callable[[Path], None]:
    def apply(out: Path) -> None:
        with safe_open(out / name, "pt") as file:
            header = dict(file.metadata())
        tensors = load_file(out / name)
        change(tensors, header)
        save_file(tensors, out / name, header)

    return apply


def noted(**values: Any) -> Callable[[Path], None]:
    """The checkpoint with other notes in its header."""

    def change(_: Tensors, header: dict[str, str]) -> None:
        header["training"] = json.dumps({**json.loads(header["training"]), **values})

    return checkpoint(change)


def without(start: str, name: str = CHECKPOINT) -> Callable[[Path], None]:
    def change(tensors: Tensors, _: Any) -> None:
        for key in [key for key in tensors if key.startswith(start)]:
            del tensors[key]

    return checkpoint(change, name)


def reshaped(found: Tensors, _: Any) -> None:
    found[min(found)] = torch.zeros(1, 4)


def as_folder(out: Path) -> None:
    (out / CHECKPOINT).unlink()
    (out / CHECKPOINT).mkdir()


def as_file(out: Path) -> None:
    shutil.rmtree(out / STEP)
    (out / STEP).write_bytes(b"step 2")


def size_text(out: Path) -> None:
    with sqlite3.connect(out / TABLE) as table:
        table.execute("PRAGMA ignore_check_constraints = ON")
        table.execute("UPDATE photographs SET width = '64x64' WHERE id IS NOT NULL")
    table.close()
    (out / "pairs.yaml").unlink()
    for path in out.glob("shard-*"):
        path.unlink()


RESUMED = [
    *(
        Case("resume", f"{name}: {file} {how}", resumed(line, put(file, content)), file)
        for name, line, file in [("align", "lora", "run.yaml"), ("draw", "pairs", "pairs.yaml")]
        for how, content in [("broken", b"a: [b\n: {"), ("binary", b"\xff\xfe\x00"), ("deep", DEEP)]
    ),
    *(
        Case("resume", f"align: checkpoint {how}", resumed("lora", change), code=0)
        for how, change in [
            ("truncated", lambda out: os.truncate(out / CHECKPOINT, 5000)),
            ("text", put(CHECKPOINT, b"step 2")),
            ("no step in header", checkpoint(lambda _, header: header.clear())),
            ("step 10^9", noted(step=10**9)),
            ("step -3", noted(step=-3)),
            ("no tensors of weights", without("unet.", WEIGHTS)),
            ("no optimizer", without("optimizer/")),
            ("other shapes", checkpoint(reshaped)),
            ("weights of other shapes", checkpoint(reshaped, WEIGHTS)),
            ("NaN", checkpoint(lambda tensors, _: poisoned(tensors))),
            ("weights NaN", checkpoint(lambda tensors, _: poisoned(tensors), WEIGHTS)),
            ("weights truncated", lambda out: os.truncate(out / WEIGHTS, 5000)),
            ("state a folder", as_folder),
        ]
    ),
    Case("resume", "align: checkpoint a file", resumed("lora", as_file), "step-000002"),
    Case(
        "resume",
        "align: metrics.jsonl no step",
        resumed("lora", put("metrics.jsonl", b'{"loss": 1}\n')),
        "metrics.jsonl",
    ),
    Case("resume", "align: metrics.jsonl binary", resumed("lora", put("metrics.jsonl", b"\xff\n")), "metrics.jsonl"),
    Case("resume", "align: metrics.jsonl null", resumed("lora", put("metrics.jsonl", b"null\n")), "metrics.jsonl"),
    Case(
        "resume", "align: weights gone after finish", resumed("full", lambda out: shutil.rmtree(out / "model")), code=0
    ),
    Case("resume", "sample: an image empty", resumed("images", put("00001/samples/0000.png", b"")), code=0),
    Case(
        "resume", "sample: metadata binary", resumed("images", put("00001/metadata.jsonl", b"\xff")), "metadata.jsonl"
    ),
    Case("resume", "real: real.yaml broken", resumed("real", put("real.yaml", b"a: [b\n: {")), "real.yaml"),
    Case("resume", "real: size a string", resumed("real", size_text), TABLE),
]


def reported(kind: str, change: Callable[[Path], object]) -> Callable[[Path], Arguments]:
    def prepare(folder: Path) -> Arguments:
        copied("lora" if kind == "run" else "evidence", folder / "x")
        values = yaml.safe_load((Place.base / "evidence/evidence.yaml").read_text())
        values["images"] = {name: Place.of(path) for name, path in values["images"].items()}
        if kind == "evidence":
            (folder / "x/evidence.yaml").write_text(yaml.safe_dump(values))
        change(folder / "x")
        return ["report", f"--{kind}", "x", "--out", "out.html"]

    return prepare


def metric(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(run: Path) -> None:
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for line in lines:
            change(line)
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    return apply


def evidence(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        values = yaml.safe_load((folder / "evidence.yaml").read_text())
        values = change(values) or values
        (folder / "evidence.yaml").write_text(yaml.safe_dump(values))

    return apply


def summary(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return config_of("summary.json", change)


def config_of(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        values = json.loads((folder / name).read_text())
        change(values)
        (folder / name).write_text(json.dumps(values))

    return apply


REPORTS = [
    *(
        Case("report", f"run: {name}", reported("run", change), "x/")
        for name, change in [
            ("metrics text values", metric(lambda line: line.update(loss="low"))),
            ("metrics null values", metric(lambda line: line.update(loss=None))),
            ("metrics level text", metric(lambda line: line.update({"held_out/loss@x": 1.0}))),
            ("metrics 1e308", metric(lambda line: line.update(loss=1e308 * (-1) ** line["step"]))),
            ("finished numbers text", config_of("finished.json", lambda f: f.update(trained_parameters="y"))),
            ("finished keys missing", config_of("finished.json", lambda f: f.pop("training_pairs"))),
        ]
    ),
    *(
        Case("report", f"evidence: {name}", reported("evidence", change), "x/")
        for name, change in [
            ("evidence.yaml list", put("evidence.yaml", b"- a\n")),
            ("evidence.yaml empty", put("evidence.yaml", b"")),
            ("evidence.yaml no images", evidence(lambda values: {"title": values["title"]})),
            ("evidence.yaml images list", evidence(lambda values: values.update(images=["a"]))),
            ("evidence.yaml images number", evidence(lambda values: values.update(images={"base": 3}))),
            ("evidence.yaml binary", put("evidence.yaml", b"\xff\xfe")),
            ("evidence.yaml deep", put("evidence.yaml", DEEP)),
            ("summary.json models number", summary(lambda s: s.update(models=3))),
            ("summary.json metrics empty", summary(lambda s: s.update(metrics={}))),
            ("summary.json base unknown", summary(lambda s: s.update(base="zz"))),
            (
                "summary.json value text",
                summary(lambda s: s["models"]["base"]["metrics"]["correct"]["overall"].update(value="x")),
            ),
            ("summary.json comparisons number", summary(lambda s: s.update(comparisons=3))),
            ("summary.json tags text", summary(lambda s: s["models"]["base"]["metrics"]["correct"].update(tags="x"))),
        ]
    ),
]
