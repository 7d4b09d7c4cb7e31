"""Every command: where it lives, and what it does in half a line."""

from __future__ import annotations

from typing import NamedTuple

from contrapose import __version__
from contrapose.errors import UserError


class Command(NamedTuple):
    """Where a command lives, and what it does in half a line."""

    module: str
    summary: str
    uses_networks: bool = True
    """Whether it may import transformers or diffusers."""


COMMANDS = {
    "quickstart": Command("quickstart", "the main job, end to end, on the shipped shapes model"),
    "prompts check": Command(
        "prompts_check", "count a list of prompts, and those that repeat or stand in another list", False
    ),
    "prompts split": Command(
        "prompts_split", "divide a list of prompts into dev and test, by a hash of their words", False
    ),
    "pairs draw": Command("pairs_draw", "draw winners from prompts and losers from degraded prompts"),
    "pairs check": Command("pairs_check", "count pairs and look for everything that spoils them"),
    "pairs show": Command("pairs_show", "a page of random pairs: images side by side, both prompts, score gaps"),
    "pairs import": Command("pairs_import", "import pairs of images of your own, of any sizes and in many formats"),
    "pairs export": Command("pairs_export", "write pairs as Pick-a-Pic's Parquet, for other trainers"),
    "pairs real": Command("pairs_real", "make pairs of real photographs: each against what spoiling makes of it"),
    "align": Command("align", "train a method (ddspo, realalign, diffusion-dpo, ...) on pairs, or a run.yaml"),
    "sample": Command("sample", "sample images of a model or an aligned run"),
    "sweep": Command("sweep", "images and scores by strength of guidance, with a page"),
    "play": Command("play", "a local page to try guidance by hand: prompt, seed and strength"),
    "estimate": Command("estimate", "what a run would cost: parameters, GPU memory, FLOPs, and on which card it fits"),
    "merge": Command("merge", "add aligned runs to a model's weights: adapters, or a whole pipeline"),
    "export": Command("export", "write a run's LoRA as one file for ComfyUI and AUTOMATIC1111"),
    "push": Command("push", "upload a run, a merge or an exported file to the Hugging Face hub, with a model card"),
    "evaluate": Command("evaluate", "judge images, and compare models with intervals and tests"),
    "report": Command("report", "write one HTML page with runs, scores and images"),
    "tables": Command("tables", "write evaluations as tables: Markdown, LaTeX, CSV or HTML"),
    "study run": Command("study_run", "a whole experiment from one file: does what is missing, and nothing twice"),
    "study plan": Command("study_plan", "the same as lines for a shell or a scheduler"),
    "study choice": Command("study_choice", "the guidance scale or checkpoint that the dev prompts chose for a model"),
    "study report": Command("study_report", "a study's page and tables"),
    "toy": Command("toy", "the 2-D experiment: known answers on Gaussians"),
    "shapes prompts": Command("shapes_prompts", "write the shapes world's prompts of one split", False),
    "shapes photos": Command("shapes_photos", "write the shapes world's photographs with their captions", False),
    "shapes pretrain": Command("shapes_pretrain", "train the shapes model from nothing"),
}


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    head = f"contrapose {__version__}: preference alignment of diffusion models without preference labels\n"
    return "\n".join([head, *lines, "\n'contrapose COMMAND --help' explains every option with its unit and default."])


def find(arguments: list[str]) -> tuple[Command, str, list[str]]:
    """The command that the arguments begin with, its name, and the arguments that are left."""
    for length in (2, 1):
        name = " ".join(arguments[:length])
        if name in COMMANDS:
            return COMMANDS[name], name, arguments[length:]
    near = [name for name in COMMANDS if arguments[0] in name.split()]
    raise UserError(f"{arguments[0]}: no such command (known: {', '.join(near or COMMANDS)})")
