"""Setups of runs, as tests of the estimate want them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from changing import changed

from contrapose.estimate.settings import Setup
from contrapose.methods import DDSPO
from contrapose.train.settings import Run

# Published counts: of the denoiser.
PARAMETERS = {
    "sd15": 859_520_964,
    "sdxl": 2_567_463_684,
    "sd3-medium": 2_028_328_000,
    "sd35-medium": 2_243_171_520,
    "sd35-large": 8_056_627_520,
    "sana-1600m": 1_604_462_752,
    "pixart-sigma": 610_856_096,
    "flux-dev": 11_901_408_320,
    "z-image": 6_154_908_736,
    "qwen-image": 20_430_401_088,
    "flux2-klein-base-4b": 3_875_544_576,
}


def setup_of(model: str, size: str | None = None, **values: Any) -> Setup:
    """A setup of DDSPO with these settings of its run."""
    return Setup(changed(Run(model, Path("pairs"), DDSPO()), **values), size)


def altered(setup: Setup, **values: Any) -> Setup:
    """The same setup with these settings of its run."""
    return replace(setup, run=changed(setup.run, **values))


SMALL = setup_of("sd15", "256x256", precision="bf16", micro_batch=4)


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
