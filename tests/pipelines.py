"""Backbones on the tiny pipelines, and the stock pipelines beside them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import aligned
import drawing
import families
import pytest
import stock
import torch
from breaking import Spoil
from diffusers import DiffusionPipeline
from torch import nn
from training import with_full, with_lora, with_own_network

from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import load_backbone
from contrapose.backbones.generation import Generation

RANK, ALPHA = 4, 10.0


@pytest.fixture(scope="session")
def tiny_model(tiny_family: Callable[[str], Path]) -> Path:
    """The folder of "sd" itself, since tests in these rooms name its layers."""
    return tiny_family("sd")


@pytest.fixture(scope="session")
def tiny_pairs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, prompts_file: Path) -> Path:
    """Folder of a dozen pairs that this `tiny_model` drew."""
    return drawing.draw_few(tiny_model, prompts_file, tmp_path_factory.mktemp("pairs") / "sd")


@pytest.fixture(params=families.NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """A family's name in `families`."""
    return request.param


@pytest.fixture
def folder(name: str, tiny_family: Callable[[str], Path]) -> Path:
    return tiny_family(name)


@pytest.fixture(scope="session")
def loaded(tiny_family: Callable[[str], Path]) -> Callable[[str], Backbone]:
    """A family's backbone as loaded, shared by all tests: look at it, and leave it as it is."""
    return cache(lambda name: load_backbone(tiny_family(name)))


@pytest.fixture(scope="session")
def halved(tiny_family: Callable[[str], Path]) -> Callable[[str, bool], Backbone]:
    """As `loaded`, in bf16 but for the network of a run in full, with float32 weights to train."""

    @cache
    def read(name: str, full: bool) -> Backbone:
        return load_backbone(tiny_family(name), torch.bfloat16, network_dtype=torch.float32 if full else torch.bfloat16)

    return read


@pytest.fixture(scope="session")
def stocked(tiny_family: Callable[[str], Path]) -> Callable[[str], DiffusionPipeline]:
    """A family's stock pipeline, shared by all tests: look at it, and leave it as it is."""
    return cache(lambda name: stock.remembering(stock.load(name, tiny_family(name))))


@pytest.fixture
def plain(name: str, loaded: Callable[[str], Backbone]) -> Backbone:
    return loaded(name)


@pytest.fixture
def pipe(name: str, stocked: Callable[[str], DiffusionPipeline]) -> DiffusionPipeline:
    return stocked(name)


@pytest.fixture(params=["lora", "full"])
def backbone(request: pytest.FixtureRequest, plain: Backbone) -> Backbone:
    """A backbone of its own for the test, ready to be trained."""
    torch.manual_seed(0)
    fresh = with_own_network(plain)
    return with_lora(fresh, RANK, ALPHA) if request.param == "lora" else with_full(fresh, torch.float32)


@pytest.fixture
def generation(name: str, pipe: DiffusionPipeline) -> Callable[..., Generation]:
    """What `stock.draw` asks for, in our words."""

    def ask(backbone: Backbone, scale: float = stock.GUIDANCE, prompts: list[str] = stock.PROMPTS) -> Generation:
        streams = [torch.Generator().manual_seed(row) for row in range(len(prompts))]
        start = stock.noise(name, pipe, len(prompts))
        return Generation(backbone.text.embed(prompts), backbone.text.unconditional(), start, streams, 2, scale)

    return ask


Aligned = tuple[Path, Path, dict[str, nn.Module]]


@pytest.fixture(scope="session")
def aligned_runs(
    loaded: Callable[[str], Backbone],
    stocked: Callable[[str], DiffusionPipeline],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, str], Aligned]:
    """A family's positive and negative run, of adapters or whole, and the networks that they are."""

    @cache
    def written(name: str, kind: str) -> Aligned:
        folder, base, part = tmp_path_factory.mktemp("aligned"), stocked(name), loaded(name).denoiser.part
        runs = [
            aligned.write_run(loaded(name), kind, seed, folder / side)
            for seed, side in enumerate(("positive", "negative"))
        ]
        networks = [aligned.network_of(getattr(base, part), run, part) for run in runs]
        return *runs, dict(zip(("positive", "negative"), networks, strict=True))

    return written


@pytest.fixture(params=["lora", "full"])
def runs(
    request: pytest.FixtureRequest, name: str, aligned_runs: Callable[[str, str], tuple[Path, Path, dict]]
) -> aligned.Runs:
    """Two runs of this family, as adapters or as whole networks."""
    return aligned.Runs(request.param, *aligned_runs(name, request.param))


@pytest.fixture
def broken(
    tiny_family: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Spoil], Path]:
    """A copy of a tiny model with something wrong in it, at a path that says nothing of what it is."""

    def make(family: str, spoil: Spoil) -> Path:
        model = shutil.copytree(tiny_family(family), tmp_path_factory.mktemp("a") / "b")
        spoil(model)
        return model

    return make


@pytest.fixture(scope="session")
def whole_adapter(
    tiny_model: Path, loaded: Callable[[str], Backbone], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return aligned.write_run(loaded("sd"), "lora", 0, tmp_path_factory.mktemp("runs") / "lora")


@pytest.fixture
def adapter_run(whole_adapter: Path, tmp_path: Path) -> Path:
    """A run of adapters on every projection of the tiny model, to be changed."""
    return shutil.copytree(whole_adapter, tmp_path / "run")
