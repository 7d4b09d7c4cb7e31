"""A small project on disk, written by the writers that real ones are written by."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from judging import Measure, PerImage
from PIL import Image

from contrapose import runfile
from contrapose.draw import pairs as draw
from contrapose.evaluate.evidence import Evidence
from contrapose.evaluate.rows import write_rows
from contrapose.evaluate.run import evaluate_images
from contrapose.evaluate.summary import write_summary
from contrapose.evaluate.summing import SummarySettings, summarize
from contrapose.guiding import images
from contrapose.methods import DDSPO, SFT
from contrapose.report.page import Report, render
from contrapose.store.manifest import MANIFEST
from contrapose.store.records import GroupRecord
from contrapose.store.shard_files import write_shard
from contrapose.train import settings as training

SCRIPT = "<script>alert(1)</script>"
BREAKOUT = '"><img src=x onerror=alert(1)>'
TAGS = ("counting", "single_object", "position")
PROMPTS = [f"a red circle {i}" for i in range(10)] + [SCRIPT, BREAKOUT]
NUM_STEPS = 40
SUITE = {"name": "shapes", "autoencoder": "model"}


@dataclass(frozen=True)
class Project:
    """Where everything lies."""

    run: Path
    unfinished: Path
    pairs: Path
    evidence: Evidence

    def report(self, **changes: object) -> Report:
        settings = {"runs": (self.run, self.unfinished), "evidence": (self.evidence,), "pairs": self.pairs, **changes}
        return Report(title="A title", **settings)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """To be broken by one test."""
    return write_project(tmp_path)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """To be read by all."""
    return write_project(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="session")
def html(shared: Project) -> str:
    """The page of the shared project."""
    return render(shared.report())


def write_project(tmp_path: Path) -> Project:
    pairs = write_pairs(tmp_path / "pairs")
    run = write_run(tmp_path / "ddspo", training.Run("shapes", pairs, DDSPO(), precision="fp32", optimisation=steps()))
    unfinished = write_run(tmp_path / "sft", training.Run(SCRIPT, pairs, SFT(), optimisation=steps()), finished=False)
    return Project(run, unfinished, pairs, write_evidence(tmp_path))


def steps() -> training.Optimisation:
    return training.Optimisation(train_steps=NUM_STEPS)


def write_run(folder: Path, run: training.Run, finished: bool = True) -> Path:
    runfile.claim(folder / "run.yaml", run, training.CONVERTER)
    lines = [json.dumps(_metrics(step)) for step in range(1, (NUM_STEPS if finished else NUM_STEPS // 2) + 1)]
    tail = "" if finished else '{"step": 21, "lo'  # what a kill leaves
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n" + tail, encoding="utf-8")
    if finished:
        done = {
            "steps": NUM_STEPS,
            "seconds": 60.0,
            "trained_parameters": 1234,
            "training_pairs": 50,
            "held_out_pairs": 9,
        }
        (folder / "finished.json").write_text(json.dumps(done), encoding="utf-8")
    return folder


def _metrics(step: int) -> dict[str, float]:
    metrics = {"step": step, "loss": math.log(2) - 0.001 * step, "accuracy": 0.5 + 0.005 * step, "drift": 1e-4 * step}
    metrics |= {"winner_error_gain": 1e-4 * step, "loser_error_gain": -2e-4 * step, "grad_norm": 0.5, "seconds": 1.5}
    metrics |= {"learning_rate": 1e-5}
    if step % 10 == 0:
        levels = {
            f"held_out/{name}@{level}": 0.5 + level / 10 for name in ("accuracy", "margin") for level in (0.1, 0.5)
        }
        metrics |= {"held_out/accuracy": 0.6125, "held_out/loss": 0.66} | levels
    return metrics


def write_pairs(folder: Path) -> Path:
    records = [GroupRecord.pair(str(i), prompt, prompt[:4], i) for i, prompt in enumerate(PROMPTS)]
    write_shard(folder, 0, records, torch.zeros(len(records), 2, 4, 2, 2))
    settings = draw.CONVERTER.unstructure(draw.Draw("shapes", ("prompts.txt",)))
    manifest = {
        "format": 3,
        "fingerprint": "f00",
        "num_groups": len(records),
        "draw": settings,
    }
    runfile.claim(folder / MANIFEST, manifest, draw.CONVERTER)
    return folder


def write_images(folder: Path, wrong: float, size: int = 16) -> Path:
    """Images whose mean grey says whether they are right."""
    for number, prompt in enumerate(PROMPTS):
        place = folder / f"{number:05d}"
        (place / "samples").mkdir(parents=True)
        line = {"prompt": prompt, "tag": TAGS[number % len(TAGS)]}
        (place / "metadata.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
        for seed in range(2):
            right = np.random.default_rng([number, seed]).random() > wrong
            grey = np.full((size, size, 3), 200 if right else 50, dtype=np.uint8)
            Image.fromarray(grey).save(place / "samples" / f"{seed:04d}.png")
    settings = images.Sampling("shapes", ("p.txt",), steps=17, guidance_scale=7.5)
    runfile.claim(folder / "images.yaml", settings, images.CONVERTER)
    return folder


def judge(image: np.ndarray, metadata: dict[str, str]) -> list[Measure]:
    right = float(image.mean() > 100)
    return [
        Measure("correct", right, None if right else f"expected {SCRIPT} >= 1\nfound 0"),
        Measure("artefact_rate", float(image.mean()) / 1000),
    ]


def write_evidence(folder: Path) -> Evidence:
    folders = {name: write_images(folder / f"of-{name}", wrong) for name, wrong in (("base", 0.7), ("ddspo", 0.1))}
    judged = {**folders, "floor": folders["base"], "ceiling": write_images(folder / "ceiling", 0.0)}
    rows = evaluate_images(judged, PerImage(judge))
    write_rows(rows, folder / "evidence" / "rows.parquet")
    summary = summarize(rows, SummarySettings(base="base", higher_is_better={"artefact_rate": False}, replicates=300))
    write_summary(summary, folder / "evidence" / "summary.json")
    return Evidence(f"Scale 1 {BREAKOUT}", folder / "evidence", folders, SUITE)
