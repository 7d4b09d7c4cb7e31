"""What an evaluation of many images costs beside the judge: rows written, summed up and shown, in seconds and memory.

    python benchmarks/many_rows.py --images 25000 50000 100000

Rows of a base and of three training runs of one method, 4 images a prompt in GenEval's six categories, 3 metrics each,
a verdict with reasons and two scores. There are no images, and no judge. Each size is a process of its own, whose peak
(VmHWM) is told beside that of the same process with the libraries alone. Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np

from contrapose import runfile
from contrapose.evaluate.evidence import CONVERTER, EVIDENCE, ROWS, SUMMARY, Record, read_evidence, read_judged
from contrapose.evaluate.rows import EvidenceRow, read_rows, write_rows
from contrapose.evaluate.summary import write_summary
from contrapose.evaluate.summing import SummarySettings, summarize
from contrapose.report.page import Report, write_report

T = TypeVar("T")
MODELS = ("base", "ddspo/0", "ddspo/1", "ddspo/2")
TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
SEEDS = 4


def judged(num_images: int) -> Iterator[EvidenceRow]:
    """The rows in the order in which they are judged: model by model, image by image, of each its metrics."""
    num_prompts = num_images // len(MODELS) // SEEDS
    for number, model in enumerate(MODELS):
        rng = np.random.default_rng([num_images, number])
        for prompt in range(num_prompts):
            identity = f"{prompt:05d}-{prompt * 2654435761 % 2**32:08x}"
            tag = TAGS[prompt % len(TAGS)]
            for seed in range(SEEDS):
                right = rng.random() < 0.4 + 0.02 * number
                reason = None if right else f"expected object {prompt % 80} >= 1, found 0"
                yield EvidenceRow(model, identity, tag, seed, "correct", float(right), reason)
                yield EvidenceRow(model, identity, tag, seed, "pickscore", 20 + 0.1 * number + float(rng.normal()))
                yield EvidenceRow(model, identity, tag, seed, "aesthetic", 5 + float(rng.normal()))


def peak() -> float:
    """Of this process, in MB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1000


def measured(num_images: int, folder: Path) -> dict[str, float]:
    """Seconds of each stage; the peak before the first and after the last."""
    costs = {"libraries": peak()}

    def timed(stage: str, work: Callable[[], T]) -> T:
        start = time.perf_counter()
        result = work()
        costs[stage] = time.perf_counter() - start
        return result

    record = Record("Many", {"name": "scores"}, {}, "base")
    runfile.write_claim(folder / EVIDENCE, record, CONVERTER, {})
    timed("write", lambda: write_rows(judged(num_images), folder / ROWS))
    rows = timed("read", lambda: read_rows(folder / ROWS))
    summary = timed("sum up", lambda: summarize(rows, SummarySettings("base")))
    write_summary(summary, folder / SUMMARY)
    timed("check", lambda: read_judged(folder))
    page = Report("Many", evidence=(read_evidence(folder),))
    timed("page", lambda: write_report(page, folder / "page.html"))
    return costs | {"peak": peak()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[25_000, 50_000, 100_000])
    parser.add_argument("--in-process", action="store_true", help="measure the one size here, and print JSON")
    args = parser.parse_args(arguments)
    if args.in_process:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measured(args.images[0], Path(folder))))
        return
    print("| images | rows | write s | read s | sum up s | check s | page s | peak MB | of it libraries |")
    print("|---|---|---|---|---|---|---|---|---|")
    for num_images in args.images:
        command = [sys.executable, __file__, "--in-process", "--images", str(num_images)]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        costs = json.loads(result.stdout)
        seconds = " | ".join(f"{costs[stage]:.2f}" for stage in ("write", "read", "sum up", "check", "page"))
        print(f"| {num_images:,} | {3 * num_images:,} | {seconds} | {costs['peak']:.0f} | {costs['libraries']:.0f} |")


if __name__ == "__main__":
    main()
