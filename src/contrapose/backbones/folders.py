"""A pipeline's folder, looked at before anything of it is loaded: its index, and each part's class, numbers and files.

What is refused here would else be a traceback from deep within a library, a question to the user, or all of the memory.
"""

from __future__ import annotations

import inspect
import math
import re
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import transformers
from torch import nn

from contrapose.documents import load_json
from contrapose.errors import UserError

INDEX = "model_index.json"
SCHEDULER = "scheduler_config.json"
_LIBRARIES = {"diffusers": diffusers, "transformers": transformers}
_AGAIN = "download the model again"
_VOCABULARY = re.compile(r"tokenizer\.json|vocab\..+|.+\.model")
# `model.fp16.safetensors`, in shards `model.fp16-00001-of-00002.safetensors` or, of old, `model-00001-of-00002.fp16...`
_WEIGHTS = re.compile(
    r"(?:model|diffusion_pytorch_model)(?:\.(\w+))?(?:-\d+-of-\d+)?(?:\.(\w+))?\.safetensors(?:\.index(?:\.(\w+))?\.json)?"
)
_LARGEST = 10_000_000  # of any whole number: vocabularies have a quarter of a million words
# Numbers that memory or time grow with before a single weight is read.
_COUNTS = {"sample_size": 4096, "pos_embed_max_size": 512, "num_train_timesteps": 10_000}
_DIVIDED = re.compile(r"(num_)?(\w+_)?heads|\w*head_dim|norm_num_groups|hidden_size|intermediate_size|d_(model|kv|ff)")
_LARGEST_SIDE = 512  # of latents: images of 4096 pixels are of 128 to 512
_MOST_LAYERS = 1000
_MERGED = 0.99  # of a vocabulary's words that are longer than a letter; the others are marks, such as the end of a text
_MAY_BE_INFINITE = "lambda_min_clipped"  # of DPM++ schedulers, whose usual value is minus infinity


class Part(NamedTuple):
    """One network of a pipeline: its name there, its class and its folder."""

    name: str
    kind: type[nn.Module]
    folder: Path


def read_index(folder: Path) -> dict[str, Any]:
    """What a pipeline's folder says of its parts; `UserError` where it does not, or says what is no part."""
    path = folder / INDEX
    if not path.is_file():
        raise UserError(f"{folder}: {_what_else(folder)}")
    index = read_object(path)
    for part, source in index.items():
        if isinstance(source, list) and not is_absent(source) and not _is_pair(source):
            raise UserError(f"{path}: {part} is {source!r:.100}, where a library and a class are expected; {_AGAIN}")
    return index


def _what_else(folder: Path) -> str:
    """What a folder is that is no pipeline's, as far as its files tell."""
    if (folder / "model" / INDEX).is_file():
        return f"is a run that trained the whole network; name {folder / 'model'}, or the run with --adapter"
    if any(folder.glob("*lora*.safetensors")) or (folder / "adapter_config.json").is_file():
        return "is a LoRA and no model; name the model that it goes on top of, and this with --adapter or --positive"
    config = folder / "config.json"
    if config.is_file():
        said = read_object(config)
        kind = said.get("_class_name") or said.get("architectures") or "network"
        return f"is a {kind!s:.100} alone, and no whole pipeline; name the model folder that it is a part of"
    return f"no {INDEX}, so this is no diffusers pipeline folder"


def _is_pair(source: Any) -> bool:
    return isinstance(source, (list, tuple)) and len(source) == 2 and all(isinstance(name, str) for name in source)


