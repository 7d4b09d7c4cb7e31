"""Settings beside a result: written once, then checked; and files that are not settings at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from contrapose import runfile
from contrapose.errors import UserError


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    batch: int = 8


@dataclass(frozen=True)
class Outer:
    name: str = "a"
    where: Path = Path("here")
    inner: Inner = field(default_factory=Inner)


CONVERTER = runfile.converter()


@pytest.mark.parametrize("text", ["a: [", "", "- 1\n- 2", "just text", "\x00", "a: b: c"])
def test_not_settings(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"run\.yaml: ") as caught:
        runfile.read(path, Outer, CONVERTER)
    assert len(str(caught.value).splitlines()) == 1


def test_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"name: \xff")
    with pytest.raises(UserError, match="YAML"):
        runfile.read(tmp_path / "run.yaml", Outer, CONVERTER)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        runfile.read(tmp_path / "run.yaml", Outer, CONVERTER)


def test_no_code_in_yaml(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("name: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(UserError, match="YAML"):
        runfile.read(tmp_path / "run.yaml", Outer, CONVERTER)


@dataclass(frozen=True)
class Chosen:
    grade: Literal[1, 2] = 1
    kind: Literal["a", "b"] | None = None


@pytest.mark.parametrize(
    "text", ["grade: 3", "grade: 1.0", "grade: yes", "grade: '1'", "grade: [1]", "kind: c", "kind: 1"]
)
def test_a_choice_is_taken_by_value_and_type(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(UserError, match=f"is none of .* in {text.partition(':')[0]}$"):
        runfile.read(tmp_path / "run.yaml", Chosen, CONVERTER)


def test_a_choice_is_read(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("{grade: 2, kind: b}")
    assert runfile.read(tmp_path / "run.yaml", Chosen, CONVERTER) == Chosen(2, "b")


@pytest.mark.parametrize("key", ["margin", "maxin", "n"])
def test_a_setting_is_named_to_its_last_letter(tmp_path: Path, key: str) -> None:
    (tmp_path / "run.yaml").write_text(f"{key}: 3\n")
    with pytest.raises(UserError, match=rf"unknown setting {key} \(known here: name, where, inner\)$"):
        runfile.read(tmp_path / "run.yaml", Outer, CONVERTER)


def test_claim_writes_and_then_agrees(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.yaml"
    assert runfile.claim(path, Outer("猫"), CONVERTER) is False
    assert runfile.read(path, Outer, CONVERTER) == Outer("猫")
    before = path.read_bytes()
    assert runfile.claim(path, Outer("猫"), CONVERTER) is True
    assert path.read_bytes() == before


def test_claim_names_what_differs(tmp_path: Path) -> None:
    runfile.claim(tmp_path / "run.yaml", Outer(), CONVERTER)
    with pytest.raises(UserError, match=r"\(name, inner\.rate differ\)"):
        runfile.claim(tmp_path / "run.yaml", Outer("b", inner=Inner(rate=0.2)), CONVERTER)
    assert runfile.read(tmp_path / "run.yaml", Outer, CONVERTER) == Outer()


def test_claim_takes_a_setting_that_is_newer_than_the_file_as_usual(tmp_path: Path) -> None:
    """Whoever added it made its default what had been done before."""
    path = tmp_path / "run.yaml"
    runfile.claim(path, Outer("b"), CONVERTER)
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "rate" not in line))
    assert runfile.claim(path, Outer("b"), CONVERTER)
    with pytest.raises(UserError, match=r"inner\.rate"):
        runfile.claim(path, Outer("b", inner=Inner(rate=0.2)), CONVERTER)


def test_claim_lets_free_settings_differ_and_no_others(tmp_path: Path) -> None:
    runfile.claim(tmp_path / "run.yaml", Outer(), CONVERTER, free=["inner.batch"])
    assert runfile.claim(tmp_path / "run.yaml", Outer(inner=Inner(batch=4)), CONVERTER, free=["inner.batch"])
    assert runfile.claim(tmp_path / "run.yaml", Outer(inner=Inner(batch=4)), CONVERTER, free=["inner"])
    with pytest.raises(UserError, match=r"inner\.batch"):
        runfile.claim(tmp_path / "run.yaml", Outer(inner=Inner(batch=4)), CONVERTER, free=["inn", "batch"])


def test_a_setting_that_one_side_lacks_is_a_difference() -> None:
    assert runfile.differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}, "d": 3}) == ["a.c", "d"]
    assert runfile.differences({"a": [1, 2]}, {"a": [1, 2]}) == []


@dataclass(frozen=True)
class Asked:
    question: str = "?"
    address: runfile.Practical[str | None] = None
    inner: runfile.Practical[Inner] = field(default_factory=Inner)


@dataclass(frozen=True)
class Several:
    each: tuple[Asked, ...] = (Asked(), Asked())
    first: Asked = field(default_factory=Asked)


def test_settings_that_decide_nothing_may_differ_at_any_depth(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    assert not runfile.claim(path, Several(), CONVERTER)
    moved = Asked(address="there")
    assert runfile.claim(path, Several((moved, Asked()), moved), CONVERTER)
    for other, name in (
        (Several((Asked(), Asked("!"))), r"each\.1\.question differ"),
        (Several((Asked(),)), r"each differ"),
        (Several(first=Asked("!", "there")), r"first\.question differ"),
    ):
        with pytest.raises(UserError, match=rf"\({name}\)"):
            runfile.claim(path, other, CONVERTER)


@dataclass(frozen=True)
class Ranged:
    interval: tuple[float, float] = (0.0, 1.0)


def test_a_pair_of_numbers_is_the_same_when_read_again(tmp_path: Path) -> None:
    """Which a file gives back as a list."""
    assert not runfile.claim(tmp_path / "run.yaml", Ranged(), CONVERTER)
    assert runfile.claim(tmp_path / "run.yaml", Ranged(), CONVERTER)
    assert runfile.read(tmp_path / "run.yaml", Ranged, CONVERTER) == Ranged()
    with pytest.raises(UserError, match="interval differ"):
        runfile.claim(tmp_path / "run.yaml", Ranged((0.0, 0.5)), CONVERTER)


def claim_inputs(folder: Path, settings: Outer, **digests: str) -> bool:
    return runfile.claim(folder / "run.yaml", settings, CONVERTER, inputs=digests)


def test_an_input_may_be_called_otherwise_but_not_be_another(tmp_path: Path) -> None:
    assert not claim_inputs(tmp_path, Outer(where=Path("here")), where="abc")
    assert claim_inputs(tmp_path, Outer(where=Path("/elsewhere/here")), where="abc")
    with pytest.raises(UserError, match="made from another content of where; choose another --out"):
        claim_inputs(tmp_path, Outer(where=Path("here")), where="xyz")
    with pytest.raises(UserError, match="name differ"):
        claim_inputs(tmp_path, Outer(name="b"), where="abc")


@pytest.mark.parametrize("ours", [{"where": "abc"}, {"where": "abc", "name": "abc"}])
@pytest.mark.parametrize("theirs", [{"where": "abc"}, {"where": "abc", "name": "abc"}])
def test_an_input_that_is_asked_for_in_one_alone_is_another_setting(tmp_path: Path, ours, theirs) -> None:
    claim_inputs(tmp_path, Outer(name="b" if "name" in theirs else "a"), **theirs)
    if ours == theirs:
        assert claim_inputs(tmp_path, Outer(name="other" if "name" in ours else "a"), **ours)
        return
    with pytest.raises(UserError, match=r"other settings \(name differ\)"):
        claim_inputs(tmp_path, Outer(name="b" if "name" in ours else "a"), **ours)


def test_a_folder_that_notes_no_inputs_goes_by_their_names(tmp_path: Path) -> None:
    runfile.claim(tmp_path / "run.yaml", Outer(), CONVERTER)
    assert claim_inputs(tmp_path, Outer(), where="abc")
    with pytest.raises(UserError, match="where differ"):
        claim_inputs(tmp_path, Outer(where=Path("there")), where="abc")


def test_a_note_that_was_cut_is_not_taken_for_whole(tmp_path: Path) -> None:
    claim_inputs(tmp_path, Outer(), name="abc", where="abc")
    (tmp_path / "inputs.yaml").write_text("name: abc\n")
    with pytest.raises(UserError, match=r"inputs\.yaml: broken, it does not tell of where"):
        claim_inputs(tmp_path, Outer(), name="abc", where="abc")


def test_results_whose_settings_are_gone_are_not_taken_for_those_of_others(tmp_path: Path) -> None:
    (tmp_path / "shard-0").touch()
    with pytest.raises(UserError, match=r"shard-0: is there without the run\.yaml .*choose another --out"):
        runfile.claim(tmp_path / "run.yaml", Outer(), CONVERTER, results=["weights", "shard-*"])
    assert not (tmp_path / "run.yaml").exists()
    runfile.claim(tmp_path / "run.yaml", Outer(), CONVERTER, results=["weights"])
    assert runfile.claim(tmp_path / "run.yaml", Outer(), CONVERTER, results=["shard-*"]), "its own"


def test_the_note_of_another_command_is_not_lost(tmp_path: Path) -> None:
    theirs = {"draw.model": "abc", "draw.prompts": "def"}
    runfile.claim(tmp_path / "pairs.yaml", {"seed": 0}, CONVERTER, inputs=theirs)
    with pytest.raises(UserError, match=r"another command \(pairs\.yaml\); choose another --out$"):
        claim_inputs(tmp_path, Outer(), where="abc")
    assert runfile.claim(tmp_path / "pairs.yaml", {"seed": 0}, CONVERTER, inputs=theirs)
    assert not claim_inputs(tmp_path, Outer(), **theirs, where="abc"), "one that notes all of it, as `pairs score` does"


def test_a_command_that_was_killed_before_its_settings_leaves_the_folder_to_any(tmp_path: Path) -> None:
    (tmp_path / "inputs.yaml").write_text("draw.model: abc\n")
    assert not claim_inputs(tmp_path, Outer(), where="abc")


@pytest.mark.parametrize("content", [b"", b"- 1", b"a: [", b"\xff", b"[" * 3000, b"a: 1\na: 2"])
@pytest.mark.parametrize("name", ["run.yaml", "inputs.yaml"])
def test_a_broken_claim_is_one_line_that_names_it(tmp_path: Path, name: str, content: bytes) -> None:
    claim_inputs(tmp_path, Outer(), where="abc")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: .*choose another --out, or delete the folder") as caught:
        claim_inputs(tmp_path, Outer(), where="abc")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["true", "'x'", "[1]", "null"])
def test_a_number_is_a_number(tmp_path: Path, value: str) -> None:
    (tmp_path / "run.yaml").write_text(f"inner: {{rate: {value}}}\n")
    with pytest.raises(UserError, match="is not a number"):
        runfile.read(tmp_path / "run.yaml", Outer, CONVERTER)


def test_a_number_may_be_written_without_a_point(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("inner: {rate: 1e-5}\n")
    assert runfile.read(tmp_path / "run.yaml", Outer, CONVERTER).inner.rate == 1e-5


@pytest.mark.parametrize("value", ['"a\\0b"', "3", "[a]"])
def test_a_path_is_text_that_a_disk_can_hold(tmp_path: Path, value: str) -> None:
    (tmp_path / "run.yaml").write_text(f"where: {value}\n")
    with pytest.raises(UserError, match="is not a path"):
        runfile.read(tmp_path / "run.yaml", Outer, CONVERTER)


def test_a_file_says_its_version_and_may_leave_it_out(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    runfile.claim(path, Outer(), CONVERTER)
    text = path.read_text()
    assert text.startswith(f"version: {runfile.VERSION}\n")
    path.write_text(text.partition("\n")[2])  # as earlier versions wrote it
    assert runfile.read(path, Outer, CONVERTER) == Outer()
    assert runfile.claim(path, Outer(), CONVERTER)


@pytest.mark.parametrize("version", ["2", "0", "true", "new", "null"])
def test_a_file_of_another_version_is_refused(tmp_path: Path, version: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"version: {version}\nname: a\n")
    refused = rf"{path}: is of version .*, and this contrapose reads versions up to 1; update contrapose"
    with pytest.raises(UserError, match=refused):
        runfile.read(path, Outer, CONVERTER)
    with pytest.raises(UserError, match=refused):
        runfile.claim(path, Outer(), CONVERTER)
