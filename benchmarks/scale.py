"""What a store of very many groups costs beside the networks: seconds and peak memory of every stage, by its size.

    python benchmarks/scale.py --records 10000 100000 1000000

Synthetic pairs of tiny latents [4, 2, 2]. Each stage is a fork of its own, whose peak of memory that is its own
(RssAnon, looked at every few milliseconds) is told less what it began with; pages of files that are mapped do not
count, since the system takes them back. What a stage reads is written beforehand, and kept where `--folder` names one.
Seconds are those of the processor, since the disk's and other work's say little here. The growth is the power of the
number of records that seconds grow by, between the two largest sizes. Linux only.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from contrapose.backbones.embeddings import Embeddings
from contrapose.core.group import Condition
from contrapose.core.path import FlowPath
from contrapose.draw.pairs import plan_pairs
from contrapose.draw.settings import Draw
from contrapose.exchange.imports import Plan, plan_import, read_listing
from contrapose.exchange.settings import Import
from contrapose.judges.colours import Colours
from contrapose.judges.judge import Decode, Marks
from contrapose.labels.label import label_groups, plan_labels
from contrapose.labels.score import score_groups
from contrapose.labels.settings import Labelling, Scoring
from contrapose.methods import DDSPO
from contrapose.runfile import converter
from contrapose.store.check import check_pairs, look_at_records
from contrapose.store.fitting import Fitting
from contrapose.store.groups import GroupStore
from contrapose.store.manifest import INDEX
from contrapose.store.mixture import Mixture
from contrapose.store.prompt_list import PromptList
from contrapose.store.prompts import Prompt, iter_listed, read_prompts
from contrapose.store.records import GroupRecord
from contrapose.store.shards import begin, fill
from contrapose.store.splits import Splitting, describe_prompts, shared_prompts, split_prompts
from contrapose.train.comparable import comparable
from contrapose.train.data import Groups
from contrapose.train.settings import Run


class Cost(NamedTuple):
    """What a stage took."""

    cpu: float
    """Seconds of the processor."""
    megabytes: float
    """The peak of memory of its own, beyond what the process began with."""


def text(number: int) -> str:
    return (
        f"a prompt of about as many words as people write, with its number {number // 2}, in the style of {number % 97}"
    )


def write_inputs(folder: Path, num: int) -> None:
    """A store of pairs, and a file of as many prompts."""
    folder.mkdir(parents=True)
    records = [
        GroupRecord.pair(f"{number:016x}-0", text(number), f"a prompt with its number {number // 2}", number)
        for number in range(num)
    ]
    shards = [(None, records[first : first + 64]) for first in range(0, num, 64)]
    begin(folder / "pairs", {}, converter(), "f", records, [])
    for _ in fill(folder / "pairs", shards, 64, lambda _, batch: torch.zeros(len(batch), 2, 4, 2, 2) + batch[0].seed):
        pass
    scored = [
        GroupRecord(f"{number:016x}-0", text(number), "", number, (0.5, 0.5), {"taste": (number % 7, number % 5)})
        for number in range(num)
    ]
    shards = [(None, scored[first : first + 64]) for first in range(0, num, 64)]
    begin(folder / "scored", {"scores": {"taste": "higher"}}, converter(), "f", scored, [])
    for _ in fill(folder / "scored", shards, 64, lambda _, batch: torch.zeros(len(batch), 2, 4, 2, 2)):
        pass
    write_images(folder / "images.parquet", num)
    lines = (json.dumps({"prompt": f"{text(number)} {number}", "tag": "all"}) + "\n" for number in range(num))
    (folder / "prompts.jsonl").write_text("".join(lines))


def write_images(path: Path, num: int) -> None:
    """A table of pairs of tiny images, as others have them."""
    schema = pa.schema({"prompt": pa.string(), "chosen": pa.binary(), "rejected": pa.binary()})
    pixels = np.zeros((8, 8, 3), np.uint8)
    with pq.ParquetWriter(path, schema) as table:
        for first in range(0, num, 1024):
            rows: list[dict[str, Any]] = []
            for number in range(first, min(first + 1024, num)):
                images: dict[str, bytes] = {}
                for side, name in enumerate(("chosen", "rejected")):
                    pixels.reshape(-1)[:8] = np.frombuffer((2 * number + side).to_bytes(8, "little"), np.uint8)
                    file = io.BytesIO()
                    Image.fromarray(pixels).save(file, "png", compress_level=0)
                    images[name] = file.getvalue()
                rows.append({"prompt": text(number), **images})
            table.write_table(pa.Table.from_pylist(rows, schema))


class Reader:
    """Reads a prompt as four numbers."""

    settings = "of the benchmark"
    encoder_bytes = 0

    def embed(self, prompts: Sequence[str]) -> Condition:
        return {"text": torch.tensor([[[float(len(prompt))] * 4] for prompt in prompts])}

    def unconditional(self) -> Condition:
        return self.embed([""])


def embeddings(folder: Path) -> Embeddings:
    return Embeddings(Reader(), folder=folder / "embeddings")  # type: ignore[arg-type]


def index(folder: Path) -> None:
    """Open a store for the first time."""
    (folder / "pairs" / INDEX).unlink(missing_ok=True)
    GroupStore(folder / "pairs")


def start_training(folder: Path) -> None:
    """What `align` does with its pairs before the first step, but for their digest and embeddings."""
    run = Run("model", folder / "pairs", DDSPO())
    pairs = comparable(Mixture(run.pairs), run)
    groups = Groups(pairs, run.method.composition(), embeddings(folder), FlowPath(), 0, 64)
    for _ in groups.prompts():
        pass


def look_up(folder: Path) -> None:
    """Ask the cache for all prompts, which are read into it where they are not there."""
    rows = iter_listed(folder / "prompts.jsonl")
    embeddings(folder).settle(row.text for row in rows if isinstance(row, Prompt))


def check_prompts(folder: Path) -> None:
    """What `prompts check` tells of the prompts, and which of them are in another list: in the same one here."""

    def prompts() -> Iterator[Prompt]:
        return (row for row in iter_listed(folder / "prompts.jsonl") if isinstance(row, Prompt))

    describe_prompts(prompts())
    shared_prompts(islice(prompts(), 100), prompts())


class Length:
    """Judges latents by the length of their prompt."""

    name = "length"
    version = "of the benchmark"
    higher_is_better: Mapping[str, bool] = {"length": True}

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> dict[str, Marks]:
        return {"length": Marks(np.array([float(len(prompt.text)) for prompt in prompts]))}

    def of_latents(self, latents: torch.Tensor, prompts: Sequence[Prompt], decode: Decode) -> dict[str, Marks]:
        return self([], prompts)


def score(folder: Path) -> None:
    """Store another score of every sample."""
    out = fresh(folder / "scored again")
    store = GroupStore(folder / "pairs")
    for _ in score_groups(Scoring((Colours(),)), store, Length(), lambda _: [], "f", out):
        pass


def label(folder: Path) -> None:
    """Label every group by its scores, and store it with its latents."""
    out = fresh(folder / "labelled")
    store = GroupStore(folder / "scored")
    settings = Labelling(("taste",), ties="half", mistakes=0.1)
    for _ in label_groups(settings, store, plan_labels(settings, store), out):
        pass


def fresh(out: Path) -> Path:
    """A folder that is not there."""
    shutil.rmtree(out, ignore_errors=True)
    return out


class Autoencoder:
    """What is asked of a model before its images are encoded."""

    unit = 8
    patch = 1
    latent_shape = (4, 1, 1)

    @property
    def images(self) -> Autoencoder:
        return self


def plan_an_import(folder: Path) -> Plan:
    """Read a listing and look at every image."""
    settings = Import("model", source=folder / "images.parquet", fitting=Fitting())
    return plan_import(settings, read_listing(settings), Autoencoder())  # type: ignore[arg-type]


def draw(folder: Path) -> Draw:
    return Draw("model", (str(folder / "prompts.jsonl"),))


STAGES: dict[str, Callable[[Path], Any]] = {
    "open a store, first time": index,
    "open a store": lambda folder: GroupStore(folder / "pairs"),
    "its digest": lambda folder: GroupStore(folder / "pairs").digest,
    "look at its records": lambda folder: look_at_records(GroupStore(folder / "pairs")),
    "check all latents": lambda folder: check_pairs(GroupStore(folder / "pairs")),
    "mix, hold out, first epoch": start_training,
    "look up embeddings": look_up,
    "read prompts": lambda folder: read_prompts(folder / "prompts.jsonl"),
    "list prompts alone": lambda folder: PromptList(folder / "prompts.jsonl"),
    "check prompts": check_prompts,
    "split prompts": lambda folder: split_prompts(folder / "prompts.jsonl", Splitting(folder / "test.jsonl")),
    "plan a draw": lambda folder: plan_pairs(draw(folder)),
    "plan an import": plan_an_import,
    "score": score,
    "label": label,
}


def memory(process: int | str = "self") -> float:
    """What a process has for itself alone, in MB; 0 of one that has ended."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    lines = [line for line in status.splitlines() if line.startswith("RssAnon")]
    return int(lines[0].split()[1]) / 1000 if lines else 0.0


