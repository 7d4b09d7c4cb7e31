"""Folders of pairs, and of groups that are scored and labelled."""

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
    "score": lambda: ["pairs", "score", "p", "--judges", "colourfulness", "--device", "cpu", "--out", "out"],
    "label": lambda: ["pairs", "label", "p", "--by", "colourfulness", "--out", "out"],
    "by fronts": lambda: ["pairs", "label", "p", "--by", "colourfulness", "--combine", "pareto", "--out", "out"],
}


def pairs(reader: str, change: Callable[[Path], object], of: str = "pairs") -> Callable[[Path], Arguments]:
    """A copy of drawn pairs, or of what another command made, with something changed, and who reads it."""

    def prepare(folder: Path) -> Arguments:
        store = copied(of, folder / "p")
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


def score_of(value: Any) -> Callable[[Path], None]:
    """What a judge says of the second group's samples."""
    return shard(lambda records, _: records[1]["scores"].update(colourfulness=value))


def unscored(records: Records, _: Tensors) -> None:
    records[2]["scores"].clear()


def named_twice(records: Records, _: Tensors) -> None:
    records[1]["id"] = records[0]["id"]


def single(records: Records, found: Tensors) -> None:
    """Every group with its first sample alone."""
    found.update({name: value[:, :1] for name, value in found.items()})
    for entry in records:
        entry["labels"] = entry["labels"][:1]
        entry["scores"] = {name: numbers[:1] for name, numbers in entry["scores"].items()}


OF_GROUPS: list[tuple[str, list[str], Callable[[Path], object]]] = [
    ("shard missing (middle)", ["score"], without_middle),
    ("a label 7", ["score"], record("labels", [7, 1, 0])),
    ("one identifier twice", ["score"], shard(named_twice)),
    ("no latents", ["score"], tensors(lambda t: t.update(x=t.pop("latents")))),
    ("fewer rows", ["score"], every(lambda value: value[:2])),
    ("scalars", ["score"], every(lambda value: value[:, :, 0, 0, 0])),
    ("fp8 latents", ["score"], every(lambda value: value.to(torch.float8_e4m3fn))),
    ("manifest earlier a number", ["score"], manifest(lambda m: m.update(earlier=3))),
    ("manifest scores a list", ["score"], manifest(lambda m: m.update(scores=["colourfulness"]))),
    ("manifest deep", ["score"], written("a: " + "[" * 3000 + "]" * 3000)),
]
OF_SCORED: list[tuple[str, list[str], Callable[[Path], object]]] = [
    ("shard missing (middle)", ["label", "by fronts"], without_middle),
    ("extra shard of other pairs", ["label"], with_others),
    ("scored already", ["score"], lambda _: None),
    ("a score a text", ["label"], score_of("high")),
    ("a score NaN", ["label", "by fronts"], score_of([NAN, 1.0, 2.0])),
    ("a score infinite", ["by fronts"], score_of([1e999, 1.0, 2.0])),
    ("a score of two samples", ["label"], score_of([1.0, 2.0])),
    ("a score true", ["label"], score_of([True, 1.0, 2.0])),
    ("scores a list", ["label"], record("scores", [1.0, 2.0, 3.0])),
    ("a score's name half of a pair", ["label"], record("scores", {"\ud83d": [1.0, 2.0, 3.0]})),
    ("a group unscored", ["label", "by fronts"], shard(unscored)),
    ("one identifier twice", ["label", "by fronts"], shard(named_twice)),
    ("single samples", ["label", "by fronts"], shard(single)),
    ("no latents", ["label"], tensors(lambda t: t.update(x=t.pop("latents")))),
    ("manifest score: 5", ["label"], manifest(lambda m: m.update(score=5))),
    ("manifest scores sideways", ["label", "by fronts"], manifest(lambda m: m["scores"].update(colourfulness="up"))),
    ("manifest scores null", ["label"], manifest(lambda m: m.update(scores=None))),
    ("manifest num_groups text", ["label"], manifest(lambda m: m.update(num_groups="abc"))),
]
OF_LABEL = [
    ("by", "nothing", "nothing"), ("by", "colourfulness:high", "by"), ("by", "colourfulness:nan", "by"),
    ("by", "a b", "by"), ("combine", "best", "combine"), ("form", "pair", "form"), ("mistakes", "0.7", "mistakes"),
    ("mistakes", "nan", "mistakes"), ("tie-margin", "-1", "tie_margin"), ("threshold", "3", "threshold"),
    ("shard-size", "0", "shard_size"), ("ties", "keep", "ties"),
]  # fmt: skip


def labelled(key: str, value: str) -> Callable[[Path], Arguments]:
    """Scored groups, and one option of how they are labelled."""
    by = [] if key == "by" else ["--by", "colourfulness"]
    return lambda _: ["pairs", "label", Place.of("scored"), *by, f"--{key}", value, "--out", "out"]


SCORED = [
    Case("scores", f"{name} [{reader}]", pairs(reader, change, of), "p")
    for of, rows in (("groups", OF_GROUPS), ("scored", OF_SCORED))
    for name, readers, change in rows
    for reader in readers
]
SCORED += [Case("scores", f"label --{key} {value}", labelled(key, value), named) for key, value, named in OF_LABEL]
