"""Files of studies, and the folders that they write to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import yaml

from malformed.case import DEEP, Arguments, Case, Place, copied

FILE = "study.yaml"
SUMMARY = "evidence/dev/scale-3/summary.json"


def study(change: Callable[[dict[str, Any]], object], *words: str) -> Callable[[Path], Arguments]:
    """The study of the commands with something changed, to be run in a folder of its own."""

    def prepare(folder: Path) -> Arguments:
        values = yaml.safe_load(commands.STUDY)
        values.update(model=Place.of("model"), out="out")
        values["prompts"]["train"]["file"] = Place.of("train.txt")
        change(values)
        (folder / FILE).write_text(yaml.safe_dump(values, sort_keys=False))
        return ["study", *(words or ("run",)), FILE]

    return prepare


def at(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """One value of the file changed, by its keys with points between."""

    def change(values: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for parent in parents:
            values = values.setdefault(parent, {})
        values[last] = value

    return change


def elsewhere(values: dict[str, Any]) -> None:
    """Pairs that are said to be in a folder, so that nothing uses the training prompts."""
    values["pairs"]["drawn"] = {"folder": "nowhere"}
    del values["prompts"]["train"]


def written(content: bytes, command: str = "run") -> Callable[[Path], Arguments]:
    def prepare(folder: Path) -> Arguments:
        (folder / FILE).write_bytes(content)
        return ["study", command, FILE]

    return prepare


def looped(folder: Path) -> Arguments:
    (folder / FILE).symlink_to(FILE)
    return ["study", "run", FILE]


def again(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], Arguments]:
    """A study that finds another one in its folder: finished, and different in something."""

    def prepare(folder: Path) -> Arguments:
        copied("study", folder / "study")
        for name in ("model", "train.txt"):
            (folder / name).symlink_to(Place.of(name))
        values = yaml.safe_load(commands.STUDY)
        change(values)
        (folder / FILE).write_text(yaml.safe_dump(values, sort_keys=False))
        return ["study", "run", FILE]

    return prepare


def spoiled(name: str, content: bytes, command: str = "run") -> Callable[[Path], Arguments]:
    """A finished study with one of its files replaced, and the command again."""

    def prepare(folder: Path) -> Arguments:
        _, _, file = again(lambda _: None)(folder)
        (folder / "study" / name).write_bytes(content)
        return ["study", command, file]

    return prepare


CHANGED: list[tuple[str, str, Any, str]] = [
    ("unknown setting", "tittle", "x", "tittle"),
    ("unknown setting of prompts", "prompts.dev.split", "x", "split"),
    ("unknown setting of choosing", "choosing.scale", 1, "scale"),
    ("version 99", "version", 99, "version"),
    ("unknown method", "methods.a.align", "dsppo", "dsppo"),
    ("method is a folder", "methods.a.align", ".", ".: no such method"),
    ("unknown option of a method", "methods.a.options", {"betta": 3}, "betta"),
    ("option of a method nan", "methods.a.options", {"beta": float("nan")}, "beta"),
    ("options are a list", "methods.a.options", ["beta"], "options"),
    ("methods are a list", "methods", ["ddspo"], "methods"),
    ("no methods", "methods", None, "methods"),
    ("a method with a slash", "methods.a/0", {"align": "ddspo"}, "a/0"),
    ("a method that waits for itself", "methods.a.start", "a", "circle"),
    ("a recipe that is not there", "methods.a.align", "nowhere.yaml", "nowhere.yaml"),
    ("seeds twice", "seeds", [0, 0], "seeds"),
    ("seeds -1", "seeds", [-1], "seeds"),
    ("seeds 2^64", "seeds", [2**64], "seeds"),
    ("seeds text", "seeds", ["a"], "seeds"),
    ("seeds none", "seeds", [], "seeds"),
    ("seeds null", "seeds", None, "seeds"),
    ("scales nan", "scales", [float("nan")], "scales"),
    ("scales 1e400", "scales", ["1e400"], "scales"),
    ("num_images 10^12", "num_images", 10**12, "num_images"),
    ("num_images 0", "num_images", 0, "num_images"),
    ("out null", "out", None, "out"),
    ("out NUL", "out", "a\0b", "out"),
    ("out 5000 chars", "out", "a" * 5000, "aaa"),
    ("out a file", "out", FILE, FILE),
    ("prompts missing", "prompts.train.file", "nowhere.txt", "nowhere.txt"),
    ("prompts of an unknown split", "prompts.dev.shapes", "tset", "tset"),
    ("no dev prompts", "prompts.dev", None, "dev"),
    ("prompts that nothing uses", "prompts.other", {"shapes": "dev"}, "other"),
    ("model not there", "model", "./nowhere", "nowhere"),
    ("model a file of text", "model", FILE, FILE),
    ("pairs made by an unknown command", "pairs.drawn.made_by", "paint", "paint"),
    ("device foo", "pairs.drawn.options.device", "foo", "foo"),
    ("unknown suite", "evaluations.colours.suite", "scroes", "scroes"),
    ("unknown judge", "evaluations.colours.options", {"judges": ["pickscroe"]}, "pickscroe"),
    ("no evaluations", "evaluations", {}, "evaluations"),
    ("an evaluation of unknown prompts", "evaluations.colours.prompts", "tset", "tset"),
    ("choosing by an unknown evaluation", "choosing.evaluation", "shapes", "shapes"),
    ("choosing by an unknown rule", "choosing.rule", "best", "rule"),
    ("checkpoints beyond the run", "choosing", {"scales": [1], "checkpoints": [500]}, "500"),
    ("published without columns", "published", {"source": "x", "rows": {"base": {"GE": 1}}}, "GE"),
    ("published text", "published", {"source": "x", "rows": {"base": {"GE": "high"}}}, "published"),
]
STUDIES = [
    *(
        Case("study", f"file {how}", written(content), FILE)
        for how, content in [
            ("broken", b"a: [b\n: {"), ("binary", b"\xff\xfe\x00"), ("deep", DEEP), ("empty", b""),
            ("a list", b"- 1\n"), ("a number", b"3"),
        ]
    ),
    Case("study", "file a symlink loop", looped, FILE),
    *(Case("study", f"{name}", study(at(key, value)), named) for name, key, value, named in CHANGED),
    Case("study", "pairs folder not there", study(elsewhere), "nowhere"),
    *(
        Case("study", f"{word}: unknown setting", study(at("tittle", "x"), word), "tittle")
        for word in ("plan", "report")
    ),
    Case("study", "report: not run", study(lambda _: None, "report"), "out"),
    *(
        Case("study", f"folder of another study: {key}", again(at(key, value)), named)
        for key, value, named in [
            ("methods.a.options", {"beta": 3}, "beta"),
            ("pairs.drawn.options.steps", 2, "steps"),
            ("prompts.train", {"shapes": "train", "per_tag": 1}, "prompts"),
            ("sampling.steps", 2, "steps"),
        ]
    ),
    Case("study", "again", again(lambda _: None), code=0),
    *(
        Case("study", f"done.yaml {how}", spoiled("done.yaml", content), "done.yaml")
        for how, content in [
            ("broken", b"a: [b\n: {"), ("binary", b"\xff\xfe\x00"), ("deep", DEEP), ("a list", b"- 1\n"),
            ("lines of text", b"0a: done\n"),
        ]
    ),
    Case("study", "done.yaml of other lines", spoiled("done.yaml", b"{}"), code=0),
    Case("study", "an image empty", spoiled("images/scale-1/a/00001/samples/0000.png", b""), code=0),
    Case("study", "report: rows.parquet broken", spoiled("evidence/best/rows.parquet", b"a", "report"), "rows.parquet"),
    *(
        Case("study", f"report: summary.json {how}", spoiled(SUMMARY, content, "report"), SUMMARY)
        for how, content in [("empty", b""), ("a list", b"[]"), ("binary", b"\xff\xfe")]
    ),
]  # fmt: skip
