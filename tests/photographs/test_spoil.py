"""Every kind of spoiling on every family's tiny pipeline, and each against what it says it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import families
import numpy as np
import pytest
import stock
import tiny_pipelines
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
from PIL import Image

from contrapose import runfile
from contrapose.backbones.embeddings import Embeddings
from contrapose.backbones.families.table import load_backbone
from contrapose.backbones.inpainting import open_inpainting
from contrapose.errors import UserError
from contrapose.photographs.spoil import (
    SPOILERS,
    AnySpoiler,
    Degrade,
    Generate,
    Inpaint,
    Noise,
    Redraw,
    Spoiler,
)
from contrapose.photographs.spoil.saliency import FORMULAS
from contrapose.photographs.spoil.studio import Studio
from contrapose.seeds import generator

CAPTIONS, SEEDS = ["a red circle", "two blue squares above a green star"], [3, 11]
STEPS, SCALE = 3, 4.0


@pytest.fixture(scope="module")
def studios(tiny_family: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Studio]:
    """A family's studio, shared by all tests of this file."""
    folder = tmp_path_factory.mktemp("embeddings")

    @lru_cache
    def studio(name: str) -> Studio:
        backbone = load_backbone(tiny_family(name))
        return Studio(backbone, Embeddings(backbone.text, folder=folder), STEPS, SCALE)

    return studio


def photo(size: tuple[int, int], seed: int) -> Image.Image:
    """A grained wall with an odd patch in the middle."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal((60, 120, 70), 12, (size[1], size[0], 3))
    pixels[size[1] // 4 : size[1] // 2, size[0] // 4 : size[0] * 3 // 4] = rng.uniform(120, 255, 3)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def photos(name: str) -> list[Image.Image]:
    return [photo(stock.size(name), seed) for seed in (0, 1)]


def far(one: Image.Image, other: Image.Image) -> np.ndarray:
    return np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int))


@pytest.mark.parametrize("kind", SPOILERS)
@pytest.mark.parametrize("name", families.NAMES)
def test_every_kind_spoils_on_every_family(name: str, kind: str, studios: Callable[[str], Studio]) -> None:
    """Of the photograph's size, unlike it, told why, and alone as in a batch."""
    studio, spoiler, given = studios(name), SPOILERS[kind](), photos(name)
    together = spoiler.spoil(given, CAPTIONS, SEEDS, studio)
    for original, loser, seed in zip(given, together, SEEDS, strict=True):
        assert loser.image.mode == "RGB" and loser.image.size == original.size
        assert far(loser.image, original).mean() > 1
        assert loser.why["kind"] == kind and loser.why["seed"] == seed
        assert all(isinstance(value, (str, int, float)) for value in loser.why.values())
    (alone,) = spoiler.spoil(given[1:], CAPTIONS[1:], SEEDS[1:], studio)
    assert far(alone.image, together[1].image).max() <= 1 and alone.why == together[1].why


@pytest.mark.parametrize("name", families.NAMES)
def test_a_walk_alone_is_as_in_a_batch(name: str, studios: Callable[[str], Studio]) -> None:
    studio = studios(name)
    data, streams = studio.encode(photos(name)), [generator(*each) for each in zip(CAPTIONS, SEEDS, strict=True)]
    both = studio.walk(data, CAPTIONS, streams, 0.7, SCALE)
    alone = studio.walk(data[1:], CAPTIONS[1:], [generator(CAPTIONS[1], SEEDS[1])], 0.7, SCALE)
    torch.testing.assert_close(alone, both[1:], atol=1e-4, rtol=1e-4)
    assert both.isfinite().all() and both.shape == data.shape


@pytest.mark.parametrize("kind", ["redraw", "noise", "generate", "inpaint"])
def test_another_seed_or_photograph_is_another_loser(kind: str, studios: Callable[[str], Studio]) -> None:
    """And another caption, wherever one is read."""
    studio, spoiler, (first, second) = studios("sd"), SPOILERS[kind](), photos("sd")
    made = spoiler.spoil([first, first, second], [CAPTIONS[0]] * 3, [1, 2, 1], studio)
    assert far(made[0].image, made[1].image).max() > 3
    assert (far(made[0].image, made[2].image).max() > 3) == (kind != "generate")


