"""Where everything came from: pairs, images, commands and versions.

Settings are looked up by name instead of being read as `Draw` or `Sampling`, so that folders of earlier versions are
shown as well; which of them are sections, the classes say.
"""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from huggingface_hub import try_to_load_from_cache

from contrapose.backbones.settings import UNREAD_BY_IMAGES
from contrapose.containers.places import size_of
from contrapose.documents import load_yaml
from contrapose.draw.settings import Draw
from contrapose.errors import UserError
from contrapose.evaluate.evidence import Evidence
from contrapose.exchange.settings import Import
from contrapose.guiding.images import SETTINGS
from contrapose.guiding.settings import Sampling
from contrapose.photographs.settings import Real
from contrapose.report.evidence import Judged
from contrapose.report.numbers import count, size
from contrapose.report.runs import Fact, ShownRun, is_set
from contrapose.report.shown_groups import Decode, ShownGroup, by_lot, show_groups
from contrapose.runfile import sections, unstamped
from contrapose.runs.names import RUN_FILE
from contrapose.store.groups import GroupStore
from contrapose.store.manifest import JUDGED
from contrapose.store.records import GroupRecord
from contrapose.worlds.best_of import judges_of
from contrapose.worlds.suites import SUITES

_PACKAGES = ("contrapose", "torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "scipy", "pillow")
_NUM_PAIRS_SHOWN = 6
_FIX = "sample these images again"
_PRACTICAL = ("batch_size", "shard_size")  # settings that change no result
# settings of settings, whose flags have no prefix
_SECTIONS = frozenset(name for cls in (Draw, Import, Real, Sampling, *SUITES.values()) for name in sections(cls))


class Pairs(NamedTuple):
    """A folder of pairs: facts, and a few of them by lot."""

    about: str
    facts: list[Fact]
    shown: list[ShownGroup]
    """With their images; empty where these cannot be decoded."""
    not_shown: str
    """Why there are no images; empty where there are."""
    records: list[GroupRecord]
    """The same pairs' prompts."""
    drawn: bool
    """Whether winners were drawn from prompts and losers from degraded ones, and nobody was asked which is better."""


class Compared(NamedTuple):
    """Settings of several things: what all share, and a table of what differs."""

    names: tuple[str, ...]
    shared: list[Fact]
    differing: list[tuple[str, ...]]
    """Rows of a setting's label and its value for each name."""


def compare(facts_by_name: Mapping[str, Sequence[Fact]]) -> Compared:
    """What several things have in common and what not; one that lacks a fact has a dash there."""
    values_by_name = {name: dict(facts) for name, facts in facts_by_name.items()}
    labels = dict.fromkeys(label for values in values_by_name.values() for label in values)
    shared = []
    differing = []
    for label in labels:
        row = [values.get(label, "–") for values in values_by_name.values()]
        if len(set(row)) == 1:
            shared.append(Fact(label, row[0]))
        else:
            differing.append((label, *row))
    return Compared(tuple(facts_by_name), shared, differing)


def read_pairs(folder: Path, seed: int) -> Pairs:
    """Counts, settings and a random few of a folder of pairs. Raises `UserError` when it is none."""
    store = GroupStore(folder)
    prompts = store.records.num_distinct("prompt")
    size_on_disk = size(sum(map(size_of, store.shards)))
    about = f"{count(len(store))} pairs of {count(prompts)} prompts, {size_on_disk}, in {folder}."
    facts = []
    for key, value in flat(store.settings).items():
        if key not in _PRACTICAL and is_set(value):
            facts.append(Fact(_label(key), _written(value)))
    if "fingerprint" in store.manifest:
        facts.append(Fact("Model's fingerprint", str(store.manifest["fingerprint"])))
    shown: list[ShownGroup] = []
    not_shown = ""
    try:
        decoder = _decoder(store)
    except UserError as error:  # a report is made where the model may not be
        not_shown = str(error)
    else:
        shown = show_groups(store, decoder, _NUM_PAIRS_SHOWN, seed)
    records = [store.records[index] for index in by_lot(store, _NUM_PAIRS_SHOWN, seed)]
    steps = [store.manifest, *store.manifest.get("earlier", ())]
    are_labelled = any("label" in step for step in steps)
    # otherwise which sample is the loser does not go by the prompt that it was drawn from
    is_drawn = "draw" in store.manifest and not store.settings.get("samples_per_prompt") and not are_labelled
    return Pairs(about, facts, shown, not_shown, records, is_drawn)


def _decoder(store: GroupStore) -> Decode:
    """What makes images of the store's latents; `UserError` where the model that they were made with is not here."""
    from contrapose.backbones.decoder import Decoder

    model = store.model_or(None)
    if Path(model).exists():
        decoder = Decoder(model)
    else:
        index = try_to_load_from_cache(model, "model_index.json")
        if not isinstance(index, str):
            raise UserError(f"their model {model} is not on this machine")
        try:
            # the hub's cache as a folder, of which nothing is downloaded that is not there
            decoder = Decoder(Path(index).parent)
        except UserError as error:
            raise UserError(f"their model {model} cannot be loaded from the hub's cache: {error}") from None
    store.check_maker(model, decoder.fingerprint)
    return decoder


def sampling(images: Mapping[str, Path]) -> Compared:
    """How each model's images were made, as far as their folders say."""
    return compare({model: _sampling_facts(settings_of(folder)) for model, folder in images.items()})


def share_noise(images: Mapping[str, Path]) -> bool:
    """Whether images of one prompt and place are of the same noise in all folders: drawn here, and each but once."""
    sizes: set[object] = set()
    for folder in images.values():
        settings = settings_of(folder)
        if not settings or settings.get("best_of", 1) > 1:
            return False
        sizes.add(settings.get("size"))
    return len(sizes) == 1


def _sampling_facts(settings: Mapping[str, Any]) -> list[Fact]:
    """The settings that are set and decide an image: no guidance where no run guides."""
    guided = settings.get("positive") or settings.get("negative")
    shown = []
    for key, value in settings.items():
        if key not in _PRACTICAL and is_set(value) and (guided or key != "guidance"):
            shown.append(Fact(_label(key), _written(value)))
    return shown


def settings_of(folder: Path) -> dict[str, Any]:
    """How a folder's images were made; empty for those that another program made."""
    path = folder / SETTINGS
    if not path.is_file():
        return {}
    settings = load_yaml(path, _FIX)
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise UserError(f"{path}: not readable as settings; {_FIX}")
    settings = flat(unstamped(path, settings))
    guidance = settings.get("guidance")
    named = isinstance(guidance, dict) and isinstance(guidance.get("name"), str)
    if not named and (guidance is not None or settings.get("positive") or settings.get("negative")):
        raise UserError(f"{path}: does not name its guidance; {_FIX}")
    return settings


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without their sections, as they are typed."""
    shown: dict[str, Any] = {}
    for name, value in settings.items():
        shown |= value if name in _SECTIONS and isinstance(value, dict) else {name: value}
    return shown


def commands(
    pairs: Path | None,
    runs: Sequence[ShownRun],
    judged: Sequence[Judged],
    unjudged: Sequence[Evidence] = (),
    images: Mapping[str, Path] = MappingProxyType({}),
) -> list[str]:
    """What to type for each result, worked out from the settings that lie beside it."""
    lines = [] if pairs is None else _pairs(GroupStore(pairs), pairs)
    lines += [_command("align", [str(run.folder / RUN_FILE)], run.folder) for run in runs]
    shown_by = [evaluation.evidence for evaluation in judged] + list(unjudged)
    groups = [*(evidence.images for evidence in shown_by), images]
    for folder in dict.fromkeys(folder for group in groups for folder in group.values()):
        if settings := settings_of(folder):
            lines.append(_command("sample", _sampling_flags(settings) + _judges(judges_of(folder)), folder))
    for evaluation in judged:
        if evaluation.images and evaluation.base is not None:
            compared = ["--base", evaluation.base, "--replicates", str(evaluation.summary.replicates)]
            if evaluation.evidence.trained_for:
                compared += ["--trained-for", *evaluation.evidence.trained_for]
            lines.append(_evaluation(evaluation.evidence, compared))
    lines += [_evaluation(evidence, []) for evidence in unjudged]
    return lines


def _pairs(store: GroupStore, folder: Path) -> list[str]:
    settings = flat(store.settings)
    # the folder that judges were given is not recorded
    if any(step in store.manifest for step in JUDGED):
        return []
    if "real" in store.manifest:
        return [_command("pairs real", [str(folder / "real.yaml")], folder)]
    degrade = settings.get("degrade") or {}
    name = ["--degrade", str(degrade["name"])] if "name" in degrade else []
    if not settings:
        return []
    if "draw" in store.manifest:
        return [_command("pairs draw", [*name, *_flags(settings)], folder)]
    taken = {key: value for key, value in settings.items() if key not in UNREAD_BY_IMAGES}
    return [_command("pairs import", _flags(taken), folder)]


def _evaluation(evidence: Evidence, compared: list[str]) -> str:
    suite = flat(evidence.suite)
    words = ["--suite", str(suite["name"])] if "name" in suite else []
    words += _judges(suite.get("judges") or [])
    words += _flags({key: value for key, value in suite.items() if key not in ("name", "judges")})
    if evidence.features is not None:
        flags = _flags(_without_name(evidence.features), "features.")
        words += ["--features", str(evidence.features["name"]), *flags]
    words += [] if evidence.taking is None else _flags(asdict(evidence.taking))
    words += ["--images", *(f"{model}={folder}" for model, folder in evidence.images.items())]
    return _command("evaluate", [*words, *compared, "--title", evidence.title], evidence.folder)


def _judges(judges: Sequence[Mapping[str, Any]]) -> list[str]:
    """Judges as flags: their settings follow their names by number."""
    if not judges:
        return []
    words = ["--judges", *(str(judge["name"]) for judge in judges)]
    for number, judge in enumerate(judges):
        words += _flags(_without_name(judge), f"judges.{number}.")
    return words


def _command(name: str, words: list[str], out: Path) -> str:
    return f"contrapose {name} {shlex.join([*words, '--out', str(out)])}"


def _sampling_flags(settings: Mapping[str, Any]) -> list[str]:
    """A sampler's settings, whose guidance has flags without a prefix, and none where no run guides."""
    words = _flags({name: value for name, value in settings.items() if name != "guidance"})
    if settings.get("positive") or settings.get("negative"):
        guidance = settings["guidance"]
        words += ["--guidance", str(guidance["name"]), *_flags(_without_name(guidance))]
    return words


def _flags(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """A mapping as command line flags; a nested `name` is the union's choice and no flag."""
    words: list[str] = []
    for key, value in settings.items():
        flag = f"{prefix}{key}".replace("_", "-")
        if isinstance(value, dict):
            words += _flags(_without_name(value), f"{flag}.")
        elif isinstance(value, bool):
            # the command line puts the no before the last name: --loading.no-offload
            words.append(f"--{flag}" if value else f"--{prefix}no-{key}".replace("_", "-"))
        elif isinstance(value, (list, tuple)):
            words += [f"--{flag}", *map(str, value)] if value else []
        elif value is not None:
            words += [f"--{flag}", str(value)]
    return words


def _without_name(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a union's choice: its name is told apart from them, or is no flag."""
    return {key: value for key, value in settings.items() if key != "name"}


def versions() -> list[Fact]:
    """Of the machine that writes the report."""
    facts = [Fact("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")]
    for name in _PACKAGES:
        try:
            facts.append(Fact(name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:  # a source tree that was never installed
            facts.append(Fact(name, "not installed"))
    return facts


def _label(key: str) -> str:
    return key.replace("_", " ").capitalize()


def _written(value: Any) -> str:
    if value is None or value == []:
        return "–"
    if isinstance(value, dict):
        rest = ", ".join(f"{key} {_written(v)}" for key, v in value.items() if key != "name" and v is not None)
        return "; ".join(part for part in (str(value.get("name", "")), rest) if part)
    return f"{value:g}" if isinstance(value, float) else str(value)
