"""The model card of a run: what was aligned with what, how far it got, and how stock libraries load it.

Cards and what else is published name files and folders of this machine by their last name alone.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

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
from contrapose.store.mixture import names_prompts, parse
from contrapose.store.prompt_list import PromptList
from contrapose.train.folder import policy_folders
from contrapose.train.settings import CONVERTER, Run

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_ARXIV = re.compile(r"arXiv[: ](\d{4}\.\d{4,5})")
_PLACES = ("photos", "source", "winners", "losers", "metadata", "image_folder", "file", "saliency")  # on this machine
_MODELS = ("model", "prompts")  # which may be there too
_FIX = "correct run.yaml; where an earlier Contrapose wrote it, give its settings the names that they have now"
# of how pairs were made: what decides nothing, or is private
_UNTOLD = frozenset({"batch_size", "shard_size", "cache", "endpoint", "address", "asking"})
_HERE = "127.0.0.1"  # in place of a server's name


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
    pairs = [PairsOfCard.at(place, weight) for place, weight in parse(run.pairs)]
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
    """The run's settings as they are written, but files and folders by their last name, and servers without theirs."""
    paths = set(_paths(run))
    if not hub_id(run.model):
        paths.add(run.model)
    written: dict[str, Any] = _without_hosts(without_folders(CONVERTER.unstructure(run), paths))
    return written


def _without_hosts(value: Any) -> Any:
    """The same mappings and lists with this machine in place of the host of each `address`."""
    if isinstance(value, list):
        return [_without_hosts(part) for part in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _without_hosts(part) for key, part in value.items()}
    if isinstance(kept.get("address"), str):
        address = urlsplit(kept["address"])
        port = address.netloc.rpartition("@")[2].rpartition(":")[2]
        kept["address"] = address._replace(netloc=f"{_HERE}:{port}" if port.isdecimal() else _HERE).geturl()
    return kept


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


class PairsOfCard(NamedTuple):
    """What a card says of one of the things that a run was trained on."""

    name: str
    weight: float
    are_prompts: bool
    """Whether it is a file of prompts, of which the run drew samples itself."""
    facts: Sequence[tuple[str, str]]
    """How many there are, and how pairs were made; nothing when they cannot be read any more."""

    @classmethod
    def at(cls, place: Path, weight: float) -> PairsOfCard:
        are_prompts = names_prompts(place)
        facts: list[tuple[str, str]] = []
        with suppress(UserError, OSError):
            facts = [("number", f"{len(PromptList(place)):,}")] if are_prompts else _facts(GroupStore(place))
        return cls(place.resolve().name, weight, are_prompts, facts)


def _facts(store: GroupStore) -> list[tuple[str, str]]:
    """How many pairs there are and how they were made."""
    settings = {key: value for key, value in _flat(store.settings) if _UNTOLD.isdisjoint(key.split("."))}
    # a name such as "prompts.txt" may be a file of this machine although it does not look like a path
    files: set[str] = set()
    for key, value in settings.items():
        values = value if isinstance(value, list) else [value]
        named = list(map(str, values))
        last = key.rpartition(".")[2]
        if last in _PLACES:
            files.update(named)
        elif last in _MODELS:
            files.update(name for name in named if not hub_id(name))
    return [("number", f"{len(store):,}"), *_rows(without_folders(settings, files))]


def _flat(settings: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All settings by their dotted names, those of a list by its numbers too."""
    for key, value in settings.items():
        holds_settings = isinstance(value, list) and any(isinstance(part, Mapping) for part in value)
        section = dict(enumerate(value)) if holds_settings else value
        if isinstance(section, Mapping):
            yield from _flat(section, f"{prefix}{key}.")
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
