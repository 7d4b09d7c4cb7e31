"""The tables of docs/estimate.md: what runs of well-known models cost, and what makes them fit on which card.

    python benchmarks/estimates.py --models sd15 sdxl qwen-image
    python benchmarks/estimates.py --published

DDSPO, bf16, one pair at once, each model at its own size with text as long as it can be. Of each model and way to train
it prints a row of the first table and one of the second; with --published, those of the third: DDSPO with as many
prompts and steps as it was published with, on how many GPUs, and how long it takes them. No weights and no GPU: minutes
on one core for the largest.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from contrapose import runfile
from contrapose.backbones.settings import Loading, Quantisation
from contrapose.estimate.advice import Images
from contrapose.estimate.estimate import RunCost, estimate_run
from contrapose.estimate.fitting import GIB, USABLE, first_fitting, fit_card
from contrapose.estimate.hours import stage_times
from contrapose.estimate.settings import Setup, Speed
from contrapose.methods import DDSPO
from contrapose.train.settings import CONVERTER, Optimisation, Run
from contrapose.train.sharding_settings import Sharding

WAYS = {"LoRA": False, "full": True}
CARDS = (12, 16, 24, 48, 80)
TITLES = {
    "sd15": "SD1.5, 512",
    "sdxl": "SDXL, 1024",
    "sd35-medium": "SD3.5-Medium, 1024",
    "sd35-large": "SD3.5-Large, 1024",
    "sana-1600m": "SANA-1.6B, 1024",
    "flux-dev": "FLUX.1-dev, 1024",
    "flux2-klein-base-4b": "FLUX.2 [klein] 4B, 1024",
    "qwen-image": "Qwen-Image, 1024",
}
SHORT = {
    "--gradient-checkpointing": "checkpointing",
    "--split-pairs": "split",
    "--optimizer adamw-8bit": "8-bit",
    "--no-full": "LoRA",
    "--quantize int8": "int8",
    "--quantize nf4": "nf4",
}
BASES = ("LoRA", "8-bit", "int8", "nf4")  # named before what saves activations


@dataclass(frozen=True)
class Published:
    """How many steps of which batch a model is trained for, and how its pairs are drawn."""

    recipe: str
    """Whose steps and batch are published; SD3's stand for models of which none are."""
    draw_steps: int
    rows: int
    """Predictions a step of the sampler: two with classifier-free guidance, one of a model that has it distilled."""


PUBLISHED = {
    "sd15": Published("sd15-ddspo", 25, 2),
    "sdxl": Published("sdxl-ddspo", 25, 2),
    "sd35-medium": Published("sd3-ddspo", 28, 2),
    "flux-dev": Published("sd3-ddspo", 28, 1),
}
NUM_PROMPTS = 200_000
NUM_IMAGES = 2 * NUM_PROMPTS  # a winner and a loser
PUBLISHED_RANK = 128  # of SANA's and SD3's adapters
PEAKS = {24: 165.0, 48: 150.0, 80: 312.0}  # TFLOP/s in bf16, dense: an A30 or RTX 4090, an A40, an A100
NUM_CARDS = (2, 4, 8, 16, 32, 64)
RECIPES = Path(__file__).parents[1] / "recipes"


def setup_of(model: str, full: bool) -> Setup:
    """One pair at once, of the method whose rows the table tells."""
    return Setup(
        Run(model, Path("pairs"), DDSPO(), optimisation=Optimisation(micro_batch=1), precision="bf16", full=full)
    )


