"""`contrapose export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from contrapose.backbones.settings import Precision
from contrapose.cli.options import parse


@dataclass(frozen=True)
class Command:
    """Write a run's LoRA adapters as one file for ComfyUI or AUTOMATIC1111, where strength 1 is the trained effect.

    Diffusers needs no export: it loads the run's folder (PixArt's with peft), and of exported files only those of
    Stable Diffusion 1, 2 and XL, FLUX, Z-Image and Qwen-Image.
    """

    run: Path
    """Folder of a run (RUN@100, RUN@best: a kept step of it), of a merge, or of one policy where a run trained several;
    stock diffusers' or peft's adapters too, a folder or a file."""
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
    from contrapose.cli.notes import quiet_libraries
    from contrapose.publish.exports import export_kohya

    quiet_libraries()
    exported = export_kohya(command.run, command.out, command.precision, command.overwrite)
    remark = "" if exported.is_new else " (was there already)"
    print(f"{command.out}: adapters of {exported.num_layers} layers in {command.precision}{remark}")
