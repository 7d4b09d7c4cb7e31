"""The recipes load, and say what was published."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from contrapose import runfile
from contrapose.cli.main import main
from contrapose.core.guards import SDPO
from contrapose.methods import (
    DDSPO,
    DMPO,
    DSPO,
    SFT,
    SPO,
    CaPO,
    DataDrivenDDSPO,
    DiffusionDPO,
    DiffusionKTO,
    DiffusionLPO,
    InPO,
    MaPO,
    OnlineDPO,
    RankDPO,
    SelfNPO,
    SmPO,
)
from contrapose.methods.judged_groups import OldPolicy
from contrapose.methods.own_steps import StepSampling
from contrapose.photographs.real import CONVERTER as OF_PAIRS
from contrapose.photographs.real import Real
from contrapose.recipes import recipe_names, settings_file
from contrapose.train.settings import CONVERTER, Run
from contrapose.train.stages import stages as of_stages

RECIPES = Path(__file__).parents[1] / "recipes"
PAIRS = sorted(RECIPES.rglob("pairs-*.yaml"))
FILES = sorted(set(RECIPES.rglob("*.yaml")) - set(PAIRS))


def recipe(name: str) -> Run:
    return runfile.read(RECIPES / name, Run, CONVERTER)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_recipe_loads_and_is_listed(path):
    run = runfile.read(path, Run, CONVERTER)
    assert CONVERTER.structure(CONVERTER.unstructure(run), Run) == run
    assert all(stage.run.method.objective().sides for stage in of_stages(run, Path("out")))
    assert path.name in (RECIPES / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PAIRS, ids=lambda p: p.stem)
def test_a_recipe_of_pairs_loads_and_is_listed(path):
    settings = runfile.read(path, Real, OF_PAIRS)
    assert OF_PAIRS.structure(OF_PAIRS.unstructure(settings), Real) == settings
    assert path.name in (RECIPES / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [path for path in FILES if "one-gpu" not in path.stem], ids=lambda p: p.stem)
def test_every_setting_says_whose_it_is(path):
    """All but what names the model, the pairs and the method; those for one GPU are ours from the first line on."""
    lines = re.findall(r"^( *(?:- )?\w+): *([^ #\n].*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    settings = [(name, value) for name, value in lines if name not in ("model", "start", "pairs", "  name")]
    said = re.compile(r"# (.*\*published\*|ours|does not change)")
    assert settings and [name for name, value in settings if not said.search(value)] == []


def test_they_go_by_name_and_a_file_that_is_there_goes_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sorted(RECIPES / f"{name}.yaml" for name in recipe_names()) == FILES
    assert [RECIPES / f"{name}.yaml" for name in recipe_names(of_pairs=True)] == PAIRS
    for name in ("sd15-ddspo", "sd15-ddspo.yaml", "recipes/sd15-ddspo.yaml"):
        assert settings_file(name) == RECIPES / "sd15-ddspo.yaml"
    for name in ("ddspo", "", ".", "README", "runs/sd15-ddspo", "../recipes/sd15-ddspo", "--model"):
        assert settings_file(name) is None
    assert settings_file("runs/sd15-ddspo.yaml") == Path("runs/sd15-ddspo.yaml")
    Path("sd15-ddspo.yaml").write_text("model: mine")
    assert settings_file("sd15-ddspo.yaml") == Path("sd15-ddspo.yaml")


def test_align_lists_them_and_begins_at_one(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["align", "--help"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in recipe_names())
    assert main(["align", "sd15-dspo-like"]) == 2
    assert "no such method or recipe (methods: ddspo, " in capsys.readouterr().err
    assert main(["align", "sd15-ddspo", "--pairs", "nowhere", "--out", "run"]) == 2
    assert "nowhere: no pairs.yaml" in capsys.readouterr().err
    assert main(["align", "recipes/none.yaml", "--out", "run"]) == 2
    assert "recipes/none.yaml" in capsys.readouterr().err


def test_realaligns_pairs_are_as_published():
    settings = runfile.read(RECIPES / "pairs-real-sd15.yaml", Real, OF_PAIRS)
    assert [filter.name for filter in settings.filters] == ["photograph", "colourfulness", "scorer-gap", "top-k"]
    gap, best = settings.filters[2:]
    assert gap.threshold == 0.02 and best.k == 512
    assert (settings.spoil.steps, settings.spoil.guidance_scale, settings.fitting.resolution) == (50, 7.5, 512)


def test_ddspo_is_as_published():
    run = recipe("sd15-ddspo.yaml")
    o = run.optimisation
    assert run.method == DDSPO(beta=16000) and run.full and run.precision == "fp16"
    assert (o.batch_size, o.train_steps, o.warmup, o.schedule) == (2048, 200, 100, "constant")
    assert o.learning_rate == pytest.approx(2.5e-9 * 2048)
    assert (o.beta1, o.beta2, o.weight_decay, o.epsilon, o.max_grad_norm) == (0.9, 0.999, 1e-2, 1e-8, 1.0)


def test_diffusion_dpo_is_as_published():
    run = recipe("sd15-diffusion-dpo.yaml")
    o = run.optimisation
    assert run.method == DiffusionDPO(beta=5000) and run.full and run.caption_dropout == 0.2
    assert (o.batch_size, o.train_steps, o.warmup, o.schedule) == (2048, 2000, 500, "constant")
    assert o.learning_rate == pytest.approx(1e-8 * 2048)


def test_diffusion_kto_is_as_published():
    run = recipe("sd15-diffusion-kto.yaml")
    o = run.optimisation
    assert run.method == DiffusionKTO(beta=2 * 1000, like_share=0.8) and run.full and run.caption_dropout == 0.2
    assert (o.batch_size, o.train_steps, o.warmup, o.schedule) == (2048, 20000, 200, "constant")
    assert (o.learning_rate, o.optimizer) == (1e-7, "adamw-8bit"), "its script is not given --scale_lr"


@pytest.mark.parametrize(("name", "mu"), [("sd15-diffusion-sdpo", 0.9), ("sdxl-diffusion-sdpo", 0.6)])
def test_diffusion_sdpo_is_as_published(name, mu):
    run = recipe(f"{name}.yaml")
    o = run.optimisation
    assert run.method == DiffusionDPO(beta=5000, guard=SDPO(mu)) and run.full and run.precision == "bf16"
    assert (o.batch_size, o.train_steps, o.warmup, run.caption_dropout) == (2048, 2000, 500, 0.2)


@pytest.mark.parametrize(("name", "beta", "mu"), [("sd15-dmpo", 2000, 0.9), ("sdxl-dmpo", 6000, 0.6)])
def test_dmpo_is_as_published(name, beta, mu):
    run = recipe(f"{name}.yaml")
    o = run.optimisation
    assert run.method == DMPO(beta=beta, alpha=0.01, guard=SDPO(mu)) and run.full and run.precision == "bf16"
    assert (o.batch_size, o.train_steps, o.warmup, run.caption_dropout) == (2048, 2000, 500, 0.2)


def test_mapo_is_as_published():
    run = recipe("sdxl-mapo.yaml")
    o = run.optimisation
    assert run.method == MaPO(beta=0.1, steepness=0.5) and run.full and run.precision == "fp16"
    assert (o.batch_size, o.train_steps, o.warmup, o.learning_rate, o.optimizer) == (16, 2000, 0, 1e-5, "adamw-8bit")


@pytest.mark.parametrize(
    ("name", "beta", "form", "warmup"), [("sd15-dspo", 1e-3, "residual", 500), ("sdxl-dspo", 5000, "squared", 200)]
)
def test_dspo_is_as_published(name, beta, form, warmup):
    run = recipe(f"{name}.yaml")
    o = run.optimisation
    assert run.method == DSPO(beta=beta, form=form) and run.full and run.caption_dropout == 0.2
    assert (o.batch_size, o.train_steps, o.warmup, o.schedule) == (2048, 2000, warmup, "constant")
    assert (o.optimizer, o.max_grad_norm) == ("adamw" if name == "sd15-dspo" else "adafactor", 1.0)


def test_sft_is_as_cpgds_modules_are_published():
    run = recipe("sdxl-sft.yaml")
    o = run.optimisation
    assert run.method == SFT("winner") and run.full and run.precision == "fp16" and run.caption_dropout == 0.2
    assert (o.batch_size, o.train_steps, o.warmup, o.schedule) == (2048, 2000, 200, "constant")
    assert (o.optimizer, o.max_grad_norm) == ("adafactor", 1.0)


@pytest.mark.parametrize(
    ("name", "method", "steps", "warmup"),
    [
        ("sd15-inpo.yaml", InPO(2000.0, inversion_steps=10, inversion_eta=0.1), 400, 200),
        ("sd15-smpo.yaml", SmPO(2000.0, inversion_steps=5, judge="pickscore"), 200, 100),
    ],
)
def test_inverted_noise_is_as_published(name, method, steps, warmup):
    run = recipe(name)
    o = run.optimisation
    assert run.method == method and run.full and run.start is not None and run.caption_dropout == 0.2
    assert (o.batch_size, o.train_steps, o.warmup, o.schedule) == (1024, steps, warmup, "constant")
    assert SmPO().score_range == pytest.approx(100 * (0.28201571 - 0.11543527), rel=2e-4)


def test_negative_policies_are_as_published():
    npo, self_npo = recipe("sd15-diffusion-npo.yaml"), recipe("sd15-self-npo.yaml")
    o = npo.optimisation
    assert npo.method == DiffusionDPO(beta=2 * 500) and npo.swap and (npo.lora_rank, npo.lora_alpha) == (8, 8)
    assert (o.batch_size, o.train_steps, o.learning_rate, o.optimizer) == (64, 5000, 5e-6, "adamw-8bit")
    o = self_npo.optimisation
    assert self_npo.method == SelfNPO() and self_npo.full and o.weight_decay == 1e-3
    assert (o.batch_size, o.train_steps, o.learning_rate, o.optimizer) == (20, 1000, 1e-6, "adamw-8bit")


def test_what_is_published_of_ranked_lists_and_fronts_is_in_their_recipes():
    """The rest is Diffusion-DPO's on the same model."""
    capo, lpo, rank = (recipe(f"{name}.yaml") for name in ("sdxl-capo", "sd15-diffusion-lpo", "sdxl-rankdpo"))
    assert capo.method == CaPO(beta=5000, judge="win_rate", weighting="linear")
    assert lpo.method == DiffusionLPO(beta=5000, num_samples=8)
    assert rank.method == RankDPO(beta=5000, num_samples=4)
    assert (rank.optimisation.batch_size, rank.optimisation.train_steps) == (1024, 400)


