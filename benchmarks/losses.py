"""Losses of every method of stored groups over 20 steps, as exact numbers, to be compared between two checkouts.

    python benchmarks/losses.py before.json                   # in one checkout
    python benchmarks/losses.py after.json --against before.json

Each of two tiny pipelines (SD and SD3, random weights) draws a dozen pairs; each method, link and way to take the
gradient is then trained on them, as LoRA and in full. Of every step the loss, the gradient's norm and all other
metrics are kept in hexadecimal; the clock is not. Another CPU or another torch gives other last digits, so both files
have to come from one machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
STEPS = 20
MODELS = ("sd", "sd3")
METHODS: dict[str, list[str]] = {
    "sft": ["sft"],
    "sft-loser": ["sft", "--side", "loser"],
    "diffusion-dpo": ["diffusion-dpo"],
    "diffusion-dpo-ipo": ["diffusion-dpo", "--link", "ipo"],
    "diffusion-dpo-hinge": ["diffusion-dpo", "--link", "hinge"],
    "diffusion-dpo-sdpo": ["diffusion-dpo", "--guard", "sdpo"],
    "diffusion-dpo-swap": ["diffusion-dpo", "--swap"],
    "diffusion-dpo-split": ["diffusion-dpo", "--split-pairs"],
    "ddspo": ["ddspo"],
    "ddspo-split": ["ddspo", "--split-pairs"],
    "ddspo-random": ["ddspo", "--losers", "random-positive"],
    "ddspo-linear": ["ddspo", "--weighting", "linear"],
    "ddspo-x0": ["ddspo", "--space", "x0"],
    "ddspo-data": ["ddspo-data", "--first-train-steps", "5"],
    "realalign": ["realalign", "--first-train-steps", "5"],
    "diffusion-dro": ["diffusion-dro"],
    "chats": ["chats"],
    "diffusion-kto": ["diffusion-kto"],
    "dmpo": ["dmpo"],
    "mapo": ["mapo"],
    "tdpo": ["tdpo"],
    "tkto": ["tkto"],
    "capo": ["capo"],
    "diffusion-lpo": ["diffusion-lpo", "--num-samples", "2"],
    "rankdpo": ["rankdpo", "--num-samples", "2"],
    "dgpo": ["dgpo", "--stored", "--samples-per-prompt", "2"],
    "nft": ["nft", "--stored", "--samples-per-prompt", "2"],
    "awm": ["awm", "--stored", "--samples-per-prompt", "2"],
    "crd": ["crd", "--stored", "--samples-per-prompt", "2"],
    "dspo": ["dspo"],
    "dspo-squared": ["dspo", "--form", "squared", "--beta", "5000"],
    "inpo": ["inpo", "--inversion-steps", "2"],
    "smpo": ["smpo", "--inversion-steps", "2"],
    "self-npo": ["self-npo"],
}
CLOCKS = ("seconds",)


def run(*arguments: str | Path) -> None:
    """One command line of contrapose, by the sources beside this file."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")]),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    call = "import sys; from contrapose.cli.main import main; sys.argv[0] = 'contrapose'; sys.exit(main())"
    command = [sys.executable, "-c", call, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, arguments))}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def exact(metrics: Path) -> list[dict[str, str]]:
    """A run's metrics, number by number, without the clock."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [
        {name: float(value).hex() for name, value in line.items() if name not in CLOCKS and value is not None}
        for line in lines
    ]


def measure(work: Path, steps_flag: str, only: list[str]) -> dict[str, list[dict[str, str]]]:
    """Metrics of every step of every run, by model, weights and method."""
    sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
    import tiny

    measured: dict[str, list[dict[str, str]]] = {}
    (work / "prompts.txt").write_text("\n".join(f"a red circle and {n} blue squares" for n in range(12)) + "\n")
    for model in MODELS:
        tiny.save(model, work / model)
        pairs = work / f"{model}-pairs"
        run("pairs", "draw", "--model", work / model, "--prompts", work / "prompts.txt", "--steps", "4", "--out", pairs)
        for name, method in METHODS.items():
            for weights in ("lora", "full"):
                key = f"{model} {weights} {name}"
                if only and not any(part in key for part in only):
                    continue
                out = work / key.replace(" ", "-")
                run(
                    "align", *method, "--model", work / model, "--pairs", pairs, "--out", out,
                    *(["--full"] if weights == "full" else []), steps_flag, str(STEPS), "--learning-rate", "1e-3",
                    "--batch-size", "4", "--micro-batch", "2", "--holdout", "2", "--evaluate-every", "10",
                    "--max-drift", "1000",
                )  # fmt: skip
                measured[key] = [line for metrics in sorted(out.rglob("metrics.jsonl")) for line in exact(metrics)]
                print(f"{key:40} {len(measured[key])} steps, last loss {float.fromhex(measured[key][-1]['loss'])}")
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--against", type=Path, help="an earlier file to compare with")
    parser.add_argument(
        "--steps-flag", default="--train-steps", help="what this checkout calls the number of training steps"
    )
    parser.add_argument("--only", nargs="*", default=[], help="runs whose name holds one of these")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        measured = measure(Path(work), options.steps_flag, options.only)
    options.out.write_text(json.dumps(measured, indent=1))
    if options.against:
        before = json.loads(options.against.read_text())
        other = [key for key, steps in measured.items() if steps != before.get(key)]
        print(f"{len(measured) - len(other)} of {len(measured)} runs equal to the last bit")
        sys.exit(f"other: {', '.join(other)}" if other else None)


if __name__ == "__main__":
    main()
