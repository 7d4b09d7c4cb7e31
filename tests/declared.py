"""Every number among the settings of every command, found from the dataclasses, so that one added tomorrow is there."""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import pytest
import tyro

from contrapose.backbones.kinds import ADAPTER_KINDS
from contrapose.cli.main import COMMANDS, find
from contrapose.cli.options import REQUIRED, flags_of
from contrapose.core.guards import GUARDS
from contrapose.core.guidance import GUIDANCES
from contrapose.degrade.degraders import DEGRADERS
from contrapose.evaluate.sets.extractors import FEATURES
from contrapose.judges.table import JUDGES
from contrapose.methods import METHODS
from contrapose.photographs.filters import FILTERS
from contrapose.photographs.spoil import SPOILERS
from contrapose.ranges import Range
from contrapose.train.settings import LINKS
from contrapose.worlds.judges import IMAGE_JUDGES
from contrapose.worlds.suites import OF_SWEEPS, SUITES

EXTREMES = (0, -1, math.nan, math.inf, -math.inf, 2**64, 10**12)


class Setting(NamedTuple):
    """A number, or several of one kind, where it stands in a command's settings."""

    owner: type
    name: str
    kind: type
    range: Range | None
    key: tuple[str | int, ...]
    """The way to it through the settings, as a file of them has it."""
    flag: str
    num: int
    """How many numbers the flag takes at least."""

    @property
    def malformed(self) -> list[Any]:
        """Values that it must not take; text and a yes are no numbers either."""
        numbers = [value for value in EXTREMES if self._is_outside(value)]
        return [*numbers, "1e400", "x", True]

    def _is_outside(self, value: float) -> bool:
        assert self.range is not None, f"{self.owner.__name__}.{self.name} declares no range"
        return value not in self.range or (self.kind is int and isinstance(value, float))


def command_classes() -> list[type]:
    """The dataclasses that the command line is read into."""
    modules = [importlib.import_module(f"contrapose.cli.{command.module}") for command in COMMANDS.values()]
    return [cls for module in modules for cls in vars(module).values() if _is_own_dataclass(cls, module.__name__)]


def _is_own_dataclass(value: Any, module: str) -> bool:
    return isinstance(value, type) and dataclasses.is_dataclass(value) and value.__module__ == module


def reached_from(hint: Any) -> set[type]:
    """The dataclasses that a type is made of, at any depth."""
    if get_origin(hint) is Annotated:
        return reached_from(get_args(hint)[0])
    if not dataclasses.is_dataclass(hint):
        return set().union(*(reached_from(part) for part in get_args(hint)))
    parts = get_type_hints(hint, include_extras=True)
    fields = [parts[field.name] for field in dataclasses.fields(hint)]
    return {hint}.union(*(reached_from(part) for part in fields))  # type: ignore[arg-type]


def numbers_in(hint: Any) -> list[tuple[type, Range | None]]:
    """The numbers in a field's type, each with the range that it declares."""
    if hint in (int, float):
        return [(hint, None)]
    if get_origin(hint) is Annotated:
        kind, *notes = get_args(hint)
        declared = next((note for note in notes if isinstance(note, Range)), None)
        return [(kind, declared)] if declared else numbers_in(kind)
    return [number for part in get_args(hint) for number in numbers_in(part)]


def settings_in(
    command: type, arguments: Sequence[str] = (), template: Any = None, unions: Any = None
) -> Iterator[Setting]:
    """The numbers of a command's flags, or of a dataclass read from a file."""
    for leaf in flags_of(command, list(arguments), "x", template, unions)[1]:
        numbers = numbers_in(leaf.hint)
        if numbers and not leaf.chooses:
            kind, declared = numbers[0]
            several = len(numbers) if len(numbers) > 1 else int(_is_list(leaf.hint))
            yield Setting(leaf.owner, leaf.name, kind, declared, leaf.key, f"--{leaf.flag}", several)


def _is_list(hint: Any) -> bool:
    plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return get_origin(plain) is tuple


def required_of(command: type, arguments: Sequence[str] = (), template: Any = None, unions: Any = None) -> list[str]:
    """Arguments for all that must be given."""
    needed: list[str] = []
    for leaf in flags_of(command, list(arguments), "x", template, unions)[1]:
        if leaf.default is REQUIRED:
            text = "out" if leaf.name == "out" else _first_choice(leaf.hint)
            positional = tyro.conf.Positional in getattr(leaf.hint, "__metadata__", ())
            needed += [text] if positional else [f"--{leaf.flag}", text]
    return needed


def _first_choice(hint: Any) -> str:
    """The first of a few words that a setting may be; x for one that may be any."""
    plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return str(get_args(plain)[0]) if get_origin(plain) is Literal else "x"


def spellings(command: str) -> list[list[str]]:
    """A command's name, with every part that can be chosen by name."""
    links = [[name, "--link", link] for name, cls in METHODS.items() for link in LINKS if hasattr(cls(), "link")]
    guards = [["diffusion-dpo", "--guard", guard] for guard in GUARDS]
    methods = [[name] for name, cls in METHODS.items() if not hasattr(cls(), "link")]
    adapters = [["sft", "--lora-kind", kind] for kind in ADAPTER_KINDS]
    judged = [["online-dpo", "--rollout-judges", name] for name in IMAGE_JUDGES]
    guidances = [["--guidance", name] for name in GUIDANCES]
    parts = {
        "align": links + guards + methods + adapters + judged,
        "sample": guidances,
        "sweep": [
            *guidances,
            *(["--suite", name] for name in OF_SWEEPS),
            *(["--suite", "scores", "--judges", name] for name in JUDGES),
        ],
        "play": guidances,
        "pairs draw": [["--degrade", name] for name in DEGRADERS],
        # the device ends the list of judges, before the folder that follows
        "pairs score": [["--judges", name, "--device", "cpu"] for name in IMAGE_JUDGES],
        "evaluate": [
            *(["--suite", name] for name in SUITES),
            *(["--suite", "scores", "--judges", name] for name in JUDGES),
            *(["--features", name] for name in FEATURES),
        ],
        "pairs real": [
            ["--captioner", "x"],
            *(["--filters", name] for name in FILTERS),
            *(["--spoil", name] for name in SPOILERS),
        ],
    }
    return [[*command.split(), *chosen] for chosen in parts.get(command, [[]])]


class Read(Exception):
    """Carries what a command's arguments would be read into."""


def read_into(arguments: list[str]) -> tuple[type, list[str], Any, Any]:
    """The dataclass that a command reads its arguments into, these arguments, its template, and its unions."""
    command, name, rest = find(arguments)
    module = importlib.import_module(f"contrapose.cli.{command.module}")

    def parse(
        cls: type, rest: list[str], prog: str, default: Any = None, unions: Any = None, without: Any = ()
    ) -> None:
        raise Read(cls, rest, default, unions)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Read) as read:
        patch.setattr(module, "parse", parse)
        module.main(rest, name)
    return read.value.args  # type: ignore[return-value]
