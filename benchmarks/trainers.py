"""A training step of DDSPO with and without the look-ahead, beside a plain loop and the authors' own trainer.

    ours      the real Trainer, which prepares two micro-batches while the network works
    in turn   the same, each micro-batch made when it is asked for
    plain     written out here of diffusers, peft and torch as the authors' trainer works: the text encoder reads the
              prompts at every step, and the reference is asked four times a pair, since what it says of the winner is
              target and reference
    authors   their own step, out of a clone of github.com/KU-MIIL/DDSPO that --authors names; full training alone

All train one network on the same pairs, and take turns; a ratio is the median over the turns, and its spread the least
and the most. Wall time is that of a machine that may have other work, CPU time is this process's, all threads of it
together. The host's waiting is at least that of a GPU, which still has work queued.

With --authors, both trainers also take the same steps, of the same pairs, times and noise, and their losses and
weights are compared.

    OMP_NUM_THREADS=1 python benchmarks/trainers.py                    the shapes model and a tiny pipeline
    OMP_NUM_THREADS=1 python benchmarks/trainers.py --authors DDSPO    with the authors' own trainer
    python benchmarks/trainers.py --device cuda --precision bf16       the same on a GPU
    python benchmarks/trainers.py --tiny                               the tiny pipeline alone, for the tests
"""

from __future__ import annotations

import statistics
import tempfile
import time
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from authors import NEEDED, Authors
from narrow import options, print_table, save_pipeline, synchronise
from step import LEARNING_RATE, build_trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate
from transformers import CLIPTextModel, CLIPTokenizer

from contrapose.backbones.loading import DTYPES
from contrapose.cli.notes import quiet_libraries
from contrapose.store.mixture import Mixture
from contrapose.train.loop import Trainer
from contrapose.worlds.shapes.shipped import shipped_model

AGREEING_RATE = 1e-5  # at which weights move far enough to be compared
AGREEING_STEPS = 10


class Turn(NamedTuple):
    """What one step took, in seconds."""

    wall: float
    cpu: float
    waited: float
    """Of the wall time, what was waited for micro-batches."""


Step = Callable[[], float]
"""Takes a step and tells the seconds so far in which micro-batches were waited for."""


def trainer_step(trainer: Trainer) -> Step:
    states = trainer.steps()

    def step() -> float:
        next(states)
        return trainer.waited

    return step


def authors_step(authors: Authors) -> Step:
    def step() -> float:
        authors.step()
        return 0.0

    return step


