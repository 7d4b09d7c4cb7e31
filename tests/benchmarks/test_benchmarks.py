"""The benchmarks run, and a step costs no more operations than its method needs; timings are for an idle machine."""

from __future__ import annotations

import importlib
import sys
from argparse import Namespace
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch, request):
    """A benchmark's module, found as when it is run as a script."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module(request.param)
    for name in ("narrow", request.param):
        sys.modules.pop(name)


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
@pytest.mark.parametrize("side", ["bare", "ours"])
def test_a_side_tells_its_peak_memory(benchmark, side, tmp_path):
    benchmark.save_pipeline(tmp_path / "model", tiny=True)
    args = Namespace(device="cpu", dtype="fp32", pairs=2)
    assert benchmark.peak_here(tmp_path, side, "ddspo", False, args) > 10


@pytest.mark.parametrize("benchmark", ["draw"], indirect=True)
def test_drawing_is_measured_on_both_sides(benchmark, capsys):
    turns = benchmark.main(["--tiny", "--repeats", "1", "--pairs", "3", "--steps", "2"])
    assert {name: len(some) for name, some in turns.items()} == {"plain": 1, "ours": 1}
    for [turn] in turns.values():
        assert turn.images_per_second > 0 and 0 < turn.outside < 1
    assert "images/s" in capsys.readouterr().out