def costs(title: str, trained: str, cost: RunCost) -> str:
    """A row of the first table."""
    stands = cost.memory.total - cost.memory.activations - cost.memory.working - cost.memory.context
    denoiser = max(cost.parameters, key=lambda part: part in ("unet", "transformer"))
    cells = [
        title,
        trained,
        f"{cost.parameters[denoiser] / 1e9:.2f}",
        f"{cost.trainable / 1e6:,.1f}",
        f"{cost.flops.forward / 1e12:.2f}",
        f"{cost.flops.pair / 1e12:.1f}",
        f"{stands / GIB:.1f}",
        f"{(cost.memory.activations + cost.memory.working) / GIB:.1f}",
        f"{(cost.checkpointed.activations + cost.checkpointed.working) / GIB:.1f}",
        f"{cost.memory.total / GIB:.1f}",
        f"{cost.checkpointed.total / GIB:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def fits(title: str, trained: str, setup: Setup) -> str:
    """A row of the second table."""
    cells = [title, trained]
    for card in CARDS:
        changes = fit_card(setup, card).changes
        if changes is None:
            cells.append("no")
            continue
        words = [SHORT[change] for change in changes]
        words.sort(key=lambda word: word not in BASES)
        cells.append(", ".join(words) or "yes")
    return f"| {' | '.join(cells)} |"


def published_setup(model: str, full: bool) -> Setup:
    """The published number of steps of the published batch, one pair at once."""
    recipe = runfile.read(RECIPES / f"{PUBLISHED[model].recipe}.yaml", Run, CONVERTER).optimisation
    optimisation = Optimisation(train_steps=recipe.train_steps, batch_size=recipe.batch_size, micro_batch=1)
    run = Run(model, Path("pairs"), DDSPO(), optimisation=optimisation, precision="bf16", full=full)
    run = run if full else replace(run, lora_rank=PUBLISHED_RANK)
    return Setup(run, num_prompts=NUM_IMAGES, num_pairs=NUM_PROMPTS)  # each image has a prompt of its own


def drawing(model: str) -> str:
    """A row of the third table: all pairs drawn, their prompts read once; latents and embeddings that stay on disk."""
    plan = PUBLISHED[model]
    cost = estimate_run(published_setup(model, full=False))
    flops = NUM_IMAGES * (plan.draw_steps * plan.rows * cost.flops.forward + cost.flops.prompt)
    cells = []
    for card, peak in PEAKS.items():
        hours = flops / (Speed.utilisation * peak * 1e12) / 3600
        fitting = (kind for kind in get_args(Quantisation) if _pair_bytes(model, kind) <= card * GIB * USABLE)
        kind = next(fitting)
        cells.append(_cell(1, () if kind == "none" else (kind,), hours))
    on_disk = f"{cost.latents / 1e9:,.0f} + {cost.embeddings / 1e9:,.0f}"
    return _row(TITLES[model], "draw", flops, [on_disk, *cells])


def _pair_bytes(model: str, kind: Quantisation) -> int:
    """Bytes of sampling the two images of a pair at once."""
    standing, image = Images(model, "bf16", Loading(quantize=kind)).bytes
    return standing + 2 * image


def training(model: str, trained: str) -> str:
    """A row of the third table: the run trained, as it stands on one GPU or sharded over several."""
    setup = published_setup(model, WAYS[trained])
    [stage] = stage_times(setup, Speed())
    cells = [_fewest(setup, card) for card in PEAKS]
    return _row(TITLES[model], trained, stage.steps * stage.step_flops, ["", *cells])


def _fewest(setup: Setup, card: int) -> str:
    """One GPU where the run fits it, or how many hold it in shards; both where one rounds weights or moments for it."""
    whole = first_fitting(setup, card)
    if whole is None or "--no-full" in whole[0]:
        return _sharded(setup, card)
    changes, way = whole
    words = sorted((SHORT[change] for change in changes), key=lambda word: word not in BASES)
    cell = _cell(1, words, _hours(way, card))
    return f"{cell} or {_sharded(setup, card)}" if words and words[0] in BASES else cell


def _sharded(setup: Setup, card: int) -> str:
    """The fewest GPUs that hold the run between them."""
    in_shards = replace(setup, run=replace(setup.run, sharding=Sharding(shard="full")))
    for num_cards in NUM_CARDS:
        fitting = first_fitting(replace(in_shards, num_processes=num_cards), card)
        if fitting is not None:
            changes, way = fitting
            words = ("sharded", *(SHORT[change] for change in changes))
            return _cell(num_cards, words, _hours(way, card) / num_cards)
    return "no"


def _hours(setup: Setup, card: int) -> float:
    """On one GPU; several that share the batch take as many times less."""
    return sum(stage.hours for stage in stage_times(setup, Speed(PEAKS[card])))


def _cell(num_cards: int, words: Sequence[str], hours: float) -> str:
    what = f" ({', '.join(words)})" if words else ""
    return f"{num_cards}{what}: {hours:,.0f} h"


def _row(title: str, trained: str, flops: float, cells: Sequence[str]) -> str:
    line = " | ".join([title, trained, f"{flops / 1e18:,.3g}", *cells])
    return f"| {line} |".replace("|  |", "| |")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=TITLES, default=list(TITLES))
    parser.add_argument("--trained", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--published", action="store_true", help="the third table, of those models that it has")
    options = parser.parse_args(arguments)
    if options.published:
        for model in [model for model in options.models if model in PUBLISHED]:
            print(drawing(model), flush=True)
            for trained in options.trained:
                print(training(model, trained), flush=True)
        return
    for model in options.models:
        for trained in options.trained:
            setup = setup_of(model, WAYS[trained])
            print(costs(TITLES[model], trained, estimate_run(setup)), flush=True)
            print(fits(TITLES[model], trained, setup), flush=True)


if __name__ == "__main__":
    main()