@torch.no_grad()
def test_redraw_is_a_loop_written_by_hand(tiny_family: Callable[[str], Path], studios: Callable[[str], Studio]) -> None:
    """diffusers' own solver, the pipeline's own parts: 6 of 10 steps from 600 down to 100."""
    pipe, given = stock.load("sd", tiny_family("sd")), photos("sd")
    solver = DPMSolverMultistepScheduler.from_config(
        pipe.scheduler.config, algorithm_type="dpmsolver++", final_sigmas_type="zero", lower_order_final=True
    )
    solver.set_timesteps(timesteps=[600, 500, 400, 300, 200, 100])
    images = torch.from_numpy(np.stack([np.asarray(each) for each in given])).permute(0, 3, 1, 2) / 127.5 - 1
    data = pipe.vae.encode(images).latent_dist.mean * pipe.vae.config.scaling_factor
    streams = [generator(caption, seed) for caption, seed in zip(CAPTIONS, SEEDS, strict=True)]
    noise = torch.cat([torch.randn(1, *data.shape[1:], generator=stream) for stream in streams])
    abar = solver.alphas_cumprod[600]
    x = abar.sqrt() * data + (1 - abar).sqrt() * noise
    c, u = pipe.encode_prompt(CAPTIONS, "cpu", 1, True)
    for time in solver.timesteps:
        given_text, without = (pipe.unet(x, time, encoder_hidden_states=text).sample for text in (c, u))
        x = solver.step(without + SCALE * (given_text - without), time, x).prev_sample
    pixels = (pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample.clamp(-1, 1) + 1) * 127.5
    backbone = studios("sd").backbone
    made = Redraw(0.6).spoil(given, CAPTIONS, SEEDS, Studio(backbone, studios("sd").embeddings, 10, SCALE))
    for loser, expected in zip(made, pixels.permute(0, 2, 3, 1).numpy(), strict=True):
        assert np.abs(np.asarray(loser.image) - expected).max() < 0.6


def test_the_share_of_noise_is_the_share_of_change(studios: Callable[[str], Studio]) -> None:
    """Little of it leaves the autoencoder's own copy of the photograph."""
    backbone, given = studios("sd3").backbone, photos("sd3")
    studio = Studio(backbone, studios("sd3").embeddings, 20)
    copies = studio.decode(studio.encode(given))
    for kind in (Redraw, Noise):
        little, much = (kind(strength).spoil(given, CAPTIONS, SEEDS, studio) for strength in (0.05, 1.0))
        for a, b, copy in zip(little, much, copies, strict=True):
            assert far(a.image, copy).mean() < 0.5 * far(b.image, copy).mean()


def test_noise_does_not_read_the_caption(studios: Callable[[str], Studio]) -> None:
    studio = studios("sd")
    data = studio.encode(photos("sd"))
    with stock.recorded(studio.backbone.denoiser.network) as calls:
        Noise(0.7).spoil(photos("sd"), CAPTIONS, SEEDS, studio)
    assert len(calls) == 2 and len(calls[0].inputs["sample"]) == len(data)  # 0.7 of 3 steps, without guidance
    texts = torch.cat([call.inputs["encoder_hidden_states"] for call in calls])
    assert (texts == studio.embeddings.unconditional()["text"]).all()


def test_generated_is_what_the_stock_pipeline_draws(
    tiny_family: Callable[[str], Path], studios: Callable[[str], Studio]
) -> None:
    streams = [generator(*each) for each in zip(CAPTIONS, SEEDS, strict=True)]
    start = torch.stack([torch.randn(4, 12, 8, generator=stream) for stream in streams])
    expected = stock.load("sd", tiny_family("sd"))(
        CAPTIONS, num_inference_steps=STEPS, guidance_scale=SCALE, latents=start, height=24, width=16, generator=streams
    ).images
    made = Generate().spoil(photos("sd"), CAPTIONS, SEEDS, studios("sd"))
    assert all(far(loser.image, image).max() <= 1 for loser, image in zip(made, expected, strict=True))


