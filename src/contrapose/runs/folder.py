"""A run's folder as whoever reads it sees it: settings, metrics, kept steps and weights, asked of one class.

run.yaml, inputs.yaml      what decides the run: its settings, and digests of the model, pairs and runs that they name
metrics.jsonl              one line a step
checkpoints/step-000100/   a kept step
images/step-000100/        images that were drawn while it trained
trackers.json              the keys of the run at services that track it
finished.json              written last, beside the weights of the last step
best.json                  which kept step a judge finds best, where one was asked
README.md                  the model card

Wherever a run is named, PATH@STEP is one of its kept steps, PATH@last the newest one, and PATH@best that which a judge
finds best. PATH alone is the finished run, or the newest kept step of one that has not finished. Adapters that no run
wrote go by their folder or file.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from contrapose.contents import digest_of, digest_of_parts, file_digest
from contrapose.documents import load_json, load_yaml
from contrapose.errors import UserError
from contrapose.runfile import unstamped
from contrapose.runs.adapter_files import DENOISERS, AdapterFile, adapter_file, check_fit, read_file
from contrapose.runs.adapter_layers import LayerAdapter
from contrapose.runs.best import read_best
from contrapose.runs.fingerprint import stored_fingerprints
from contrapose.runs.metrics import held_out_of, read_metrics
from contrapose.runs.names import (
    BASE_NOTE,
    FINISHED,
    FULL_FOLDER,
    LORA_FILE,
    METRICS,
    PEFT_CONFIG,
    PEFT_FILE,
    RUN_FILE,
    STATE_FILE,
)
from contrapose.runs.steps import has_old_steps, kept_steps

LAST = "last"
BEST = "best"
AGAIN = "start the run again with 'contrapose align'"
log = logging.getLogger(__name__)


class NamedModel(Protocol):
    """A model that runs are put on: what the user calls it, and its pipeline folder or checkpoint file."""

    @property
    def model(self) -> str: ...

    @property
    def path(self) -> Path: ...


class StoredAdapter(NamedTuple):
    """The adapters of one part of a pipeline by layer, as they are stored, and peft's settings of them, if any."""

    layers: dict[str, LayerAdapter]
    settings: Mapping[str, Any]

    def cast(self, dtype: torch.dtype) -> dict[str, LayerAdapter]:
        """The layers in a network's precision."""
        cast: dict[str, LayerAdapter] = {}
        for name, adapter in self.layers.items():
            cast[name] = adapter.cast(lambda value: value.to(dtype))
        return cast


