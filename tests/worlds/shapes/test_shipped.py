"""The model that ships: small enough, loadable by stock diffusers, and worth aligning."""

from __future__ import annotations

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline
from judging import as_prompts
from PIL import Image
from safetensors.torch import load_file

from contrapose.seeds import generator, starting_noise
from contrapose.store.prompts import Prompt
from contrapose.worlds.shapes import suite
from contrapose.worlds.shapes.grammar import TAGS, prompts
from contrapose.worlds.shapes.shipped import shipped_model


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionPipeline:
    loaded = StableDiffusionPipeline.from_pretrained(shipped_model())
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_it_stays_within_fifteen_megabytes_of_half_precision_safetensors() -> None:
    files = [path for path in shipped_model().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 15_000_000
    weights = [path for path in files if path.stat().st_size > 100_000]
    assert {path.suffix for path in weights} == {".safetensors"}
    assert {str(value.dtype) for path in weights for value in load_file(path).values()} == {"torch.float16"}


def test_it_paints_what_is_asked_for_far_above_chance(pipe: StableDiffusionPipeline) -> None:
    lines = prompts("dev", 4)
    assert {line["tag"] for line in lines} == set(TAGS)
    streams = [generator(line["prompt"], 0) for line in lines]
    images = pipe(
        [line["prompt"] for line in lines],
        latents=starting_noise(streams, (8, 8, 8)),
        num_inference_steps=12,
        guidance_scale=3.0,
        output_type="np",
    ).images
    painted = [Image.fromarray(np.rint(image * 255).astype(np.uint8)) for image in images]

    def score(judged_by: list[Prompt]) -> float:
        return float(suite.ShapesJudge()(painted, judged_by)["correct"].values.mean())

    assert score(as_prompts(lines)) > 0.4
    assert score(suite.shuffled(as_prompts(lines))) < 0.2
