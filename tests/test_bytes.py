"""The same written twice is the same to the byte, whatever the process, and others may read it as the umask says."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from contrapose.tensors import save_tensors

NOTES = {name: f"{name}\n\x1f\x7f 'é' 🎨 \\ \"" for name in ("method", "base", "z", "a", "pairs")}
KINDS = ("lora", "peft", "kohya.safetensors", "whole", "pairs", "step.safetensors", "embeddings", "merged")

# Writes one of each kind of result with several notes into the folder that it is given.
WRITE = """
import sys
from pathlib import Path
import tiny, torch
from training import with_full, with_lora
from contrapose.backbones.families.table import KOHYA_LAYOUTS, load_backbone
from contrapose.runs.kohya import convert
from contrapose.guiding.merge import Merge, merge
from contrapose.store.shard_files import write_shard
from contrapose.store.records import GroupRecord
from contrapose.backbones.embeddings import Embeddings
from contrapose.runs.training_state import Weights, save_training

out = Path(sys.argv[1])
notes = {"method": "sft", "base": "tiny", "pairs": "some", "base_fingerprint": "0"}
for folder, name in (("lora", "sd"), ("peft", "pixart")):
    backbone = load_backbone(tiny.save(name, out / ".models" / name))
    Embeddings(backbone.text, folder=out / "embeddings")(["a red circle"])
    torch.manual_seed(0)
    backbone = with_lora(backbone, 2, 2.0)
    for parameter in backbone.policies.parameters():
        parameter.data = torch.randn_like(parameter)
    backbone.save(out / folder, {} if name == "sd" else notes)
    if name == "sd":
        merge(Merge(str(out / ".models" / name), out / folder), out / "merged")
        backbone.save(out / folder, notes)
convert(out / "lora", out / "kohya.safetensors", KOHYA_LAYOUTS)
whole = with_full(load_backbone(out / ".models" / "sd"), torch.float32, needs_reference=False)
whole.save(out / "whole", notes)
write_shard(out / "pairs", 0, [GroupRecord.pair("1", "a", "b", 0)], torch.ones(1, 2, 4))
save_training(out / "step.safetensors", 1, **{n: Weights([torch.ones(2)]) for n in ("trainee", "average", "b")})
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two folders with one of each kind of result, by this process and one whose sets are in another order."""
    folders = [tmp_path_factory.mktemp("bytes") for _ in range(2)]
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    order = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    old = os.umask(0o027)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["-c", str(folders[0])])
            exec(WRITE, {})
        subprocess.run(
            [sys.executable, "-c", WRITE, str(folders[1])],
            check=True,
            env={**os.environ, "PYTHONHASHSEED": order, "PYTHONPATH": paths},
        )
    finally:
        os.umask(old)
    return folders


def _files(folder: Path, kind: str) -> dict[str, Path]:
    """The files of one kind of result by their names in it; shards of embeddings have random ones, and are counted."""
    place = folder / kind
    if place.is_file():
        return {kind: place}
    paths = [path for path in place.rglob("*") if path.is_file()]
    if kind == "embeddings":
        paths = sorted(paths, key=lambda path: path.read_bytes())
        return {f"{number}{path.suffix}": path for number, path in enumerate(paths)}
    return {str(path.relative_to(place)): path for path in paths}


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_write_the_same_bytes(kind: str, written: list[Path]) -> None:
    one, other = (_files(folder, kind) for folder in written)
    assert one
    assert one.keys() == other.keys()
    assert [name for name in one if one[name].read_bytes() != other[name].read_bytes()] == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_umask_decides_who_may_read(kind: str, written: list[Path]) -> None:
    modes = {name: stat.S_IMODE(path.stat().st_mode) for name, path in _files(written[0], kind).items()}
    assert modes == dict.fromkeys(modes, 0o640)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """By the library, which has rules of its own for the header: tensors of all sizes, and letters that are escaped."""
    tensors = {
        "b": torch.arange(6.0).reshape(2, 3).T,  # not contiguous
        "a": torch.arange(3, dtype=torch.int8),
        "é": torch.tensor(1.5, dtype=torch.float64),
        "empty": torch.empty(0, 4, dtype=torch.bfloat16),
        "half": torch.ones(1, 7, requires_grad=True).half(),
    }
    for notes in ({}, NOTES, None):
        path = tmp_path / f"{len(notes or '')}.safetensors"
        save_tensors(path, tensors, notes)
        read = load_file(path)
        assert read.keys() == tensors.keys()
        assert all(
            torch.equal(read[name], value) and read[name].dtype == value.dtype for name, value in tensors.items()
        )
        with safe_open(path, "pt") as file:
            assert (file.metadata() or {}) == (notes or {})


def test_the_order_of_what_is_given_does_not_matter(tmp_path: Path) -> None:
    tensors = {name: torch.full((3,), float(number)) for number, name in enumerate("cab")}
    save_tensors(tmp_path / "one", tensors, NOTES)
    save_tensors(tmp_path / "other", dict(reversed(tensors.items())), dict(reversed(NOTES.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
