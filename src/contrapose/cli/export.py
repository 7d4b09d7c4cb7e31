"""`contrapose export`."""

from __future__ import annotations

import filecmp
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from contrapose.backbones.settings import Precision
from contrapose.cli.options import parse
from contrapose.errors import UserError
from contrapose.files import check_file, one_writer, replacing

if TYPE_CHECKING:
    from contrapose.runs.folder import RunFolder


@dataclass(frozen=True)
class Command:
    """Write a run's LoRA adapters as one file for ComfyUI or AUTOMATIC1111, where strength 1 is the trained effect.

    Diffusers needs no export: it loads the run's folder (PixArt's with peft), and of exported files only those of
    Stable Diffusion 1, 2 and XL, FLUX, Z-Image and Qwen-Image.
    """

    run: Path
    """Folder of a run, or of one of its policies where it trained several, RUN@STEP being a kept step of it; stock
    diffusers' or peft's adapters too, a folder or a file."""
    out: Path
    """File to write, ending in .safetensors."""
    format: Literal["kohya"] = "kohya"
    """Form of the file."""
    precision: Precision = "fp16"
    """Precision of the weights in the file."""
    overwrite: bool = False
    """Replace another file that is there."""


def main(arguments: list[str], prog: str) -> None:
    export(parse(Command, arguments, prog))


def export(command: Command) -> None:
    from contrapose.backbones.families.table import KOHYA_LAYOUTS
    from contrapose.backbones.loading import DTYPES
    from contrapose.cli.notes import quiet_libraries
    from contrapose.runs.folder import RunFolder
    from contrapose.runs.kohya import convert

    quiet_libraries()

    run = RunFolder(command.run)
    run.check_exists()
    _check_out(command.out, run)
    with one_writer(command.out, beside=True), TemporaryDirectory() as folder:
        written = Path(folder) / command.out.name
        count = convert(command.run, written, KOHYA_LAYOUTS, DTYPES[command.precision])
        already = command.out.exists() and filecmp.cmp(command.out, written, shallow=False)
        if command.out.exists() and not already and not command.overwrite:
            message = "is there already, and is not what this would write; choose another name, or replace it with"
            raise UserError(f"--out {command.out}: {message} --overwrite")
        if not already:
            with replacing(command.out) as aside:
                shutil.copyfile(written, aside)
    remark = " (was there already)" if already else ""
    print(f"{command.out}: adapters of {count} layers in {command.precision}{remark}")


def _check_out(out: Path, run: RunFolder) -> None:
    from contrapose.runs.adapter_files import adapter_file

    if out.suffix != ".safetensors":
        raise UserError(f"--out {out}: name a file that ends in .safetensors, which is what other tools look for")
    check_file(out)
    weights = adapter_file(run.weights)
    if weights is not None and out.resolve() == weights.resolve():
        raise UserError(f"--out {out}: is the run's own weights; choose another name")
