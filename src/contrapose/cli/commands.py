"""Every command: where it lives, and what it does in half a line."""

from __future__ import annotations

from typing import NamedTuple

from contrapose.errors import UserError


class Command(NamedTuple):
    """Where a command lives, and what it does in half a line."""

    module: str
    summary: str
    uses_networks: bool = True
    """Whether it may import transformers or diffusers."""


HEADINGS = {
    "To begin with": {
        "quickstart": Command("quickstart", "the whole job on the shipped shapes model, in minutes on two CPU cores"),
        "estimate": Command("estimate", "what a run would cost: memory, hours, and on which card it fits"),
    },
    "Prompts and pairs": {
        "prompts check": Command("prompts_check", "count prompts, those twice and those in another list", False),
        "prompts split": Command("prompts_split", "divide prompts into dev and test, by a hash of their words", False),
        "pairs draw": Command("pairs_draw", "draw winners from prompts and losers from degraded prompts"),
        "pairs real": Command("pairs_real", "make pairs of photographs: each against a spoiled copy of itself"),
        "pairs import": Command("pairs_import", "import pairs, likes or rankings of images, in many formats"),
        "pairs score": Command("pairs_score", "score each sample of pairs and groups by judges"),
        "pairs label": Command("pairs_label", "pairs, likes or rankings by scores, with ties and mistakes"),
        "pairs show": Command("pairs_show", "a page of random pairs: images side by side, both prompts, score gaps"),
        "pairs check": Command("pairs_check", "count pairs and look for everything that spoils them"),
        "pairs export": Command("pairs_export", "write pairs as Pick-a-Pic's Parquet, for other trainers"),
    },
    "Training": {
        "align": Command("align", "train a LoRA or a whole model on pairs, by a method (ddspo, ...) or a recipe"),
    },
    "Images": {
        "sample": Command("sample", "draw images with a model, an aligned run, or its effect dialled"),
        "sweep": Command("sweep", "images and scores along the dial: by strength of guidance, with a page"),
        "play": Command("play", "a local page to try prompts in: base and runs side by side, with the dial"),
    },
    "Evidence": {
        "evaluate": Command("evaluate", "judge images, and compare models with intervals and tests"),
        "report": Command("report", "write one HTML page with runs, scores and images"),
        "tables": Command("tables", "write evaluations as tables: Markdown, LaTeX, CSV or HTML"),
    },
    "To take along": {
        "merge": Command("merge", "add aligned runs to a model's weights: adapters, or a whole pipeline"),
        "export": Command("export", "write a LoRA as one file for ComfyUI and AUTOMATIC1111"),
        "push": Command("push", "upload a run, a merge or an exported file to the Hugging Face hub, with a model card"),
    },
    "Whole experiments": {
        "study run": Command("study_run", "a whole experiment from one file: does what is missing, and nothing twice"),
        "study plan": Command("study_plan", "the same as command lines, for a shell or a scheduler"),
        "study choice": Command("study_choice", "the setting, guidance scale or checkpoint that dev prompts chose"),
        "study report": Command("study_report", "a study's page and tables"),
    },
    "Many machines": {"ray": Command("ray", "a command's workers on a Ray cluster: ray -- pairs draw ...", False)},
    "Worlds with known answers": {
        "toy": Command("toy", "the 2-D experiment: methods on Gaussians, scored exactly"),
        "shapes prompts": Command("shapes_prompts", "write the shapes world's prompts of one split", False),
        "shapes photos": Command("shapes_photos", "write the shapes world's photographs with their captions", False),
        "shapes pretrain": Command("shapes_pretrain", "train a shapes model"),
    },
}
"""The commands under headings, in the order in which a user meets them."""
COMMANDS = {name: command for commands in HEADINGS.values() for name, command in commands.items()}


def find(arguments: list[str]) -> tuple[Command, str, list[str]]:
    """The command that the arguments begin with, its name, and the arguments that are left."""
    for length in (2, 1):
        name = " ".join(arguments[:length])
        if name in COMMANDS:
            return COMMANDS[name], name, arguments[length:]
    near = [name for name in COMMANDS if arguments[0] in name.split()]
    raise UserError(f"{arguments[0]}: no such command (known: {', '.join(near or COMMANDS)})")
