"""What `contrapose align` takes until it trains: memory of processes that load in shards, and digests of its pairs.

    memory       the most memory that each process has until training begins, with `--full --shard full`, beyond what it
                 has with the libraries alone: where each process reads the network, and where the first one alone does
    digests      seconds of the processor that the digest of a folder of pairs takes, and `align` until training begins,
                 where no shard's digest is noted beside the folder, and where all are

Each side is a fork, or several that talk by gloo on this machine's processors, made when all libraries are imported.
Memory is a process's own (RssAnon, looked at every few milliseconds), to which files that are mapped do not count. The
model is a narrow Stable Diffusion 1.5, stored in the precision that it is trained in; pairs whose digests are taken are
of latents [4, 64, 64] in float32, for a toy network. Linux only.

    OMP_NUM_THREADS=1 python benchmarks/starting.py        both tables (minutes, and 5 GB of disk)
    OMP_NUM_THREADS=1 python benchmarks/starting.py --tiny --pairs 8      seconds, for the tests
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import StableDiffusionPipeline
from narrow import print_table, prompts, save_pairs, save_pipeline
from scale import Cost, memory

from contrapose.backbones.base import Backbone
from contrapose.backbones.embeddings import Embeddings
from contrapose.backbones.families.table import load_backbone
from contrapose.backbones.loading import DTYPES
from contrapose.cli.notes import quiet_libraries
from contrapose.files import CACHE
from contrapose.methods import METHODS
from contrapose.runfile import converter
from contrapose.store.groups import GroupStore
from contrapose.store.manifest import DIGESTS
from contrapose.store.records import GroupRecord
from contrapose.store.shards import begin, fill
from contrapose.train import align
from contrapose.train.settings import Optimisation, Run, Watching
from contrapose.train.sharding_settings import Sharding

Readers = Literal["each process", "the first one"]
Precision = Literal["bf16", "fp32"]

LATENT = (4, 64, 64)
SHARD = 64  # pairs in one file
LATER = ("peft", "torch.utils.tensorboard")  # what `align` imports once it has begun


def load_with_values(*arguments: Any, without_values: Any, **named: Any) -> Backbone:
    """As `load_backbone`, in every process."""
    return load_backbone(*arguments, **named)


def start(work: Path, precision: Precision, readers: Readers, sharding: Sharding) -> None:
    """What `align` does until training begins."""
    if readers == "each process":
        align.load_backbone = load_with_values
    run = Run(
        str(work / "model"),
        work / "pairs",
        METHODS["diffusion-dpo"](),
        full=True,
        precision=precision,
        optimisation=Optimisation(batch_size=4, micro_batch=1),
        watching=Watching(holdout=0),
        sharding=sharding,
    )
    next(align.align(run, work / "run"))


def digest(work: Path) -> None:
    """The digest of all pairs."""
    assert GroupStore(work / "pairs").digest


def save_model(work: Path, precision: Precision, tiny: bool) -> None:
    """A model that is stored in a precision, and a few pairs for it."""
    folder = save_pipeline(work / "model", tiny)
    if precision == "bf16":
        StableDiffusionPipeline.from_pretrained(folder).to(torch.bfloat16).save_pretrained(folder)
    backbone = load_backbone(str(folder), DTYPES[precision], torch.device("cpu"))
    settle(backbone, GroupStore(save_pairs(work / "pairs", backbone)))


def save_many_pairs(work: Path, num: int) -> None:
    """A toy model, and so many pairs of a few prompts."""
    backbone = load_backbone(str(save_pipeline(work / "model", tiny=True)), torch.float32, torch.device("cpu"))
    records: list[GroupRecord] = []
    for number, text in enumerate(islice(cycle(prompts(64)), num)):
        records.append(GroupRecord.pair(f"{number:016x}-0", text, text.rpartition(" to ")[0], number))
    shards = [(None, records[first : first + SHARD]) for first in range(0, num, SHARD)]
    begin(work / "pairs", {}, converter(), backbone.fingerprint, records, [])
    for _ in fill(work / "pairs", shards, SHARD, lambda _, batch: torch.zeros(len(batch), 2, *LATENT) + batch[0].seed):
        pass
    settle(backbone, GroupStore(work / "pairs"))


def settle(backbone: Backbone, pairs: GroupStore) -> None:
    """Read the embeddings, so that they are there when `align` asks for them, as the pairs' index now is."""
    Embeddings(backbone.text).settle(pairs.records.distinct_texts(["prompt", "degraded"]))


