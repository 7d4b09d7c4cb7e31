"""`contrapose prompts split`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from contrapose.cli.options import parse
from contrapose.errors import UserError
from contrapose.ranges import Count, Seed, Share, checked


@dataclass(frozen=True)
@checked
class Command:
    """Divide a list of prompts into dev and test by a hash of their words, the same on every machine; repeated prompts
    are left out, capitals and blanks not counting."""

    source: Annotated[Path, tyro.conf.Positional]
    """File or folder of prompts, in any form that --prompts takes elsewhere."""
    out_test: Path
    """File to write (.jsonl) with the prompts to report on."""
    out_dev: Path | None = None
    """File to write (.jsonl) with the prompts to tune on; when unset, all go to --out-test."""
    dev_share: Share = 0.2
    """Chance of each prompt to be in dev; of no use without --out-dev."""
    num_prompts: Count | None = None
    """How many prompts to keep of all, chosen by hash and not by their order; all when unset."""
    column: str | None = None
    """Field that holds the prompts; prompt, Prompt, caption and the like when unset."""
    seed: Seed = 0
    """Seed of the division; another one divides otherwise."""

    def __post_init__(self) -> None:
        for name in ("out_test", "out_dev"):
            path = getattr(self, name)
            if path is not None and path.suffix.lower() != ".jsonl":
                raise UserError(f"{name} {path}: lines of JSON are written; name it .jsonl")
        if self.out_dev == self.out_test:
            raise UserError(f"out_dev {self.out_dev}: is --out-test too; name another file")


def main(arguments: list[str], prog: str) -> None:
    divide(parse(Command, arguments, prog))


def divide(command: Command) -> None:
    from contrapose.files import check_file, one_writer, write_text
    from contrapose.store.prompts import read_prompts
    from contrapose.store.splits import as_lines, chosen, distinct, split

    outs = [out for out in (command.out_dev, command.out_test) if out is not None]
    for out in outs:
        check_file(out)
        if out.resolve().is_relative_to(command.source.resolve()):
            raise UserError(f"{out}: is, or would be, among what is read; name a file elsewhere")
    read = read_prompts(command.source, command.column)
    prompts = distinct(read)
    print(f"{command.source}: {len(read)} prompts, {len(read) - len(prompts)} left out as repeated")
    if command.num_prompts is not None:
        prompts = chosen(prompts, command.num_prompts, command.seed)
    parts = split(prompts, command.dev_share if command.out_dev else 0.0, command.seed)
    written = {command.out_test: parts.test}
    if command.out_dev:
        written[command.out_dev] = parts.dev
    for out, part in written.items():
        if not part:
            raise UserError(f"{out}: would hold no prompts; choose another --dev-share, or more prompts")
    for out, part in written.items():
        with one_writer(out, beside=True):
            is_new = write_text(out, as_lines(part))
        print(f"{out}: {len(part)} prompts{'' if is_new else ' (were there already)'}")
