"""The toy experiment: reference, Diffusion-DPO and DDSPO, or other methods, on the same few pairs, over several seeds.

Beta and rate were chosen on seeds 1000-1002 (reported: 0-4) at N = 2, over betas 5 to 400 and rates 2e-6 to 2e-5, as
the pair at which Diffusion-DPO has its lowest energy distance; both methods use it. DDSPO has the lower one all over
that grid, beta 400 of the authors' file names included, but for two near-ties at the largest rate; at beta 1600 neither
is ahead throughout. Read the result with this in mind: couples became the default after both kinds of neighbours had
been tried, and with `neighbours = "both"` the two methods come out on a par.

Differs from the paper: modes, network, schedule, beta, rate and steps are ours, as it prints none of them.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from cattrs import BaseValidationError

from contrapose.documents import load_json
from contrapose.errors import UserError
from contrapose.files import one_writer, replacing
from contrapose.runfile import claim, converter
from contrapose.seeds import generator, seed_of
from contrapose.worlds.gaussians.denoiser import sample
from contrapose.worlds.gaussians.measure import ModeScores, score
from contrapose.worlds.gaussians.modes import Points, draw_pairs
from contrapose.worlds.gaussians.outcome import Key, ToyResult, save_picture, save_tables
from contrapose.worlds.gaussians.settings import Toy
from contrapose.worlds.gaussians.train import align, fit_reference


@dataclass(frozen=True)
class ScoredRow:
    """A row of the table, of one seed."""

    name: str
    num_pairs: int
    scores: ModeScores


Finished = tuple[dict[Key, ModeScores], dict[str, np.ndarray]]
"""A seed's scores, and the points of the picture's panels by name."""
log = logging.getLogger(__name__)


def run_toy(settings: Toy, out: Path, progress: Callable[[str], None] | None = None) -> ToyResult:
    """Run what is missing in `out` and write `table.{json,csv,md}` and `toy.png` there.

    Every finished seed is kept; the same command again resumes, or does nothing but draw the table anew. `progress`
    gets a line a seed. Raises `UserError` if `out` holds a result of other settings, or another command writes to it.
    """
    settings.aligned()  # what cannot be trained here is told before a folder is claimed
    with one_writer(out):
        claim(out / "run.yaml", settings, converter(), free=frozenset({"seeds"}))
        finished: list[Finished] = []
        new = 0
        for seed in settings.seeds:
            folder = out / "seeds" / str(seed)
            kept = _finished(folder, settings)
            if kept is None:
                with replacing(folder) as aside:
                    _write(aside, *run_seed(settings, seed))
                new += 1
                if progress:
                    progress(f"seed {seed} done")
                # read back, so that a new seed's numbers are to the bit those of one that was kept
                kept = _finished(folder, settings)
                assert kept is not None, "it was written just now"
            finished.append(kept)
        if not new:
            log.info(f"{out}: all seeds were done already")
        by_key: dict[Key, tuple[ModeScores, ...]] = {}
        for key in finished[0][0]:
            by_key[key] = tuple(scores[key] for scores, _ in finished)
        result = ToyResult(by_key)
        save_tables(result, out)
        save_picture(finished[0][1], settings.modes, settings.titles, out / "toy.png")
    return result


def _finished(folder: Path, settings: Toy) -> Finished | None:
    """What a seed has come to; None, which is told, where there is nothing or a file of it is broken."""
    if not folder.exists():
        return None
    try:
        rows = converter().structure(load_json(folder / "scores.json"), list[ScoredRow])
        with np.load(folder / "points.npz") as points:
            panels = ["noisy", "winner", "loser", "clean", "reference", *settings.titles]
            of_panels = {name: points[name] for name in panels}
        scores = {(row.name, row.num_pairs): row.scores for row in rows}
        return {key: scores[key] for key in settings.keys}, of_panels
    # what cattrs, zipfile and numpy raise for files that are cut or changed
    except (UserError, BaseValidationError, BadZipFile, OSError, ValueError, KeyError, EOFError, zlib.error):
        log.warning(f"{folder}: is broken; run again")
        return None


def run_seed(settings: Toy, seed: int) -> tuple[dict[Key, ModeScores], dict[str, Points]]:
    """One repetition: the scores of every row, and the points of the picture's panels by name."""
    modes = settings.modes
    methods = settings.aligned()
    labels = modes.labels(settings.samples_per_class)

    # Every row gets the same starting noise, so that rows differ by their denoisers alone.
    def stream(*purpose: object) -> torch.Generator:
        return generator("toy", seed, *purpose)

    reference = fit_reference(
        modes, width=settings.width, num_steps=settings.reference_steps, seed=seed_of("toy", seed, "reference")
    )
    drawn: dict[Key, Points] = {
        ("clean data", 0): modes.clean(labels, stream("clean")),
        ("reference", 0): sample(reference, labels, stream("samples")),
    }
    points = {"noisy": modes.noisy(labels, stream("noisy")), "clean": drawn["clean data", 0]}
    for num_pairs in settings.pairs_per_class:
        # pairs, and what alignment draws, hang on their number alone: the methods differ by nothing else
        pairs = draw_pairs(modes, num_pairs, stream("pairs", num_pairs))
        for name, method in methods.items():
            trainee = align(
                reference,
                method,
                pairs,
                num_steps=settings.train_steps,
                batch=settings.batch_size,
                rate=settings.learning_rate,
                seed=seed_of("toy", seed, "align", num_pairs),
            ).policies["trainee"]
            drawn[name, num_pairs] = sample(trainee, labels, stream("samples"))
        if num_pairs == settings.shown:
            points |= {"winner": pairs.winner, "loser": pairs.loser}
            points |= {name: drawn[name, num_pairs] for name in methods}
    points["reference"] = drawn["reference", 0]
    return {key: score(sampled, labels, modes, stream("truth")) for key, sampled in drawn.items()}, points


def _write(folder: Path, scores: dict[Key, ModeScores], points: dict[str, Points]) -> None:
    folder.mkdir(parents=True)
    rows = [asdict(ScoredRow(name, num_pairs, scored)) for (name, num_pairs), scored in scores.items()]
    (folder / "scores.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    arrays = {name: values.numpy() for name, values in points.items()}
    np.savez(folder / "points.npz", **arrays)  # type: ignore[arg-type]  # no panel is named `allow_pickle`
