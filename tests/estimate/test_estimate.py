"""Costs without weights: counts that are known, bytes that a real network keeps, and the way things must go."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import families
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from estimating import PARAMETERS, SMALL, altered, count, setup_of
from training import with_full, with_lora

from contrapose.backbones.families.table import load_backbone
from contrapose.backbones.meta import SHIPPED, example, skeleton
from contrapose.backbones.settings import Loading
from contrapose.core.moving import Average
from contrapose.errors import UserError
from contrapose.estimate.advice import Images
from contrapose.estimate.estimate import estimate_run, once_flops, skeleton_of
from contrapose.estimate.fitting import bases, fit_card, ways
from contrapose.estimate.memory import inference_cost, saved_bytes, training_cost
from contrapose.estimate.settings import Setup
from contrapose.estimate.standing import state_bytes, weight_bytes
from contrapose.methods import D3PO, DDSPO, SFT, DataDrivenDDSPO, DiffusionDPO, DiffusionDRO, InPO, OnlineDPO, SmPO
from contrapose.methods.own_samples import OwnSamples

pytestmark = pytest.mark.slow

# Published counts of the other parts
PARTS = {
    ("sd15", "text_encoder"): 123_060_480,
    ("sd15", "vae"): 83_653_863,
    ("sdxl", "text_encoder_2"): 694_659_840,
    ("flux-dev", "text_encoder_2"): 4_762_310_656,
    ("sana-1600m", "text_encoder"): 2_614_341_888,
    ("sana-1600m", "vae"): 312_250_275,
    ("z-image", "text_encoder"): 4_022_468_096,
    ("qwen-image", "text_encoder"): 8_292_166_656,
    ("qwen-image", "vae"): 126_892_531,
}
# TFLOP of one forward on one sample, from a survey of the field; its figure of SD3 fits 77 tokens of T5 alone.
TERAFLOPS = [
    ("sd15", "512x512", 77, 0.80),
    ("sdxl", "1024x1024", 77, 6.76),
    ("sd3-medium", "512x512", 77 + 77, 1.80),
    ("sana-1600m", "1024x1024", 300, 2.97),
    ("flux-dev", "1024x1024", 512, 74.0),
]

bare = cache(skeleton)


def forward_flops(model: str | Path, size: str | None, tokens: int) -> float:
    backbone = bare(model)
    row = example(backbone, 1, backbone.images.shape_for(size), tokens)
    return inference_cost(lambda: backbone.denoiser.denoise(backbone.denoiser.network, *row)).total


def test_every_shipped_configuration_has_its_published_size():
    assert {name: count(bare(name).denoiser.network) for name in SHIPPED} == PARAMETERS
    assert {key: count(getattr(bare(key[0]).sampler.stock, key[1])) for key in PARTS} == PARTS


@pytest.mark.parametrize(("model", "size", "tokens", "expected"), TERAFLOPS)
def test_forward_flops_are_the_known_ones(model, size, tokens, expected):
    assert forward_flops(model, size, tokens) / 1e12 == pytest.approx(expected, rel=0.05)


def test_flops_of_what_is_cached():
    image, prompt = once_flops(bare("sd15"), (4, 64, 64))
    assert image / 1e12 == pytest.approx(1.12, rel=0.05)
    assert 0 < prompt < 0.02e12
    assert 0.7e12 < once_flops(bare("pixart-sigma"), (4, 8, 8))[1] < 4.9e12  # T5-XXL


def test_lora_trains_two_thin_matrices_a_projection():
    backbone = with_lora(skeleton("sd15"), 8, 8)
    assert sum(p.numel() for p in backbone.policies.parameters()) == 1_594_368  # as peft counts on the real UNet
    assert sum(p.numel() for p in with_lora(skeleton("sd15"), 16, 16).policies.parameters()) == 2 * 1_594_368


# Against a real network


def kept_for_real(folder: Path, tokens: int) -> int:
    """What saved-tensor hooks count on a CPU; attention written out where the pipeline can."""
    backbone = load_backbone(folder)
    if hasattr(backbone.denoiser.network, "set_attn_processor") and backbone.denoiser.part == "unet":
        backbone.denoiser.network.set_attn_processor(AttnProcessor())
    backbone = with_lora(backbone, 4, 4)
    x_t, t, condition = example(backbone, 2, backbone.images.shape_for("32x32"), tokens)
    real = {n: torch.zeros_like(v, device="cpu") if v.is_floating_point() else v for n, v in condition.items()}
    module = backbone.policies.modules()[0].train()

    def loss() -> torch.Tensor:
        x = torch.randn(x_t.shape)
        return backbone.predict("trainee", x, torch.zeros(t.shape, dtype=t.dtype), real).float().square().mean()

    return saved_bytes(loss, module.parameters())[0]


def kept_without_values(folder: Path, tokens: int) -> int:
    backbone = skeleton(folder)
    if backbone.denoiser.part == "unet":
        backbone.denoiser.network.set_attn_processor(AttnProcessor())
    backbone = with_lora(backbone, 4, 4)
    row = example(backbone, 2, backbone.images.shape_for("32x32"), tokens)
    return training_cost(lambda: backbone.predict("trainee", *row), backbone.policies.modules()[0], None, False).saved


@pytest.mark.parametrize("family", families.names(fixed_text=True, variant_of=None))
def test_bytes_kept_are_those_of_a_real_network(folders, family):
    tokens = skeleton(folders[family]).text.rows
    assert kept_without_values(folders[family], tokens) == kept_for_real(folders[family], tokens)


@pytest.mark.parametrize("family", families.names(fixed_text=False, variant_of=None))
def test_bytes_kept_are_nearly_those_of_a_real_network(folders, family):
    """Attention's normalisers are padded on a GPU and not on a CPU."""
    folder = folders[family]
    assert kept_without_values(folder, 32) == pytest.approx(kept_for_real(folder, 32), rel=0.03)


