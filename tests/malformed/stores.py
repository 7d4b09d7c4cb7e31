"""Folders of pairs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from malformed.case import NAN, Arguments, Case, Place, Tensors, copied

Records = list[dict[str, Any]]
READERS: dict[str, Callable[[], Arguments]] = {
    "align": lambda: [
        "align",
        "ddspo",
        "--model",
        Place.of("model"),
        "--pairs",
        "p",
        "--out",
        "out",
        *commands.TRAINING,
    ],
    "check": lambda: ["pairs", "check", "p"],
    "export": lambda: ["pairs", "export", "p", "--out", "out.parquet", "--device", "cpu"],
    "show": lambda: ["pairs", "show", "p", "--out", "out.html", "--device", "cpu"],
    "report": lambda: ["report", "--run", Place.of("lora"), "--pairs", "p", "--out", "out.html"],
}


def pairs(reader: str, change: Callable[[Path], object]) -> Callable[[Path], Arguments]:
    """A copy of drawn pairs with something changed, and who reads it."""

    def prepare(folder: Path) -> Arguments:
        store = copied("pairs", folder / "p")
        manifest = yaml.safe_load((store / "pairs.yaml").read_text())
        manifest["draw"]["model"] = Place.of("model")  # where a relative name leads from here
        (store / "pairs.yaml").write_text(yaml.safe_dump(manifest))
        change(store)
        return READERS[reader]()

    return prepare


def shard(change: Callable[[Records, Tensors], object]) -> Callable[[Path], None]:
    """Change the records and tensors of the first shard."""

    def apply(store: Path) -> None:
        path = store / "shard-00000.safetensors"
        with safe_open(path, "pt") as file:
            header = dict(file.metadata())
        records, tensors = json.loads(header["records"]), load_file(path)
        change(records, tensors)
        save_file({n: v.contiguous() for n, v in tensors.items()}, path, {**header, "records": json.dumps(records)})

    return apply


def record(key: str, value: Any) -> Callable[[Path], None]:
    return shard(lambda records, _: records[1].update({key: value}))


def tensors(change: Callable[[Tensors], object]) -> Callable[[Path], None]:
    return shard(lambda _, found: change(found))


def every(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    return tensors(lambda found: found.update({name: change(value) for name, value in found.items()}))


def manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(store: Path) -> None:
        values = yaml.safe_load((store / "pairs.yaml").read_text())
        change(values)
        (store / "pairs.yaml").write_text(yaml.safe_dump(values))

    return apply


def written(text: str) -> Callable[[Path], object]:
    return lambda store: (store / "pairs.yaml").write_text(text)


def without_middle(store: Path) -> None:
    (store / "shard-00000.safetensors").unlink()


def with_others(store: Path) -> None:
    shutil.copy2(Place.base / "imported/shard-00000.safetensors", store / "shard-00002.safetensors")


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
OF_PAIRS: list[tuple[str, list[str], Callable[[Path], object]]] = [
    ("shard missing (middle)", ["align", "report"], without_middle),
    ("extra shard of other pairs", ["align"], with_others),
    ("records empty", ["align", "show"], shard(lambda records, _: records.clear())),
    ("a record too many", ["align", "export", "report"], shard(lambda r, _: r.append({**r[0], "id": "one-more-0"}))),
    ("prompt a number", ["check"], record("prompt", 3)),
    ("prompt null", ["align"], record("prompt", None)),
    ("degraded a number", ["align", "check"], record("degraded", 3)),
    ("degraded a list", ["check"], record("degraded", ["a"])),
    ("labels text", ["align"], record("labels", ["high", 0])),
    ("a label 7", ["align", "check"], record("labels", [7, -6])),
    ("a label NaN", ["check"], record("labels", [NAN, 0])),
    ("prompt lone surrogate", ["align", "export", "report"], record("prompt", "a \ud83d star")),
    ("no latents", ["check", "export"], tensors(lambda t: t.update(x=t.pop("latents")))),
    ("a tensor more", ["check"], tensors(lambda t: t.update(x=t["latents"].clone()))),
    ("one sample", ["align", "export"], every(lambda value: value[:, :1])),
    ("fewer rows", ["align", "export"], every(lambda value: value[:2])),
    ("scalars", ["align", "show"], every(lambda value: value[:, :, 0, 0, 0])),
    ("fp8 latents", ["align", "check", "show"], every(lambda value: value.to(torch.float8_e4m3fn))),
    ("manifest num_groups text", ["check", "report"], manifest(lambda m: m.update(num_groups="abc"))),
    ("manifest num_groups null", ["report"], manifest(lambda m: m.update(num_groups=None))),
    ("manifest draw: 5", ["align", "export", "report"], manifest(lambda m: m.update(draw=5))),
    ("manifest draw: null", ["check", "export"], manifest(lambda m: m.update(draw=None))),
    ("manifest draw: list", ["align", "check", "show"], manifest(lambda m: m.update(draw=[1]))),
    ("manifest model a number", ["check", "export"], manifest(lambda m: m["draw"].update(model=3))),
    ("manifest model a list", ["export", "show"], manifest(lambda m: m["draw"].update(model=["a"]))),
    ("manifest deep", ["align"], written("a: " + "[" * 3000 + "]" * 3000)),
    ("manifest billion laughs", ["report"], written(LAUGHS)),
]
PAIRS = [
    Case("pairs", f"{name} [{reader}]", pairs(reader, change), "p")
    for name, readers, change in OF_PAIRS
    for reader in readers
]