def is_absent(source: Any) -> bool:
    """Whether the index says of a part that there is none, as of a safety checker that was left out."""
    return isinstance(source, (list, tuple)) and len(source) == 2 and source[0] is None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that is an object; `UserError` for anything else."""
    value = load_json(path, _AGAIN)
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a JSON object; {_AGAIN}")
    return value


def check_parts(folder: Path, pipeline: type, unused: Sequence[str], optional: Sequence[str] = ()) -> None:
    """Raise `UserError` unless every part that the pipeline needs is there, of a class that it takes, and can be read.

    Parts that are `unused` are not looked at; those that are `optional` may be absent.
    """
    index = read_index(folder)
    for name, hint in parts_taken(pipeline).items():
        if name in unused:
            continue
        source = index.get(name)
        if source is None or is_absent(source):
            if name not in optional:
                raise UserError(f"{folder}: its {INDEX} names no {name}, which a {pipeline.__name__} has; {_AGAIN}")
            continue
        if not _is_pair(source):
            raise UserError(f"{folder / INDEX}: {name} is {source!r:.100}, where a library and a class are expected")
        kind = class_of(folder, name, source)
        if not any((folder / name).glob("*")):
            raise UserError(f"{folder}: its part {name}/ is missing; {_AGAIN}")
        if issubclass(kind, nn.Module):
            _check_network(Part(name, kind, folder / name), hint)
        elif name.startswith("tokenizer"):
            _check_tokenizer(folder / name)
        else:
            check_numbers(folder / name / SCHEDULER)
            _check_kind(folder / name / SCHEDULER, source[1])


def _check_kind(path: Path, kind: str) -> None:
    """Raise `UserError` for settings of a scheduler of another path than the index names.

    diffusers reads them all the same, and takes its defaults for what they do not say. Schedulers of one path may
    differ: their settings are the same.
    """
    written_by = str(load_json(path).get("_class_name", kind))
    for path_of in ("FlowMatch", "EDM"):
        if (path_of in written_by) != (path_of in kind):
            raise UserError(f"{path}: is of a {written_by}, and the index names a {kind}; {_AGAIN}")


def networks_of(folder: Path, leave_out: Collection[str]) -> list[Part]:
    """The networks of a pipeline folder, which are what has a config.json, apart from those that are left out."""
    sources = {name: source for name, source in read_index(folder).items() if (folder / name / "config.json").is_file()}
    wanted = {name: source for name, source in sources.items() if _is_pair(source) and name not in leave_out}
    kinds = {name: class_of(folder, name, source) for name, source in wanted.items()}
    return [Part(name, kind, folder / name) for name, kind in kinds.items() if issubclass(kind, nn.Module)]


def parts_taken(pipeline: type) -> dict[str, Any]:
    """The parts that a pipeline is made of, and the classes that it takes for them; settings have defaults."""
    hints = typing.get_type_hints(pipeline.__init__)  # type: ignore[misc]
    parameters = list(inspect.signature(pipeline.__init__).parameters.values())[1:]  # type: ignore[misc]
    return {p.name: hints.get(p.name) for p in parameters if p.default is p.empty}


def class_of(folder: Path, name: str, source: Sequence[str]) -> type:
    """A part's class; `UserError` for one that is neither of diffusers nor of transformers: it could be any program."""
    library, kind = source
    cls = getattr(_LIBRARIES.get(library), kind, None)
    if not isinstance(cls, type) or re.match("Auto[A-Z]", kind) or not hasattr(cls, "from_pretrained"):
        raise UserError(
            f"{folder / INDEX}: {name} is a {kind} of {library}; only models of diffusers and transformers are loaded, "
            "since others can run code"
        )
    return cls


def _check_network(part: Part, hint: Any) -> None:
    wanted = tuple(kind for kind in (typing.get_args(hint) or (hint,)) if isinstance(kind, type))
    if wanted and not issubclass(part.kind, wanted):
        names = " or ".join(kind.__name__ for kind in wanted)
        raise UserError(f"{part.folder}: is of class {part.kind.__name__}, where this pipeline takes {names}")
    config = check_numbers(part.folder / "config.json")
    _check_kinds(part.folder / "config.json", part.kind, config)
    usual = inspect.signature(part.kind.__init__).parameters  # type: ignore[misc]
    if "sample_size" in usual and not part.name.startswith("vae"):
        check_sample_size(part.folder / "config.json", config.get("sample_size", usual["sample_size"].default))
    if part.name == "vae":
        _check_autoencoder(part.folder / "config.json", config)


def _check_kinds(path: Path, kind: type[nn.Module], config: Mapping[str, Any]) -> None:
    """Raise `UserError` for a value that is not a number where the class takes one, or is negative where it counts."""
    hints = typing.get_type_hints(kind.__init__)  # type: ignore[misc]
    for name, parameter in inspect.signature(kind.__init__).parameters.items():  # type: ignore[misc]
        hint = hints.get(name, type(parameter.default))
        if name not in config or hint not in (int, float):
            continue
        value = config[name]
        usual = type(value) is type(parameter.default)  # diffusers calls some yes or no a float
        if not usual and not _is_number(value):
            raise UserError(f"{path}: {name} is {value!r:.100}, where a number is expected; {_AGAIN}")
        if hint is int and (value != int(value) or value < 0):
            raise UserError(f"{path}: {name} is {value!r:.100}, where a whole number is expected; {_AGAIN}")
    for name, value in config.items():
        if _DIVIDED.fullmatch(name) and isinstance(value, int) and (value is True or value < 1):
            raise UserError(f"{path}: {name} is {value}, where a whole number above 0 is expected; {_AGAIN}")
        if name.endswith(("_eps", "epsilon")) and not _is_number(value):
            raise UserError(f"{path}: {name} is {value!r:.100}, where a number is expected; {_AGAIN}")


def check_sample_size(path: Path, size: Any) -> None:
    """Raise `UserError` for the side of a network's images, or [height, width], that is none."""
    sides = size if isinstance(size, list) and len(size) == 2 else [size]
    if not all(isinstance(side, int) and not isinstance(side, bool) and 0 < side <= _LARGEST_SIDE for side in sides):
        raise UserError(f"{path}: sample_size is {size!r}, where a whole number from 1 to {_LARGEST_SIDE} is expected")