def measure(stage: str, folder: Path, answer: Connection) -> None:
    """Carry out a stage in this process, and send its seconds."""
    started = time.process_time()
    kept = STAGES[stage](folder)
    answer.send(time.process_time() - started)
    del kept


def in_fork(stage: str, folder: Path) -> Cost:
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    process = fork.Process(target=measure, args=(stage, folder, theirs))
    before = memory()
    process.start()
    theirs.close()  # so that a stage that fails is told
    peak = before
    while not ours.poll(0.003):
        peak = max(peak, memory(process.pid or 0))
    seconds: float = ours.recv()
    process.join()
    return Cost(seconds, peak - before)


def table(costs: dict[int, dict[str, Cost]]) -> str:
    """A row a stage: seconds and MB of each size, and the growth."""
    sizes = list(costs)
    heads = [f"{size:,}: s | MB" for size in sizes]
    lines = [f"| stage | {' | '.join(heads)} | growth |", "|---" * (2 * len(sizes) + 2) + "|"]
    for stage in costs[sizes[0]]:
        of_stage = [costs[size][stage] for size in sizes]
        cells = [f"{cost.cpu:.2f} | {cost.megabytes:.0f}" for cost in of_stage]
        growth = ""
        if len(sizes) > 1:
            growth = f"{math.log(of_stage[-1].cpu / of_stage[-2].cpu) / math.log(sizes[-1] / sizes[-2]):.2f}"
        lines.append(f"| {stage} | {' | '.join(cells)} | {growth} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--folder", type=Path, help="where inputs are kept for the next time, a folder for each size")
    parser.add_argument("--stages", nargs="+", choices=[*STAGES], default=[*STAGES], help="all when unset")
    options = parser.parse_args(arguments)
    costs: dict[int, dict[str, Cost]] = {}
    for size in options.records:
        with tempfile.TemporaryDirectory() as name:
            folder = (options.folder or Path(name)) / str(size)
            if not folder.exists():
                write_inputs(folder, size)
            GroupStore(folder / "pairs")  # which is to have its index in all stages but the first
            if "look up embeddings" in options.stages:
                look_up(folder)
            costs[size] = {stage: in_fork(stage, folder) for stage in options.stages}
        print(table(costs), flush=True)


if __name__ == "__main__":
    main()
