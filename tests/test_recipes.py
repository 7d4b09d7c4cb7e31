"""The recipes load, and say what was published."""

from __future__ import annotations

from pathlib import Path

import pytest

from contrapose import runfile
from contrapose.methods import DDSPO, DiffusionDPO
from contrapose.train.settings import CONVERTER, Run

RECIPES = Path(__file__).parents[1] / "recipes"
FILES = sorted(RECIPES.rglob("*.yaml"))


def recipe(name: str) -> Run:
    return runfile.read(RECIPES / name, Run, CONVERTER)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_recipe_loads_and_is_listed(path):
    run = runfile.read(path, Run, CONVERTER)
    assert CONVERTER.structure(CONVERTER.unstructure(run), Run) == run
    assert path.name in (RECIPES / "README.md").read_text(encoding="utf-8")


def test_ddspo_is_as_published():
    run = recipe("sd15-ddspo.yaml")
    o = run.optimisation
    assert run.method == DDSPO(beta=16000) and run.full and run.precision == "fp16"
    assert (o.batch_size, o.steps, o.warmup, o.schedule) == (2048, 200, 100, "constant")
    assert o.learning_rate == pytest.approx(2.5e-9 * 2048)
    assert (o.beta1, o.beta2, o.weight_decay, o.epsilon, o.max_grad_norm) == (0.9, 0.999, 1e-2, 1e-8, 1.0)


def test_diffusion_dpo_is_as_published():
    run = recipe("sd15-diffusion-dpo.yaml")
    o = run.optimisation
    assert run.method == DiffusionDPO(beta=5000) and run.full
    assert (o.batch_size, o.steps, o.warmup, o.schedule) == (2048, 2000, 500, "constant")
    assert o.learning_rate == pytest.approx(1e-8 * 2048)
