"""Negative prompts and attention guidance in the sampler: what is spelled out, what is off, and what is refused."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import families
import pytest
import torch
import yaml
from changing import changed
from PIL import Image, ImageChops

import contrapose
from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import load_backbone
from contrapose.backbones.generation import Generation
from contrapose.core.guidance import DiffusionNPO
from contrapose.errors import UserError
from contrapose.guiding.guided import settled
from contrapose.guiding.images import Sampling, sample_images
from contrapose.guiding.nag import read_negative
from contrapose.seeds import generator, starting_noise

PROMPT, NEGATIVE = "a red circle", "two blue squares"


@pytest.fixture(scope="module")
def backbone(tiny_model: Path) -> Backbone:
    return load_backbone(tiny_model)


@pytest.fixture
def settings(tiny_model: Path, tmp_path: Path) -> Sampling:
    (tmp_path / "prompts.txt").write_text(PROMPT)
    return Sampling(str(tiny_model), (str(tmp_path / "prompts.txt"),), num_images=1, steps=2)


def _sampled(settings: Sampling, backbone: Backbone, out: Path) -> Image.Image:
    assert list(sample_images(settings, backbone, out)) == [1]
    return Image.open(out / "00000" / "samples" / "0000.png")


def _differ(one: Image.Image, other: Image.Image) -> bool:
    """By more than one grey level, which is as far as sums that round otherwise at other addresses take a pixel."""
    return max(most for _, most in ImageChops.difference(one, other).getextrema()) > 1


def _by_hand(backbone: Backbone, scale: float, negative: str | None = None) -> Image.Image:
    streams = [generator(PROMPT, 0)]
    condition, none = backbone.text.embed([PROMPT]), backbone.text.unconditional(negative)
    start = starting_noise(streams, backbone.images.latent_shape)
    return backbone.sampler.generate(Generation(condition, none, start, streams, 2, scale), "pil")[0]


def test_a_negative_prompt(settings: Sampling, backbone: Backbone, tmp_path: Path) -> None:
    base = _sampled(settings, backbone, tmp_path / "base")
    guided = _sampled(changed(settings, negative_prompt=NEGATIVE), backbone, tmp_path / "guided")
    assert _differ(guided, base)
    assert not _differ(guided, _by_hand(backbone, 7.5, NEGATIVE))
    assert yaml.safe_load((tmp_path / "guided/images.yaml").read_text())["guiding"]["negative_prompt"] == NEGATIVE


@pytest.mark.parametrize("negative", [None, NEGATIVE])
def test_attention_guidance(settings: Sampling, backbone: Backbone, tmp_path: Path, negative: str | None) -> None:
    """What `contrapose.nag` does, with its settings spelled out; and the pipeline is as it was."""
    settings = changed(settings, guidance_scale=1.0, negative_prompt=negative)
    guided = _sampled(changed(settings, nag_scale=4.0, nag_alpha=0.5), backbone, tmp_path / "guided")
    written = yaml.safe_load((tmp_path / "guided/images.yaml").read_text())["guiding"]
    assert [written[f"nag_{name}"] for name in ("scale", "tau", "alpha")] == [4.0, 2.5, 0.5]
    base = _by_hand(backbone, 1.0)
    with contrapose.nag(backbone.sampler.stock, negative, scale=4.0, alpha=0.5):
        expected = _by_hand(backbone, 1.0)
    assert not _differ(guided, expected)
    assert _differ(guided, base)
    assert not _differ(_sampled(changed(settings, negative_prompt=None), backbone, tmp_path / "base"), base)


@pytest.mark.parametrize("nag_scale", [None, 5.0])
def test_an_empty_negative_prompt_is_a_text_where_no_prompt_is_none(
    settings: Sampling, tiny_family: Any, tmp_path: Path, nag_scale: float | None
) -> None:
    """SDXL reads zeros for no prompt, as its pipeline does, and the empty text for an empty negative prompt."""
    settings = changed(settings, model=str(tiny_family("sdxl")), nag_scale=nag_scale)
    sdxl = load_backbone(settings.model)
    none = _sampled(settings, sdxl, tmp_path / "none")
    empty = _sampled(changed(settings, negative_prompt=""), sdxl, tmp_path / "empty")
    assert _differ(empty, none)
    for image, negative in ((empty, ""), (none, None)):
        # without NAG the stock attention, whose sums round otherwise than NAG's at a scale of 1
        guided = contrapose.nag(sdxl.sampler.stock, negative, scale=nag_scale) if nag_scale else nullcontext()
        with guided:
            assert not _differ(image, _by_hand(sdxl, sdxl.sampler.guidance_scale, negative))


def test_a_scale_of_one_is_off(settings: Sampling, backbone: Backbone, tmp_path: Path) -> None:
    base = _sampled(settings, backbone, tmp_path / "base")
    assert not _differ(_sampled(changed(settings, nag_scale=1.0), backbone, tmp_path / "off"), base)


@pytest.mark.parametrize("name", ["sana", "sdxl", *families.one_of_each("unconditional")])
def test_what_attention_reads(name: str, tiny_family: Any) -> None:
    """The cache's embeddings are what the pipeline's own encoders give."""
    backbone = load_backbone(tiny_family(name))
    given = (
        (None, backbone.text.unconditional()),
        ("", backbone.text.unconditional("")),
        (NEGATIVE, backbone.text.embed([NEGATIVE])),
    )
    for prompt, expected in given:
        negative = read_negative(backbone.sampler.stock, backbone.family, prompt)
        assert expected.keys() == negative.keys()
        assert all(torch.equal(expected[name], negative[name]) for name in negative)


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("sd", {"nag_scale": 0.5}, "nag_scale 0.5: "),
        ("sd", {"nag_scale": 5.0, "nag_tau": 0.0}, "nag_tau 0.0: "),
        ("sd", {"nag_scale": 5.0, "nag_alpha": 2.0}, "nag_alpha 2.0: "),
        ("sd", {"nag_alpha": 0.5}, "nag_alpha: does nothing by itself; set --nag-scale too"),
        ("sd", {"nag_interval": (0.2, 1.0)}, "nag_interval: does nothing by itself; set --nag-scale too"),
        ("sd", {"negative_prompt": "x", "guidance_scale": 1.0}, "negative_prompt: nothing reads it; set --guidance-sc"),
        ("sd", {"negative_prompt": "", "guidance_scale": 1.0}, "negative_prompt: nothing reads it; set --guidance-sc"),
        ("sd", {"guidance_scale": 0.5}, "guidance scale 0.5: "),
        ("flux", {"negative_prompt": "x"}, "negative_prompt: nothing reads it; set --nag-scale"),
        ("flux", {"negative": Path("x"), "guidance": DiffusionNPO()}, "this guidance needs true_cfg_scale on this"),
    ],
)
def test_refused(settings: Sampling, tiny_family: Any, name: str, change: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as caught:
        settled(changed(settings, **change), load_backbone(tiny_family(name)))
    [line] = str(caught.value).splitlines()
    assert line.startswith(told)


def test_a_network_that_is_fed_guidance_takes_any_scale_and_one_that_is_not_none(
    settings: Sampling, tiny_family: Any
) -> None:
    """FLUX.1-dev's; -schnell's, and a distilled FLUX.2 [klein]."""
    backbone = load_backbone(tiny_family("flux"))
    assert settled(changed(settings, guidance_scale=0.5), backbone).guidance_scale == 0.5
    backbone.denoiser.network.register_to_config(guidance_embeds=False)
    usual = settled(settings, backbone)
    assert settled(usual, backbone) == usual
    distilled = load_backbone(tiny_family("flux2-klein"))
    assert settled(changed(settings, guidance_scale=2.0), distilled).guidance_scale == 2.0
    distilled.sampler.stock.register_to_config(is_distilled=True)
    for unguided in (backbone, distilled):
        with pytest.raises(UserError, match=r"guidance scale 2: .* takes no guidance; leave the setting out"):
            settled(changed(settings, guidance_scale=2.0), unguided)
