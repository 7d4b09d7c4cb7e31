"""Options of other commands as a file of settings holds them: `{beta: 2000, full: true}` is `--beta 2000 --full`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from contrapose.errors import UserError

MODEL = "{model}"
"""In an option's text, the study's model."""
Value = bool | int | float | str | None
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
"""What models, lists and folders of a study may be called."""
# what the study itself sets of each command
OF_ALIGN = ("model", "pairs", "out", "seed", "start", "policies")
OF_SAMPLE = (
    "model", "prompts", "out", "adapter", "num-images", "guidance-scale", "positive", "negative", "scale",
)  # fmt: skip
OF_EVALUATE = ("images", "out", "suite", "title", "base")


@dataclass(frozen=True)
class Flags:
    """Options of one command by name, without the dashes in front."""

    values: Mapping[str, Value | list[Value]] = field(default_factory=dict)

    def words(self, model: str) -> list[str]:
        """The options as they are typed."""
        words: list[str] = []
        for name, value in self.values.items():
            if isinstance(value, bool):
                words.append(f"--{name}" if value else f"--no-{name}")
                continue
            values = value if isinstance(value, list) else [value]
            words += [f"--{name}", *(str(each).replace(MODEL, model) for each in values)]
        return words

    def over(self, usual: Flags) -> Flags:
        """These options, and the usual ones that they do not name."""
        return Flags({**usual.values, **self.values})

    def without(self, names: Collection[str]) -> Flags:
        """The options but those of these names."""
        return Flags({name: value for name, value in self.values.items() if name not in names})

    @property
    def name(self) -> str:
        """The options as a part of a run's name, such as `learning-rate-3e-05`."""
        return "-".join(word.removeprefix("--") for word in self.words(MODEL))

    def check_free(self, where: str, taken: Collection[str]) -> None:
        """Raise `UserError` for an option that the study itself sets."""
        for name in self.values:
            if name in taken:
                raise UserError(f"{where}: --{name} is set by the study itself; leave it out")

    def paths(self) -> Iterator[str]:
        """Texts among the values, any of which may name a file; an empty one names none."""
        for value in self.values.values():
            values = value if isinstance(value, list) else [value]
            yield from (each for each in values if isinstance(each, str) and each)


def as_flags(value: object, _: object) -> Flags:
    """The options that a file holds. Raises `TypeError` for what is no mapping of names to plain values or lists."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{value!r} is not a mapping of options")
    values: dict[str, Value | list[Value]] = {}
    for name, option in value.items():
        if not isinstance(name, str) or not name or name.startswith("-"):
            raise TypeError(f"{name!r} is not an option's name; write it without the dashes in front")
        parts = option if isinstance(option, list) else [option]
        if not all(part is None or isinstance(part, (bool, int, float, str)) for part in parts):
            raise TypeError(f"option {name} is neither a plain value nor a list of them")
        values[name.replace("_", "-")] = option
    return Flags(values)