@pytest.mark.parametrize("family", families.DISTINCT)
def test_what_sampling_takes_is_told_of_every_family(folders, family):
    """Of autoencoders of videos and of patches as well, which the error of memory that runs out counts."""
    standing, image = Images(str(folders[family]), "fp32", Loading()).bytes
    assert standing > 0 and image > 0


@pytest.mark.parametrize("tokens", [40, 64])
@pytest.mark.parametrize("family", families.names(masked=True))
def test_a_text_that_is_no_multiple_of_anything_runs(folders, family, tokens):
    assert forward_flops(folders[family], "256x256", tokens + 1) >= forward_flops(folders[family], "256x256", tokens)


def test_rows_add_up(tiny_model):
    for full, dtype in ((False, None), (True, torch.bfloat16)):
        backbone = skeleton(tiny_model)
        backbone = with_full(backbone, torch.bfloat16) if full else with_lora(backbone, 4, 4)
        costs = {}
        for rows in (1, 2, 5):
            run = partial(backbone.predict, "trainee", *example(backbone, rows, backbone.images.latent_shape, 77))
            costs[rows] = training_cost(run, backbone.policies.modules()[0], dtype, False)
        line = costs[1].beside(costs[2]) if full else costs[1]
        assert line.saved_for(5) == pytest.approx(costs[5].saved, rel=0.02)
        assert line.peak_for(5) == pytest.approx(costs[5].peak, rel=0.05)
        assert costs[5].total == pytest.approx(5 * costs[1].total)


# Which way things go


def test_every_saving_saves():
    usual = skeleton_of(SMALL).memory(SMALL)
    for saving in ({"gradient_checkpointing": True}, {"split_pairs": True}, {"micro_batch": 2}):
        less = skeleton_of(SMALL).memory(altered(SMALL, **saving))
        assert less.activations < usual.activations and less.total < usual.total, saving
    quantised = [
        skeleton_of(SMALL).memory(altered(SMALL, quantize=kind)).weights
        for kind in ("none", "torchao-int8", "int8", "nf4")
    ]
    assert quantised == sorted(quantised, reverse=True) and len(set(quantised)) == 4


def test_time_is_what_memory_costs():
    usual = estimate_run(SMALL).flops
    checkpointed = estimate_run(altered(SMALL, gradient_checkpointing=True)).flops
    split = estimate_run(altered(SMALL, split_pairs=True)).flops
    assert usual.step < split.step and usual.step < checkpointed.step
    assert split.pair - usual.pair == pytest.approx(2 * usual.forward, rel=0.02)
    assert 2.0 < usual.trained / usual.forward < 2.4
    assert usual.step == SMALL.run.optimisation.batch_size * usual.pair


def test_the_backward_of_a_full_trainee_costs_two_forwards():
    """Depthwise convolutions too, of which SANA is full."""
    for model in ("sd15", "sana-1600m"):
        bones = skeleton_of(setup_of(model, "256x256", precision="bf16", full=True))
        assert 2.9 < bones.trainee(checkpointing=False).total / bones.reference.total < 3.1