def test_online_dpo_is_as_published():
    run = recipe("sd35-online-dpo.yaml")
    o, sampling = run.optimisation, run.method.sampling
    assert isinstance(run.method, OnlineDPO) and run.method.beta == 100
    assert (sampling.samples_per_prompt, sampling.rollout_steps, sampling.rollout_guidance_scale) == (4, 40, 1.0)
    assert sampling.prompts_per_draw == sampling.buffer == o.batch_size * sampling.sync_every == 48
    assert (run.lora_rank, run.lora_alpha, run.precision) == (32, 64, "bf16")
    assert (run.time_density, run.time_shift, o.weight_decay) == ("logit-normal", "none", 1e-4)
    assert o.ema_decay**4 == pytest.approx(0.99, abs=1e-4), "0.99 every 4 steps"


def test_spin_is_as_published():
    run = recipe("sd15-spin.yaml")
    o = run.optimisation
    assert isinstance(run.method, DiffusionDPO) and run.full
    assert (o.batch_size, o.train_steps, o.warmup, o.learning_rate) == (2048, 500, 200, 2e-5)


def test_sdxl_is_as_published():
    run = recipe("sdxl-ddspo.yaml")
    o = run.optimisation
    assert run.method == DDSPO(beta=16000, weighting="linear") and run.full and run.precision == "fp16"
    assert (o.batch_size, o.train_steps, o.warmup, o.schedule) == (2048, 500, 100, "constant")
    assert o.learning_rate == pytest.approx(2.5e-9 * 2048)


