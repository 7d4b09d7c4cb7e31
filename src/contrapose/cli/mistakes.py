"""What the option parser would take, and the user cannot have meant."""

from __future__ import annotations

from collections.abc import Sequence

from contrapose.cli.leaf import Leaf
from contrapose.errors import UserError
from contrapose.renamed import new_name


def refuse_old_names(arguments: Sequence[str], flags: Sequence[Leaf]) -> None:
    """Raise `UserError` for a flag that has another name now."""
    names = {leaf.flag.replace("-", "_") for leaf in flags}
    for argument in arguments:
        name = argument.partition("=")[0]
        new = new_name(name[2:].replace("-", "_"), names) if name.startswith("--") else None
        if new is not None:
            raise UserError(f"{name} is now --{new.replace('_', '-')}")


def refuse_lists_in_pieces(arguments: Sequence[str], flags: Sequence[Leaf]) -> None:
    """Raise `UserError` for a list that is given by two flags: the values of the first would be lost."""
    names = [argument.partition("=")[0].replace("_", "-") for argument in arguments if argument.startswith("--")]
    for leaf in flags:
        if leaf.is_list and names.count(f"--{leaf.flag}") > 1:
            raise UserError(f"--{leaf.flag} is given twice, and only the last would count; write all after one flag")
