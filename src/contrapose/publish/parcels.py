"""What is uploaded of a run, a kept step of one, a merge or a file of adapters: files without a path of this machine.

Nothing here asks the hub. What cannot be published is refused by a `UserError` that names it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from contrapose import runfile
from contrapose.documents import load_json, load_yaml
from contrapose.errors import UserError
from contrapose.publish.base import Base
from contrapose.publish.card import finished_run, kind_of, published, run_card, run_of, without_folders
from contrapose.publish.gallery import CardImages, gallery_of_run, gallery_of_samples
from contrapose.publish.markdown import head, rendered
from contrapose.runs.adapter_files import adapter_file, read_file, read_notes
from contrapose.runs.folder import RunFolder
from contrapose.runs.metrics import held_out_of
from contrapose.runs.names import (
    CARD,
    FINISHED,
    FULL_FOLDER,
    LORA_FILE,
    MERGE_FILE,
    METRICS,
    PEFT_CONFIG,
    PEFT_FILE,
    RUN_FILE,
)
from contrapose.runs.origin import hub_id, last_name
from contrapose.runs.seal import is_edited
from contrapose.runs.steps import kept_steps
from contrapose.train.folder import policy_folders
from contrapose.train.settings import Run

INDEX = "model_index.json"
EXPORT = "export"  # tag of the card of a file alone
_WEIGHTS = (LORA_FILE, PEFT_FILE)
_FIX = "merge it anew with 'contrapose merge'"
WriteCard = Callable[[Base, str], str]
"""A card, given what is known of the base model and where on the hub it will be."""


@dataclass(frozen=True)
class Parcel:
    """What is uploaded under one name on the hub."""

    kind: str
    """lora or full, as the tags of its card have it."""
    model: str | None
    """The model below it, as a run's settings name it; of others, which know the last name of a folder, a hub id."""
    files: dict[str, Path | bytes]
    """By the name in the repository: a file as it is, or its text without the folders that it names."""
    write_card: WriteCard
    own_card: str | None = None
    """The user's own card, which goes in place of a written one."""
    joins: bool = False
    """Whether it may lie beside a run that is there, whose card stays: one file for other tools."""


def parcel_of(named: Path, images: Path | None = None) -> Parcel:
    """What is uploaded of what a user names, with the gallery of `images` where a folder of them is named.

    Raises `UserError` where nothing has this name, a run has not finished, weights are missing or broken, and for what
    stock diffusers could not load.
    """
    run = RunFolder(named)
    run.check_exists()
    gallery = gallery_of_samples(images) if images is not None else None
    if run.home is not None:
        return _of_run(run, gallery)
    gallery = gallery or CardImages()
    if (run.path / MERGE_FILE).is_file():
        return _of_merge(run.path, gallery)
    return _of_file(run, gallery)


def _of_run(run: RunFolder, images: CardImages | None) -> Parcel:
    folder = run.path
    if run.home != folder:
        raise UserError(f"{run}: is one policy of a run; name the run, {run.home}, which is used whole")
    step = _step_of(run)
    if step is None:
        return _of_finished(run, images or gallery_of_run(folder))
    settings = run_of(folder)
    if settings.full:
        fix = f"'contrapose merge --model {settings.model} --positive {run} --out FOLDER' makes a pipeline to push"
        raise UserError(f"{run}: a kept step of a run in full is the denoiser alone; {fix}")
    gallery = images or gallery_of_run(folder, step)
    lines = [line for line in run.metrics() if line["step"] <= step]
    measured: dict[str, float] = {}
    for line in lines:
        measured = held_out_of(line) or measured
    files: dict[str, Path | bytes] = {
        RUN_FILE: _settings(settings),
        METRICS: "".join(f"{json.dumps(line)}\n" for line in lines).encode(),
    }
    files |= _weights_of_policies(run.weights, settings) | gallery.files

    def write_card(base: Base, repo: str) -> str:
        return run_card(folder, settings, measured, base, gallery, repo, step)

    return Parcel(kind_of(settings), settings.model, files, write_card)


def _step_of(run: RunFolder) -> int | None:
    """The kept step that was named; None where it is the end of a run."""
    if run.step is None:
        return None
    weights = run.weights
    return next((step for step, folder in kept_steps(run.path).items() if folder == weights), None)


def _of_finished(run: RunFolder, gallery: CardImages) -> Parcel:
    folder = run.path
    if not run.finished and run.steps:
        raise UserError(f"{run}: has not finished; name a kept step of it, such as {folder}@{run.steps[-1]}")
    settings = finished_run(folder)
    files: dict[str, Path | bytes] = {RUN_FILE: _settings(settings)}
    for name in (FINISHED, METRICS):
        if (folder / name).is_file():
            files[name] = folder / name
    files |= _weights_of_policies(folder, settings) | gallery.files
    measured = run.final_metrics()

    def write_card(base: Base, repo: str) -> str:
        return run_card(folder, settings, measured, base, gallery, repo)

    card = folder / CARD
    own_card = card.read_text(encoding="utf-8", errors="surrogateescape") if card.is_file() else None
    if own_card is not None and not is_edited(own_card):
        own_card = None
    return Parcel(kind_of(settings), settings.model, files, write_card, own_card)