@pytest.mark.parametrize(
    ("name", "steps", "precision", "space", "times", "text"),
    [
        ("sana-ddspo.yaml", 500, "fp32", None, ("uniform", "none"), 300),
        ("sd3-ddspo.yaml", 100, "fp16", "x0", ("logit-normal", "scheduler"), 77),
    ],
)
def test_flow_models_are_as_published(name, steps, precision, space, times, text):
    run = recipe(name)
    o = run.optimisation
    assert (
        run.method == DDSPO(beta=2000, space=space) and not run.full and (run.lora_rank, run.lora_alpha) == (128, 128)
    )
    assert run.precision == precision
    assert (run.time_density, run.time_shift) == times
    assert run.loading.text_length == text
    assert (o.batch_size, o.train_steps, o.warmup, o.schedule) == (2048, steps, 0, "constant")
    assert o.learning_rate == pytest.approx(4e-8 * 2048)


def test_every_family_has_a_one_gpu_recipe():
    families = {path.name.removesuffix("-ddspo-one-gpu.yaml") for path in FILES if "one-gpu" in path.name}
    assert families == {
        "sd15", "sdxl", "sd35", "sd35-large", "sana", "pixart", "flux", "z-image", "qwen-image",
        "flux2-klein",
    }  # fmt: skip
    for name in families:
        text = (RECIPES / f"{name}-ddspo-one-gpu.yaml").read_text(encoding="utf-8")
        assert "ours, untested at scale" in text and recipe(f"{name}-ddspo-one-gpu.yaml").optimisation.batch_size <= 128