def test_full_holds_a_copy_gradients_and_moments():
    setup = altered(SMALL, full=True)
    found = skeleton_of(setup).standing(setup)
    weights = 4 * PARAMETERS["sd15"]
    assert (found.weights, found.trained, found.gradients, found.optimizer) == (0, weights, weights, 2 * weights)
    assert weights / 2 < found.reference < 0.51 * weights
    without = altered(SMALL, full=True, method=SFT())
    assert skeleton_of(without).standing(without).reference == 0


def test_shards_are_a_share_and_what_is_gathered_of_them():
    whole = altered(SMALL, full=True)
    one = skeleton_of(whole).memory(whole)
    shards = {shard: replace(altered(whole, shard=shard), num_processes=4) for shard in ("full", "offload")}
    four, offloaded = (skeleton_of(setup).memory(setup) for setup in shards.values())
    assert 4 * four.optimizer == one.optimizer and 4 * four.trained == one.trained
    assert 4 * four.reference == pytest.approx(one.reference) and offloaded.reference == 0
    # at least the largest block in bf16, and less than the whole network and its gradients
    largest = max(count(block) for block in skeleton_of(whole).backbone.denoiser.network.up_blocks[1].attentions)
    assert 2 * largest < four.working + four.activations - _beside_weights(whole) < 8 * PARAMETERS["sd15"]
    alone = replace(shards["full"], num_processes=1)
    assert skeleton_of(alone).memory(alone) == one
    copies = [replace(altered(setup, shard_over=1), num_processes=4) for setup in shards.values()]
    assert [skeleton_of(setup).standing(setup).reference for setup in copies] == [one.reference, 0]
    with pytest.raises(UserError, match="shard_over 4: 6 processes are no multiple of it"):
        replace(altered(whole, shard="full", shard_over=4), num_processes=6)


def _beside_weights(setup: Setup) -> int:
    """Bytes of a step's activations that grow with its rows."""
    num_trained = setup.rows[1] * setup.run.optimisation.micro_batch
    cost = skeleton_of(setup).trainee(setup.run.gradient_checkpointing)
    return num_trained * (cost.peak - cost.peak_fixed)


def test_optimizer_states():
    matrix, bias = torch.empty(512, 256, device="meta"), torch.empty(512, device="meta")
    assert state_bytes(matrix, "adamw") == 8 * 512 * 256
    assert state_bytes(matrix, "adafactor") == 4 * (512 + 256)
    assert state_bytes(bias, "adafactor") == 4 * 512
    assert state_bytes(bias, "adamw-8bit") == state_bytes(bias, "adamw")
    assert 2 * matrix.numel() < state_bytes(matrix, "adamw-8bit") < 2.1 * matrix.numel()
    assert state_bytes(matrix, "adamw-paged-8bit") == state_bytes(matrix, "adamw-8bit")


def test_only_linear_layers_are_quantised():
    layers = torch.nn.Sequential(torch.nn.Linear(64, 64, bias=False), torch.nn.Conv2d(4, 4, 1, bias=False))
    assert weight_bytes(layers, "nf4") == 64 * 32 + 4 * 64 + 4 * 16
    assert weight_bytes(layers, "int8") == 64 * 64 + 4 * 64 + 4 * 16


def test_caches():
    found = estimate_run(replace(SMALL, num_prompts=10, num_pairs=3))
    assert found.embeddings == 10 * 77 * 768 * 2
    assert found.latents == 3 * 2 * 4 * (4 * 32 * 32)


def test_verdicts_are_the_smallest_change_that_fits():
    verdicts = [fit_card(altered(SMALL, full=True, micro_batch=8, batch_size=8), card) for card in (12, 24, 48, 80)]
    needed = {v.card: v for v in verdicts}
    assert needed[80].changes == ()
    assert all(v.bytes <= v.card * 2**30 for v in verdicts if v.changes is not None)
    assert "--no-full" in (needed[12].changes or ())
    assert "does not fit" in str(fit_card(SMALL, 0))


def test_ways_and_bases_change_one_thing_after_another():
    full = setup_of("sd15", full=True, precision="fp32")
    assert [changes[-1:] for changes, _ in bases(full)] == [
        (), ("--precision bf16",), ("--optimizer adamw-8bit",), ("--no-full",), ("--quantize int8",),
        ("--quantize nf4",),
    ]  # fmt: skip
    assert [s.run.optimisation.micro_batch for _, s in ways(full)] == [8, 8, 4, 2, 1, 1]
    assert list(ways(full))[-1][1].run.split_pairs
    assert [c for c, _ in ways(altered(full, micro_batch=1, batch_size=1))][-1] == (
        "--gradient-checkpointing",
        "--split-pairs",
    )