def _of_merge(folder: Path, gallery: CardImages) -> Parcel:
    note = load_yaml(folder / MERGE_FILE, _FIX)
    if not isinstance(note, dict) or not isinstance(note.get("base"), str):
        raise UserError(f"{folder / MERGE_FILE}: does not tell what was merged; {_FIX}")
    is_pipeline = (folder / INDEX).is_file()
    files: dict[str, Path | bytes] = {MERGE_FILE: folder / MERGE_FILE}
    if is_pipeline:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.name.startswith(".") and path.name != CARD:
                files[path.relative_to(folder).as_posix()] = _content(path)
    else:
        files |= _weights(folder)
    facts = {"Base model": note["base"], "Towards": note.get("positive")}
    if note.get("negative"):
        facts["Away from"] = note["negative"]
    facts |= {"Strength w": note.get("scale"), "Weights": "a whole pipeline" if is_pipeline else "adapters"}
    write_card = _weights_card("merge", "Aligned runs, merged", folder, facts, gallery, note["base"])
    kind = "full" if is_pipeline else "lora"
    return Parcel(kind, hub_id(note["base"]), {**files, **gallery.files}, write_card)


def _of_file(run: RunFolder, gallery: CardImages) -> Parcel:
    """Adapters that are no run's: one file, or a folder as diffusers or peft write it."""
    path = adapter_file(run.path)
    if path is None:
        raise UserError(
            f"{run}: holds no run of 'contrapose align', no merge and no adapters; there is nothing to push"
        )
    notes = read_notes(path)
    model = notes.get("base", "")
    facts = {"Base model": model or "not told by the file", "Weights": "adapters"}
    if "method" in notes:
        facts["Method"] = notes["method"]
    is_alone = path.name not in _WEIGHTS
    where = path if is_alone else path.parent
    files: dict[str, Path | bytes] = {path.name: path} if is_alone else _weights(where)
    write_card = _weights_card(EXPORT, "Adapters of an aligned run", where, facts, gallery, model)
    return Parcel("lora", hub_id(model), {**files, **gallery.files}, write_card, joins=is_alone)


def _weights_card(
    tag: str, what: str, where: Path, facts: dict[str, Any], gallery: CardImages, model: str
) -> Callable[[Base, str], str]:
    """The card of weights that have no run's settings beside them."""
    kind = "lora"
    relation = "adapter"
    part = ""
    tags = [tag, "lora"]
    if (where / INDEX).is_file():
        kind = "pipeline"
        relation = "merge"
        tags = [tag, "full"]
    elif (where / PEFT_FILE).is_file():
        kind = "peft"
        part = read_file(where).denoiser
    source = hub_id(model) or f"path/to/{last_name(model or 'model')}"
    file = where.name if where.is_file() else ""

    def write_card(base: Base, repo: str) -> str:
        return rendered(
            "weights.md.jinja",
            front=head(base, relation, tags, gallery),
            title=repo.rpartition("/")[2],
            what=what,
            facts=list(facts.items()),
            source=source,
            where=repo,
            repo=repo,
            kind=kind,
            part=part,
            file=file,
            policies=[],
            gallery=gallery,
        )

    return write_card


def _settings(run: Run) -> bytes:
    """run.yaml without the folders that it names."""
    return yaml.safe_dump(runfile.stamped(published(run)), sort_keys=False, allow_unicode=True).encode()


def _weights_of_policies(folder: Path, run: Run) -> dict[str, Path | bytes]:
    """The files of weights of a run, a folder a policy where it has several."""
    policies = policy_folders(run)
    if not policies:
        return _weights(folder)
    files: dict[str, Path | bytes] = {}
    for policy in policies:
        files |= {f"{policy}/{name}": content for name, content in _weights(folder / policy).items()}
    return files


def _weights(folder: Path) -> dict[str, Path | bytes]:
    """The files of one policy's weights; `UserError` where there are none."""
    adapters = [folder / name for name in (*_WEIGHTS, PEFT_CONFIG) if (folder / name).is_file()]
    network = sorted(path for path in (folder / FULL_FOLDER).rglob("*") if path.is_file())
    # peft's settings alone are not weights
    if not network and not any(path.name in _WEIGHTS for path in adapters):
        raise UserError(f"{folder}: holds no weights to upload; has the run finished?")
    return {path.relative_to(folder).as_posix(): _content(path) for path in (*adapters, *network)}


def _content(path: Path) -> Path | bytes:
    """What is uploaded for a file: the file, or its text without the folders that it names."""
    if path.name == INDEX or path.name.endswith("config.json"):
        config = load_json(path)
        if not isinstance(config, dict):
            raise UserError(f"{path}: a mapping of settings was expected")
        origins = {key: value for key, value in config.items() if key.endswith("name_or_path")}
        if without_folders(origins) != origins:
            return json.dumps(config | without_folders(origins), indent=2).encode()
    return path