def plain_step(trainer: Trainer, model: Path, args: Namespace) -> Step:
    """A step of a loop that does nothing ahead of its time and keeps nothing from one step to the next."""
    device = torch.device(args.device)
    tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(model / "text_encoder").requires_grad_(False).to(device)
    alphas = trainer.groups.path.alphas_cumprod.to(device)
    optimizer = torch.optim.AdamW(trainer.parameters, LEARNING_RATE)
    beta = vars(trainer.run.method)["beta"]
    batches = _batches(trainer.groups.store, args.pairs)
    autocast = torch.autocast(args.device, DTYPES[args.precision]) if args.precision != "fp32" else nullcontext()

    @torch.no_grad()
    def read(texts: list[str]) -> Tensor:
        tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        return encoder(tokens.to(device))[0]

    def predict(policy: str, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        return trainer.trainable.policies.denoiser(policy)(x, t, text, return_dict=False)[0].float()

    def step() -> float:
        batch = next(batches)
        x0 = torch.cat([batch["winner"], batch["loser"]]).float().to(device)
        own, degraded = read(batch["prompt"]), read(batch["degraded"])
        half = len(own)
        t = torch.randint(len(alphas), (half,), device=device).repeat(2)
        noise = torch.randn(half, *x0.shape[1:], device=device).repeat(2, 1, 1, 1)
        signal = alphas[t].view(-1, 1, 1, 1)
        x_t = signal.sqrt() * x0 + (1 - signal).sqrt() * noise
        with autocast:
            with torch.no_grad():
                target = predict("reference", x_t, t, torch.cat([own, degraded]))
                reference = predict("reference", x_t, t, own.repeat(2, 1, 1))
            predicted = predict("trainee", x_t, t, own.repeat(2, 1, 1))
            gain = (target - reference).square().mean((1, 2, 3)) - (target - predicted).square().mean((1, 2, 3))
            loss = -nn.functional.logsigmoid(0.5 * beta * (gain[:half] - gain[half:])).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainer.parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()  # for its log
        return 0.0

    return step


def _batches(store: Mixture, size: int) -> Iterator[dict[str, list]]:
    """Shuffled batches of stored pairs without end, by torch's own loader in this process."""

    class Pairs(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(store)

        def __getitem__(self, index: int) -> dict[str, object]:
            record = store.records[index]
            latents = {side: store.latent(side, index) for side in ("winner", "loser")}
            return {"prompt": record.prompt, "degraded": record.degraded, **latents}

    while True:
        yield from DataLoader(Pairs(), size, shuffle=True, drop_last=True, collate_fn=default_collate)


def measured(step: Step, waited_before: float, device: str) -> Turn:
    synchronise(device)
    cpu = time.process_time()
    wall = time.perf_counter()
    waited = step()
    synchronise(device)
    return Turn(time.perf_counter() - wall, time.process_time() - cpu, waited - waited_before)


def compare(work: Path, full: bool, args: Namespace) -> dict[str, list[Turn]]:
    """The turns of each side on the model in a folder."""
    ours = build_trainer(work, "ddspo", full, args)
    in_turn = Trainer(ours.run, ours.trainable, ours.groups, ours.accelerator, num_ahead=0)
    steps = {
        "ours": trainer_step(ours),
        "in turn": trainer_step(in_turn),
        "plain": plain_step(ours, work / "model", args),
    }
    if full and args.authors:
        steps["authors"] = authors_step(Authors(args.authors, work / "model", ours, work / "theirs"))
    waited = {side: step() for side, step in steps.items()}  # and the warm-up
    turns: dict[str, list[Turn]] = {side: [] for side in steps}
    for number in range(args.repeats):
        for side in sorted(steps, reverse=number % 2 == 1):
            turn = measured(steps[side], waited[side], args.device)
            waited[side] += turn.waited
            turns[side].append(turn)
    return turns


@dataclass(frozen=True)
class Agreement:
    """How near our trainer and the authors' stay to each other over some steps on the same pairs, times and noise."""

    losses: list[tuple[float, float]]
    """Ours and theirs, step by step."""
    apart: float
    """Distance of the two networks' weights at the end, as a share of how far ours have moved."""

    @property
    def line(self) -> str:
        """The agreement in words."""
        most = max(abs(ours - theirs) for ours, theirs in self.losses)
        first = self.losses[0][0]
        last = self.losses[-1][0]
        return (
            f"ours and authors on the same pairs, times and noise: in {len(self.losses)} steps the loss goes from "
            f"{first:.6f} (log 2 for any pairs) to {last:.6f} and differs by {most:.1e} at most; at the end the "
            f"weights are apart by {self.apart:.1e} of how far they moved"
        )


def agree(work: Path, args: Namespace) -> Agreement:
    """Full training by both, at a rate that moves the weights."""
    ours = build_trainer(work, "ddspo", True, args, AGREEING_RATE)
    theirs = Authors(args.authors, work / "model", ours, work / "theirs")
    begin = theirs.weights()
    losses: list[tuple[float, float]] = []
    states = ours.steps()
    for step in range(AGREEING_STEPS):
        loss = next(states).metrics["loss"]
        losses.append((loss, theirs.take_ours(ours, range(step * args.pairs, (step + 1) * args.pairs))))
    weights = torch.cat([weight.detach().flatten() for weight in ours.parameters])
    return Agreement(losses, float((weights - theirs.weights()).norm() / (weights - begin).norm()))


def cells(turns: dict[str, list[Turn]], side: str) -> list[str]:
    """A side's row: its times, their ratios to ours with the spread, and its share of waiting."""
    pairs = list(zip(turns[side], turns["ours"], strict=True))
    wall = [turn.wall / ours.wall for turn, ours in pairs]
    cpu = [turn.cpu / ours.cpu for turn, ours in pairs]
    waited = sum(turn.waited for turn in turns[side]) / sum(turn.wall for turn in turns[side])
    seconds = statistics.median(turn.cpu for turn in turns[side])
    share = f"{100 * waited:.2f} %" if side in ("ours", "in turn") else "-"
    return [side, f"{seconds:.3f}", _spread(cpu), _spread(wall), share]


def _spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.3f} ({min(ratios):.2f} to {max(ratios):.2f})"


def authors_clone(text: str) -> Path:
    """The folder that --authors names."""
    folder = Path(text)
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise ArgumentTypeError(f"{folder} is no clone of github.com/KU-MIIL/DDSPO: it has no {missing[0]}")
    return folder


def main(arguments: list[str] | None = None) -> dict[tuple[str, str], dict[str, list[Turn]]]:
    parser = options(__doc__ or "")
    parser.add_argument("--pairs", type=int, default=8, help="pairs in one step")
    parser.add_argument("--authors", type=authors_clone, metavar="FOLDER", help="a clone of KU-MIIL/DDSPO")
    args = parser.parse_args(arguments)
    quiet_libraries()
    results: dict[tuple[str, str], dict[str, list[Turn]]] = {}
    lines, agreements = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("tiny",) if args.tiny else ("shapes", "tiny"):
            work = Path(folder) / name
            work.mkdir()
            if name == "shapes":
                (work / "model").symlink_to(shipped_model())
            else:
                save_pipeline(work / "model", tiny=True)
            if args.authors:
                agreements.append(f"{name}: {agree(work, args).line}")
            for trainee in ("LoRA", "full"):
                turns = compare(work, trainee == "full", args)
                results[name, trainee] = turns
                lines += [[name, trainee, *cells(turns, side)] for side in turns]
    header = ["model", "trainee", "side", "CPU s a step", "CPU, to ours", "wall, to ours", "waits for data"]
    print_table(header, lines)
    print("\n".join(agreements) or "authors: left out, since --authors names no clone of their code")
    return results


if __name__ == "__main__":
    main()
