"""`contrapose push`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from contrapose.cli.options import parse


@dataclass(frozen=True)
class Command:
    """Upload a finished run, a kept step, a merge or an exported file to the Hugging Face hub, with a model card.

    Log in first, with 'hf auth login' and a token that may write. Pushed again, only what has changed is uploaded; a
    card that you edit, in the run's folder or on the hub, is left as it is.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a finished run, RUN@STEP for a kept step, a folder of 'contrapose merge', or a file of adapters."""
    repo: Annotated[str, tyro.conf.Positional]
    """Where it goes on the hub, as user/name."""
    public: bool = False
    """Let everybody see a new repository, which is private otherwise; one that is there stays what it is."""
    images: Path | None = None
    """Folder of 'contrapose sample' whose images the card shows, in place of those that a run drew while it trained."""


def main(arguments: list[str], prog: str) -> None:
    command = parse(Command, arguments, prog)
    upload(command.run, command.repo, command.public, command.images)


def upload(named: Path, repo: str, public: bool = False, images: Path | None = None) -> None:
    """Upload what a user names, and say where it is and what was left."""
    from contrapose.cli.notes import quiet_libraries
    from contrapose.publish.hub import push

    quiet_libraries()
    published = push(named, repo, not public, images)
    if published.keeps_card:
        print(f"{repo}: its card was edited on the hub, and stays; delete README.md there to have it written anew")
    seen_by = "private" if published.is_private else "public"
    if public and published.is_private:
        seen_by = "private, as it was; its settings on the hub change that"
    if published.num_new:
        print(f"uploaded {published.num_new} files to {published.address} ({seen_by})")
    else:
        print(f"{published.address}: everything was there already ({seen_by})")
