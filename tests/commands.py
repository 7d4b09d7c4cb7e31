"""Every command as a user types it, small: each reads what an earlier one wrote, and writes one folder or file.

For tests of what holds for all commands alike: killed and run again, with broken files of its own, run twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import every_method
import numpy as np
import tiny_pipelines
import torch
from PIL import Image

TRAINING = [
    "--train-steps", "2", "--batch-size", "2", "--micro-batch", "2", "--holdout", "2", "--learning-rate", "1e-3",
    "--save-every", "1", "--evaluate-every", "1",
]  # fmt: skip
QUICK = ["--steps", "1", "--device", "cpu"]
STUDY = """
version: 1
model: model
out: study
prompts:
  train: {file: train.txt}
  dev: {shapes: dev, per_tag: 1, num_images: 1}
  test: {shapes: test, per_tag: 1}
pairs:
  drawn: {options: {steps: 1, device: cpu}}
methods:
  a: {align: ddspo}
training: {train-steps: 1, batch-size: 2, micro-batch: 2, holdout: 2, evaluate-every: 0}
scales: [1]
num_images: 1
sampling: {steps: 1, device: cpu}
evaluations:
  colours: {suite: scores, options: {judges: [colourfulness], replicates: 20}}
choosing: {scales: [3]}
"""


@dataclass(frozen=True)
class Line:
    """A command line below a working folder; `out` is what it writes there, which a study's file says itself."""

    name: str
    arguments: tuple[str, ...]
    out: str

    def at(self, out: str | None = None) -> list[str]:
        """The arguments that write to `out`, or to its own place."""
        return [(out or self.out) if argument == "OUT" else argument for argument in self.arguments]


def _line(name: str, command: str, *more: str, out: str | None = None) -> Line:
    own = out or name
    arguments = (*command.split(), *more)
    return Line(name, arguments if "OUT" in arguments else (*arguments, "--out", "OUT"), own)


SAMPLE = ("--model", "model", "--prompts", "prompts.jsonl", "--num-images", "1", *QUICK)
LINES = (
    _line("prompts", "shapes prompts OUT --split test --per-tag 1", out="prompts.jsonl"),
    _line("split", "prompts split prompts.jsonl --out-test OUT", out="split.jsonl"),
    _line("photos", "shapes photos --num-photos 6 --seed 1"),
    _line("pairs", "pairs draw --model model --prompts prompts.jsonl --shard-size 3 --batch-size 2", *QUICK),
    _line("real", "pairs real --model model --photos photos --spoil degrade --max-scale-up 9 --batch-size 3", *QUICK),
    _line("imported", "pairs import --model model --winners good --losers bad --device cpu --max-scale-up 9"),
    _line("likes", "pairs import --model model --source likes.csv --likes single --device cpu --max-scale-up 9"),
    _line("groups", "pairs draw --model model --prompts prompts.jsonl --samples-per-prompt 3 --shard-size 3", *QUICK),
    _line("scored", "pairs score groups --judges colourfulness --device cpu --shard-size 3"),
    _line("labelled", "pairs label scored --by colourfulness --form likes --mistakes 0.2"),
    _line("exported", "pairs export pairs --device cpu", out="exported.parquet"),
    _line("shown", "pairs show pairs --judges colourfulness --device cpu", out="shown.html"),
    _line("lora", "align ddspo --model model --pairs pairs", *TRAINING),
    _line("full", "align diffusion-dpo --model model --pairs pairs --full", *TRAINING),
    _line("staged", "align realalign --model model --pairs real --rollout-steps 2 --rollouts 2 --states 1", *TRAINING),
    _line("data", "align ddspo-data --model model --pairs pairs", *TRAINING),
    _line("chats", "align chats --model model --pairs pairs", *TRAINING),
    _line("kto", "align diffusion-kto --model model --pairs likes", *TRAINING),
    _line("images", "sample", *SAMPLE),
    _line("best", "sample --best-of 2 --judges colourfulness", *SAMPLE),
    _line("aligned", "sample --adapter lora", *SAMPLE),
    _line("guided", "sample --positive lora --negative full", *SAMPLE),
    _line("sweep", "sweep --positive lora --scales 0 1", *SAMPLE),
    _line("evidence", "evaluate --images base=images lora=aligned --replicates 50 --autoencoder model"),
    _line("sets", "evaluate --suite set --features pixels --reference good --images base=images lora=aligned"),
    _line("page", "report --run lora --evidence evidence --pairs pairs", out="page.html"),
    _line("tables", "tables --evidence evidence", out="tables.md"),
    _line("merged", "merge --model model --positive lora"),
    _line("pipeline", "merge --model model --positive lora --full"),
    _line("file", "export --run lora", out="lora.safetensors"),
    _line(
        "toy",
        "toy --seeds 0 --pairs-per-class 1 --shown 1 --width 8 --reference-steps 5 --train-steps 3 --batch-size 8 "
        "--samples-per-class 20",
    ),
    Line("study", ("study", "run", "study.yaml"), "study"),
)
BY_NAME = {line.name: line for line in LINES}
# Every further method, for tests that have the time: by those above each command and kind of run is there.
ALIGNED = {line.arguments[1] for line in LINES if line.arguments[0] == "align"}
METHOD_LINES = tuple(
    _line(f"align-{name}", f"align {name} --model model --pairs pairs", *TRAINING, *every_method.flags(name))
    for name in every_method.NAMES
    if name not in ALIGNED
)


# One page of all takes long to draw: what reads a part of it reads the same from these.
PAGES = {
    "evidence": _line("page", "report --evidence evidence", out="page.html"),
    "lora": _line("page", "report --run lora", out="page.html"),
    "pairs": _line("page", "report --images base=images --pairs pairs", out="page.html"),
}


def write_inputs(folder: Path) -> None:
    """What no command makes: a random model, a file of a study, two folders of images with captions, and likes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tiny_pipelines.build_smallest().save_pretrained(folder / "model")
    (folder / "study.yaml").write_text(STUDY)
    (folder / "train.txt").write_text("".join(f"{number} wooden spoons\n" for number in range(4)))
    random = np.random.default_rng(0)
    rows = ["file_path,caption,label"]
    for side in ("good", "bad"):
        (folder / side).mkdir()
        for number in range(4):
            pixels = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / side / f"{number}.png")
            (folder / side / f"{number}.txt").write_text(f"a picture of {number} things")
            rows.append(f"{side}/{number}.png,a picture of {number} things,{side == 'good'}")
    (folder / "likes.csv").write_text("\n".join(rows))
