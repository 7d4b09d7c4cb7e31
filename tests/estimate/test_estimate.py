"""Costs without weights: counts that are known, bytes that a real network keeps, and the way things must go."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import families
import pytest
import tiny
import torch
from changing import changed
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import save_file
from training import with_full, with_lora

from contrapose import runfile
from contrapose.backbones import meta
from contrapose.backbones.families.table import load_backbone
from contrapose.backbones.meta import SHIPPED, example, skeleton
from contrapose.cli import estimate as cli
from contrapose.cli.main import main
from contrapose.core.moving import Average
from contrapose.errors import UserError
from contrapose.estimate.estimate import estimate_run, once_flops, skeleton_of
from contrapose.estimate.fitting import bases, fit, ways
from contrapose.estimate.hours import duration, times_of
from contrapose.estimate.memory import inference_cost, saved_bytes, training_cost
from contrapose.estimate.settings import Setup, Speed, sized
from contrapose.estimate.standing import state_bytes, weight_bytes
from contrapose.methods import DDSPO, SFT, DataDrivenDDSPO, DiffusionDPO, DiffusionDRO
from contrapose.store.groups import write_shard
from contrapose.store.manifest import MANIFEST
from contrapose.store.records import GroupRecord
from contrapose.train.settings import CONVERTER, Run

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]

# Published counts: of the denoiser, then of the other parts in the pipeline's own order.
PARAMETERS = {
    "sd15": 859_520_964,
    "sdxl": 2_567_463_684,
    "sd3-medium": 2_028_328_000,
    "sd35-medium": 2_243_171_520,
    "sana-1600m": 1_604_462_752,
    "pixart-sigma": 610_856_096,
    "flux-dev": 11_901_408_320,
    "z-image": 6_154_908_736,
}
PARTS = {
    ("sd15", "text_encoder"): 123_060_480,
    ("sd15", "vae"): 83_653_863,
    ("sdxl", "text_encoder_2"): 694_659_840,
    ("flux-dev", "text_encoder_2"): 4_762_310_656,
    ("sana-1600m", "text_encoder"): 2_614_341_888,
    ("sana-1600m", "vae"): 312_250_275,
    ("z-image", "text_encoder"): 4_022_468_096,
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


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


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


@pytest.mark.parametrize("tokens", [40, 64])
def test_a_text_that_is_no_multiple_of_anything_runs(tokens):
    for model in ("z-image", "sana-1600m", "pixart-sigma"):
        assert forward_flops(model, "256x256", tokens + 1) >= forward_flops(model, "256x256", tokens) * 0.999


def test_lora_trains_two_thin_matrices_a_projection():
    backbone = with_lora(skeleton("sd15"), 8, 8)
    assert sum(p.numel() for p in backbone.policies.parameters()) == 1_594_368  # as peft counts on the real UNet
    assert sum(p.numel() for p in with_lora(skeleton("sd15"), 16, 16).policies.parameters()) == 2 * 1_594_368


# Against a real network


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {name: tiny.save(name, root / name) for name in families.DISTINCT}


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


def test_rows_add_up(folders):
    for full, dtype in ((False, None), (True, torch.bfloat16)):
        backbone = skeleton(folders["sd"])
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


def setup_of(model: str, size: str | None = None, **values: Any) -> Setup:
    """A setup of DDSPO with these settings of its run."""
    return Setup(changed(Run(model, Path("pairs"), DDSPO()), **values), size)


def altered(setup: Setup, **values: Any) -> Setup:
    """The same setup with these settings of its run."""
    return replace(setup, run=changed(setup.run, **values))


SMALL = setup_of("sd15", "256x256", precision="bf16", micro_batch=4)


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
    found = estimate_run(altered(SMALL, full=True)).memory
    weights = 4 * PARAMETERS["sd15"]
    assert (found.weights, found.trained, found.gradients, found.optimizer) == (0, weights, weights, 2 * weights)
    assert weights / 2 < found.reference < 0.51 * weights
    without = altered(SMALL, full=True, method=SFT())
    assert skeleton_of(without).standing(without).reference == 0


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
    verdicts = [fit(altered(SMALL, full=True, micro_batch=8, batch_size=8), card) for card in (12, 24, 48, 80)]
    needed = {v.card: v for v in verdicts}
    assert needed[80].changes == ()
    assert all(v.bytes <= v.card * 2**30 for v in verdicts if v.changes is not None)
    assert "--no-full" in (needed[12].changes or ())
    assert "does not fit" in str(fit(SMALL, 0))


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


# The command


def test_a_folder_needs_its_configurations_alone(folders, tmp_path):
    folder = tiny.save("sd", tmp_path / "model")
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    assert count(skeleton(folder).denoiser.network) == count(load_backbone(folders["sd"]).denoiser.network)


def test_the_command_tells_and_writes(folders, tmp_path, capsys):
    out = tmp_path / "estimate.json"
    assert main(["estimate", "--model", str(folders["flux"]), "--precision", "bf16", "--json", str(out)]) == 0
    told = capsys.readouterr().out
    assert all(word in told for word in ("trainable", "FLOPs", "optimizer", "12 GB: fits", "80 GB: fits"))
    data = json.loads(out.read_text())
    setup = altered(setup_of(str(folders["flux"]), precision="bf16"), pairs=())
    assert data["memory"]["total"] == sum(v for k, v in data["memory"].items() if k != "total")
    assert data["setup"] == CONVERTER.unstructure(setup)


def test_a_recipe_is_estimated_as_it_would_run(tmp_path, capsys):
    """Without a network or a login, though its model is a hub id; options override it."""
    out = tmp_path / "estimate.json"
    recipe = str(ROOT / "recipes/sd15-ddspo-one-gpu.yaml")
    options = ["--card", "24", "3", "--peak-tflops", "100", "--utilisation", "0.5", "--train-steps", "100"]
    assert main(["estimate", recipe, *options, "--size", "256x256", "--json", str(out)]) == 0
    run = runfile.read(Path(recipe), Run, CONVERTER)
    expected = estimate_run(Setup(changed(run, train_steps=100), "256x256"))
    data = json.loads(out.read_text())
    assert data["memory"]["total"] == expected.memory.total and data["trainable"] == expected.trainable
    assert data["times"][0]["hours"] == pytest.approx(100 * expected.flops.step / 0.5e14 / 3600)
    told = " ".join(capsys.readouterr().out.split())
    assert "24 GB: fits" in told and "up to --micro-batch" in told
    assert "3 GB: with --" in told
    assert "100 steps on one GPU that reaches 50% of 100 TFLOP/s" in told


def test_what_a_run_begins_with_takes_its_time():
    run = runfile.read(ROOT / "recipes/sd15-realalign.yaml", Run, CONVERTER)
    times = times_of(Setup(run, "256x256"), Speed())
    assert [(time.folder, time.steps) for time in times] == [("start", 1600), ("", 1000)]
    assert times[0].step_flops > 1.5 * times[1].step_flops  # it draws samples of its own
    assert "1600 steps of start and 1000 steps" in duration(Setup(run), Speed(), times)


def test_size_and_number_are_those_of_the_pairs(folders, tmp_path):
    records = [GroupRecord.pair(f"{i}", "a cat", f"a {i}", i) for i in range(3)]
    write_shard(tmp_path, 0, records, torch.zeros(3, 2, 4, 8, 16))
    (tmp_path / MANIFEST).write_text("num_groups: 3\n")
    setup = setup_of(str(folders["sd"]), pairs=tmp_path)
    cost = estimate_run(sized(setup))
    assert (cost.latent, cost.setup.pairs, cost.setup.prompts) == ((4, 8, 16), 3, 4)
    assert cost.latents == 3 * 2 * 4 * (4 * 8 * 16)
    assert sized(altered(setup, pairs=tmp_path / "later")).latent is None


def test_adapters_on_more_layers_train_more():
    every = altered(SMALL, lora_targets=("all-linear",))
    assert estimate_run(every).trainable > 1.5 * estimate_run(SMALL).trainable


def test_an_average_is_counted():
    averaged = altered(SMALL, ema_decay=0.99)
    memory = skeleton_of(averaged).memory(averaged)
    assert memory.average == memory.trained
    assert memory.total == skeleton_of(SMALL).memory(SMALL).total + memory.trained


def test_the_roomiest_micro_batch_fits_and_the_next_does_not():
    fitted = fit(SMALL, 12)
    assert fitted.changes == () and fitted.roomiest is not None
    size, needed = fitted.roomiest
    larger = altered(SMALL, micro_batch=2 * size)
    assert needed == skeleton_of(SMALL).memory(altered(SMALL, micro_batch=size)).total
    assert skeleton_of(larger).memory(larger).total > 0.95 * 12 * 2**30


def test_every_shipped_layout_is_some_models():
    assert set(meta._LAYOUT_OF.values()) == set(SHIPPED)
    assert count(skeleton("black-forest-labs/FLUX.1-dev").denoiser.network) == PARAMETERS["flux-dev"]


def test_every_setting_that_counts_is_one_of_aligns():
    settings = {setting.name for section in cli._SECTIONS for setting in fields(section)}
    assert settings >= cli._COUNTED


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere.yaml"], "nowhere.yaml"),
        (["--model", "sd15", "--card", "0"], "card 0"),
        (["--model", "sd15", "--utilisation", "2"], "utilisation 2"),
        (["--model", "sd15", "--learning-rate", "1"], "--learning-rate"),
        (["--model", "sd16"], "sd15"),
        (["--model", "somebody/something"], "the hub cannot be reached"),
        (["--model", "sd15", "--size", "511x512"], "multiples"),
        (["best", "--model", "sd15"], "ddspo"),
        (["--model", "sd15", "--full", "--quantize", "nf4"], "LoRA"),
        (["--model", "sd15", "--micro-batch", "3"], "multiple"),
    ],
)
def test_bad_input_is_one_line(arguments, told, capsys):
    assert main(["estimate", *arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1 and told in lines[0]


def test_a_folder_of_another_kind_is_refused(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "AudioPipeline"}')
    with pytest.raises(UserError, match="AudioPipeline is not supported"):
        skeleton(tmp_path)


def test_a_folder_goes_before_the_shipped_layout_of_its_name(folders, tmp_path, monkeypatch):
    (tmp_path / "sd15").symlink_to(folders["sd"])
    monkeypatch.chdir(tmp_path)
    assert count(skeleton("sd15").denoiser.network) == count(load_backbone(folders["sd"]).denoiser.network)
    assert count(skeleton("sdxl").denoiser.network) == PARAMETERS["sdxl"]


def test_a_file_says_too_little(folders, tmp_path):
    save_file({"a.lora_A.weight": torch.zeros(2)}, tmp_path / "lora.safetensors")
    with pytest.raises(UserError, match=r"lora\.safetensors: is a LoRA and no model"):
        skeleton(tmp_path / "lora.safetensors")
    whole = tiny.save_single_file(folders["sd"], tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors: one file says too little; name its layout.* sd15"):
        skeleton(whole)


def test_a_broken_configuration_is_refused_by_name(folders, tmp_path):
    model = shutil.copytree(folders["sd"], tmp_path / "model")
    config = json.loads((model / "unet/config.json").read_text())
    (model / "unet/config.json").write_text(json.dumps(config | {"sample_size": 10**6}))
    with pytest.raises(UserError, match=r"unet/config\.json: sample_size is 1000000"):
        skeleton(model)


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
