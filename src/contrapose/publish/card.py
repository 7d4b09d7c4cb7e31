"""The model card of a run: what was aligned with what, how far it got, and how stock libraries load it.

Cards and what else is published name files and folders of this machine by their last name alone.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from contrapose import runfile
from contrapose.documents import load_yaml
from contrapose.errors import UserError
from contrapose.files import write_text
from contrapose.methods import name_of
from contrapose.publish.base import Base, base_of
from contrapose.publish.gallery import CardImages, gallery_of_run
from contrapose.publish.markdown import head, plain, rendered
from contrapose.runs.adapter_files import read_file
from contrapose.runs.best import read_best
from contrapose.runs.folder import RunFolder
from contrapose.runs.names import CARD, PEFT_FILE, RUN_FILE
from contrapose.runs.origin import hub_id, last_name, public_name
from contrapose.runs.steps import step_folder
from contrapose.store.groups import GroupStore
from contrapose.store.mixture import parse
from contrapose.train.folder import policy_folders
from contrapose.train.settings import CONVERTER, Run

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_ARXIV = re.compile(r"arXiv[: ](\d{4}\.\d{4,5})")
_FILES = ("model", "prompts", "photos", "source", "winners", "losers", "metadata", "image_folder")  # named by the same
_FIX = "correct run.yaml; where an earlier Contrapose wrote it, give its settings the names that they have now"
_UNTOLD = ("batch_size", "shard_size", "cache", "endpoint")  # of how pairs were drawn: decides nothing, or is private


def finish_run(folder: Path) -> None:
    """Write the model card of a finished run into its folder; a card that is there already is left alone.

    `contrapose align` does this after each of its runs; call it for runs that were trained by `contrapose.align`.
    Raises `UserError` where the folder is not a run, or the run has not finished.
    """
    if (folder / CARD).is_file():
        return
    write_card(folder, finished_run(folder), RunFolder(folder).final_metrics())


def finished_run(folder: Path) -> Run:
    """The settings of a run that has come to its end.

    Raises `UserError` where the folder is not a run, the run has not finished, or an earlier version of Contrapose
    called its settings otherwise.
    """
    if not RunFolder(folder).finished:
        raise UserError(f"{folder}: has not finished, so there is nothing to write a model card of")
    return run_of(folder)


def run_of(folder: Path) -> Run:
    """The settings of a run; `UserError` where an earlier version of Contrapose called them otherwise."""
    path = folder / RUN_FILE
    return runfile.structured(path, load_yaml(path, _FIX), Run, CONVERTER, _FIX)


def write_card(folder: Path, run: Run, metrics: Mapping[str, float]) -> None:
    """Write `README.md` into the run's folder, as `run_card` has it for a run that is on no hub."""
    card = run_card(folder, run, metrics, base_of(run.model), gallery_of_run(folder))
    write_text(folder / CARD, card)


def run_card(
    folder: Path,
    run: Run,
    metrics: Mapping[str, float],
    base: Base,
    gallery: CardImages,
    repo: str | None = None,
    step: int | None = None,
) -> str:
    """A hub model card with the last held-out `metrics`.

    `repo` is the hub id that the run will be loaded from; the folder's own name stands in when there is none. `step` is
    the kept step whose weights go with the card, None being the end. A run of several policies has a folder for each,
    and its card says how they are used together.
    """
    # the first line of the method's own file names its paper
    paper = (sys.modules[type(run.method).__module__].__doc__ or "").strip().partition("\n")[0]
    policies = list(policy_folders(run))
    kind = kind_of(run)
    tags = [name_of(run.method), kind]
    part = ""
    weights = folder if step is None else step_folder(folder, step)
    adapters = weights / (policies[0] if policies else "")
    if not run.full and (adapters / PEFT_FILE).is_file():
        kind = "peft"
        part = read_file(adapters).denoiser
    pairs = []
    for place, weight in parse(run.pairs):
        pairs.append((place.resolve().name, weight, _pair_facts(place)))
    relation = "finetune" if run.full else "adapter"
    measured = [(name.removeprefix("held_out/"), f"{value:.4g}") for name, value in metrics.items()]
    return rendered(
        "card.md.jinja",
        front=head(base, relation, tags, gallery),
        title=(repo or folder.resolve().name).rpartition("/")[2],
        base=public_name(run.model),
        source=hub_id(run.model) or f"path/to/{last_name(run.model)}",
        where=repo or f"path/to/{folder.resolve().name}",
        repo=repo,
        kind=kind,
        part=part,
        file="",
        policies=policies,
        gallery=gallery,
        run=run.resolved(),
        step=step,
        method=name_of(run.method),
        paper=_ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", plain(paper)),
        pairs=pairs,
        settings=list(_rows(published(run.resolved()))),
        metrics=measured,
        best=read_best(folder),
    )


def kind_of(run: Run) -> str:
    """What a run's weights are, as the tags of its card have it."""
    return "full" if run.full else "lora"


def published(run: Run) -> dict[str, Any]:
    """The run's settings as they are written, but files and folders by their last name."""
    paths = set(_paths(run))
    if not hub_id(run.model):
        paths.add(run.model)
    return without_folders(CONVERTER.unstructure(run), paths)


def without_folders(value: Any, paths: Collection[str] = ()) -> Any:
    """The same mappings and lists with the last name in place of each of `paths`, and of all else that is a path."""
    if isinstance(value, dict):
        return {key: without_folders(v, paths) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_folders(v, paths) for v in value]
    if isinstance(value, str) and (value in paths or _is_local(value)):
        return last_name(value)
    return value


def _paths(settings: Any) -> Iterator[str]:
    """All paths in a dataclass and in those that it holds."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Path):
                yield str(part)
            elif is_dataclass(part):
                yield from _paths(part)


def _is_local(text: str) -> bool:
    if text.startswith(("/", "~", "./", "../", "\\")) or _DRIVE.match(text):
        return True
    try:
        return "/" in text and Path(text).exists()
    except (OSError, ValueError):  # no path could be this long
        return False


def _pair_facts(folder: Path) -> list[tuple[str, str]]:
    """How many pairs there are and how they were drawn; nothing when they cannot be read any more."""
    try:
        store = GroupStore(folder)
    except (UserError, OSError):
        return []
    settings = {key: value for key, value in _flat(store.settings) if key.rpartition(".")[2] not in _UNTOLD}
    # a name such as "prompts.txt" may be a file of this machine although it does not look like a path
    files: set[str] = set()
    for key, value in settings.items():
        named = value if isinstance(value, list) else [value]
        if key in _FILES:
            files |= {str(name) for name in named if not hub_id(str(name))}
    return [("number", f"{len(store):,}"), *_rows(without_folders(settings, files))]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _rows(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Dotted names and written values of what is set."""
    for key, value in _flat(settings):
        if value is None or value == []:
            continue
        if isinstance(value, bool):
            yield key, "yes" if value else "no"
        elif isinstance(value, list):
            yield key, ", ".join(map(str, value))
        else:
            yield key, f"{value:g}" if isinstance(value, float) else str(value)