class RunFolder:
    """A run, or one of its policies, or another's adapters, by what a user names it: PATH or PATH@STEP.

    Nothing is read before it is asked for. What reads raises `UserError` in one line that names the file.
    """

    def __init__(self, named: str | Path):
        self.named = str(named)
        self.path, self.step = _parsed(Path(named))

    def __str__(self) -> str:
        return self.named

    @property
    def home(self) -> Path | None:
        """The folder with the run's settings, None where there are none; one of several policies lies in one below."""
        homes = (self.path, self.path.parent)
        return next((home for home in homes if (home / RUN_FILE).is_file()), None)

    @property
    def _below(self) -> Path:
        """Where the weights lie below the run's folder, and below each kept step's."""
        return Path() if self.home in (None, self.path) else Path(self.path.name)

    # What a run tells

    def settings(self) -> dict[str, Any]:
        """`run.yaml` as it stands. Raises `UserError` for a folder that is not a run or holds broken settings."""
        if self.home != self.path:
            self.check_exists()
            raise UserError(
                f"{self.named}: no {RUN_FILE}, so this is not a run; name a folder made by 'contrapose align'"
            )
        return _settings(self.path)

    def metrics(self) -> list[dict[str, float]]:
        """The lines of `metrics.jsonl` as they stand."""
        return [] if self.home is None else read_metrics(self.home / METRICS)

    def final_metrics(self) -> dict[str, float]:
        """The last measurements on held-out pairs, overall; empty when there are none."""
        lines = self.metrics()
        return held_out_of(lines[-1]) if lines else {}

    def summary(self, fix: str = "") -> dict[str, Any] | None:
        """`finished.json`; None while it is not there, or is of a run that has been lengthened since."""
        path = (self.home or self.path) / FINISHED
        if not path.exists():
            return None
        summary = load_json(path, fix)
        if not isinstance(summary, dict):
            raise UserError(f"{path}: a mapping was expected; {fix or AGAIN}")
        planned = self.planned
        return summary if planned in (None, summary.get("steps", planned)) else None

    @property
    def finished(self) -> bool:
        """Whether the run came to its end; one whose `finished.json` is broken has to come to it again."""
        return self._end is not None

    @property
    def _end(self) -> dict[str, Any] | None:
        with suppress(UserError, OSError):
            return self.summary()
        return None

    @property
    def planned(self) -> Any:
        """How many steps the run is to have, as its settings say it; None where they do not."""
        optimisation = _settings(self.home).get("optimisation") if self.home else None
        if not isinstance(optimisation, dict):
            return None
        return optimisation.get("train_steps", optimisation.get("steps"))  # as earlier versions called it

    @property
    def steps(self) -> tuple[int, ...]:
        """The kept steps whose weights can be read, in order."""
        return () if self.home is None else tuple(kept_steps(self.home))

    @property
    def policies(self) -> tuple[str, ...]:
        """The names of the policies that a run trained side by side; none where it trained one."""
        if self.home is None:
            return ()
        kept = list(kept_steps(self.home).values())
        where = kept[-1] if kept else self.home
        folders = (path for path in sorted(where.iterdir()) if path.is_dir() and not (path / RUN_FILE).exists())
        weights = (LORA_FILE, PEFT_FILE, FULL_FOLDER)
        policies: list[str] = []
        for folder in folders:
            if any((folder / name).exists() for name in weights):
                policies.append(folder.name)
        return tuple(policies)

    # Its weights

    @cached_property
    def weights(self) -> Path:
        """The folder, or the file, that holds the weights that were named.

        Raises `UserError` for a step that is not kept, naming those that are.
        """
        if self.home is None:
            if self.step is not None:
                raise UserError(f"{self.path}: is not a run of 'contrapose align', so it has no step {self.step}")
            return self.path
        if self.step == BEST:
            best = read_best(self.home)
            if best is None:
                raise UserError(
                    f"{self.named}: no judge chose a best step; name a step, or train with --keep-best JUDGE"
                )
            return self._of_step(self.home, best.step)
        if self.step not in (None, LAST):
            return self._of_step(self.home, int(self.step))
        kept = kept_steps(self.home)
        if self.finished or not kept:
            return self.path
        newest = max(kept)
        folder = kept[newest] / self._below
        if not folder.is_dir():  # other adapters that lie in the folder of a run
            return self.path
        _tell_unfinished(self.path, newest)
        return folder

    def _of_step(self, home: Path, step: int) -> Path:
        kept = kept_steps(home)
        if step in kept:
            return kept[step] / self._below
        if self.finished and step == self.planned:
            return self.path
        listed = ", ".join(map(str, kept)) or "none"
        old = "; its checkpoints are of an older Contrapose" if has_old_steps(home) else ""
        raise UserError(f"{self.named}: step {step} is not kept (those that are: {listed}){old}")

    @property
    def has_adapters(self) -> bool:
        """Whether the weights are adapters; `UserError` as `adapter_file`."""
        return adapter_file(self.weights) is not None

    def network_folder(self, part: str) -> Path:
        """Where the weights of a run that was trained in full lie."""
        return self.weights / FULL_FOLDER / part

    def read(self, part: str = "", network: nn.Module | None = None, pipeline: Any = None) -> AdapterFile:
        """All adapters, text encoders' too, as `read_file` does."""
        return read_file(self.weights, part, network, pipeline)

    def adapters(self, part: str, networks: Mapping[str, nn.Module], pipeline: Any = None) -> dict[str, StoredAdapter]:
        """The adapters of a model's denoiser, which is `part`, and after it of its text encoders that have some.

        `networks` are the model's by their parts. Raises `UserError` as `read_file` and `check_fit` do, and for
        adapters of a part that the model has not.
        """
        stored = self.read(part, networks[part], pipeline)
        by_part: dict[str, StoredAdapter] = {}
        for name in (part, *sorted(stored.parts.keys() - {part})):
            if name not in networks:
                raise UserError(f"{stored.path}: has adapters of a {name}, and this model has none; is it another's?")
            by_part[name] = StoredAdapter(check_fit(stored, name, networks[name]), stored.settings.get(name, {}))
        return by_part

    def adapter(self, part: str, network: nn.Module, pipeline: Any = None) -> StoredAdapter:
        """The adapters of a model's denoiser.

        Raises `UserError` as `read_file` and `check_fit` do, and for a file that has adapters of other parts too.
        """
        stored = self.read(part, network, pipeline)
        layers = check_fit(stored, part, network)
        other_parts = sorted(stored.parts.keys() - {part})
        if other_parts:
            raise UserError(
                f"{stored.path}: has adapters of the {' and '.join(other_parts)} too, which only "
                "'sample --adapter', 'merge' and 'align --start' with --train-text-encoder take"
            )
        return StoredAdapter(layers, stored.settings.get(part, {}))

    @property
    def fingerprint(self) -> str | None:
        """The digest of the model that was trained, where it is told: by the weights, or else by the run."""
        return self._noted or self._told

    @property
    def _noted(self) -> str | None:
        file = adapter_file(self.weights)
        if file is not None:
            return _note(file)
        # a whole network tells nothing itself; the training state beside it, or beside all policies' folders, does
        return _note(self.weights / STATE_FILE) or _note(self.weights.parent / STATE_FILE)

    @property
    def _told(self) -> str | None:
        return (self._end or {}).get(BASE_NOTE)

    def check_origin(self) -> None:
        """Raise `UserError` for weights that were trained on another model than the run whose folder they lie in."""
        of_run = self._told
        of_weights = self._noted
        if None not in (of_run, of_weights) and of_run != of_weights:
            raise UserError(
                f"{self.named}: its adapters were trained on another model ({of_weights}) than its run ({of_run})"
            )

    def check(self, part: str, model: NamedModel | None = None) -> None:
        """Raise `UserError` unless there is a run with weights of a model's `part`, trained on this model.

        Accepted where either does not tell which model it is.
        """
        self.check_exists()
        if not self.has_adapters and not self.network_folder(part).is_dir():
            raise self.lacks(f"weights of this model's {part}")
        trained_on = self.fingerprint
        if model is None or trained_on is None:
            return
        # several, since a model may be stored in several precisions
        fingerprints = stored_fingerprints(model.path, (part, "vae"))
        if fingerprints and trained_on not in fingerprints:
            listed = ", ".join(sorted(fingerprints))
            raise UserError(f"{self.named}: was trained on another model ({trained_on}) than {model.model} ({listed})")

    def check_exists(self) -> None:
        """Raise `UserError` where nothing has this name."""
        # one policy's folder is there before the run's end only in its kept steps
        if not self.path.exists() and (self.home is None or not self.weights.exists()):
            raise UserError(f"{self.named}: no such run; name a folder made by 'contrapose align', or adapters")

    def lacks(self, what: str) -> UserError:
        """The error that tells that a run does not hold what is asked of it, and what can be done."""
        if self.policies and not self._below.name:
            folders = " or ".join(str(self.path / policy) for policy in self.policies)
            return UserError(f"{self.named}: trained several policies, which have {what} each; name {folders}")
        return UserError(f"{self.named}: holds no {what}; has the run finished?")

    @property
    def digest(self) -> str:
        """A digest of the weights, by their files; `UserError` when there are none."""
        self.check_exists()
        weights = self.weights
        if weights.is_file():
            return digest_of(weights)
        parts = list(_weights_of(weights))
        if not parts:
            raise self.lacks("weights")
        return digest_of_parts(parts)