@pytest.mark.parametrize(
    ("name", "beta", "rank", "rate", "stages"),
    [
        ("sd15-realalign.yaml", 2000, (4, 4), 1e-4, (1600, 1000)),
        ("sd35-realalign.yaml", 100, (32, 64), 2e-4, (3200, 500)),
    ],
)
def test_realalign_is_as_published(name, beta, rank, rate, stages):
    run = recipe(name)
    first, second = of_stages(run, Path("out"))
    assert (run.method.beta, run.method.stage1.real_margin) == (beta, 1e-3)
    assert (run.lora_rank, run.lora_alpha, run.precision) == (*rank, "fp16")
    assert first.run.optimisation.learning_rate == rate
    assert (first.run.optimisation.train_steps, second.run.optimisation.train_steps) == stages
    assert (first.run.caption_dropout, second.run.caption_dropout) == (0.2, 0.0)
    rollouts = run.method.stage1
    assert (rollouts.rollouts, rollouts.states, rollouts.buffer) == (256, 1, 256), "one state of a trajectory each"


def test_realaligns_average_is_its_first_stages_alone_on_sd15():
    first, second = of_stages(recipe("sd15-realalign.yaml"), Path("out"))
    assert (first.run.optimisation.ema_decay, second.run.optimisation.ema_decay) == (0.9999, 0.0)
    assert (second.run.optimisation.warmup, first.run.optimisation.warmup) == (125, 0)
    assert first.run.method.sync_every == 16 and first.run.method.rollout_steps == 20


def test_realalign_on_sd35_has_what_its_configuration_says():
    for stage in of_stages(recipe("sd35-realalign.yaml"), Path("out")):
        o = stage.run.optimisation
        assert o.ema_decay**8 == pytest.approx(0.9, abs=1e-3), "0.9 every 8 steps"
        assert (o.weight_decay, stage.run.loading.text_length, stage.run.time_density) == (1e-4, 128, "logit-normal")


@pytest.mark.parametrize(
    ("name", "samples", "prompts", "times", "guidance", "old", "drawn_by"),
    [
        ("sd35-dgpo", 16, 8, 4, 4.5, OldPolicy(0.3, 0.001), "old"),
        ("sd35-nft", 24, 48, 9, 1.0, OldPolicy(0.5, 0.001), "old"),
        ("sd35-awm", 24, 24, 6, 1.0, OldPolicy(0.3, 0.001), "old"),
        ("sd35-crd", 24, 48, 20, 1.0, OldPolicy(0.999, 0.005), "sampler"),
    ],
)
def test_judged_groups_are_as_published(name, samples, prompts, times, guidance, old, drawn_by):
    """Between two draws every group is seen at as many times as in the authors' steps."""
    run = recipe(f"{name}.yaml")
    sampling = run.method.groups.sampling
    assert (sampling.samples_per_prompt, sampling.prompts_per_draw, sampling.buffer) == (samples, prompts, prompts)
    assert run.optimisation.batch_size * sampling.sync_every == prompts * times
    assert (sampling.rollout_guidance_scale, sampling.rollout_size) == (guidance, "512x512")
    assert run.method.old == old and run.method.groups.advantage_limit == 5.0
    assert run.method.composition().own_groups.policy == drawn_by