@pytest.mark.parametrize("full", [False, True])
def test_further_policies_and_rollouts_cost_what_they_are(full: bool) -> None:
    """A lagged policy is one more frozen copy, or adapter; each rollout is a forward a step."""
    usual, own, fits = (
        estimate_run(altered(SMALL, method=method, full=full))
        for method in (DiffusionDPO(), DiffusionDRO(), DataDrivenDDSPO())
    )
    copy = usual.memory.reference if full else usual.memory.trained
    assert own.memory.reference - usual.memory.reference == copy
    assert fits.memory.reference - usual.memory.reference == 2 * copy
    drawn = DiffusionDRO().rollouts * DiffusionDRO().rollout_steps * usual.flops.forward
    assert own.flops.step == SMALL.run.optimisation.batch_size * own.flops.pair + drawn


def test_own_groups_cost_their_draws() -> None:
    """Of 32 prompts 4 samples in 10 steps, guided ones twice, spread over the steps from one draw to the next."""
    plain = estimate_run(altered(SMALL, method=DiffusionDPO()))
    sampling = OwnSamples(rollout_steps=10)
    each_step = estimate_run(altered(SMALL, method=OnlineDPO(sampling=sampling)))
    assert each_step.flops.step - plain.flops.step == pytest.approx(32 * 4 * 10 * plain.flops.forward)
    seldom = replace(sampling, sync_every=8, rollout_guidance_scale=3.0)
    drawn = estimate_run(altered(SMALL, method=OnlineDPO(sampling=seldom))).flops.step - plain.flops.step
    assert drawn == pytest.approx(2 * 32 * 4 * 10 * plain.flops.forward / 8)


def test_a_network_that_is_fed_guidance_is_asked_once_for_images_and_twice_for_steps() -> None:
    from contrapose.backbones.families.flux import FLUX
    from contrapose.backbones.families.stable_diffusion import STABLE_DIFFUSION

    sampling = OwnSamples(rollout_steps=10, rollout_guidance_scale=3.0)
    images = altered(SMALL, method=OnlineDPO(sampling=sampling))
    assert images.drawn_rows(STABLE_DIFFUSION) == 2 * images.drawn_rows(FLUX) == 2 * 32 * 4 * 10
    unguided = altered(SMALL, method=OnlineDPO(sampling=replace(sampling, rollout_guidance_scale=0.0)))
    assert unguided.drawn_rows(STABLE_DIFFUSION) == 32 * 4 * 10
    steps = altered(SMALL, method=D3PO())
    assert steps.drawn_rows(STABLE_DIFFUSION) == steps.drawn_rows(FLUX) == 2 * 8 * 2 * 20


@pytest.mark.parametrize("full", [False, True])
def test_a_reference_that_follows_is_a_copy_of_its_own(full: bool) -> None:
    """In full it takes the reference's place, unless that is asked for truths too; beside a base it is an adapter."""
    changes = {"full": full, "reference_decay": 0.0}
    plain, moving, asked = (
        estimate_run(altered(SMALL, method=method, **more)).memory.reference
        for method, more in ((DiffusionDPO(), {"full": full}), (DiffusionDPO(), changes), (DDSPO(), changes))
    )
    adapter = estimate_run(altered(SMALL, method=DiffusionDPO())).memory.trained
    assert (plain, moving, asked) == ((plain, plain, 2 * plain) if full else (0, adapter, adapter))


def test_a_walk_costs_its_forwards() -> None:
    """10 steps for each of two images, and twice that where every step asks twice."""
    plain, inverted, twice = (
        estimate_run(altered(SMALL, method=method)).flops
        for method in (DiffusionDPO(), InPO(), SmPO(inversion_steps=10))
    )
    assert inverted.pair - plain.pair == 2 * 10 * plain.forward
    assert twice.pair - plain.pair == 2 * 2 * 10 * plain.forward


@pytest.mark.parametrize(("precision", "full"), [("bf16", True), ("fp32", True), ("bf16", False)])
def test_an_average_in_low_precision_has_its_weights_in_float32_beside(monkeypatch, precision, full) -> None:
    setup = altered(SMALL, method=DiffusionDRO(), precision=precision, full=full)
    copied = skeleton_of(setup).standing(setup)
    averaged = replace(DiffusionDRO().objective(), moving={"lagged": Average(0.9)})
    monkeypatch.setattr(DiffusionDRO, "objective", lambda self: averaged)
    # a copy saves two bytes a weight in bf16 and none in float32, as adapters are; an average takes four for each
    saved = copied.trained - copied.reference // (2 if full else 1)
    assert (saved > 0) == (precision == "bf16" and full)
    assert skeleton_of(setup).standing(setup) == replace(copied, reference=copied.reference + 2 * saved)