@pytest.mark.parametrize("name", ["sd", "sd-v", "flux", "sana"])
@pytest.mark.parametrize("saliency", FORMULAS)
def test_inpainting_keeps_what_is_not_masked(name: str, saliency: str, studios: Callable[[str], Studio]) -> None:
    given = photos(name)
    for original, loser in zip(given, Inpaint(saliency).spoil(given, CAPTIONS, SEEDS, studios(name)), strict=True):
        assert loser.mask is not None and loser.mask.mode == "L" and loser.mask.size == original.size
        mask = np.asarray(loser.mask)
        assert (mask == 0).any() and (mask > 127).any()
        assert not far(loser.image, original)[mask == 0].any()
        assert far(loser.image, original)[mask > 127].mean() > 3
        assert loser.why["mask_share"] == pytest.approx(mask.mean() / 255, abs=0.003)


def test_without_compositing_the_autoencoder_is_everywhere(studios: Callable[[str], Studio]) -> None:
    """And compositing is m made + (1 - m) photograph."""
    given = photos("sd")
    raw, put_back = (Inpaint(composite=on).spoil(given, CAPTIONS, SEEDS, studios("sd")) for on in (False, True))
    for original, one, other in zip(given, raw, put_back, strict=True):
        mask = np.asarray(one.mask)
        assert np.array_equal(mask, other.mask) and one.why == other.why
        assert far(one.image, original)[mask == 0].mean() > 3
        share = mask[..., None] / 255
        expected = share * np.asarray(one.image) + (1 - share) * np.asarray(original)
        assert np.abs(np.asarray(other.image) - expected).max() <= 1


def test_the_known_part_is_kept_exactly_on_the_way(studios: Callable[[str], Studio]) -> None:
    """Latents outside the mask come out as they went in; inside, they forget the photograph."""
    studio = studios("sd3")
    known = studio.encode(photos("sd3"))
    mask = torch.zeros(2, 1, *known.shape[-2:])
    mask[..., 2:6, 2:5] = 1

    def walked(begin: torch.Tensor) -> torch.Tensor:
        streams = [generator(*each) for each in zip(CAPTIONS, SEEDS, strict=True)]
        return studio.walk(begin, CAPTIONS, streams, 1.0, SCALE, 5, lambda x0: mask * x0 + (1 - mask) * known)

    made = walked(known * (1 - mask))
    inside = mask.bool().expand_as(made)
    assert torch.equal(made[~inside], known[~inside])
    assert (made - known)[inside].abs().mean() > 0.1


def test_the_subject_begins_as_noise_alone_and_the_rest_stays(studios: Callable[[str], Studio]) -> None:
    """Though a schedule's last step holds some of the photograph; the rest is it with its own noise, all the way."""
    studio, given = studios("sd"), photos("sd")
    with stock.recorded(studio.backbone.denoiser.network) as calls:
        losers = Inpaint().spoil(given, CAPTIONS, SEEDS, studio)
    masks = torch.stack([torch.from_numpy(np.asarray(loser.mask) / 255.0) for loser in losers])[:, None]
    covered = torch.nn.functional.avg_pool2d(masks, 2).expand(-1, 4, -1, -1)
    streams = [generator(*each) for each in zip(CAPTIONS, SEEDS, strict=True)]
    noise = torch.cat([torch.randn(1, 4, 12, 8, generator=stream) for stream in streams])
    schedule = DPMSolverMultistepScheduler.from_config(studio.backbone.sampler.stock.scheduler.config).alphas_cumprod
    known, inside, outside = studio.encode(given), covered == 1, covered == 0
    assert inside.any() and outside.any() and schedule[-1] > 1e-3 and len(calls) == STEPS
    began = calls[0].inputs["sample"][2:]
    torch.testing.assert_close(began[inside], ((1 - schedule[-1]).sqrt() * noise)[inside])
    for call in calls:
        abar = schedule[call.inputs["timestep"][0]]
        expected = abar.sqrt() * known + (1 - abar).sqrt() * noise
        torch.testing.assert_close(call.inputs["sample"][2:][outside], expected[outside], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["sd", "sd3", "flux"])
