"""`contrapose shapes pretrain`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from contrapose import runfile
from contrapose.cli.options import parse
from contrapose.cli.progress import follow
from contrapose.files import one_writer
from contrapose.worlds.shapes.settings import Pretraining

SETTINGS = "pretraining.yaml"


@dataclass(frozen=True)
class Command:
    """Train the shapes model from nothing; run it again to carry on. About an hour on 2 cores."""

    settings: Pretraining
    out: Path
    """Folder that receives the model and the work in progress."""


def main(arguments: list[str], prog: str) -> None:
    pretrain(parse(Command, arguments, prog))


def pretrain(command: Command) -> None:
    from contrapose.cli.notes import quiet_libraries
    from contrapose.worlds.shapes.pretrain import encode_dataset, train_denoiser, train_vae

    quiet_libraries()
    settings = command.settings
    out = command.out
    with one_writer(out):
        runfile.claim(out / SETTINGS, settings, runfile.converter(), free=["save_every"])
        follow("training the autoencoder", settings.vae_steps, train_vae(settings, out))
        follow("rendering and encoding", settings.num_images, encode_dataset(settings, out))
        follow("training the denoiser", settings.train_steps, train_denoiser(settings, out))
