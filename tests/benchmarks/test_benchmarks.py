"""The benchmarks run, and a step costs no more operations than its method needs; timings are for an idle machine."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from estimating import setup_of

from contrapose.methods import METHODS

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch, request):
    """A benchmark's module, found as when it is run as a script."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module(request.param)
    for name in ("narrow", "step", "real_size", request.param):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("benchmark", ["step"], indirect=True)
def test_a_step_costs_what_its_predictions_cost(benchmark, capsys):
    found = benchmark.main(["--tiny", "--no-memory", "--repeats", "1"])
    assert len(found) == len(benchmark.ROWS) == 4
    for costs, slower in found:
        assert 0 < costs["ours"].flops <= 1.03 * costs["bare"].flops
        assert slower > 0
    table = capsys.readouterr().out
    assert "diffusion-dpo" in table and "full" in table and "LoRA" in table


@pytest.mark.parametrize("benchmark", ["step"], indirect=True)
def test_what_a_method_needs_is_said_of_all(benchmark):
    assert benchmark.NEEDED.keys() == METHODS.keys()


@pytest.mark.parametrize("benchmark", ["step"], indirect=True)
@pytest.mark.parametrize(
    ("method", "more"), [("diffusion-kto", 0), ("chats", 2), ("self-npo", 0), ("nft", 0), ("spo", 0)]
)
def test_operations_are_those_of_the_predictions_that_are_needed(benchmark, method, more, tmp_path):
    """Of likes, two trainees, a walk, two frozen policies and own steps; every method is in the document's table.

    Two trainees on one network are asked once more, without gradient: one's slope depends on what the other says.
    """
    benchmark.save_pipeline(tmp_path / "model", tiny=True)
    args = Namespace(device="cpu", precision="fp32", pairs=1)
    bare, ours = benchmark.count(tmp_path, method, True, args)
    needed = benchmark.NEEDED[method]
    assert bare > sum(needed.frozen.values()) + 2 * sum(needed.trained.values())
    assert ours == pytest.approx(bare + more, rel=0.03)


@pytest.mark.parametrize("benchmark", ["step"], indirect=True)
@pytest.mark.parametrize("side", ["bare", "ours"])
def test_a_side_tells_its_peak_memory(benchmark, side, tmp_path):
    benchmark.save_pipeline(tmp_path / "model", tiny=True)
    args = Namespace(device="cpu", precision="fp32", pairs=2)
    assert benchmark.peak_here(tmp_path, side, "ddspo", False, args) > 10


@pytest.mark.parametrize("benchmark", ["draw"], indirect=True)
def test_drawing_is_measured_on_both_sides(benchmark, capsys):
    turns = benchmark.main(["--tiny", "--repeats", "1", "--pairs", "3", "--steps", "2"])
    assert {name: len(some) for name, some in turns.items()} == {"plain": 1, "ours": 1}
    for [turn] in turns.values():
        assert turn.images_per_second > 0 and 0 < turn.outside < 1
    assert "images/s" in capsys.readouterr().out


@pytest.mark.parametrize("benchmark", ["real_size"], indirect=True)
@pytest.mark.parametrize("family", ["sd", "sdxl", "sana", "flux"])
def test_real_sizes_are_measured_beside_their_estimate(benchmark, family, tiny_family, capsys):
    size = ["--size", {"sana": "32x32", "flux": "16x16"}.get(family, "16x16")]
    small = ["--device", "cpu", "--precision", "fp32", "--pairs", "2", "--repeats", "1", *size]
    rows = benchmark.main(["--models", str(tiny_family(family)), *small])
    assert [row[1] for row in rows] == ["LoRA", "full"]
    assert all(float(row[3]) > 0 and float(row[6]) >= 0 for row in rows)
    assert "TFLOP a step" in capsys.readouterr().out


@pytest.mark.parametrize("benchmark", ["guide"], indirect=True)
def test_guidance_is_counted_on_all_sides(benchmark, tiny_family, capsys):
    costs = benchmark.main(["--model", str(tiny_family("sd")), "--no-memory", "--repeats", "1", "--steps", "10"])
    forwards = {name: cost.forwards for name, cost in costs.items()}
    assert forwards["base"] == forwards["pgd batched"] == forwards["cpgd batched"] == 10
    assert [forwards[f"{method} {how}"] for how in ("sequential", "networks") for method in ("pgd", "cpgd")] == [
        20, 30, 20, 30,
    ]  # fmt: skip
    for policies, method in ((2, "pgd"), (3, "cpgd")):
        rows = {costs[f"{method} {how}"].rows for how in ("batched", "sequential", "networks")}
        assert rows == {policies * costs["base"].rows}
        assert 0 < benchmark.extra_of(costs, method)[0] <= 0.65
    assert all(len(cost.seconds) == 1 and cost.seconds[0] > 0 for cost in costs.values())
    assert "ratio to base" in capsys.readouterr().out


@pytest.mark.parametrize("benchmark", ["guide"], indirect=True)
def test_guidance_of_a_shipped_configuration_needs_no_weights(benchmark, tiny_family, monkeypatch, tmp_path):
    model = str(tiny_family("sdxl"))
    monkeypatch.setattr(benchmark, "SHIPPED", (model,))
    args = benchmark.parser().parse_args(["--model", model, "--steps", "1"])
    benchmark.save_runs(tmp_path, args)
    for side in ("base", "cpgd batched", "cpgd networks"):
        assert benchmark.peak_here(tmp_path, side, args) > 10


