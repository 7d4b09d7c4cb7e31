"""Settings as files: what decides a result is written beside it, and what is read back is checked to the last key."""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from contrapose.documents import as_read, dump_yaml, load_yaml
from contrapose.errors import UserError
from contrapose.files import write_text
from contrapose.ranges import field_types
from contrapose.renamed import new_name

if TYPE_CHECKING:
    import cattrs  # which a pipeline under guidance needs not

INPUTS = "inputs.yaml"
VERSION = 1
"""Of files of settings, under the key `version`: counted up when a later contrapose would be misread by this one."""
_SHOWN = 100  # characters of a value that is told
_OTHER_OUT = "choose another --out, or delete the folder"
T = TypeVar("T")
Names = dict[str, type]


class _Practical:
    """Marks a type in `Annotated`."""


Practical = Annotated[T, _Practical]
"""A setting that decides no result: where a server is, where weights are whose content is noted, what is watched."""


def converter(*unions: tuple[Any, Names]) -> cattrs.Converter:
    """A strict converter; a member of each given union is written with its name from the table under the key `name`."""
    import cattrs
    from cattrs.strategies import configure_tagged_union

    strict = cattrs.Converter(forbid_extra_keys=True)
    strict.register_structure_hook(Path, as_path)
    strict.register_unstructure_hook(Path, str)
    strict.register_structure_hook(bool, _exactly(bool))
    strict.register_structure_hook(int, _exactly(int, "whole number"))
    strict.register_structure_hook(float, _number)
    strict.register_structure_hook(str, _exactly(str))
    strict.register_structure_hook_func(lambda kind: get_origin(kind) is Literal, _one_of)
    strict.register_structure_hook_factory(lambda kind: bool(_usual_sections(kind)), _completing)
    for union, names in unions:
        by_class = {cls: name for name, cls in names.items()}
        configure_tagged_union(union, strict, tag_name="name", tag_generator=by_class.__getitem__)
    return strict


def _usual_sections(cls: Any) -> dict[str, Any]:
    """Settings of a class that are settings of their own, and that it usually has otherwise than their class does."""
    usual: dict[str, Any] = {}
    for name, field in getattr(cls, "__dataclass_fields__", {}).items():
        section = field.default_factory() if callable(field.default_factory) else None
        # a class that is its own factory says itself what is usual
        if is_dataclass(section) and field.default_factory is not type(section):
            usual[name] = section
    return usual


def _completing(cls: type, conv: cattrs.Converter) -> Callable[[Any, Any], Any]:
    """Structure a class so that a section that a file gives in part is what it usually is there in all the rest."""
    from cattrs.gen import make_dict_structure_fn

    structure: Callable[[Any, Any], Any] = make_dict_structure_fn(cls, conv, _cattrs_forbid_extra_keys=True)
    usual = {name: conv.unstructure(section) for name, section in _usual_sections(cls).items()}

    def complete(value: Any, kind: Any) -> Any:
        if isinstance(value, dict):
            value = dict(value)
            for name, section in usual.items():
                if isinstance(value.get(name), dict):
                    value[name] = section | value[name]
        return structure(value, kind)

    return complete


def _exactly(kind: type, called: str = "") -> Any:
    def structure(value: Any, _: type) -> Any:
        # to Python yes and no are numbers, and to a user they are none
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"{_shown(value)} is not a {called or kind.__name__}")
        return value

    return structure


def _one_of(value: Any, choice: Any) -> Any:
    """A value that equals an option and is of its type too, since 1, 1.0 and yes are equal in Python."""
    options = get_args(choice)
    if not any(value == option and type(value) is type(option) for option in options):
        raise TypeError(f"{_shown(value)} is none of {', '.join(map(str, options))}")
    return value


def _number(value: Any, _: type) -> float:
    if isinstance(value, bool):
        raise TypeError(f"{value!r} is not a number")
    try:
        return float(value)  # text too, since YAML takes 1e-5 for text
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{_shown(value)} is not a number") from None


