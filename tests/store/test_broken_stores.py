"""A folder of pairs that a disk or a person changed: one line that names the file, whoever reads it."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from contrapose.cli.main import main
from contrapose.errors import UserError
from contrapose.report.provenance import read_pairs
from contrapose.store.check import check_pairs
from contrapose.store.groups import GroupStore
from contrapose.store.manifest import INDEX, MANIFEST
from contrapose.store.mixture import Mixture
from contrapose.store.records import GroupRecord, count_and_digest
from contrapose.store.shard_files import shard_path, write_shard

RECORDS = [GroupRecord.pair(f"id-{i}", f"a red circle {i}", f"circle {i}", i) for i in range(6)]
Change = Callable[[Path], Any]


def _latents(num: int) -> torch.Tensor:
    return torch.randn(num, 2, 4, 2, 2)


def _manifest(**changes: Any) -> Change:
    """A change of the manifest's entries; a value of `...` takes its entry away."""

    def change(folder: Path) -> None:
        manifest = yaml.safe_load((folder / MANIFEST).read_text()) | changes
        kept = {key: value for key, value in manifest.items() if value is not ...}
        (folder / MANIFEST).write_text(yaml.safe_dump(kept))

    return change


def _text(text: str | bytes) -> Change:
    return lambda folder: (folder / MANIFEST).write_bytes(text.encode() if isinstance(text, str) else text)


def _records(change: Callable[[list[dict[str, Any]]], Any]) -> Change:
    """A change of the second shard's records, which are changed in place or exchanged for what comes back."""

    def changed(folder: Path) -> None:
        path = shard_path(folder, 1)
        raw = [dataclasses.asdict(record) for record in RECORDS[2:4]]
        raw = change(raw) or raw
        save_file(load_file(path), path, metadata={"records": raw if isinstance(raw, str) else json.dumps(raw)})

    return changed


def _record(**changes: Any) -> Change:
    return _records(lambda raw: raw[1].update(changes))


def _tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Change:
    """A change of the second shard's tensors."""

    def changed(folder: Path) -> None:
        path = shard_path(folder, 1)
        records = json.dumps([dataclasses.asdict(record) for record in RECORDS[2:4]])
        save_file(change(load_file(path)), path, metadata={"records": records})

    return changed


