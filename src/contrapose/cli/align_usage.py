"""What `contrapose align --help` shows before a method or a file is chosen."""

from __future__ import annotations

from textwrap import fill

from contrapose.cli.docstrings import first_sentence
from contrapose.methods import METHODS
from contrapose.recipes import recipe_names


def usage(prog: str) -> str:
    """What may be aligned by: the methods, each in a sentence, a file, and the recipes."""
    width = max(map(len, METHODS))
    lines = [f"usage: {prog} METHOD|run.yaml|recipe [options]\n"]
    lines += [f"  {name:<{width}}  {first_sentence(method)}" for name, method in METHODS.items()]
    lines.append(f"  {'run.yaml':<{width}}  Repeat a run, or begin at a file like it; options override what it says")
    lines.append(f"  {'recipe':<{width}}  The same with one of the recipes that come along, by its name:")
    names = ", ".join(recipe_names())
    lines.append(fill(names, 80, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False))
    lines.append(f"\n'{prog} METHOD --help' explains every option with its unit and default.")
    return "\n".join(lines)