@pytest.mark.parametrize("benchmark", ["real"], indirect=True)
def test_pairs_of_photographs_are_measured_stage_by_stage(benchmark, capsys):
    share = benchmark.main(["--num", "6", "--steps", "2", "--batch-size", "3"])
    assert 0 < share < 1
    table = capsys.readouterr().out
    assert all(stage in table for stage in ("photos", "losers", "encoding", "pairs/s"))


@pytest.mark.parametrize("benchmark", ["seed_intervals"], indirect=True)
def test_intervals_over_seeds_are_compared(benchmark, capsys):
    shares = benchmark.covered(3, (0.5, 1, 1), 200)
    assert 0.85 < shares.satterthwaite < shares.used < 1
    assert shares.sum_alone <= shares.used and shares.p < 0.05
    benchmark.main(["--experiments", "2"])
    rows = [3 * len(deviations) for deviations in (benchmark.DEVIATIONS, benchmark.OF_TWO)]
    assert len(capsys.readouterr().out.splitlines()) == 2 + sum(rows) + 1 + len(benchmark.FEW)
    assert benchmark.covered_by_bootstrap(2, 200) < 0.85 < benchmark.covered_by_bootstrap(20, 200)


@pytest.mark.parametrize("benchmark", ["many_rows"], indirect=True)
def test_many_rows_are_measured(benchmark, capsys, tmp_path):
    costs = benchmark.measured(16 * 12, tmp_path)
    assert 0 < costs["libraries"] <= costs["peak"]
    assert "mean of 3 training seeds" in (tmp_path / "page.html").read_text()
    benchmark.main(["--images", str(16 * 12)])
    assert capsys.readouterr().out.splitlines()[-1].startswith("| 192 | 576 |")


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", ["estimates"], indirect=True)
def test_the_estimates_are_those_of_the_document(benchmark, capsys):
    benchmark.main(["--models", "sd15", "--trained", "LoRA"])
    benchmark.main(["--models", "sd15", "--trained", "LoRA", "--published"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    document = (BENCHMARKS.parent / "docs" / "estimate.md").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 4 and set(rows) <= set(document)


@pytest.mark.parametrize("benchmark", ["estimates"], indirect=True)
def test_what_fits_no_card_is_held_by_several(benchmark, monkeypatch, tiny_model):
    setup = setup_of(str(tiny_model), precision="bf16", micro_batch=1, full=True)
    monkeypatch.setattr(benchmark, "PEAKS", {1: 1.0})
    monkeypatch.setattr(benchmark, "first_fitting", lambda setup, card: ((), setup) if setup.num_shards >= 4 else None)
    assert benchmark._fewest(setup, 1).startswith("4 (sharded): ")


@pytest.mark.parametrize("benchmark", ["scale"], indirect=True)
def test_every_stage_of_many_records_runs(benchmark, tmp_path):
    inputs = tmp_path / "130"
    benchmark.write_inputs(inputs, 130)
    for stage in benchmark.STAGES.values():
        stage(inputs)
    costs = {size: dict.fromkeys(benchmark.STAGES, benchmark.Cost(size / 10, 5.0)) for size in (10, 100)}
    assert "| open a store | 1.00 | 5 | 10.00 | 5 | 1.00 |" in benchmark.table(costs)


@pytest.mark.parametrize("benchmark", ["processes"], indirect=True)
def test_processes_send_their_gradients_once_and_early(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "ROWS", [("ddspo", False)])
    (row,) = benchmark.main(["--tiny", "--repeats", "1"])
    alone, before, now = row.costs.values()
    assert (alone.calls, now.calls) == (0, 2), "a bucket, and the metrics"
    assert before.calls > 50
    assert row.minimum < now.megabytes < 1.02 * row.minimum
    assert before.early == 0 and now.early >= row.minimum
    assert all(cost.seconds > 0 for cost in row.costs.values())
    (line,) = capsys.readouterr().out.splitlines()[2:]
    assert [cell.strip() for cell in line.split("|")][1:4] == ["ddspo", "LoRA", f"{row.minimum:.2f}"]


def test_workers_are_measured_beside_one_process():
    """In a process of its own, as below."""
    command = [sys.executable, BENCHMARKS / "workers.py", "--prompts", "4", "--steps", "1", "--repeats", "1"]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--commands", "sample"], env=alone, stdout=subprocess.PIPE, text=True, check=True)
    [*_, row] = done.stdout.splitlines()
    name, *numbers = [cell.strip() for cell in row.split("|")[1:-1]]
    again, one, workers, efficiency = map(float, numbers[:4])
    assert name == "sample" and again > 0 and efficiency == pytest.approx(one / workers, abs=0.02)


def test_the_start_of_training_is_measured_where_forks_are_no_danger():
    """In a process of its own: forks of this one, whose torch has threads, would hang."""
    command = [sys.executable, BENCHMARKS / "starting.py", "--tiny", "--pairs", "8", "--precisions", "bf16"]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=alone, stdout=subprocess.PIPE, text=True, check=True)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()]
    _, _, each, first, _, _, not_noted, noted = rows
    assert [each[:2], first[:2]] == [["bf16", "each process"], ["bf16", "the first one"]]
    # with AdamW's moments still to come, a process has no less than its shards
    assert all(int(megabytes) >= int(row[4]) > 0 for row in (each, first) for megabytes in row[2:4])
    assert [not_noted[0], noted[0]] == ["not noted", "noted"]
    assert all(float(seconds) > 0 for seconds in (not_noted[2], noted[2]))
