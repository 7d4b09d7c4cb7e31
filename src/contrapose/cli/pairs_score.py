"""`contrapose pairs score`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from contrapose.backbones.settings import UNREAD_BY_IMAGES
from contrapose.cli.device import OnDevice
from contrapose.cli.options import Choice, parse
from contrapose.cli.sharing import Sharing
from contrapose.labels.settings import Scoring
from contrapose.worlds.judges import IMAGE_JUDGES

UNIONS = {"judges": Choice(IMAGE_JUDGES, prefixed=True)}


@dataclass(frozen=True)
class Command:
    """Score each sample of pairs and groups by judges: the same groups with these numbers beside them, which
    'contrapose pairs label' makes labels of."""

    pairs: Annotated[Path, tyro.conf.Positional]
    """Folder of pairs or groups: drawn, imported or of photographs."""
    settings: Scoring
    out: Path
    """Folder that receives the scored groups; an unfinished one is carried on."""
    on: OnDevice = field(default_factory=OnDevice)
    sharing: Sharing = field(default_factory=Sharing)


def main(arguments: list[str], prog: str) -> None:
    judge(parse(Command, arguments, prog, unions=UNIONS, without=UNREAD_BY_IMAGES))


def judge(command: Command) -> None:
    from contrapose.backbones.decoder import Decoder
    from contrapose.cli.follow import follow
    from contrapose.cli.memory import image_memory
    from contrapose.cli.notes import quiet_libraries, tell
    from contrapose.estimate.advice import Images
    from contrapose.judges.judge import Jury, judge_of
    from contrapose.labels.score import judged_prompts, score_groups
    from contrapose.store.groups import GroupStore
    from contrapose.store.manifest import MANIFEST

    quiet_libraries()
    settings = command.settings
    store = GroupStore(command.pairs)
    model = store.model_or(settings.model)
    judged_prompts(settings, store)  # what is missing there is told before any weights are read
    with image_memory(Images(model, "fp32", settings.loading, None, settings.batch_size, coded=True), command.on.name):
        decoder = Decoder(model, command.on.name, settings.loading)
        store.check_maker(model, decoder.fingerprint)
        made_with = (command.on.name, model, decoder.fingerprint)
        jury = Jury([judge_of(judge, *made_with) for judge in settings.judges])
        with command.sharing.working() as worker:
            states = score_groups(settings, store, jury, decoder, decoder.fingerprint, command.out, worker)
            follow("scoring groups", len(store), states)
    if (command.out / MANIFEST).exists():  # it comes with the last part
        tell(f"{command.out}: {len(store)} {store.kind} with {', '.join(jury.higher_is_better)}")