def as_path(value: object, _: object) -> Path:
    """The path that a file of settings names. Raises `TypeError` for any other value, and text with a NUL."""
    if not isinstance(value, str) or "\0" in value:
        raise TypeError(f"{_shown(value)} is not a path")
    return Path(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."


def to_yaml(settings: Any, conv: cattrs.Converter) -> str:
    return dump_yaml(conv.unstructure(settings))


def stamped(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as a file holds them, its version first."""
    return {"version": VERSION, **settings}


def unstamped(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says without its version, which may be left out; `UserError` for one that is not read here."""
    version = values.get("version", VERSION)
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= VERSION:
        raise UserError(
            f"{path}: is of version {_shown(version)}, and this contrapose reads versions up to {VERSION}; update "
            "contrapose, or write the file anew with this one"
        )
    return {name: value for name, value in values.items() if name != "version"}


def read(path: Path, cls: type[T], conv: cattrs.Converter) -> T:
    """Settings from a YAML file.

    Raises `UserError` naming the file and the setting for broken YAML, unknown keys, missing ones and wrong values.
    """
    return structured(path, load_yaml(path), cls, conv)


def structured(path: Path, raw: Any, cls: type[T], conv: cattrs.Converter, fix: str = "") -> T:
    """What a file holds, as a dataclass; `fix` is what the user can do when it is not one.

    Raises `UserError` naming the file and the setting for unknown keys, missing ones and wrong values.
    """
    ending = f"; {fix}" if fix else ""
    if not isinstance(raw, dict):
        raise UserError(f"{path}: a mapping of settings was expected{ending}")
    # A class may have a setting of this name of its own.
    settings = raw if _has(cls, "version") else unstamped(path, raw)
    try:
        return conv.structure(settings, cls)
    except Exception as error:
        import cattrs

        reasons = cattrs.transform_error(error, path="", format_exception=_reason)
        # cattrs ends each reason by where it is: nothing for the file itself, else the way to the section
        readable = (reason.removesuffix(" @ ").replace(" @ .", " in ") for reason in reasons)
        raise UserError(f"{path}: {'; '.join(readable)}{ending}") from None


def _reason(error: BaseException, kind: type | None) -> str:
    import cattrs

    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        return _unknown(sorted(map(str, error.extra_fields)), error.cl)
    if isinstance(error, KeyError):
        return f"setting {error.args[0]} is missing or unknown"
    expected = kind.__name__ if isinstance(kind, type) and not isinstance(kind, types.GenericAlias) else str(kind)
    return f"{error} (expected {expected})" if kind else str(error)


def _unknown(names: Sequence[str], cls: type) -> str:
    """What is wrong with settings that a class does not have, and what they are called now or where they stand now."""
    fields = getattr(cls, "__dataclass_fields__", {})
    renamed = {name: new_name(name, fields) for name in names}
    held = sections(cls) if fields else {}
    moved = {name: field for name in names for field, hint in held.items() if _has(hint, name)}
    reasons = [f"{name} is now {new}" for name, new in renamed.items() if new is not None]
    reasons += [f"{name} belongs under {field}" for name, field in moved.items()]
    unknown = [name for name in names if renamed[name] is None and name not in moved]
    if unknown:
        reasons.append(f"unknown setting {', '.join(unknown)} (known here: {', '.join(fields)})")
    return "; ".join(reasons)


def sections(cls: type) -> dict[str, type]:
    """The settings of a class that are settings of their own, by name, but for a union's choice and optional ones."""
    return {name: hint for name, hint in get_type_hints(cls).items() if isinstance(hint, type) and is_dataclass(hint)}


def _has(cls: Any, name: str) -> bool:
    """Whether a class has this setting."""
    return name in getattr(cls, "__dataclass_fields__", {})


def differences(left: Any, right: Any, prefix: str = "") -> list[str]:
    """The dotted names of settings in which two unstructured mappings differ; sections of a list go by number."""
    as_long = isinstance(left, list) and isinstance(right, list) and len(left) == len(right)
    if as_long and all(isinstance(section, dict) for section in (*left, *right)):
        left = dict(enumerate(left))
        right = dict(enumerate(right))
    if isinstance(left, dict) and isinstance(right, dict):
        names = []
        for key in dict.fromkeys([*left, *right]):
            names += differences(left.get(key), right.get(key), f"{prefix}{key}.")
        return names
    return [] if left == right else [prefix.rstrip(".")]


def practical_names(settings: Any, prefix: str = "") -> Iterator[str]:
    """The dotted names of a dataclass's settings that are declared as `Practical`, at any depth."""
    cls: type = type(settings)
    for name, hint in field_types(cls).items():
        value = getattr(settings, name)
        if _Practical in getattr(hint, "__metadata__", ()):
            yield f"{prefix}{name}"
        elif is_dataclass(value):
            yield from practical_names(value, f"{prefix}{name}.")
        elif isinstance(value, tuple):
            for number, section in enumerate(value):
                if is_dataclass(section):
                    yield from practical_names(section, f"{prefix}{name}.{number}.")


def deciding(values: Any, settings: Any, prefix: str = "") -> Any:
    """Unstructured settings without those that are `Practical`, for a digest: lists are mappings by number in it."""
    practical = set(practical_names(settings)) if is_dataclass(settings) else settings
    if isinstance(values, list | tuple):
        values = dict(enumerate(values))
    if not isinstance(values, Mapping):
        return values
    kept: dict[str, Any] = {}
    for name, value in values.items():
        if f"{prefix}{name}" not in practical:
            kept[str(name)] = deciding(value, practical, f"{prefix}{name}.")
    return kept


def claim(
    path: Path,
    settings: Any,
    conv: cattrs.Converter,
    free: Collection[str] = (),
    inputs: Mapping[str, str] | None = None,
    results: Collection[str] = (),
) -> bool:
    """Write the settings beside a result, or check that those already there are the same; True when they were there.

    Settings that are `Practical`, or named in `free` (dotted) or below such a name, decide no result and may differ.
    `inputs` gives settings that name what is read, with the digest of what lies there: that must be the same, and its
    name may differ. `results` are patterns of what stands beside the settings once they are claimed. Raises `UserError`
    naming what differs, or what is in the way of a new claim.
    """
    mine = as_read(conv.unstructure(settings))
    note = path.parent / INPUTS
    digests = dict(inputs or {})
    if not path.exists():
        check_unclaimed(path, results, digests)
        write_claim(path, settings, conv, digests)
        return False
    recorded = _completed(claimed(path), settings, conv)
    noted = claimed(note) if digests and note.exists() else None
    if noted is not None:
        free = [*free, *(name for name in digests if name in noted)]
    if is_dataclass(settings):
        free = [*free, *practical_names(settings)]
    every = differences(mine, recorded)
    free_sections = tuple(f"{name}." for name in free)
    changed = [name for name in every if name not in free and not name.startswith(free_sections)]
    if changed:
        names = "; ".join(_new_names(every)) or f"{', '.join(changed)} differ"
        raise UserError(f"{path.parent}: already holds a result of other settings ({names}); {_OTHER_OUT}")
    if noted is not None:
        _check_inputs(note, noted, digests)
    return True


def check_unclaimed(path: Path, results: Collection[str], inputs: Collection[str] = ()) -> None:
    """Raise `UserError` where a folder without these settings is no place for them.

    It may hold `results` whose settings are gone, which would pass for those of any; or the note of another command's
    inputs, which would be lost with it.
    """
    folder = path.parent
    stray = next((result for pattern in results for result in folder.glob(pattern)), None)
    if stray is not None:
        raise UserError(f"{stray}: is there without the {path.name} that tells how it was made; {_OTHER_OUT}")
    note = folder / INPUTS
    # where nothing else is there, a command was killed before it had written its settings
    owners = sorted(file.name for file in folder.glob("*.yaml") if file.name != INPUTS)
    if inputs and owners and note.exists() and not claimed(note).keys() <= set(inputs):
        raise UserError(f"{folder}: already holds the result of another command ({owners[0]}); choose another --out")


def _completed(recorded: dict[str, Any], settings: Any, conv: cattrs.Converter) -> dict[str, Any]:
    """What a file says, with the usual values of settings that are newer than it; as it is where it says more."""
    import cattrs

    if not is_dataclass(settings):
        return recorded
    try:
        earlier = conv.structure(recorded, type(settings))
    except (cattrs.BaseValidationError, UserError):  # it says more than these settings, or what they cannot be
        return recorded
    completed: dict[str, Any] = as_read(conv.unstructure(earlier))
    return completed


def _new_names(changed: Sequence[str]) -> list[str]:
    """What settings of an earlier version are called now, among the dotted names of those in which two files differ."""
    reasons = []
    for name in changed:
        section, _, old = name.rpartition(".")
        siblings = [other.rpartition(".")[2] for other in changed if other.rpartition(".")[0] == section]
        new = new_name(old, set(siblings) - {old})
        if new is not None:
            reasons.append(f"{name} is now {new}")
    return reasons


def write_claim(path: Path, settings: Any, conv: cattrs.Converter, inputs: Mapping[str, str]) -> None:
    """Write the settings beside a result, and the digests of what they name, over those that are there."""
    if inputs:  # first, since without them settings that are there would be taken at their word
        write_text(path.parent / INPUTS, dump_yaml(dict(inputs)))
    # A plain mapping is a manifest, which has a format of its own.
    values = conv.unstructure(settings)
    write_text(path, dump_yaml(stamped(values) if is_dataclass(settings) else values))


def _check_inputs(note: Path, noted: Mapping[str, str], digests: Mapping[str, str]) -> None:
    """Raise `UserError` where what is read now is not what was noted."""
    unnoted = [name for name in digests if name not in noted]
    if unnoted:
        raise UserError(f"{note}: broken, it does not tell of {', '.join(unnoted)}; {_OTHER_OUT}")
    other = [name for name, digest in digests.items() if noted[name] != digest]
    if other:
        raise UserError(f"{note.parent}: was made from another content of {', '.join(other)}; {_OTHER_OUT}")


def claimed(path: Path) -> dict[str, Any]:
    """What a file of this folder says; `UserError` where it is broken."""
    values = load_yaml(path, _OTHER_OUT)
    if not isinstance(values, dict):
        raise UserError(f"{path}: broken, a mapping was expected; {_OTHER_OUT}")
    return unstamped(path, values)
