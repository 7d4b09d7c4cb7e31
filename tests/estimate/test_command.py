"""The command, on recipes, pairs and input that is no such thing."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import tiny
import torch
from changing import changed
from estimating import PARAMETERS, SMALL, altered, count, setup_of
from safetensors.torch import save_file

from contrapose import runfile
from contrapose.backbones import meta
from contrapose.backbones.families.table import load_backbone
from contrapose.backbones.meta import SHIPPED, skeleton
from contrapose.cli.main import main
from contrapose.errors import UserError
from contrapose.estimate import settings as of_estimates
from contrapose.estimate.estimate import estimate_run, skeleton_of
from contrapose.estimate.fitting import fit_card
from contrapose.estimate.hours import duration, stage_times
from contrapose.estimate.settings import Setup, Speed, sized
from contrapose.store.manifest import MANIFEST
from contrapose.store.records import GroupRecord
from contrapose.store.shard_files import write_shard
from contrapose.train.settings import CONVERTER, Run

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


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


def test_what_a_run_begins_with_takes_its_time(tiny_model):
    run = changed(runfile.read(ROOT / "recipes/sd15-realalign.yaml", Run, CONVERTER), model=str(tiny_model))
    times = stage_times(Setup(run), Speed())
    assert [(time.folder, time.steps) for time in times] == [("start", 1600), ("", 1000)]
    assert times[0].step_flops > 1.5 * times[1].step_flops  # it draws samples of its own
    assert "1600 steps of start and 1000 steps" in duration(Setup(run), Speed(), times)
    in_shards = changed(run, precision="bf16", shard="full")
    assert "on 4 GPUs that reach" in duration(Setup(in_shards, num_processes=4), Speed(), times)


def test_judged_steps_cost_their_trajectories(tiny_model):
    """Of a draw of 40 prompts for 15 steps: 65 states, and each is predicted with the prompt and without."""
    run = changed(runfile.read(ROOT / "recipes/sd15-spo.yaml", Run, CONVERTER), model=str(tiny_model))
    flops = estimate_run(Setup(run)).flops
    assert flops.step - run.optimisation.batch_size * flops.pair == round(40 * 65 * 2 / 15 * flops.forward)


def test_size_and_number_are_those_of_the_pairs(folders, tmp_path):
    records = [GroupRecord.pair(f"{i}", "a cat", f"a {i}", i) for i in range(3)]
    write_shard(tmp_path, 0, records, torch.zeros(3, 2, 4, 8, 16))
    (tmp_path / MANIFEST).write_text("num_groups: 3\n")
    setup = setup_of(str(folders["sd"]), pairs=tmp_path)
    cost = estimate_run(sized(setup))
    assert (cost.latent, cost.setup.pairs, cost.setup.prompts) == ((4, 8, 16), 3, 4)
    assert cost.latents == 3 * 2 * 4 * (4 * 8 * 16)
    assert sized(altered(setup, pairs=tmp_path / "later")).latent is None
    # prompts alone have no size: a method that takes pairs refuses them when it begins
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    of_prompts = sized(altered(setup, pairs=tmp_path / "prompts.txt"))
    assert (of_prompts.latent, of_prompts.pairs, of_prompts.prompts) == (None, 2, 2)


def test_adapters_on_more_layers_train_more(folders):
    usual = setup_of(str(folders["sd"]))
    every = altered(usual, lora_targets=("all-linear",))
    assert estimate_run(every).trainable > 1.5 * estimate_run(usual).trainable


def test_an_average_is_counted():
    averaged = altered(SMALL, ema_decay=0.99)
    memory = skeleton_of(averaged).memory(averaged)
    assert memory.average == memory.trained
    assert memory.total == skeleton_of(SMALL).memory(SMALL).total + memory.trained


def test_the_roomiest_micro_batch_fits_and_the_next_does_not():
    fitted = fit_card(SMALL, 12)
    assert fitted.changes == () and fitted.roomiest is not None
    size, needed = fitted.roomiest
    larger = altered(SMALL, micro_batch=2 * size)
    assert needed == skeleton_of(SMALL).memory(altered(SMALL, micro_batch=size)).total
    assert skeleton_of(larger).memory(larger).total > 0.95 * 12 * 2**30


def test_every_shipped_layout_is_some_models():
    assert set(meta._LAYOUT_OF.values()) == set(SHIPPED)
    assert count(skeleton("black-forest-labs/FLUX.1-dev").denoiser.network) == PARAMETERS["flux-dev"]


def test_every_setting_that_counts_is_one_of_aligns():
    settings = {setting.name for section in of_estimates._SECTIONS for setting in fields(section)}
    assert settings >= of_estimates._COUNTED


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
        (["--model", "sd15", "--num-processes", "8"], "--shard"),
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