def _check_autoencoder(path: Path, config: Mapping[str, Any]) -> None:
    scale = config.get("scaling_factor", 1.0)
    if not _is_number(scale) or scale <= 0:
        raise UserError(f"{path}: scaling_factor is {scale!r}, where a number above 0 is expected")
    shift = config.get("shift_factor")
    if shift is not None and not _is_number(shift):
        raise UserError(f"{path}: shift_factor is {shift!r}, where a number is expected")
    for name in ("latents_mean", "latents_std"):
        values = config.get(name)
        count = config.get("latent_channels", config.get("z_dim", 4))
        sound = isinstance(values, list) and len(values) == count and all(map(_is_number, values))
        if values is not None and not (sound and (name == "latents_mean" or min(values) > 0)):
            raise UserError(
                f"{path}: {name} is {values!r:.100}, where {count} numbers are expected, deviations above 0"
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check_numbers(path: Path) -> dict[str, Any]:
    """A part's configuration; `UserError` for numbers in it that are not finite, or that no model has."""
    config = read_object(path)
    for name, value in _numbers(config):
        limit = _MOST_LAYERS if "layers" in name else _COUNTS.get(name, _LARGEST)
        sound = abs(value) <= limit if isinstance(value, int) else math.isfinite(value)
        if name in _COUNTS and not (isinstance(value, int) and 0 < value <= limit):
            raise UserError(f"{path}: {name} is {value!s:.20}, where a whole number from 1 to {limit} is expected")
        if not sound and name != _MAY_BE_INFINITE:
            raise UserError(f"{path}: {name} is {value!s:.20}, where a number up to {limit} is expected; {_AGAIN}")
    return config


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, int | float]]:
    """All numbers of a configuration, with the names that they stand under."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner, name)
    elif isinstance(value, (int, float)):
        yield name, value


def _check_tokenizer(folder: Path) -> None:
    # transformers makes a tokenizer of its configuration alone, to which every word is unknown
    if not any(_VOCABULARY.fullmatch(path.name) for path in folder.iterdir()):
        raise UserError(f"{folder.parent}: {folder.name}/ has no vocabulary; {_AGAIN}")
    for path in folder.glob("*config.json"):
        read_object(path)
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        _check_merges(folder)


def _check_merges(folder: Path) -> None:
    """Raise `UserError` where words of the vocabulary can be put together by none of the merges.

    A list of merges that was cut is a list still, and would only read prompts in smaller pieces than the network knows.
    """
    words = [word for word in read_object(folder / "vocab.json") if len(word.removesuffix("</w>")) > 1]
    try:
        merges = (folder / "merges.txt").read_text(encoding="utf-8").count("\n")
    except ValueError:
        merges = 0
    if merges < _MERGED * len(words):
        raise UserError(f"{folder}: {merges} merges for {len(words)} words, so merges.txt is cut short; {_AGAIN}")


def variant_of(folder: Path, variant: str | None) -> str | None:
    """The variant that a network is read of: the one asked for, or the plain one where it has not got that.

    Raises `UserError` where it has neither, naming those that it has, and for an index that names missing shards.
    """
    variants = {_variant(path.name) for path in folder.iterdir() if _WEIGHTS.fullmatch(path.name)}
    for wanted in (variant, None):
        if wanted in variants:
            _check_shards(folder, wanted)
            return wanted
    named = sorted(filter(None, variants))
    if named:
        raise UserError(f"{folder}: its weights are there as {' and '.join(named)} alone; say --variant {named[0]}")
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".ckpt", ".pt", ".pth"))
    if pickled:
        raise UserError(
            f"{folder}: its weights are there as {pickled[0]} alone, which can run code and is never read; where you "
            "trust it, load the model with diffusers and save it with save_pretrained, which writes safetensors"
        )
    raise UserError(f"{folder}: holds no weights (.safetensors); {_AGAIN}")


def _variant(name: str) -> str | None:
    match = _WEIGHTS.fullmatch(name)
    assert match, "asked of weights alone"
    return next(filter(None, match.groups()), None)


def _check_shards(folder: Path, variant: str | None) -> None:
    """Raise `UserError` for an index of shards that names files which are not in its own folder."""
    for path in folder.glob("*.safetensors.index*.json"):
        if _WEIGHTS.fullmatch(path.name) is None or _variant(path.name) != variant:
            continue
        shards = read_object(path).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise UserError(f"{path}: its weight_map does not tell which tensor is in which file; {_AGAIN}")
        for name in sorted(set(shards.values())):
            # the libraries open whatever an index names, also what lies outside of the model
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise UserError(f"{path}: names {name!r:.100}, which is no .safetensors file of its own folder")
            if not (folder / name).is_file():
                raise UserError(f"{path}: names {name}, which is not there; {_AGAIN}")
