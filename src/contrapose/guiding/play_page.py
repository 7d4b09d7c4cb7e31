"""The page of `contrapose play`, in gradio: prompts, runs and their strength, images side by side, and what was drawn.

Two endpoints can be called from elsewhere: `/draw` and `/save`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from contrapose.errors import UserError
from contrapose.guiding.play import MOST_IMAGES, MOST_RUNS, Drawn, Player, Wish, enlarged
from contrapose.runs.names import FULL_FOLDER
from contrapose.runs.origin import public_name

_MOST_IN_HISTORY = 24
_MOST_STEPS = 100
_TOWARDS = "The sampler is led from what the base predicts towards what this run does; two runs are drawn side by side."
_STRENGTH = "base + w (run - base): 0 is the base, 1 the run itself, more goes beyond it"

# one image alone would fill the row otherwise
_STYLE = ".contrapose-past .grid-container { grid-template-columns: repeat(auto-fill, minmax(96px, 1fr)) !important; }"


def gradio_module() -> Any:
    """gradio, without its telemetry; `UserError` where it is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported
    try:
        import gradio
    except ImportError:
        raise UserError("play needs gradio; run 'pip install contrapose[play]', or 'pip install gradio'") from None
    return gradio


class _Controls(NamedTuple):
    """What is asked, in the order of `Wish` as a page has it."""

    prompt: Any
    negative_prompt: Any
    towards: Any
    scale: Any
    seed: Any
    num_images: Any
    steps: Any
    guidance_scale: Any
    size: Any


def build_play_page(player: Player, out: Path, most: float = 8.0, examples: Sequence[str] = ()) -> Any:
    """The page as gradio's blocks, not yet served: `launch` does that.

    It saves to `out`, its slider goes up to `most`, and it offers the examples as prompts. Raises `UserError` where
    gradio is not installed.
    """
    gradio = gradio_module()
    name = public_name(player.settings.model)
    if name == FULL_FOLDER:  # as the whole model in every run's folder is called
        name = f"{Path(player.settings.model).resolve().parent.name}/{name}"
    is_new = int(gradio.__version__.split(".")[0]) >= 6
    # From version 6 on there is a button that shares images on the hub unless the buttons are named.
    buttons = {"buttons": ["download", "fullscreen"]} if is_new else {}
    gallery = partial(gradio.Gallery, format="png", object_fit="contain", interactive=False, **buttons)
    with gradio.Blocks(title=f"{name} - Contrapose", analytics_enabled=False) as page:
        shown = gradio.State(None)
        history = gradio.State([])
        about = "The model beside runs that guide it, drawn from the same noise."
        gradio.HTML(f"<style>{_STYLE}</style><h1>{escape(name)}</h1><p>{about}</p>")
        with gradio.Row():
            with gradio.Column(scale=2, min_width=320):
                asked = _controls(gradio, player, most, examples)
                go = gradio.Button("Draw", variant="primary")
            with gradio.Column(scale=3, min_width=320):
                with gradio.Row():
                    columns = [gallery(label="Base", columns=2, min_width=200)]
                    for number in range(MOST_RUNS):
                        columns.append(gallery(label="Guided", columns=2, min_width=200, visible=number == 0))
                keep = gradio.Button("Save what is shown")
                message = gradio.Markdown()
                label = "Drawn in this session: choose one to see it again"
                past = gallery(label=label, columns=6, height=200, elem_classes="contrapose-past")
        # the slider draws when it is let go: each of its moves would cost an image
        gradio.on(
            [go.click, asked.prompt.submit, asked.scale.release],
            _drawing(gradio, player),
            [*asked, history],
            [*columns, shown, history, past, message],
            api_name="draw",
            concurrency_limit=1,
        )
        keep.click(_saving(gradio, player, out), [shown], message, api_name="save")
        hidden: dict[str, Any] = {"api_visibility": "private"} if is_new else {"api_name": False}
        past.select(_showing_again(gradio), [history], [*columns, shown, *asked], **hidden)
    return page


