"""`contrapose pairs show`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from contrapose.backbones.settings import UNREAD_BY_IMAGES, Loading
from contrapose.cli.device import OnDevice
from contrapose.cli.options import Choice, parse
from contrapose.judges.table import JUDGES, AnyJudge
from contrapose.ranges import Count, Seed, checked

UNIONS = {"judges": Choice(JUDGES, prefixed=True)}


@dataclass(frozen=True)
@checked
class Command:
    """Write one self-contained HTML page of random pairs: winner and loser side by side, both prompts, score gaps."""

    pairs: Annotated[Path, tyro.conf.Positional]
    """Folder of pairs: drawn, imported or of photographs; groups of any size are shown whole."""
    out: Path
    """The page (.html)."""
    num_pairs: Count = 24
    """Pairs that are shown, chosen by lot; all of them where there are fewer."""
    seed: Seed = 0
    """Seed by which the pairs are chosen."""
    model: str | None = None
    """Model whose autoencoder decodes the latents; the one that the pairs were made with when unset."""
    judges: tuple[AnyJudge, ...] = ()
    """What scores the images that are shown, each by its prompt; options are --judges.0.model and so on."""
    loading: Loading = field(default_factory=Loading)
    on: OnDevice = field(default_factory=OnDevice)


def main(arguments: list[str], prog: str) -> None:
    show(parse(Command, arguments, prog, unions=UNIONS, without=UNREAD_BY_IMAGES))


def show(command: Command) -> None:
    from contrapose.backbones.decoder import Decoder
    from contrapose.cli.notes import quiet_libraries
    from contrapose.cli.progress import Bar
    from contrapose.evaluate.suites import Scores
    from contrapose.files import check_file
    from contrapose.report.pairs_page import write_pairs_page
    from contrapose.store.groups import GroupStore

    check_file(command.out)
    store = GroupStore(command.pairs, complete=False)
    model = store.model_or(command.model)
    quiet_libraries()
    judge = Scores(command.judges).load(command.on.name) if command.judges else None
    decoder = Decoder(model, command.on.name, command.loading)
    store.check_maker(model, decoder.fingerprint)
    number = min(command.num_pairs, len(store))
    with Bar("decoding pairs", number) as bar:
        written = write_pairs_page(
            store, decoder, command.out, number=number, seed=command.seed, judge=judge, progress=bar
        )
    print(f"{command.out.resolve()}{'' if written else ' (was there already)'}")