def _parsed(named: Path) -> tuple[Path, str | None]:
    """The path and the step of PATH@STEP; a folder that is there under the whole name is meant by it."""
    path, at, step = str(named).rpartition("@")
    if named.exists() or not at or not path or not re.fullmatch(rf"{LAST}|{BEST}|[0-9]{{1,12}}", step):
        return named, None
    return Path(path), step


def _settings(home: Path) -> dict[str, Any]:
    settings = load_yaml(home / RUN_FILE, AGAIN)
    if not isinstance(settings, dict):
        raise UserError(f"{home / RUN_FILE}: a mapping of settings was expected; {AGAIN}")
    return unstamped(home / RUN_FILE, settings)


def _weights_of(folder: Path) -> Iterator[str]:
    """Names and digests of the files of weights in a folder that are put on a model."""
    file = adapter_file(folder)
    if file is not None:
        yield f"{file.name} {file_digest(file)}"
        if (folder / PEFT_CONFIG).is_file():
            yield file_digest(folder / PEFT_CONFIG)
    # of a run that was trained whole, the denoiser is all that is put on another model
    for part in DENOISERS:
        if (folder / FULL_FOLDER / part).is_dir():
            yield digest_of(folder / FULL_FOLDER / part)


def _note(file: Path) -> str | None:
    """The model's digest in a header; None where the file is not there, cannot be read or does not tell."""
    with suppress(SafetensorError, OSError), safe_open(file, "pt") as header:
        return (header.metadata() or {}).get(BASE_NOTE)
    return None


@cache  # once a process, however often the weights are asked for
def _tell_unfinished(run: Path, step: int) -> None:
    log.info(f"{run}: has not finished; its newest kept step, {step}, is taken")
