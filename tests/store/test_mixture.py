"""Several folders as one: weights are how often an epoch sees a pair, and one folder is as it was."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from contrapose.errors import UserError
from contrapose.store.mixture import Mixture, parse
from contrapose.store.prompts import Prompt
from contrapose.store.records import GroupRecord


@pytest.fixture
def folders(tmp_path: Path, write_store: Callable[..., Path]) -> tuple[Path, Path]:
    """`real` with 10 pairs of value 0.., `drawn` with 20 pairs of value 100.. and another size."""
    found = []
    for name, num, first, side in (("real", 10, 0, 8), ("drawn", 20, 100, 4)):
        records = [GroupRecord.pair(f"{name}-{i}", f"{name} {i}", "", i) for i in range(num)]
        values = (first + torch.arange(num, dtype=torch.float32)).view(-1, 1, 1, 1).expand(-1, 4, side, side)
        found.append(write_store(tmp_path / name, records, {"winner": values, "loser": -values}))
    return found[0], found[1]


def _epoch(mixture: Mixture, seed: int = 0) -> list[int]:
    return mixture.epoch(range(len(mixture)), torch.Generator().manual_seed(seed)).tolist()


def test_all_records_are_there_each_with_its_own_latents(folders: tuple[Path, Path]) -> None:
    mixture = Mixture(folders)
    assert len(mixture) == 30 and mixture.usual_shape == (4, 4, 4)
    for index, value in ((3, 3), (12, 102)):
        assert float(mixture.latent("winner", index).mean()) == value == -float(mixture.latent("loser", index).mean())
        assert mixture.shape(index) == tuple(mixture.latent("winner", index).shape)


def test_an_epoch_sees_each_pair_as_often_as_its_weight_says(folders: tuple[Path, Path]) -> None:
    real, drawn = folders
    mixture = Mixture([Path(f"{real}:2"), Path(f"{drawn}:0.3")])
    epochs = [_epoch(mixture, seed) for seed in range(60)]
    for epoch in epochs:
        counts = Counter(epoch)
        assert [counts[i] for i in range(10)] == [2] * 10
        assert len(epoch) == 26 and max(counts[i] for i in range(10, 30)) == 1
    often = Counter(record for epoch in epochs for record in epoch if record >= 10)
    assert len(often) == 20 and min(often.values()) > 5, "another share each time"


def test_a_file_of_prompts_is_each_text_once_with_what_its_first_line_tells(tmp_path: Path) -> None:
    rows = [{"prompt": "a fox", "tag": "x"}, {"prompt": "a cup"}, {"prompt": "a fox", "tag": "y"}, {"prompt": "a bee"}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    mixture = Mixture(tmp_path / "p.jsonl")
    assert [record.prompt for record in mixture.records] == ["a fox", "a cup", "a bee"]
    assert list(mixture.prompts()) == [Prompt("a fox", {"tag": "x"}), Prompt("a cup"), Prompt("a bee")]
    assert [prompt.place for prompt in mixture.prompts()] == ["line 1", "line 2", "line 4"]


def test_the_smallest_weight_still_sees_something(folders: tuple[Path, Path]) -> None:
    assert len(_epoch(Mixture([Path(f"{folders[0]}:0.001")]))) == 1


def test_without_weights_an_epoch_is_one_shuffle(folders: tuple[Path, Path]) -> None:
    records = [3, 5, 7, 11, 20]
    expected = torch.randperm(5, generator=torch.Generator().manual_seed(4)).tolist()
    mixed = Mixture(folders).epoch(records, torch.Generator().manual_seed(4))
    assert mixed.tolist() == [records[i] for i in expected]
    assert _epoch(Mixture(folders[0])) != list(range(10)) and sorted(_epoch(Mixture(folders[0]))) == list(range(10))


def test_a_folder_that_is_named_like_a_weight_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "odd:0.5").mkdir()
    assert parse(tmp_path / "odd:0.5") == [(tmp_path / "odd:0.5", 1.0)]
    assert parse([Path("a"), Path("b:.25")]) == [(Path("a"), 1.0), (Path("b"), 0.25)]


@pytest.mark.parametrize(
    ("folders", "naming"),
    [
        ([Path("a:0")], "above 0"),
        ([Path("a:1000000000")], "pairs a: weight"),
        ([Path("a"), Path("a:2")], "twice"),
        ([], "name a folder"),
    ],
)
def test_mixtures_that_make_no_sense_are_told(folders: list[Path], naming: str) -> None:
    with pytest.raises(UserError, match=naming):
        parse(folders)