def measure(answer: Connection, environment: dict[str, str], job: Callable[..., None], arguments: Any) -> None:
    """Carry out a job in this process, and send its seconds."""
    os.environ |= environment
    started = time.process_time()
    job(*arguments)
    answer.send(time.process_time() - started)


def in_forks(num: int, job: Callable[..., None], *arguments: Any) -> list[Cost]:
    """What a job costs each of so many processes, which know of each other; `EOFError` where it fails in one."""
    fork = multiprocessing.get_context("fork")
    shared = {"ACCELERATE_USE_CPU": "true"}
    if num > 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
        shared["WORLD_SIZE"] = str(num)
    before = memory()
    waiting: dict[int, tuple[int, Connection]] = {}
    for rank in range(num):
        ours, theirs = fork.Pipe()
        of_rank = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if num > 1 else {}
        process = fork.Process(target=measure, args=(theirs, shared | of_rank, job, arguments), daemon=True)
        process.start()
        theirs.close()  # so that a process that fails is told
        waiting[rank] = (process.pid or 0, ours)
    peaks = [before] * num
    seconds = [0.0] * num
    while waiting:
        for rank, (pid, answer) in list(waiting.items()):
            if answer.poll():
                seconds[rank] = answer.recv()
                del waiting[rank]
            else:
                peaks[rank] = max(peaks[rank], memory(pid))
        time.sleep(0.003)
    return [Cost(cpu, peak - before) for cpu, peak in zip(seconds, peaks, strict=True)]


def memory_table(work: Path, args: argparse.Namespace) -> None:
    """Print what each process has in memory, by precision and by who reads the network."""
    rows: list[list[str]] = []
    for precision in args.precisions:
        of_precision = work / precision
        in_forks(1, save_model, of_precision, precision, args.tiny)
        stored = sum(file.stat().st_size for file in (of_precision / "model" / "unet").glob("*.safetensors"))
        width = DTYPES[precision].itemsize
        # the trainee in float32, and the reference as it is stored
        shards = stored / width * (4 + width) / args.processes / 1e6
        for readers in ("each process", "the first one"):
            first, *others = in_forks(args.processes, start, of_precision, precision, readers, Sharding(shard="full"))
            shutil.rmtree(of_precision / "run")
            most = max(cost.megabytes for cost in others)
            rows.append([precision, readers, f"{first.megabytes:.0f}", f"{most:.0f}", f"{shards:.0f}"])
            print(*rows[-1], file=sys.stderr)
    print_table(["precision", "read by", "first process: MB", "the others: MB", "of it shards"], rows)


def digests_table(work: Path, args: argparse.Namespace) -> None:
    """Print what a digest and a start take where digests of shards are noted, and where they are not."""
    folder = work / "digests"
    in_forks(1, save_many_pairs, folder, args.pairs)
    rows: list[list[str]] = []
    for noted in (False, True):
        seconds: list[float] = []
        for job, arguments in ((digest, ()), (start, ("fp32", "the first one", Sharding()))):
            if not noted:
                (folder / "pairs" / DIGESTS).unlink(missing_ok=True)
            [cost] = in_forks(1, job, folder, *arguments)
            seconds.append(cost.cpu)
        shutil.rmtree(folder / "run")
        rows.append(["noted" if noted else "not noted", *(f"{each:.2f}" for each in seconds)])
    print_table(["digests of shards", "digest: CPU s", "start of align: CPU s"], rows)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=["memory", "digests"], default=["memory", "digests"])
    parser.add_argument("--processes", type=int, default=2, help="that load the network together")
    parser.add_argument("--precisions", nargs="+", choices=["bf16", "fp32"], default=["bf16", "fp32"])
    parser.add_argument("--pairs", type=int, default=16_384, help="whose digest is taken: 131 kB each")
    parser.add_argument("--tiny", action="store_true", help="a toy network: shows that the benchmark runs, no more")
    args = parser.parse_args(arguments)
    quiet_libraries()
    for name in LATER:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        os.environ[CACHE] = str(work / "cache")
        if "memory" in args.tables:
            memory_table(work, args)
        if "digests" in args.tables:
            digests_table(work, args)


if __name__ == "__main__":
    main()