def test_half_precision_will_do(name: str, tiny_family: Callable[[str], Path], tmp_path: Path) -> None:
    """The walk itself is in float32, so that only the networks round."""
    backbone = load_backbone(tiny_family(name), torch.bfloat16)
    studio = Studio(backbone, Embeddings(backbone.text, folder=tmp_path), STEPS, SCALE)
    for kind in ("redraw", "inpaint"):
        for original, loser in zip(
            photos(name), SPOILERS[kind]().spoil(photos(name), CAPTIONS, SEEDS, studio), strict=True
        ):
            assert far(loser.image, original).mean() > 1
    assert (
        studio.walk(studio.encode(photos(name)), CAPTIONS, [generator("x", 0)] * 2, 0.5, SCALE).dtype == torch.float32
    )


def test_a_photograph_without_a_subject_is_drawn_anew(studios: Callable[[str], Studio]) -> None:
    plain = Image.new("RGB", (16, 24), (40, 90, 160))
    (loser,) = Inpaint().spoil([plain], CAPTIONS[:1], SEEDS[:1], studios("sd"))
    assert loser.why["mask_share"] == 1.0 and far(loser.image, plain).mean() > 3


def test_a_model_made_for_inpainting(studios: Callable[[str], Studio], tmp_path: Path) -> None:
    """Named by a setting, loaded once, and asked with the paper's steps and guidance scale."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        parts = tiny_pipelines.build_sd().components
        unet = UNet2DConditionModel.from_config(parts["unet"].config, in_channels=9)
    StableDiffusionInpaintPipeline(**{**parts, "unet": unet}).save_pretrained(tmp_path / "inpainting")
    model = str(tmp_path / "inpainting")
    studio, spoiler, given = studios("sdxl"), Inpaint(model=model), photos("sd")
    made = spoiler.spoil(given, CAPTIONS, SEEDS, studio)
    inpainting = studio.once(open_inpainting, model, torch.float32, torch.device("cpu"))
    with stock.recorded(inpainting.pipe.unet) as calls:
        (alone,) = spoiler.spoil(given[1:], CAPTIONS[1:], SEEDS[1:], studio)
    assert len(calls) >= 50 and calls[0].inputs["sample"].shape[:2] == (2, 9)
    assert far(alone.image, made[1].image).max() <= 1
    for original, loser in zip(given, made, strict=True):
        mask = np.asarray(loser.mask)
        assert not far(loser.image, original)[mask == 0].any()
        assert far(loser.image, original)[mask > 127].mean() > 3


def test_sizes_that_the_model_cannot_make_are_told(studios: Callable[[str], Studio]) -> None:
    for kind in (Redraw, Noise, Inpaint, Generate):
        with pytest.raises(UserError, match="17x24: this model makes"):
            kind().spoil([photo((17, 24), 0)], ["x"], [0], studios("sd"))


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (Redraw, {"strength": 0.0}),
        (Noise, {"strength": 1.5}),
        (Inpaint, {"strength": float("nan")}),
        (Inpaint, {"softness": 0.0}),
        (Inpaint, {"threshold": 1.0}),
        (Inpaint, {"steps": 0}),
    ],
)
def test_wrong_settings_are_refused(kind: type, wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        kind(**wrong)


def test_a_studio_has_the_familys_usual_settings(studios: Callable[[str], Studio]) -> None:
    usual = Studio(studios("flux").backbone, studios("flux").embeddings)
    assert (usual.steps, usual.guidance_scale) == (28, 3.5)


def test_settings_go_through_a_run_file(tmp_path: Path) -> None:
    converter = runfile.converter((AnySpoiler, SPOILERS))
    settings: list[Spoiler] = [Inpaint("spectral-residual", 0.4), Redraw(0.3), Generate(), Noise(), Degrade(("blur",))]
    for one in settings:
        assert converter.structure(converter.unstructure(one, AnySpoiler), AnySpoiler) == one
