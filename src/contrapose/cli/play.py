"""`contrapose play`."""

from __future__ import annotations

import ipaddress
import logging
import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from contrapose.backbones.families.table import load_backbone
from contrapose.backbones.loading import DTYPES
from contrapose.cli.device import OnDevice
from contrapose.cli.notes import quiet_libraries
from contrapose.cli.options import parse
from contrapose.cli.sample import UNIONS
from contrapose.core.guidance import MAX_SCALE
from contrapose.errors import UserError
from contrapose.files import check_folder
from contrapose.guiding.play import Player, enlarged
from contrapose.guiding.settings import Play
from contrapose.ranges import Range, checked

log = logging.getLogger(__name__)


@dataclass(frozen=True)
@checked
class Command:
    """Open a local page: a prompt, a seed, a run and its strength, with the base's image beside the guided one."""

    play: Play
    out: Path = Path("play")
    """Folder that receives what is saved; nothing in it is overwritten."""
    most: Annotated[float, Range(0, MAX_SCALE, low_open=True)] = 8.0
    """The slider's highest strength."""
    on: OnDevice = field(default_factory=OnDevice)
    host: str = "127.0.0.1"
    """Address that the page is served at; this machine alone unless told otherwise."""
    port: Annotated[int, Range(1, 65535, whole=True)] | None = None
    """Port of the page; the first free one from 7860 on when unset."""


def main(arguments: list[str], prog: str) -> None:
    play(parse(Command, arguments, prog, unions=UNIONS))


def play(command: Command) -> None:
    quiet_libraries()
    check_folder(command.out)
    settings, gradio = command.play, _gradio()
    if not (settings.positive or settings.negative):
        raise UserError("there is nothing to play with: name a run with --positive")
    backbone = load_backbone(settings.model, DTYPES[settings.precision], command.on.name, loading=settings.loading)
    if not _is_this_machine(command.host):
        log.warning(f"--host {command.host}: anybody who reaches this address can draw and save; there is no login")
    page = build(gradio, Player(settings, backbone), command)
    page.launch(server_name=command.host, server_port=command.port, share=False)


def build(gradio: Any, player: Player, command: Command) -> Any:
    """The page, not yet served."""

    def draw(prompt: str, seed: float | None, run: str | None, scale: float) -> tuple[Any, ...]:
        try:
            drawn = player.draw(prompt, int(seed or 0), run, scale)
        except UserError as error:
            raise gradio.Error(str(error)) from None
        return enlarged(drawn.base), enlarged(drawn.guided), drawn, ""

    def save(drawn: Any) -> str:
        if drawn is None:
            raise gradio.Error("nothing is shown yet; draw first")
        try:
            return f"Saved to `{player.save(drawn, command.out)}`"
        except UserError as error:
            raise gradio.Error(str(error)) from None

    with gradio.Blocks(title="Contrapose", analytics_enabled=False) as page:
        shown, runs, strength = gradio.State(None), list(player.runs), player.settings.guidance.scale
        prompt = gradio.Textbox(label="Prompt", autofocus=True)
        with gradio.Row():
            seed = gradio.Number(0, label="Seed", precision=0)
            run = gradio.Dropdown(runs, value=next(iter(runs), None), label="Towards", interactive=len(runs) > 1)
            scale = gradio.Slider(0, command.most, strength, step=0.05, label="Strength w (0 is the base)")
        go = gradio.Button("Draw", variant="primary")
        with gradio.Row():
            # From version 6 on there is a button that shares the image on the hub unless the buttons are named.
            buttons = {"buttons": ["download", "fullscreen"]} if int(gradio.__version__.split(".")[0]) >= 6 else {}
            image = partial(gradio.Image, type="pil", format="png", interactive=False, **buttons)
            images = [image(label=name) for name in ("Base", "Guided")]
        keep, told = gradio.Button("Save what is shown"), gradio.Markdown()
        for event in (go.click, prompt.submit, scale.release):
            event(draw, [prompt, seed, run, scale], [*images, shown, told])
        keep.click(save, [shown], told)
    return page


def _is_this_machine(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _gradio() -> Any:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported
    try:
        import gradio
    except ImportError:
        raise UserError("play needs gradio; run 'pip install gradio'") from None
    return gradio
