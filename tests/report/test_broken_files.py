"""Every file of a run and of an evaluation, broken in every way: one line that names it, exit code 2, and no page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from contrapose import runfile
from contrapose.cli.main import main
from contrapose.evaluate.evidence import CONVERTER, EVIDENCE, Record
from contrapose.evaluate.rows import read_rows, write_rows

Change = Callable[[Path], None]
DEEP = b"[" * 100_000
BOMB = b"a: &a [x, x]\n" + b"".join(b"b%d: &b%d [*a, *a]\n" % (i, i) for i in range(9))


def write(data: bytes) -> Change:
    return lambda path: path.write_bytes(data) and None


def halve(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def say(**changes: object) -> Change:
    """Set keys of a YAML or JSON file, dotted by `__`; `...` deletes one."""

    def change(path: Path) -> None:
        values = json.loads(path.read_text()) if path.suffix == ".json" else yaml.safe_load(path.read_text())
        for name, value in changes.items():
            *outer, last = name.split("__")
            inner = values
            for key in outer:
                inner = inner[key]
            if value is ...:
                del inner[last]
            else:
                inner[last] = value
        path.write_text(json.dumps(values))

    return change


def line(**changes: object) -> Change:
    """A line of metrics in the middle that says this."""

    def change(path: Path) -> None:
        lines = path.read_text().splitlines()
        lines[3] = json.dumps({"step": 4, "loss": 0.5} | changes)
        path.write_text("\n".join(lines) + "\n")

    return change


def middle(text: str) -> Change:
    def change(path: Path) -> None:
        lines = path.read_text().splitlines()
        lines[3] = text
        path.write_text("\n".join(lines) + "\n")

    return change


def other_schema(path: Path) -> None:
    pq.write_table(pa.table({"model": ["a"], "value": [1.0]}), path)


def other_types(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index("seed"), "seed", pa.array(["x"] * len(table))), path)


def no_values(path: Path) -> None:
    table = pq.read_table(path)
    column = pa.array([None] * len(table), pa.float64())
    pq.write_table(table.set_column(table.column_names.index("value"), "value", column), path)


def rows(change: Callable[[list], list]) -> Change:
    return lambda path: write_rows(change(read_rows(path)), path)


CONTENTS = {"empty": write(b""), "cut": halve, "binary": write(bytes(range(256))), "null": write(b"null"),
       "list": write(b"[1, 2]"), "number": write(b"5"), "text": write(b'"abc"'), "deep": write(DEEP)}  # fmt: skip
SCORES = "models__base__metrics__correct__overall"
COMPARED = "comparisons__ddspo__correct"
BROKEN: dict[str, dict[str, Change]] = {
    "run.yaml": CONTENTS
    | {
        "cut": write(b"model: 'sha"),
        "folder": folder,
        "link to itself": loop,
        "aliases": write(BOMB),
        "tag": write(b"method: !!python/object:os.system {}\n"),
        "twice": write(b"method: {name: sft}\nmethod: {name: sft}\noptimisation: {train_steps: 3}\n"),
        "no method": say(method=...),
        "method text": say(method="ddspo"),
        "name a list": say(method__name=["ddspo"]),
        "steps text": say(optimisation__train_steps="many"),
        "steps negative": say(optimisation__train_steps=-3),
        "steps nan": say(optimisation__train_steps=float("nan")),
        "optimisation null": say(optimisation=None),
    },
    "metrics.jsonl": {
        "binary": write(bytes(range(256)) + b"\n" + bytes(range(256))),
        "null": middle("null"),
        "list": middle("[]"),
        "broken": middle('{"step": 4, "lo'),
        "deep": middle(DEEP.decode()),
        "no step": middle('{"loss": 0.5}'),
        "step text": line(step="4"),
        "step null": line(step=None),
        "step a share": line(step=4.5),
        "step negative": line(step=-4),
        "step large": line(step=10**30),
        "text": line(loss="x"),
        "none": line(loss=None),
        "yes": line(loss=True),
        "mapping": line(loss={"a": 1}),
        "beyond float32": line(loss=1e308),
        "beyond floats": line(loss=10**400),
        "level text": line(**{"held_out/accuracy@x": 0.5}),
        "level nan": line(**{"held_out/accuracy@nan": 0.5}),
        "folder": folder,
    },
    "finished.json": CONTENTS
    | {
        "folder": folder,
        "no pairs": say(training_pairs=...),
        "text": say(held_out_pairs="y"),
        "none": say(trained_parameters=None),
        "negative": say(training_pairs=-1),
        "nan": say(training_pairs=float("nan")),
    },
    "evidence.yaml": CONTENTS
    | {
        "cut": write(b"title: 'A ti"),
        "aliases": write(BOMB),
        "no images": say(images=...),
        "images a list": say(images=["base"]),
        "images a number": say(images=5),
        "an image a number": say(images__base=5),
        "no title": say(title=...),
        "title a list": say(title=[1]),
        "NUL": say(images__base="a\0b"),
        "unknown": say(more=1),
        "a suite without settings": say(suite="shapes"),
        "suite a list": say(suite=["shapes"]),
        "suite without a name": say(suite={}),
        "replicates text": say(replicates="x"),
        "a stranger": say(images__stranger="/nowhere"),
    },
    "summary.json": CONTENTS
    | {
        "models a number": say(models=5),
        "no models": say(models={}),
        "no metrics": say(metrics={}),
        "a metric more": say(metrics__more={"higher_is_better": True}),
        "a metric less": say(metrics__correct=...),
        "base unknown": say(base="zz"),
        "base a list": say(base=["base"]),
        "no base but comparisons": say(base=None),
        "value text": say(**{f"{SCORES}__value": "x"}),
        "value none": say(**{f"{SCORES}__value": None}),
        "value nan": say(**{f"{SCORES}__value": float("nan")}),
        "value infinite": say(**{f"{SCORES}__value": float("inf")}),
        "no value": say(**{f"{SCORES}__value": ...}),
        "comparisons a number": say(comparisons=5),
        "a comparison of a stranger": say(comparisons__zz={}),
        "a comparison of nothing": say(comparisons__ddspo={}),
        "p above 1": say(**{f"{COMPARED}__p_holm": 2}),
        "p text": say(**{f"{COMPARED}__p": "x"}),
        "win rate a number": say(**{f"{COMPARED}__win_rate": 0.5}),
        "tags text": say(models__base__tags="abc"),
        "tags a number": say(models__base__tags=5),
        "tag's number text": say(models__base__tags={"counting": "x"}),
        "level 2": say(level=2),
        "replicates text": say(replicates="x"),
        "images negative": say(models__base__num_images=-1),
        "higher is better text": say(metrics__correct__higher_is_better="yes"),
        "missing": Path.unlink,
    },
    "rows.parquet": {name: CONTENTS[name] for name in ("empty", "cut", "binary", "text")}
    | {
        "folder": folder,
        "of another schema": other_schema,
        "of other types": other_types,
        "no values": no_values,
        "no rows": rows(lambda there: []),
        "nan": rows(lambda there: [there[0]._replace(value=float("nan")), *there[1:]]),
        "twice": rows(lambda there: [*there, there[0]]),
        "a row less": rows(lambda there: there[1:]),
        "another model": rows(lambda there: [row._replace(model="zz") for row in there]),
        "missing": Path.unlink,
    },
    "images.yaml": CONTENTS | {
        "guidance a number": say(guiding__guidance=5),
        "guidance a list": say(guiding__guidance=[1], guiding__positive="r"),
        "no guidance": say(guiding__guidance=..., guiding__positive="r"),
        "a key a number": write(b"5: 6\n"),
    },
}  # fmt: skip
CASES = [(file, name) for file, changes in BROKEN.items() for name in changes]


@pytest.fixture(scope="module")
def places(shared) -> dict[str, Path]:
    """Each file's path."""
    evidence = shared.evidence
    record = Record(evidence.title, dict(evidence.suite), dict(evidence.images), "base", 300)
    runfile.write_claim(evidence.folder / EVIDENCE, record, CONVERTER, {})
    of_run = {name: shared.run / name for name in ("run.yaml", "metrics.jsonl", "finished.json")}
    of_evidence = {name: evidence.folder / name for name in (EVIDENCE, "summary.json", "rows.parquet")}
    return of_run | of_evidence | {"images.yaml": evidence.images["ddspo"] / "images.yaml"}


