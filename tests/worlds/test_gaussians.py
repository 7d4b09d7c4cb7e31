"""The Gaussians world: its measures have closed forms, and every method moves the right way on it."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from contrapose.cli.main import main
from contrapose.errors import UserError
from contrapose.methods import (
    AWM,
    CHATS,
    CRD,
    D3PO,
    DDSPO,
    DGPO,
    DMPO,
    DSPO,
    METHODS,
    NFT,
    SFT,
    SPO,
    TDPO,
    TKTO,
    CaPO,
    DataDrivenDDSPO,
    DiffusionDPO,
    DiffusionDRO,
    DiffusionKTO,
    DiffusionLPO,
    InPO,
    MaPO,
    OnlineDPO,
    RankDPO,
    RealAlign,
    SelfNPO,
    SmPO,
    TailorPO,
)
from contrapose.methods.judged_groups import JudgedGroups, OldPolicy
from contrapose.methods.own_samples import OwnSamples
from contrapose.methods.own_steps import StepSampling
from contrapose.worlds.gaussians.denoiser import diffusion_path, sample
from contrapose.worlds.gaussians.measure import energy_distance, score
from contrapose.worlds.gaussians.modes import Modes, draw_pairs
from contrapose.worlds.gaussians.outcome import ToyResult, save_picture
from contrapose.worlds.gaussians.toy import Toy, run_seed, run_toy
from contrapose.worlds.gaussians.train import align, fit_reference

MODES = Modes()
LABELS = MODES.labels(100)
QUICK = Toy(
    seeds=(0,), pairs_per_class=(1,), shown=1, reference_steps=20, train_steps=3, samples_per_class=10, width=16
)


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def reference():
    return fit_reference(MODES, width=64, num_steps=800, seed=1, batch=256)


def measured(denoiser):
    return score(sample(denoiser, LABELS, random(2)), LABELS, MODES, random(3))


STEPS = StepSampling(prompts_per_draw=32, rollout_guidance_scale=1.0)
# method, and a rate at which a short run shows its direction
RIGHT_WAY = [
    (DDSPO(beta=25.0), 4e-5),
    (DDSPO(beta=25.0, losers="not-paired"), 4e-5),
    (DDSPO(beta=25.0, noise="own", random_conditioning="sigmoid"), 4e-5),
    (DiffusionDPO(beta=25.0), 4e-5),
    (SFT(), 4e-4),
    (DataDrivenDDSPO(beta=25.0), 4e-5),
    (DiffusionDRO(real_margin=0.1), 2e-4),
    (DiffusionDRO(real_margin=0.1, samples="renoised", sync_every=1), 4e-4),
    (DiffusionKTO(beta=50.0), 4e-5),
    (DSPO(), 4e-4),
    (DSPO(beta=25.0, form="squared"), 4e-5),
    (InPO(beta=25.0, inversion_steps=3), 4e-5),
    (SmPO(beta=5.0, inversion_steps=2), 4e-5),
    (DMPO(beta=25.0), 4e-5),
    (MaPO(), 4e-5),
    (TDPO(beta=25.0), 4e-5),
    (TKTO(beta=25.0), 4e-5),
    (CaPO(beta=25.0), 4e-5),
    (DiffusionLPO(beta=25.0, num_samples=2), 4e-5),
    (RankDPO(beta=25.0, num_samples=2), 4e-5),
    (OnlineDPO(beta=25.0), 4e-5),
    (DGPO(beta=25.0), 4e-5),
    (NFT(space=None), 4e-5),
    (NFT(groups=JudgedGroups(OwnSamples(2), stored=True, advantage_limit=1.0), old=OldPolicy(None), space=None), 2e-4),
    (AWM(), 4e-5),
    (CRD(), 1e-4),
    (SPO(tie_margin=0.0, sampling=STEPS), 4e-5),
    (TailorPO(sampling=STEPS), 4e-5),
    (D3PO(beta=10.0, sampling=STEPS), 4e-5),
    (RealAlign(beta=25.0, stage1=DiffusionDRO(real_margin=0.1)), 4e-5),
]


@pytest.mark.parametrize(("method", "rate"), RIGHT_WAY, ids=[repr(row[0]) for row in RIGHT_WAY])
def test_every_method_moves_samples_to_their_mode(reference, method, rate):
    before = measured(reference)
    pairs = draw_pairs(MODES, 2, random(4))
    trainee = align(reference, method, pairs, num_steps=50, batch=64, rate=rate, seed=5).policies["trainee"]
    after = measured(trainee)
    assert after.right_mode > before.right_mode + 0.05
    assert after.distance < before.distance
    assert after.energy < before.energy


def test_the_table_of_tests_covers_the_registry():
    """All but those whose effect shows in guided sampling alone: of several policies, or of a negative one."""
    of_one = {cls for cls in METHODS.values() if len(cls().objective().trained) == 1} - {SelfNPO}
    assert {type(method) for method, _ in RIGHT_WAY} == of_one


def test_reference_answers_its_condition_with_the_noise_it_was_taught(reference):
    found = measured(reference)
    assert 0.55 < found.right_mode < 0.8
    assert found.energy > 0.1


def test_alignment_leaves_the_reference_alone(reference):
    kept = {name: value.clone() for name, value in reference.state_dict().items()}
    backbone = align(reference, DDSPO(), draw_pairs(MODES, 1, random()), num_steps=2, batch=8, rate=1e-2, seed=0)
    assert all(torch.equal(value, kept[name]) for name, value in reference.state_dict().items())
    assert not torch.equal(backbone.policies["trainee"].layers[0].weight, kept["layers.0.weight"])


def test_sampling_follows_an_exact_denoiser_to_its_gaussian():
    """For data N(mu, sigma^2) the best noise prediction is s (x_t - a mu) / (a^2 sigma^2 + s^2)."""
    mu, sigma = torch.tensor([1.0, -0.5]), 0.3

    def exact(x_t, t, labels):
        a, s = (value[:, None] for value in diffusion_path().coefficients(t))
        return s * (x_t - a * mu) / (a.square() * sigma**2 + s.square())

    found = sample(exact, torch.zeros(4000, dtype=torch.long), random(), num_steps=100)
    torch.testing.assert_close(found.mean(0), mu, atol=0.02, rtol=0)
    torch.testing.assert_close(found.std(0), torch.full((2,), sigma), atol=0.02, rtol=0)


def test_energy_distance_of_two_points_is_twice_their_distance():
    here, there = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])
    assert energy_distance(here, there) == pytest.approx(10.0)
    assert energy_distance(here.repeat(2, 1), torch.cat([here, there])) == pytest.approx(2 * 2.5 - 0 - 2.5)


def test_energy_distance_of_equal_sets_is_zero():
    x = torch.randn(50, 2, generator=random())
    assert energy_distance(x, x) == pytest.approx(0.0, abs=1e-6)


def test_scores_of_clean_data_are_as_good_as_can_be():
    labels = MODES.labels(1000)
    found = score(MODES.clean(labels, random()), labels, MODES, random(1))
    assert found.right_mode > 0.999
    assert found.distance == pytest.approx(MODES.spread * math.sqrt(math.pi / 2), rel=0.02)
    assert found.energy < 0.002


def test_scores_of_the_neighbours_data_are_those_of_the_wrong_mode():
    neighbours = MODES.neighbour(LABELS, torch.zeros_like(LABELS))
    found = score(MODES.clean(neighbours, random()), LABELS, MODES, random(1))
    assert found.right_mode < 0.001
    assert found.distance == pytest.approx(2 * MODES.radius * math.sin(math.pi / MODES.num_modes), rel=0.05)


def test_noisy_data_is_mislabelled_as_often_as_said():
    modes = Modes(noisy_spread=0.01, mislabelled=0.3)
    labels = modes.labels(2000)
    nearest = torch.cdist(modes.noisy(labels, random()), modes.centres).argmin(1)
    assert (nearest != labels).float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert set((nearest ^ labels).tolist()) == {0, 1}


@pytest.mark.parametrize("neighbours", ["couple", "both"])
def test_winners_lie_in_the_prompts_mode_and_losers_in_the_degraded_ones(neighbours):
    modes = Modes(neighbours=neighbours)
    pairs = draw_pairs(modes, 4, random())
    assert torch.equal(torch.cdist(pairs.winner, modes.centres).argmin(1), pairs.prompt)
    assert torch.equal(torch.cdist(pairs.loser, modes.centres).argmin(1), pairs.degraded)
    of_first = set(pairs.degraded[pairs.prompt == 0].tolist())
    assert of_first == ({1} if neighbours == "couple" else {1, modes.num_modes - 1})


def test_a_seed_decides_everything():
    (scores, points), (again, same) = run_seed(QUICK, 3), run_seed(QUICK, 3)
    assert scores == again
    assert all(torch.equal(found, same[name]) for name, found in points.items())
    assert run_seed(QUICK, 4)[0] != scores


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[ToyResult, Path]:
    out = tmp_path_factory.mktemp("toy")
    lines: list[str] = []
    result = run_toy(QUICK, out, lines.append)
    assert lines == ["seed 0 done"]
    return result, out


@pytest.fixture
def first(finished: tuple[ToyResult, Path]) -> ToyResult:
    """The result of a finished run."""
    return finished[0]


@pytest.fixture
def out(finished: tuple[ToyResult, Path], tmp_path: Path) -> Path:
    """A copy of the finished run's folder."""
    return shutil.copytree(finished[1], tmp_path / "toy")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture takes longer than the seed."""
    monkeypatch.setattr("contrapose.worlds.gaussians.toy.save_picture", lambda *_: None)


@pytest.mark.usefixtures("undrawn")
def test_a_second_run_keeps_finished_seeds_and_adds_the_missing(first, out):
    lines: list[str] = []
    stamp = (out / "seeds/0/scores.json").stat().st_mtime_ns
    assert run_toy(QUICK, out, lines.append) == first
    both = run_toy(Toy(**{**vars(QUICK), "seeds": (0, 1)}), out, lines.append)
    assert (out / "seeds/0/scores.json").stat().st_mtime_ns == stamp
    assert lines == ["seed 1 done"]
    assert all(found[0] == first.scores[key][0] and len(found) == 2 for key, found in both.scores.items())


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("file", ["scores.json", "points.npz"])
@pytest.mark.parametrize("change", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"[]", lambda b: b"\xff" + b])
def test_a_broken_seed_is_run_again(first, out, file, change):
    lines: list[str] = []
    whole = (out / "seeds/0" / file).read_bytes()
    (out / "seeds/0" / file).write_bytes(change(whole))
    assert run_toy(QUICK, out, lines.append) == first
    assert lines == ["seed 0 done"]
    assert run_toy(QUICK, out, lines.append) == first and len(lines) == 1


def test_result_is_written_as_tables_and_picture(first, out):
    rows = json.loads((out / "table.json").read_text())
    assert [(row["name"], row["pairs_per_class"]) for row in rows] == list(first.scores)
    assert rows[0]["name"] == "clean data" and rows[0]["right_mode_mean"] > 0.99
    assert len((out / "table.csv").read_text().splitlines()) == 1 + len(rows)
    assert len((out / "table.md").read_text().splitlines()) == 2 + len(rows)
    assert (out / "toy.png").read_bytes().startswith(b"\x89PNG")


def test_other_settings_do_not_mix_with_a_finished_result(out):
    with pytest.raises(UserError, match="beta"):
        run_toy(Toy(**{**vars(QUICK), "beta": 7.0}), out)


def test_a_folder_of_earlier_names_tells_the_new_ones(tmp_path: Path) -> None:
    earlier = {"num_seeds": 1, "first_seed": 0, "num_steps": 300}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(earlier))
    with pytest.raises(UserError, match=r"num_seeds is now seeds; num_steps is now train_steps"):
        run_toy(QUICK, tmp_path)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"shown": 3}, "shown = 3"),
        ({"num_modes": 7}, "num_modes = 7"),
        ({"seeds": ()}, "seeds: name one at least"),
        ({"seeds": (1, 1)}, "name each once"),
        ({"methods": ()}, "methods: name one at least"),
        ({"methods": ("ddspo", "ddspo")}, "methods ddspo ddspo: name each once"),
        ({"methods": ("ddspo", "ppo")}, "methods ppo: no such method"),
    ],
)
def test_impossible_settings_are_refused_by_name(wrong, named):
    with pytest.raises(UserError, match=named):
        Toy(**wrong)


def test_a_strength_in_a_unit_of_its_own_is_kept() -> None:
    methods = Toy(beta=7.0, methods=("diffusion-dpo", "dgpo", "crd", "spo")).aligned()
    assert [method.beta for method in methods.values()] == [7.0, 7.0, CRD().beta, SPO().beta]


@pytest.mark.usefixtures("undrawn")
def test_any_method_of_one_policy_and_prompt_is_a_row(tmp_path: Path, first: ToyResult) -> None:
    names = tuple(name for name, cls in METHODS.items() if cls not in (CHATS, SelfNPO))
    every = replace(QUICK, methods=names, train_steps=1)
    rows = [name for name, num_pairs in run_toy(every, tmp_path / "every").scores if num_pairs]
    assert rows == every.titles and len(rows) == len(METHODS) - 2
    for name, reason in (("chats", "trains several policies"), ("self-npo", "asks without a prompt")):
        with pytest.raises(UserError, match=f"methods {name}: {reason}"):
            run_toy(replace(QUICK, methods=("ddspo", name)), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_pictures_have_rows_of_five_panels(finished: tuple[ToyResult, Path], tmp_path: Path) -> None:
    with np.load(finished[1] / "seeds/0/points.npz") as points:
        of_methods = dict.fromkeys(("one", "another", "a third"), points["DDSPO"])
        save_picture({**points, **of_methods}, MODES, list(of_methods), tmp_path / "toy.png")
    width, height = Image.open(tmp_path / "toy.png").size
    assert width / height == pytest.approx(5 * 3.4 / (2 * 3.9), rel=0.02)


def test_the_command_writes_table_and_picture(tmp_path, capsys):
    options = ["--reference-steps=20", "--train-steps=3", "--samples-per-class=10", "--width=16", "--shown=1"]
    out = tmp_path / "toy"
    assert main(["toy", "--seeds=0", "--pairs-per-class", "1", *options, "--out", str(out)]) == 0
    assert "DDSPO" in capsys.readouterr().out
    assert {"table.md", "table.json", "table.csv", "toy.png"} <= {path.name for path in out.iterdir()}
