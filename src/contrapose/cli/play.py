"""`contrapose play`."""

from __future__ import annotations

import ipaddress
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from contrapose.cli.device import OnDevice
from contrapose.cli.options import parse
from contrapose.cli.sample import UNIONS
from contrapose.core.guidance import MAX_SCALE
from contrapose.errors import UserError
from contrapose.files import check_folder
from contrapose.guiding.settings import Play
from contrapose.ranges import Range, checked

log = logging.getLogger(__name__)


@dataclass(frozen=True)
@checked
class Command:
    """Open a local page: prompts, runs and their strength, with the base's images beside the guided ones."""

    play: Play
    out: Path = Path("play")
    """Folder that receives what is saved; nothing in it is overwritten."""
    most: Annotated[float, Range(0, MAX_SCALE, low_open=True)] = 8.0
    """The slider's highest strength."""
    on: OnDevice = field(default_factory=OnDevice)
    host: str = "127.0.0.1"
    """Address that the page is served at; this machine alone unless told otherwise."""
    port: Annotated[int, Range(1, 65535, integer=True)] | None = None
    """Port of the page; the first free one from 7860 on when unset."""


def main(arguments: list[str], prog: str) -> None:
    play(parse(Command, arguments, prog, unions=UNIONS, without=("scale",)))


def play(command: Command) -> None:
    from contrapose.backbones.families.table import load_backbone
    from contrapose.backbones.loading import DTYPES
    from contrapose.backbones.precision import usual_precision
    from contrapose.cli.memory import advised, image_memory
    from contrapose.cli.notes import quiet_libraries
    from contrapose.estimate.advice import Images
    from contrapose.guiding.play import Player
    from contrapose.guiding.play_page import build_play_page, gradio_module
    from contrapose.store.named_prompts import named_prompts
    from contrapose.worlds.examples import example_prompts

    quiet_libraries()
    check_folder(command.out)
    settings = command.play
    gradio_module()  # before the model is loaded, since it may not be installed
    if not (settings.positive or settings.negative):
        raise UserError("there is nothing to play with: name a run with --positive")
    listed = settings.prompts or example_prompts(settings.model)
    examples = [prompt.text for prompt in named_prompts(listed)]
    precision = settings.precision or usual_precision(command.on.name)
    at_once = Images(settings.model, precision, settings.loading, settings.size)
    with image_memory(at_once, command.on.name):
        backbone = load_backbone(settings.model, DTYPES[precision], command.on.name, loading=settings.loading)
    if not _is_this_machine(command.host):
        log.warning(f"--host {command.host}: anybody who reaches this address can draw and save; there is no login")
    player = Player(settings, backbone, lambda: advised(at_once.after, command.on.name))
    page = build_play_page(player, command.out, command.most, examples)
    page.launch(server_name=command.host, server_port=command.port, share=False)


def _is_this_machine(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
