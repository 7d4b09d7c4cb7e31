"""The page of `contrapose play`, in gradio: a prompt, a seed, a run and its strength, and two images."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

from contrapose.errors import UserError
from contrapose.guiding.play import Player, enlarged


def gradio_module() -> Any:
    """gradio, without its telemetry; `UserError` where it is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported
    try:
        import gradio
    except ImportError:
        raise UserError("play needs gradio; run 'pip install gradio'") from None
    return gradio


def build(gradio: Any, player: Player, out: Path, most: float) -> Any:
    """The page, not yet served; it saves to `out`, and its slider goes up to `most`."""

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
            return f"Saved to `{player.save(drawn, out)}`"
        except UserError as error:
            raise gradio.Error(str(error)) from None

    with gradio.Blocks(title="Contrapose", analytics_enabled=False) as page:
        runs = list(player.runs)
        shown = gradio.State(None)
        prompt = gradio.Textbox(label="Prompt", autofocus=True)
        with gradio.Row():
            seed = gradio.Number(0, label="Seed", precision=0)
            run = gradio.Dropdown(runs, value=next(iter(runs), None), label="Towards", interactive=len(runs) > 1)
            strength = player.settings.guidance.scale
            scale = gradio.Slider(0, most, strength, step=0.05, label="Strength w (0 is the base)")
        go = gradio.Button("Draw", variant="primary")
        with gradio.Row():
            # From version 6 on there is a button that shares the image on the hub unless the buttons are named.
            buttons = {"buttons": ["download", "fullscreen"]} if int(gradio.__version__.split(".")[0]) >= 6 else {}
            image = partial(gradio.Image, type="pil", format="png", interactive=False, **buttons)
            images = [image(label=name) for name in ("Base", "Guided")]
        keep = gradio.Button("Save what is shown")
        message = gradio.Markdown()
        # the slider draws when it is let go: each of its moves would cost an image
        for event in (go.click, prompt.submit, scale.release):
            event(draw, [prompt, seed, run, scale], [*images, shown, message])
        keep.click(save, [shown], message)
    return page
