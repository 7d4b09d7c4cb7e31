"""What `contrapose --help` prints: the commands under their headings."""

from __future__ import annotations

from contrapose import __version__
from contrapose.cli.commands import COMMANDS, HEADINGS

FIRST_WORDS = {name.partition(" ")[0] for name in COMMANDS if " " in name}
"""Words that name several commands, each by a second word."""


def usage(first_word: str = "") -> str:
    """All commands under their headings, or those that begin with one word."""
    width = max(map(len, COMMANDS))
    lines = [f"contrapose {__version__}: preference alignment of diffusion models without preference labels"]
    for heading, commands in HEADINGS.items():
        listed = {name: command for name, command in commands.items() if name.startswith(first_word)}
        lines += [f"\n{heading}:"] if listed else []
        lines += [f"  {name:<{width}}  {command.summary}" for name, command in listed.items()]
    lines.append("\n'contrapose COMMAND --help' explains every option with its unit and default.")
    return "\n".join(lines)
