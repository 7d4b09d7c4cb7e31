"""What is saved comes back to the last bit, memory layout included, and a failed save harms nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from contrapose.errors import UserError
from contrapose.runs import training_state
from contrapose.runs.training_state import BrokenCheckpoint, Moments, Stateful, Weights, load_training, save_training


def _parts(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 3)).to(
        memory_format=torch.channels_last
    )
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2)


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(step))
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture
def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    parts = _parts(0)
    _train(*parts, range(3))
    return parts


def _stateful(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Stateful]:
    return {"model": Weights(list(model.parameters())), "optimizer": Moments(optimizer)}


def _save(path: Path, step: int, parts: tuple[nn.Module, torch.optim.Optimizer]) -> None:
    save_training(path, step, **_stateful(*parts))


def _equal(ours: tuple[nn.Module, torch.optim.Optimizer], theirs: tuple[nn.Module, torch.optim.Optimizer]) -> bool:
    pairs = list(zip(ours[0].parameters(), theirs[0].parameters(), strict=True))
    weights = all(torch.equal(a, b) for a, b in pairs)
    moments = all(
        torch.equal(value, theirs[1].state[b][name]) for a, b in pairs for name, value in ours[1].state[a].items()
    )
    return weights and moments


def test_round_trip_is_bit_exact(trained: tuple[nn.Module, torch.optim.Optimizer], tmp_path: Path) -> None:
    _save(tmp_path / "step.safetensors", 3, trained)
    fresh = _parts(1)
    assert load_training(tmp_path / "step.safetensors", **_stateful(*fresh)) == 3
    assert fresh[1].state[next(fresh[0].parameters())]["step"] == 3
    assert _equal(trained, fresh)
    _train(*trained, range(3, 6))
    _train(*fresh, range(3, 6))
    assert _equal(trained, fresh)


def test_moments_keep_the_memory_layout(trained: tuple[nn.Module, torch.optim.Optimizer], tmp_path: Path) -> None:
    _save(tmp_path / "step.safetensors", 3, trained)
    fresh = _parts(1)
    load_training(tmp_path / "step.safetensors", **_stateful(*fresh))
    weight = fresh[0][0].weight
    for value in (weight, fresh[1].state[weight]["exp_avg"], fresh[1].state[weight]["exp_avg_sq"]):
        assert value.is_contiguous(memory_format=torch.channels_last)
        assert not value.is_contiguous()


def test_settings_of_the_optimiser_are_the_new_runs(
    trained: tuple[nn.Module, torch.optim.Optimizer], tmp_path: Path
) -> None:
    _save(tmp_path / "step.safetensors", 3, trained)
    model, optimizer = _parts(1)
    optimizer.param_groups[0]["lr"] = 0.5
    load_training(tmp_path / "step.safetensors", **_stateful(model, optimizer))
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_before_the_first_step(tmp_path: Path) -> None:
    parts = _parts(0)
    _save(tmp_path / "step.safetensors", 0, parts)
    assert load_training(tmp_path / "step.safetensors", **_stateful(*parts)) == 0


def _rewritten(path: Path, change: Callable[[dict[str, Tensor]], None], **header: object) -> None:
    """The file with other tensors under its own header, or another one."""
    with safe_open(path, "pt") as file:
        note = json.loads(file.metadata()["training"])
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"training": json.dumps(note | header)})


def _drop(start: str) -> Callable[[dict[str, Tensor]], None]:
    def drop(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.startswith(start)]:
            del tensors[name]

    return drop


BREAKING: dict[str, Callable[[Path], object]] = {
    "absent": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "text": lambda path: path.write_text("step 3"),
    "one byte other": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x7f"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "no header": lambda path: save_file(load_file(path), path),
    "a list as header": lambda path: save_file(load_file(path), path, metadata={"training": "[]"}),
    "step below 0": lambda path: _rewritten(path, lambda _: None, step=-3),
    "step no number": lambda path: _rewritten(path, lambda _: None, step="3"),
    "no optimiser": lambda path: _rewritten(path, _drop("optimizer/")),
    "no model": lambda path: _rewritten(path, _drop("model/")),
    "other shape": lambda path: _rewritten(path, lambda t: t.update({"model/1": torch.zeros(3)})),
    "not a number": lambda path: _rewritten(path, lambda t: t["model/1"].fill_(torch.nan)),
}


@pytest.mark.parametrize("how", BREAKING)
def test_a_broken_one_is_named_and_changes_nothing(
    trained: tuple[nn.Module, torch.optim.Optimizer], tmp_path: Path, how: str
) -> None:
    path = tmp_path / "step.safetensors"
    _save(path, 3, trained)
    BREAKING[how](path)
    model, optimizer = _parts(1)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(BrokenCheckpoint, match=r"step\.safetensors: ") as caught:
        load_training(path, **_stateful(model, optimizer))
    assert "\n" not in str(caught.value)
    assert all(map(torch.equal, before, model.parameters()))


def test_one_that_another_process_cannot_read_ends_all(
    trained: tuple[nn.Module, torch.optim.Optimizer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a folder that one machine sees as it was: it is no broken step, which all would pass over."""
    path = tmp_path / "step.safetensors"
    _save(path, 3, trained)
    monkeypatch.setattr(training_state, "of_all", lambda mine: [mine, "cut short"])
    with pytest.raises(UserError, match=r"process 1 cannot read what others can \(cut short\)") as caught:
        load_training(path, **_stateful(*_parts(1)))
    assert not isinstance(caught.value, BrokenCheckpoint)
    path.unlink()
    monkeypatch.setattr(training_state, "of_all", lambda mine: [mine, None])
    with pytest.raises(UserError, match="process 0 cannot read what others can") as caught:
        load_training(path, **_stateful(*_parts(1)))
    assert not isinstance(caught.value, BrokenCheckpoint)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(28, "No space left on device"), UserError),
        (SafetensorError("I/O error: No space left on device (os error 28)"), UserError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=["OSError", "SafetensorError", "kill"],
)
def test_a_failed_save_keeps_the_old_file(
    trained: tuple[nn.Module, torch.optim.Optimizer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    raised: type[BaseException],
) -> None:
    path = tmp_path / "step.safetensors"
    _save(path, 3, trained)
    before = path.read_bytes()

    def fail(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise error

    monkeypatch.setattr("contrapose.tensors.save_file", fail)
    with pytest.raises(raised):
        _save(path, 4, trained)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before
