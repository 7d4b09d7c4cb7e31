"""The model card of a run: what was aligned with what, how far it got, and how stock libraries load it.

Cards and what else is published name files and folders of this machine by their last name alone.
"""

from __future__ import annotations

import html
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from contrapose import __version__, runfile
from contrapose.documents import load_yaml
from contrapose.errors import UserError
from contrapose.files import write_text
from contrapose.methods import name_of
from contrapose.runs.adapter_files import read_file
from contrapose.runs.best import read_best
from contrapose.runs.folder import RunFolder
from contrapose.runs.names import CARD, FULL_FOLDER, PEFT_FILE, RUN_FILE
from contrapose.runs.origin import hub_id, last_name, public_name
from contrapose.store.groups import GroupStore
from contrapose.store.mixture import parse
from contrapose.train.folder import policy_folders
from contrapose.train.settings import CONVERTER, Run

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_ARXIV = re.compile(r"arXiv[: ](\d{4}\.\d{4,5})")
_MARKUP = re.compile(r"[\\`*\[\]|~#$!]|(?<![^\W_])_|_(?![^\W_])")  # an underscore within a word marks nothing
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
    path = folder / RUN_FILE
    return runfile.structured(path, load_yaml(path, _FIX), Run, CONVERTER, _FIX)


def write_card(folder: Path, run: Run, metrics: Mapping[str, float], repo: str | None = None) -> None:
    """Write `README.md` into the run's folder: a hub model card with the final held-out `metrics`.

    `repo` is the hub id that it will be loaded from; the folder's own name stands in when there is none. A run of
    several policies has a folder for each, and its card says how they are used together.
    """
    source = f"path/to/{last_name(run.model)}"
    front: dict[str, Any] = {"library_name": "diffusers", "pipeline_tag": "text-to-image"}
    if hub_id(run.model):
        source = run.model
        front = {"base_model": run.model, **front}  # the hub links it, so only a name it knows
    front["tags"] = ["text-to-image", "contrapose", name_of(run.method), "full" if run.full else "lora"]
    # the first line of the method's own file names its paper
    paper = (sys.modules[type(run.method).__module__].__doc__ or "").strip().partition("\n")[0]
    policies = list(policy_folders(run))
    kind = "full" if run.full else "lora"
    part = ""
    adapters = folder / (policies[0] if policies else "")
    if not run.full and (adapters / PEFT_FILE).is_file():
        kind = "peft"
        part = read_file(adapters).denoiser
    pairs = []
    for place, weight in parse(run.pairs):
        pairs.append((place.resolve().name, weight, _pair_facts(place)))
    environment = Environment(
        loader=PackageLoader("contrapose.publish", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"plain": plain, "literal": repr}
    card = environment.get_template("card.md.jinja").render(
        front=yaml.safe_dump(front, sort_keys=False),
        title=(repo or folder.resolve().name).rpartition("/")[2],
        base=public_name(run.model),
        source=source,
        where=repo or f"path/to/{folder.resolve().name}",
        on_hub=repo is not None,
        kind=kind,
        part=part,
        policies=policies,
        full_folder=FULL_FOLDER,
        run=run.resolved(),
        method=name_of(run.method),
        paper=_ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", plain(paper)),
        pairs=pairs,
        settings=list(_rows(published(run.resolved()))),
        metrics=[(name.removeprefix("held_out/"), f"{value:.4g}") for name, value in metrics.items()],
        best=read_best(folder),
        version=__version__,
    )
    write_text(folder / CARD, card)


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


def plain(text: object) -> str:
    """Any text as one line of Markdown that shows it and does nothing else."""
    # line breaks would end a table's row, and Markdown lets HTML through: both go before Markdown's own signs
    escaped = html.escape(" ".join(str(text).split()), quote=False)
    return _MARKUP.sub(r"\\\g<0>", escaped)


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
    files = {str(value) for key, value in settings.items() if key in _FILES and not hub_id(str(value))}
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
