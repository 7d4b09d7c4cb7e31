"""The two tables of docs/estimate.md: what runs of well-known models cost, and what makes them fit on which card.

    python benchmarks/estimates.py --models sd15 sdxl qwen-image

DDSPO, bf16, one pair at once, each model at its own size with text as long as it can be. Of each model and way to train
it prints a row of the first table and one of the second. No weights and no GPU: minutes on one core for the largest.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from contrapose.estimate.estimate import RunCost, estimate_run
from contrapose.estimate.fitting import GIB, fit_card
from contrapose.estimate.settings import Setup
from contrapose.methods import DDSPO
from contrapose.train.settings import Optimisation, Run

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


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=TITLES, default=list(TITLES))
    parser.add_argument("--trained", nargs="+", choices=WAYS, default=list(WAYS))
    options = parser.parse_args(arguments)
    for model in options.models:
        for trained in options.trained:
            setup = setup_of(model, WAYS[trained])
            print(costs(TITLES[model], trained, estimate_run(setup)), flush=True)
            print(fits(TITLES[model], trained, setup), flush=True)


if __name__ == "__main__":
    main()