@pytest.fixture
def broken(places: dict[str, Path], request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file that is broken during the test."""
    file, name = request.param
    path = places[file]
    data = path.read_bytes()
    BROKEN[file][name](path)
    yield path
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
    path.write_bytes(data)


def flags(path: Path, project) -> list[str]:
    of_run = path.parent == project.run
    return ["--run", str(project.run)] if of_run else ["--evidence", str(project.evidence.folder), "--examples", "0"]


@pytest.mark.parametrize("broken", CASES, indirect=True, ids=lambda case: f"{case[0]} {case[1]}")
def test_report(broken: Path, shared, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["report", *flags(broken, shared), "--out", str(tmp_path / "page.html")])
    lines = capsys.readouterr().err.strip().splitlines()
    assert (code, len(lines)) == (2, 1), lines
    assert str(broken.parent) in lines[0]
    assert broken.name in lines[0] or "no such model" in lines[0] or "was judged" in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_whole_files_make_a_page(places: dict[str, Path], shared, tmp_path: Path) -> None:
    for path in places.values():
        assert main(["report", *flags(path, shared), "--out", str(tmp_path / "page.html")]) == 0


@pytest.mark.parametrize(
    "values", [{"loss": float("nan")}, {"loss": 3e38}, {"seconds": float("inf")}, {"grad_norm": 0}]
)
def test_what_a_diverging_run_measures_is_drawn(
    places: dict[str, Path], shared, tmp_path: Path, values: dict[str, float]
) -> None:
    data = places["metrics.jsonl"].read_bytes()
    line(**values)(places["metrics.jsonl"])
    try:
        assert main(["report", "--run", str(shared.run), "--out", str(tmp_path / "page.html")]) == 0
    finally:
        places["metrics.jsonl"].write_bytes(data)


def test_the_line_that_a_kill_cut_is_left_out(places: dict[str, Path], shared, tmp_path: Path) -> None:
    data = places["metrics.jsonl"].read_bytes()
    places["metrics.jsonl"].write_bytes(data[:-20])
    try:
        assert main(["report", "--run", str(shared.run), "--out", str(tmp_path / "page.html")]) == 0
    finally:
        places["metrics.jsonl"].write_bytes(data)
