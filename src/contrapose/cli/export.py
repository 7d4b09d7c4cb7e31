"""`contrapose export`."""

from __future__ import annotations

import filecmp
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from contrapose import runfile
from contrapose.backbones.loading import DTYPES
from contrapose.cli.options import parse
from contrapose.cli.progress import quiet_libraries
from contrapose.errors import UserError
from contrapose.files import check_file, one_writer, replacing
from contrapose.runs import kohya
from contrapose.runs.adapter_files import adapter_file
from contrapose.runs.fingerprint import base_of_run, noted_fingerprint
from contrapose.runs.names import FINISHED
from contrapose.train.folder import RUN_FILE, policy_folders
from contrapose.train.settings import CONVERTER, Run

FORMATS = {"kohya": kohya.convert}


@dataclass(frozen=True)
class Command:
    """Write a run's LoRA adapters as one file for ComfyUI or AUTOMATIC1111, where strength 1 is the trained effect.

    Diffusers needs no export: it loads the run's folder (PixArt's with peft), and of exported files only those of
    Stable Diffusion 1, 2 and XL, FLUX and Z-Image.
    """

    run: Path
    """Folder of a finished run, or of one of its policies where it trained several; stock diffusers' or peft's adapters
    too, a folder or a file."""
    out: Path
    """File to write, ending in .safetensors."""
    format: str = "kohya"
    """Form of the file: kohya."""
    dtype: Literal["fp16", "bf16", "fp32"] = "fp16"
    """Precision of the weights in the file."""
    overwrite: bool = False
    """Replace another file that is there."""


def main(arguments: list[str], prog: str) -> None:
    export(parse(Command, arguments, prog))


def export(command: Command) -> None:
    if command.format not in FORMATS:
        raise UserError(f"--format {command.format}: not known (choose from {', '.join(FORMATS)})")
    _check_run(command.run)
    _check_out(command)
    quiet_libraries()
    convert, dtype = FORMATS[command.format], DTYPES[command.dtype]
    with one_writer(command.out, beside=True), TemporaryDirectory() as folder:
        written = Path(folder) / command.out.name
        count = convert(command.run, written, dtype)
        already = command.out.exists() and filecmp.cmp(command.out, written, shallow=False)
        if command.out.exists() and not already and not command.overwrite:
            message = "is there already, and is not what this would write; choose another name, or replace it with"
            raise UserError(f"--out {command.out}: {message} --overwrite")
        if not already:
            with replacing(command.out) as aside:
                shutil.copyfile(written, aside)
    print(f"{command.out}: adapters of {count} layers in {command.dtype}{' (was there already)' if already else ''}")


def _check_out(command: Command) -> None:
    out = command.out
    if out.suffix != ".safetensors":
        raise UserError(f"--out {out}: name a file that ends in .safetensors, which is what other tools look for")
    check_file(out)
    own = adapter_file(command.run)
    if own is not None and out.resolve() == own.resolve():
        raise UserError(f"--out {out}: is the run's own weights; choose another name")


def _is_policy(folder: Path) -> bool:
    """Whether this is the folder of one policy of several, which lies in its run's."""
    above = folder.parent / RUN_FILE
    return above.is_file() and folder.name in policy_folders(runfile.read(above, Run, CONVERTER))


def _check_run(folder: Path) -> None:
    """Raise `UserError` for a run that has no adapters yet, or another's.

    What has no settings beside it is no run; its adapters may be those of stock diffusers or peft.
    """
    if not folder.exists():
        raise UserError(f"{folder}: no such run; name a folder made by 'contrapose align', or a file of adapters")
    whole = folder.parent if _is_policy(folder) else folder
    if not (whole / RUN_FILE).is_file():
        return
    run = runfile.read(whole / RUN_FILE, Run, CONVERTER)
    if run.full:
        raise UserError(f"{folder}: was trained in full, so it has no adapters to export; its model/ is a whole model")
    if not (whole / FINISHED).is_file():
        raise UserError(f"{folder}: has not finished; run its 'contrapose align' again, which carries on")
    ours, theirs = base_of_run(whole), noted_fingerprint(folder)
    if None not in (ours, theirs) and ours != theirs:
        raise UserError(f"{folder}: its adapters were trained on another model ({theirs}) than its run ({ours})")
