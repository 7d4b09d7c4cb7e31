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
from safetensors.torch import load_file, save_file

from contrapose.cli.main import main
from contrapose.errors import UserError
from contrapose.report.provenance import read_pairs
from contrapose.store.check import check
from contrapose.store.manifest import MANIFEST
from contrapose.store.mixture import Mixture
from contrapose.store.pairs import PairRecord, PairStore, count_and_digest, shard_path, write_shard

RECORDS = [PairRecord(f"id-{i}", f"a red circle {i}", f"circle {i}", i) for i in range(6)]
Change = Callable[[Path], Any]


def _sides(num: int) -> dict[str, torch.Tensor]:
    return {side: torch.randn(num, 4, 2, 2) for side in ("winner", "loser")}


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
    write_shard(folder, 1, others, _sides(2))


LAUGHS = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
SHARD = r"shard-00001\.safetensors: "
YAML = r"pairs\.yaml: "
BROKEN: dict[str, tuple[Change, str]] = {
    "manifest empty": (_text(""), YAML + "broken"),
    "manifest cut": (_text("num_pairs: {"), YAML + "not readable"),
    "manifest binary": (_text(b"\xff\xfe\0"), YAML + "not readable"),
    "manifest deep": (_text("a: " + "[" * 3000), YAML + "not readable"),
    "manifest billion laughs": (_text(LAUGHS), YAML + "not readable"),
    "manifest a list": (_text("[1]"), YAML + "broken"),
    "num_pairs text": (_manifest(num_pairs="abc"), YAML + "num_pairs is 'abc'"),
    "num_pairs null": (_manifest(num_pairs=None), YAML + "num_pairs is None"),
    "num_pairs yes": (_manifest(num_pairs=True), YAML + "num_pairs is True"),
    "num_pairs -1": (_manifest(num_pairs=-1), YAML + "num_pairs is -1"),
    "num_pairs gone": (_manifest(num_pairs=...), YAML + "num_pairs is None"),
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
    "a record too many": (_records(lambda raw: [*raw, raw[0]]), SHARD + "holds 2 latents of each side for 3 records"),
    "a record too few": (_records(lambda raw: raw[:1]), SHARD + "holds 2 latents of each side for 1 records"),
    "prompt a number": (_record(prompt=5), SHARD + "record 2: its prompt is 5"),
    "prompt null": (_record(prompt=None), SHARD + "record 2: its prompt is None"),
    "prompt half a character": (_record(prompt="a \ud83d"), SHARD + "record 2: its prompt holds"),
    "prompt with a NUL": (_record(prompt="a \0"), SHARD + "record 2: its prompt holds"),
    "degraded a number": (_record(degraded=5), SHARD + "record 2: its degraded is 5"),
    "degraded a list": (_record(degraded=["a"]), SHARD + r"record 2: its degraded is \['a'\]"),
    "id a number": (_record(id=5), SHARD + "record 2: its id is 5"),
    "preference text": (_record(preference="1"), SHARD + "record 2: its preference is '1'"),
    "preference 7": (_record(preference=7), SHARD + "record 2: its preference is 7"),
    "preference NaN": (_record(preference=float("nan")), SHARD + "record 2: its preference is nan"),
    "preference yes": (_record(preference=True), SHARD + "record 2: its preference is True"),
    "seed text": (_record(seed="1"), SHARD + "record 2: its seed is '1'"),
    "seed negative": (_record(seed=-1), SHARD + "record 2: its seed is -1"),
    "seed 2**64": (_record(seed=2**64), SHARD + "record 2: its seed is 18446744073709551616"),
    "no loser": (_tensors(lambda t: {"winner": t["winner"]}), SHARD + "holds the tensors winner, not"),
    "no winner": (_tensors(lambda t: {"loser": t["loser"]}), SHARD + "holds the tensors loser, not"),
    "other names": (_tensors(lambda t: {"a": t["loser"], "b": t["winner"]}), SHARD + "holds the tensors a, b, not"),
    "a tensor more": (_tensors(lambda t: {**t, "x": t["loser"].clone()}), SHARD + "holds the tensors loser, winner, x"),
    "loser of fewer rows": (_tensors(lambda t: {**t, "loser": t["loser"][:1]}), SHARD + ".*different shapes"),
    "loser of other shape": (_tensors(lambda t: {**t, "loser": torch.zeros(2, 4, 1, 2)}), SHARD + ".*different shapes"),
    "both of fewer rows": (_each(lambda value: value[:1]), SHARD + "holds 1 latents of each side for 2 records"),
    "both of no rows": (_each(lambda value: value[:0]), SHARD + "holds 0 latents"),
    "scalars": (_each(lambda value: value[:, 0, 0, 0]), SHARD + r"holds latents of shape \[\]"),
    "tensors without an axis": (_each(lambda value: value[0, 0, 0, 0]), SHARD + "holds 0 latents"),
    "latents of no pixels": (_each(lambda value: value[:, :, :0]), SHARD + r"holds latents of shape \[4, 0, 2\]"),
    "fp8": (_each(lambda value: value.to(torch.float8_e4m3fn)), SHARD + "its losers are F8_E4M3"),
    "whole numbers": (_each(lambda value: value.to(torch.int32)), SHARD + "its losers are I32"),
    "yes and no": (_each(lambda value: value > 0), SHARD + "its losers are BOOL"),
    "complex": (_each(lambda value: value.to(torch.complex64)), SHARD + "its losers are C64"),
    "one side of whole numbers": (
        _tensors(lambda t: {**t, "winner": t["winner"].int()}),
        SHARD + "its winners are I32",
    ),
}
INCOMPLETE: dict[str, tuple[Change, str]] = {
    "shard missing in the middle": (lambda folder: shard_path(folder, 1).unlink(), "holds 4 of 6 pairs"),
    "last shard missing": (lambda folder: shard_path(folder, 2).unlink(), "holds 4 of 6 pairs"),
    "shard twice": (
        lambda folder: shutil.copy(shard_path(folder, 1), shard_path(folder, 3)),
        "holds 8 pairs, where pairs.yaml tells of 6.*shard-00003",
    ),
    "extra shard of other pairs": (
        lambda folder: write_shard(folder, 7, RECORDS[:2], _sides(2)), "holds 8 pairs.*shard-00007",
    ),
    "shard exchanged for another": (
        lambda folder: shutil.copy(shard_path(folder, 0), shard_path(folder, 1)), "holds other pairs than pairs.yaml",
    ),
    "shard of other prompts": (_other_records, "holds other pairs than pairs.yaml"),
    "preference changed": (_record(preference=0.7), "holds other pairs than pairs.yaml"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, write_store: Callable[..., Path]) -> Path:
    folder = write_store(tmp_path / "p", RECORDS, _sides(6), shard_size=2)
    _manifest(format=2, fingerprint="f00", pairs_digest=count_and_digest(RECORDS)[1])(folder)
    return folder


def test_the_sound_folder_is_read(folder: Path) -> None:
    assert PairStore(folder).records == Mixture(folder).records == RECORDS
    assert read_pairs(folder, 0).facts[1].value.startswith("6, from 6 prompts")


READERS: dict[str, Callable[[Path], Any]] = {
    "align": Mixture,
    "export": PairStore,
    "report": lambda folder: read_pairs(folder, 0),
    "check": lambda folder: list(check(PairStore(folder, complete=False))),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_named(folder: Path, reader: str, change: Change, message: str) -> None:
    change(folder)
    with pytest.raises(UserError, match=message) as error:
        READERS[reader](folder)
    assert "\n" not in str(error.value)


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
    assert "problem: not the pairs that were planned: 1 (holds " in printed.out
    last = printed.err.splitlines()[-1]  # after the bar
    assert last.startswith(f"contrapose: {folder}: ") and last.endswith(" kinds of problems, listed above")


@pytest.mark.parametrize("kind", ["manifest deep", "draw a list", "records deep", "prompt a number", "fp8", "no loser"])
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
        tensors[side][1, 2, 0, 0] = value
        return tensors

    _tensors(spoil)(folder)
    store = PairStore(folder)
    other = "loser" if side == "winner" else "winner"
    assert store.latent(other, 3).isfinite().all() and store.latent(side, 2).isfinite().all()
    with pytest.raises(
        UserError, match=rf"shard-00001\.safetensors: record id-3: its {side} holds values that are not"
    ):
        store.latent(side, 3)


def test_shards_stand_in_the_order_of_their_numbers(tmp_path: Path, write_store: Callable[..., Path]) -> None:
    folder = write_store(tmp_path / "p", RECORDS[:2], _sides(2))
    shard_path(folder, 0).rename(shard_path(folder, 99_999))
    write_shard(folder, 100_000, RECORDS[2:4], _sides(2))
    _manifest(num_pairs=4)(folder)
    assert PairStore(folder).records == RECORDS[:4]


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
            assert PairStore(folder).records == RECORDS
        except UserError as error:
            assert str(folder) in str(error) and "\n" not in str(error)