def _controls(gradio: Any, player: Player, most: float, examples: Sequence[str]) -> _Controls:
    runs = list(player.runs)
    settings = player.settings
    prompt = gradio.Textbox(label="Prompt", lines=2, max_lines=4, autofocus=True)
    if examples:
        gradio.Examples([[example] for example in examples], prompt, label="For example")
    negative_prompt = gradio.Textbox(label="Negative prompt", info="What is not wanted")
    towards = gradio.Dropdown(
        runs,
        value=runs[:1],
        multiselect=True,
        max_choices=MOST_RUNS,
        label="Towards",
        info=_TOWARDS,
        visible=bool(runs),
    )
    scale = gradio.Slider(0, most, settings.guidance.scale, step=0.05, label="Strength w", info=_STRENGTH)
    with gradio.Row():
        seed = gradio.Number(0, label="Seed", precision=0, minimum=0, min_width=120)
        num_images = gradio.Slider(1, MOST_IMAGES, 1, step=1, label="Images", min_width=120)
    with gradio.Accordion("Sampling", open=False):
        steps = gradio.Slider(1, _MOST_STEPS, settings.steps, step=1, label="Steps")
        guidance_scale = gradio.Slider(0, 20, settings.guidance_scale, step=0.1, label="Guidance scale (1 is off)")
        size = gradio.Textbox(player.usual_size, label="Size", info="WIDTHxHEIGHT in pixels")
    return _Controls(prompt, negative_prompt, towards, scale, seed, num_images, steps, guidance_scale, size)


def _drawing(gradio: Any, player: Player) -> Callable[..., list[Any]]:
    """What draws; its parameters are those of the endpoint."""

    def draw(
        prompt: str | None,
        negative_prompt: str | None,
        towards: list[str] | None,
        scale: float,
        seed: float | None,
        num_images: float,
        steps: float,
        guidance_scale: float,
        size: str | None,
        history: list[Drawn],
        progress: Any = gradio.Progress(),  # noqa: B008 - gradio looks for it among the defaults
    ) -> list[Any]:
        def tell(done: int, total: int, now: str) -> None:
            progress((done, total), desc=f"drawing {now}", unit="images")

        try:
            wish = Wish(
                prompt or "",
                tuple(towards or ()),
                scale,
                int(seed or 0),
                int(num_images),
                int(steps),
                guidance_scale,
                (size or "").strip() or None,
                negative_prompt or "",
            )
            drawn = player.draw(wish, tell)
        except UserError as error:
            raise gradio.Error(str(error)) from None
        history = [drawn, *history][:_MOST_IN_HISTORY]
        return [*_columns(gradio, drawn), drawn, history, _remembered(history), ""]

    return draw


def _saving(gradio: Any, player: Player, out: Path) -> Callable[[Drawn | None], str]:
    def save(drawn: Drawn | None) -> str:
        if drawn is None:
            raise gradio.Error("nothing is shown yet; draw first")
        try:
            return f"Saved to `{player.save(drawn, out)}`"
        except UserError as error:
            raise gradio.Error(str(error)) from None

    return save


def _showing_again(gradio: Any) -> Callable[..., list[Any]]:
    """What shows an earlier wish, its images and what was asked."""

    def show_again(history: list[Drawn], event: Any) -> list[Any]:
        drawn = history[event.index]
        wish = drawn.wish
        asked = _Controls(
            wish.prompt,
            wish.negative_prompt,
            list(wish.runs),
            wish.scale,
            wish.seed,
            wish.num_images,
            wish.steps,
            wish.guidance_scale,
            wish.size,
        )
        return [*_columns(gradio, drawn), drawn, *asked]

    show_again.__annotations__["event"] = gradio.SelectData  # by which gradio knows what to hand over
    return show_again


def _columns(gradio: Any, drawn: Drawn) -> list[Any]:
    """The galleries of the base and of each run, those that are not needed hidden."""
    strength = f"w = {drawn.wish.scale:g}"
    galleries = [gradio.update(value=_captioned(drawn, drawn.base), label="Base")]
    for name, images in drawn.guided.items():
        label = f"{name}, {strength}" if name else strength
        galleries.append(gradio.update(value=_captioned(drawn, images), label=label, visible=True))
    galleries += [gradio.update(value=[], visible=False)] * (1 + MOST_RUNS - len(galleries))
    return galleries


def _captioned(drawn: Drawn, images: Sequence[Any]) -> list[tuple[Any, str]]:
    return [(enlarged(image), f"seed {seed}") for seed, image in zip(drawn.wish.seeds, images, strict=True)]


def _remembered(history: Sequence[Drawn]) -> list[tuple[Any, str]]:
    """The first guided image of each earlier wish, under what it was."""
    images: list[tuple[Any, str]] = []
    for drawn in history:
        first = next(iter(drawn.guided.values()))[0]
        images.append((enlarged(first), f"{drawn.wish.prompt} (seed {drawn.wish.seed}, w = {drawn.wish.scale:g})"))
    return images