def _each(change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    return _tensors(lambda tensors: {side: change(value).contiguous() for side, value in tensors.items()})


def _other_records(folder: Path) -> None:
    others = [dataclasses.replace(record, prompt="another") for record in RECORDS[2:4]]
    write_shard(folder, 1, others, _latents(2))


LAUGHS = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
SHARD = r"shard-00001\.safetensors: "
YAML = r"pairs\.yaml: "
BROKEN: dict[str, tuple[Change, str]] = {
    "manifest empty": (_text(""), YAML + "broken"),
    "manifest cut": (_text("num_groups: {"), YAML + "not readable"),
    "manifest binary": (_text(b"\xff\xfe\0"), YAML + "not readable"),
    "manifest deep": (_text("a: " + "[" * 3000), YAML + "not readable"),
    "manifest billion laughs": (_text(LAUGHS), YAML + "not readable"),
    "manifest a list": (_text("[1]"), YAML + "broken"),
    "num_groups text": (_manifest(num_groups="abc"), YAML + "num_groups is 'abc'"),
    "num_groups null": (_manifest(num_groups=None), YAML + "num_groups is None"),
    "num_groups yes": (_manifest(num_groups=True), YAML + "num_groups is True"),
    "num_groups -1": (_manifest(num_groups=-1), YAML + "num_groups is -1"),
    "num_groups gone": (_manifest(num_groups=...), YAML + "num_groups is None"),
    "another format": (_manifest(format=99), YAML + "is of format 99"),
    "draw 5": (_manifest(draw=5), YAML + "draw is 5"),
    "draw null": (_manifest(draw=None), YAML + "draw is None"),
    "draw a list": (_manifest(draw=[1]), YAML + r"draw is \[1\]"),
    "import a text": (_manifest(**{"import": "x"}), YAML + "import is 'x'"),
    "model a number": (_manifest(draw={"model": 5}), YAML + r"draw\.model is 5"),
    "model a list": (_manifest(draw={"model": ["m"]}), YAML + r"draw\.model is \['m'\]"),
    "degrade a number": (_manifest(draw={"degrade": 5}), YAML + r"draw\.degrade is 5"),
    "fingerprint a number": (_manifest(fingerprint=5), YAML + "fingerprint is 5"),
    "shard empty": (lambda folder: shard_path(folder, 1).write_bytes(b""), SHARD + "truncated or broken"),
    "shard text": (lambda folder: shard_path(folder, 1).write_text("{}" * 99), SHARD + "truncated or broken"),
    "shard a folder": (lambda f: (shard_path(f, 1).unlink(), shard_path(f, 1).mkdir()), SHARD + "truncated or broken"),
    "no records": (_records(lambda raw: "{"), SHARD + "has no records"),
    "records empty": (_records(lambda raw: "[]"), SHARD + "has no records"),
    "records deep": (_records(lambda raw: "[" * 100_000), SHARD + "has no records"),
    "records an object": (_records(lambda raw: '{"a": 1}'), SHARD + "has no records"),
    "a record a number": (_records(lambda raw: "[1, 2]"), SHARD + "record 1: is not an object"),
    "a field gone": (_records(lambda raw: raw[1].pop("seed") and None), SHARD + "record 2: is not an object of id"),
    "a field more": (_record(x=1), SHARD + "record 2: is not an object of id"),
    "a record too many": (_records(lambda raw: [*raw, raw[0]]), SHARD + "its tensor latents has 2 rows for 3 records"),
    "a record too few": (_records(lambda raw: raw[:1]), SHARD + "its tensor latents has 2 rows for 1 records"),
    "prompt a number": (_record(prompt=5), SHARD + "record 2: its prompt is 5"),
    "prompt null": (_record(prompt=None), SHARD + "record 2: its prompt is None"),
    "prompt half a character": (_record(prompt="a \ud83d"), SHARD + "record 2: its prompt holds"),
    "prompt with a NUL": (_record(prompt="a \0"), SHARD + "record 2: its prompt holds"),
    "degraded a number": (_record(degraded=5), SHARD + "record 2: its degraded is 5"),
    "degraded a list": (_record(degraded=["a"]), SHARD + r"record 2: its degraded is \['a'\]"),
    "id a number": (_record(id=5), SHARD + "record 2: its id is 5"),
    "labels text": (_record(labels="1"), SHARD + "record 2: its labels are '1'"),
    "labels empty": (_record(labels=[]), SHARD + r"record 2: its labels are \[\]"),
    "a label text": (_record(labels=["1", 0]), SHARD + r"record 2: its labels are \['1', 0\]"),
    "a label 7": (_record(labels=[7, -6]), SHARD + r"record 2: its labels are \[7, -6\]"),
    "a label NaN": (_record(labels=[float("nan"), 0]), SHARD + r"record 2: its labels are \[nan, 0\]"),
    "a label yes": (_record(labels=[True, 0]), SHARD + r"record 2: its labels are \[True, 0\]"),
    "labels that are no shares": (_record(labels=[1, 0.5]), SHARD + r"record 2: .* the two of a pair sum to 1"),
    "a label too many": (_record(labels=[1, 0, 0]), SHARD + "record 2: has 3 labels for 2 latents"),
    "a label too few": (_record(labels=[1]), SHARD + "record 2: has 1 labels for 2 latents"),
    "scores a list": (_record(scores=[1, 2]), SHARD + r"record 2: its scores are \[1, 2\]"),
    "scores null": (_record(scores=None), SHARD + "record 2: its scores are None"),
    "a score alone": (_record(scores={"clip": 1}), SHARD + "record 2: its clip is 1, where a list of 2 numbers"),
    "a score too few": (_record(scores={"clip": [1]}), SHARD + r"record 2: its clip is \[1\], where a list of 2"),
    "a score text": (_record(scores={"clip": [1, "2"]}), SHARD + r"record 2: its clip is \[1, '2'\]"),
    "a score endless": (_record(scores={"clip": [1, float("inf")]}), SHARD + r"record 2: its clip is \[1, inf\]"),
    "a score beyond all floats": (_record(scores={"clip": [1, 10**400]}), SHARD + r"record 2: its clip is \[1, 10"),
    "seed text": (_record(seed="1"), SHARD + "record 2: its seed is '1'"),
    "seed negative": (_record(seed=-1), SHARD + "record 2: its seed is -1"),
    "seed 2**64": (_record(seed=2**64), SHARD + "record 2: its seed is 18446744073709551616"),
    "no latents": (_tensors(lambda t: {"x": t["latents"]}), SHARD + "holds the tensors x, not latents"),
    "a tensor more": (
        _tensors(lambda t: {**t, "x": t["latents"].clone()}),
        SHARD + "holds the tensors latents, x",
    ),
    "masks of one record": (
        _tensors(lambda t: {**t, "masks": torch.zeros(1, 2, 2, dtype=torch.uint8)}),
        SHARD + "its tensor masks has 1 rows for 2 records",
    ),
    "masks of another size": (
        _tensors(lambda t: {**t, "masks": torch.zeros(2, 2, 3, dtype=torch.uint8)}),
        SHARD + r"its masks are of shape \[2, 3\], and its latents \[4, 2, 2\]",
    ),
    "masks of floats": (
        _tensors(lambda t: {**t, "masks": torch.zeros(2, 2, 2)}),
        SHARD + "its tensor masks is F32, not U8",
    ),
    "masks alone": (_tensors(lambda t: {"masks": t["latents"]}), SHARD + "holds the tensors masks, not latents"),
    "fewer rows": (_each(lambda value: value[:1]), SHARD + "its tensor latents has 1 rows for 2 records"),
    "no rows": (_each(lambda value: value[:0]), SHARD + "its tensor latents has 0 rows"),
    "no samples": (_each(lambda value: value[:, :0]), SHARD + "record 1: has 2 labels for 0 latents"),
    "one sample": (_each(lambda value: value[:, :1]), SHARD + "record 1: has 2 labels for 1 latents"),
    "no axis of samples": (_each(lambda value: value[:, 0, 0, 0, 0]), SHARD + "holds latents without an axis for the"),
    "scalars": (_each(lambda value: value[:, :, 0, 0, 0]), SHARD + r"holds latents of shape \[\]"),
    "a tensor without an axis": (_each(lambda value: value[0, 0, 0, 0, 0]), SHARD + "its tensor latents has 0 rows"),
    "latents of no pixels": (_each(lambda value: value[:, :, :, :0]), SHARD + r"holds latents of shape \[4, 0, 2\]"),
    "fp8": (_each(lambda value: value.to(torch.float8_e4m3fn)), SHARD + "its tensor latents is F8_E4M3"),
    "whole numbers": (_each(lambda value: value.to(torch.int32)), SHARD + "its tensor latents is I32"),
    "yes and no": (_each(lambda value: value > 0), SHARD + "its tensor latents is BOOL"),
    "complex": (_each(lambda value: value.to(torch.complex64)), SHARD + "its tensor latents is C64"),
}
INCOMPLETE: dict[str, tuple[Change, str]] = {
    "shard missing in the middle": (lambda folder: shard_path(folder, 1).unlink(), "holds 4 of 6 groups"),
    "last shard missing": (lambda folder: shard_path(folder, 2).unlink(), "holds 4 of 6 groups"),
    "shard twice": (
        lambda folder: shutil.copy(shard_path(folder, 1), shard_path(folder, 3)),
        "holds 8 groups, where pairs.yaml tells of 6.*shard-00003",
    ),
    "extra shard of other pairs": (
        lambda folder: write_shard(folder, 7, RECORDS[:2], _latents(2)), "holds 8 groups.*shard-00007",
    ),
    "shard exchanged for another": (
        lambda folder: shutil.copy(shard_path(folder, 0), shard_path(folder, 1)), "holds other groups than pairs.yaml",
    ),
    "shard of other prompts": (_other_records, "holds other groups than pairs.yaml"),
    "labels changed": (_record(labels=[0.7, 0.3]), "holds other groups than pairs.yaml"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, write_store: Callable[..., Path]) -> Path:
    folder = write_store(tmp_path / "p", RECORDS, _latents(6), shard_size=2)
    _manifest(format=3, fingerprint="f00", groups_digest=count_and_digest(RECORDS)[1])(folder)
    return folder


def test_the_sound_folder_is_read(folder: Path) -> None:
    assert GroupStore(folder).records == Mixture(folder).records == RECORDS
    assert read_pairs(folder, 0).about.startswith("6 pairs of 6 prompts")


READERS: dict[str, Callable[[Path], Any]] = {
    "align": Mixture,
    "export": GroupStore,
    "report": lambda folder: read_pairs(folder, 0),
    "check": lambda folder: check_pairs(GroupStore(folder, complete=False)),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_named(folder: Path, reader: str, change: Change, message: str) -> None:
    change(folder)
    with pytest.raises(UserError, match=message) as error:
        READERS[reader](folder)
    assert "\n" not in str(error.value)


def test_what_breaks_is_told_with_an_index_as_without(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contrapose.store.index.LARGE", 1)
    assert GroupStore(folder).records == RECORDS and (folder / INDEX).is_file()
    kept = shutil.copytree(folder, folder.parent / "kept")
    for name, (change, message) in {**BROKEN, **INCOMPLETE}.items():
        change(folder)
        with pytest.raises(UserError, match=message) as error:
            GroupStore(folder)
        assert "\n" not in str(error.value), name
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
    assert GroupStore(folder).records == RECORDS


@pytest.mark.parametrize("reader", ["align", "export", "report"])
@pytest.mark.parametrize(("change", "message"), INCOMPLETE.values(), ids=INCOMPLETE)
def test_other_pairs_than_planned_are_refused(folder: Path, reader: str, change: Change, message: str) -> None:
    change(folder)
    with pytest.raises(UserError, match=rf"p: {message}"):
        READERS[reader](folder)


@pytest.mark.parametrize(("change", "message"), INCOMPLETE.values(), ids=INCOMPLETE)
def test_a_check_tells_that_the_pairs_are_others_than_planned(
    folder: Path, change: Change, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(folder)
    assert main(["pairs", "check", str(folder)]) == 2
    printed = capsys.readouterr()
    assert "problem: not the groups that were planned: 1 (holds " in printed.out
    last = printed.err.splitlines()[-1]  # after the bar
    assert last.startswith(f"contrapose: {folder}: ") and last.endswith(" kinds of problems, listed above")


@pytest.mark.parametrize("kind", ["manifest deep", "draw a list", "records deep", "prompt a number", "fp8", "no rows"])
def test_a_check_of_what_is_broken_ends_with_one_line(
    folder: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, _ = BROKEN[kind]
    change(folder)
    assert main(["pairs", "check", str(folder)]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.rstrip("\n").count("\n") == 0
    assert printed.err.startswith(f"contrapose: {folder}")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("side", ["winner", "loser"])
def test_a_latent_that_is_not_finite_is_never_given_out(folder: Path, side: str, value: float) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors["latents"][1, ["winner", "loser"].index(side), 2, 0, 0] = value
        return tensors

    _tensors(spoil)(folder)
    store = GroupStore(folder)
    other = "loser" if side == "winner" else "winner"
    assert store.latent(other, 3).isfinite().all() and store.latent(side, 2).isfinite().all()
    with pytest.raises(
        UserError, match=rf"shard-00001\.safetensors: record id-3: its {side} holds values that are not"
    ):
        store.latent(side, 3)


def test_shards_stand_in_the_order_of_their_numbers(tmp_path: Path, write_store: Callable[..., Path]) -> None:
    folder = write_store(tmp_path / "p", RECORDS[:2], _latents(2))
    shard_path(folder, 0).rename(shard_path(folder, 99_999))
    write_shard(folder, 100_000, RECORDS[2:4], _latents(2))
    _manifest(num_groups=4)(folder)
    assert GroupStore(folder).records == RECORDS[:4]


NOISE = (b"", b"\xff", b"\0", b"9", b"[", b'"', b"\\ud83d", b"-1")


@pytest.mark.parametrize("name", ["pairs.yaml", "shard-00001.safetensors"])
def test_whatever_bytes_change_the_folder_is_told_or_as_it_was(folder: Path, name: str) -> None:
    """Three hundred small changes of what the files say, the latents left alone."""
    path, draw = folder / name, random.Random(name)
    whole = path.read_bytes()
    said = len(whole) if name == MANIFEST else 8 + int.from_bytes(whole[:8], "little")
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(draw.choice((1, 2, 5))):
            at = draw.randrange(said)
            data[at : at + draw.choice((0, 1, 1, 9))] = draw.choice(NOISE)
        path.write_bytes(data)
        try:
            assert GroupStore(folder).records == RECORDS
        except UserError as error:
            assert str(folder) in str(error) and "\n" not in str(error)


def _old_folder(folder: Path) -> Path:
    """The records as the format before wrote them, in two shards of three."""
    folder.mkdir()
    for index in range(2):
        records = [
            {"id": r.id, "prompt": r.prompt, "degraded": r.degraded, "seed": r.seed, "preference": 1.0}
            for r in RECORDS[3 * index : 3 * index + 3]
        ]
        sides = {side: torch.randn(3, 4, 2, 2) for side in ("winner", "loser")}
        save_file(sides, shard_path(folder, index), {"records": json.dumps(records)})
    (folder / MANIFEST).write_text(yaml.safe_dump({"format": 2, "num_pairs": 6}))
    return folder


def _old(
    record: dict[str, Any] | None = None, tensors: Callable[[dict[str, torch.Tensor]], Any] | None = None
) -> Change:
    """A change of the second record and of the tensors of the second shard of the format before."""

    def change(folder: Path) -> None:
        path = shard_path(folder, 1)
        with safe_open(path, "pt") as file:
            records = json.loads(file.metadata()["records"])
        records[1].update(record or {})
        values = load_file(path)
        if tensors is not None:
            tensors(values)
        save_file(values, path, {"records": json.dumps(records)})

    return change


BROKEN_OLD: dict[str, tuple[Change, str]] = {
    "num_pairs text": (_manifest(num_pairs="abc"), YAML + "num_pairs is 'abc'"),
    "num_pairs gone": (_manifest(num_pairs=...), YAML + "num_pairs is None"),
    "a shard gone": (lambda folder: shard_path(folder, 0).unlink(), "holds 3 of 6 groups"),
    "prompt a number": (_old({"prompt": 5}), SHARD + "record 2: its prompt is 5"),
    "seed negative": (_old({"seed": -1}), SHARD + "record 2: its seed is -1"),
    "a field more": (_old({"labels": [1, 0]}), SHARD + "record 2: is not an object of id"),
    "preference text": (_old({"preference": "1"}), SHARD + "record 2: its preference is '1'"),
    "preference 7": (_old({"preference": 7}), SHARD + "record 2: its preference is 7"),
    "preference NaN": (_old({"preference": float("nan")}), SHARD + "record 2: its preference is nan"),
    "preference yes": (_old({"preference": True}), SHARD + "record 2: its preference is True"),
    "no loser": (_old(tensors=lambda t: t.pop("loser")), SHARD + "holds the tensors winner, not latents"),
    "no winner": (_old(tensors=lambda t: t.pop("winner")), SHARD + "holds the tensors loser, not latents"),
    "loser of fewer rows": (_old(tensors=lambda t: t.update(loser=t["loser"][:1])), SHARD + "its tensor loser has 1"),
    "loser of another shape": (
        _old(tensors=lambda t: t.update(loser=torch.zeros(3, 4, 1, 2))), SHARD + ".*different shapes",
    ),
    "winners of whole numbers": (
        _old(tensors=lambda t: t.update(winner=t["winner"].int())), SHARD + "its tensor winner is I32",
    ),
    "scalars": (
        _old(tensors=lambda t: t.update({side: value[:, 0, 0, 0].clone() for side, value in t.items()})),
        SHARD + r"holds latents of shape \[\]",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BROKEN_OLD.values(), ids=BROKEN_OLD)
def test_what_is_broken_in_a_folder_of_the_format_before_is_named(tmp_path: Path, change: Change, message: str) -> None:
    folder = _old_folder(tmp_path / "p")
    assert GroupStore(folder).records == RECORDS
    change(folder)
    with pytest.raises(UserError, match=message) as error:
        GroupStore(folder)
    assert "\n" not in str(error.value)