def test_steps_are_drawn_as_published():
    """Each pair of a draw is used once, if all are decided."""
    assert recipe("sd15-spo.yaml").method == SPO(
        sampling=StepSampling(prompts_per_draw=40, sync_every=15, buffer=600)
    ), "as it is usually set"
    for name, pairs_a_prompt, num_draws in (
        ("sd15-spo", 15, 1000),
        ("sd15-d3po", 19, 400),
        ("sd15-tailorpo", 19, 1000),
    ):
        run = recipe(f"{name}.yaml")
        sampling = run.method.sampling
        num_pairs = sampling.prompts_per_draw * pairs_a_prompt
        assert sampling.buffer == num_pairs == sampling.sync_every * run.optimisation.batch_size
        assert run.optimisation.train_steps == num_draws * sampling.sync_every


BASE_RATES = {
    "sd15-ddspo": 2.5e-9,
    "sdxl-ddspo": 2.5e-9,
    "sana-ddspo": 4e-8,
    "sd3-ddspo": 4e-8,
    "sd15-ddspo-data": 2.5e-9,
    "sd15-diffusion-dpo": 1e-8,
    "sd15-diffusion-kto": 1e-7 / 2048,
    "sd15-diffusion-sdpo": 1e-8,
    "sdxl-diffusion-sdpo": 1e-9,
    "sd15-dmpo": 1e-8,
    "sdxl-dmpo": 1e-9,
    "sdxl-mapo": 1e-5 / 16,
    "sd15-dspo": 1e-8,
    "sdxl-dspo": 1e-8,
    "sdxl-sft": 1e-9,
    "sd15-chats": 1e-9,
    "sd15-tdpo": 1e-8,  # of this and those below, the base method's
    "sd15-tkto": 1e-7 / 2048,
    "sdxl-capo": 1e-8,
    "sd15-diffusion-lpo": 1e-8 * 2048 / 512,
    "sdxl-rankdpo": 1e-8,
    "sd15-tailorpo": 6e-5 / 40,
    "sd15-diffusion-npo": 5e-6 / 64,
    "sd15-self-npo": 1e-6 / 20,
    "sd15-spin": 2e-5 / 2048,
    "sd15-inpo": 1e-8,
    "sd15-smpo": 1e-8,
    "sd15-spo": 6e-5 / 40,
    "sd15-d3po": 3e-5,
    "sd35-online-dpo": 1e-5 / 48,  # these five name the rate of a whole step
    "sd35-dgpo": 3e-4 / 32,
    "sd35-nft": 3e-4 / 432,
    "sd35-awm": 3e-4 / 144,
    "sd35-crd": 3e-4 / 480,
    "sd15-diffusion-dro": 1e-4 / 256,
    "sd15-realalign": 1e-8,
    "sd35-realalign": 1e-8,
}
"""What the authors' scripts are given beside --scale_lr, which multiplies it by the whole batch, or would be."""


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_effective_rates_are_base_times_batch(path):
    """Ours are the published LoRA rate, less by the square root of how much smaller the batch is."""
    o = recipe(path.name).optimisation
    if path.stem in BASE_RATES:
        assert o.learning_rate == pytest.approx(BASE_RATES[path.stem] * o.batch_size)
    else:
        assert "one-gpu" in path.stem
        assert o.learning_rate == pytest.approx(4e-8 * 2048 * (o.batch_size / 2048) ** 0.5, rel=0.05)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_batches_are_what_the_comments_multiply(path):
    for parts in re.findall(r"(\d+) x (\d+) accumulated x (\d+) GPUs", path.read_text(encoding="utf-8")):
        assert math.prod(map(int, parts)) == recipe(path.name).optimisation.batch_size


def test_data_driven_ddspo_is_as_published():
    run = recipe("sd15-ddspo-data.yaml")
    assert run.method == DataDrivenDDSPO(beta=8000) and run.full and run.optimisation.train_steps == 100
