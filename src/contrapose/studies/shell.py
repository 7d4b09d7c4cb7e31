"""A study as lines for a shell, or for any scheduler that has one; what is chosen later is asked for in the line."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from contrapose.studies.flags import Flags
from contrapose.studies.settings import Study
from contrapose.studies.stages import Chosen, CommandLine, stages

# Between marks that no path or option holds, since each half is quoted by itself.
_MARK = "\x1f"
_PARTS = re.compile(f"{_MARK}([^{_MARK}]*){_MARK}")


@dataclass(frozen=True)
class Asked:
    """Choices as commands that print them."""

    study: Study
    file: Path

    def best(self, group: str) -> Chosen:
        # asked of the base too, whose images heed no checkpoint
        steps = self.study.choosing.checkpoints if self.study.choosing else ()
        return Chosen(self._ask(group, "scale"), self._ask(group, "checkpoint") if steps else "")

    def checkpoint(self, group: str, scale: str) -> str:
        return self._ask(group, "checkpoint", "--at", scale)

    def tried(self, method: str) -> Flags:
        return Flags({option: self._ask(method, option) for option in self.study.tries_of(method)[0].values})

    def _ask(self, *words: str) -> str:
        return f"{_MARK}{shlex.join(['contrapose', 'study', 'choice', str(self.file), *words])}{_MARK}"


def quoted(word: str) -> str:
    """A word of a command line as a shell reads it, with `$(...)` where it asks for a choice."""
    texts = _PARTS.split(word)
    # every second part is a command between marks
    commands = [f'"$({text})"' for text in texts[1::2]]
    # nothing is quoted before or after a command, where it would be two empty quotes
    parts = [shlex.quote(text) * bool(text) for text in texts[::2]]
    joined = parts[0]
    for command, part in zip(commands, parts[1:], strict=True):
        joined += command + part
    return joined or shlex.quote("")


def shell_line(line: CommandLine) -> str:
    """A command line for a shell."""
    return " ".join(["contrapose", *map(quoted, line.words)])


def plan_study(study: Study, file: Path) -> list[str]:
    """The whole study as lines of a shell script, its stages as comments; `file` is where the study stands.

    What is chosen on the way, such as a guidance scale, is asked for in the lines by `contrapose study choice`.
    """
    lines = [f"# {study.budget}", ""] if study.budget else []
    listed: set[str] = set()
    for number, stage in enumerate(stages(study, Asked(study, file)), start=1):
        new = [line for line in dict.fromkeys(map(shell_line, stage.lines)) if line not in listed]
        listed.update(new)
        lines += [f"# {number}. {stage.title}", *new, ""]
    report = shlex.join(["contrapose", "study", "report", str(file)])
    return [*lines, "# report", report]
