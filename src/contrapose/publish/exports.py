"""A run's adapters as files for other tools."""

from __future__ import annotations

import filecmp
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from contrapose.backbones.families.table import KOHYA_LAYOUTS
from contrapose.backbones.loading import DTYPES
from contrapose.backbones.settings import Precision
from contrapose.errors import UserError
from contrapose.files import check_file, one_writer, replacing
from contrapose.runs.adapter_files import adapter_file
from contrapose.runs.folder import RunFolder
from contrapose.runs.kohya import convert


class Exported(NamedTuple):
    """What an exported file holds."""

    num_layers: int
    """Layers with adapters, those of text encoders among them."""
    is_new: bool
    """Whether the file was written; False where the same was there already."""


def export_kohya(run: Path, out: Path, precision: Precision = "fp16", overwrite: bool = False) -> Exported:
    """Write a run's LoRA adapters as one .safetensors file in kohya's form, for ComfyUI and AUTOMATIC1111.

    `run` is as `RunFolder` takes it, RUN@STEP being a kept step; at strength 1 the file has the trained effect. Raises
    `UserError` for what holds no adapters, weights that the precision cannot hold, and a file that is there and is
    another, unless it is to be overwritten.
    """
    folder = RunFolder(run)
    folder.check_exists()
    _check_out(out, folder)
    with one_writer(out, beside=True), TemporaryDirectory() as temporary:
        written = Path(temporary) / out.name
        num_layers = convert(run, written, KOHYA_LAYOUTS, DTYPES[precision])
        is_new = not (out.exists() and filecmp.cmp(out, written, shallow=False))
        if is_new and out.exists() and not overwrite:
            message = "is there already, and is not what this would write; choose another name, or replace it with"
            raise UserError(f"--out {out}: {message} --overwrite")
        if is_new:
            with replacing(out) as aside:
                shutil.copyfile(written, aside)
    return Exported(num_layers, is_new)


def _check_out(out: Path, run: RunFolder) -> None:
    if out.suffix != ".safetensors":
        raise UserError(f"--out {out}: name a file that ends in .safetensors, which is what other tools look for")
    check_file(out)
    weights = adapter_file(run.weights)
    if weights is not None and out.resolve() == weights.resolve():
        raise UserError(f"--out {out}: is the run's own weights; choose another name")
