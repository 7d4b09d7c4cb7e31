"""`contrapose estimate`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from contrapose.cli.options import REQUIRED, parse
from contrapose.cli.progress import quiet_libraries
from contrapose.errors import UserError
from contrapose.estimate.estimate import Estimate, Setup, estimate_run
from contrapose.estimate.fitting import CARDS, Verdict, fit
from contrapose.files import replacing

GIB, TERA = 2**30, 1e12


@dataclass(frozen=True)
class Command:
    """What a run would cost, from the model's configuration alone: parameters, GPU memory, FLOPs, caches and cards."""

    setup: Setup
    json: Path | None = None
    """File that receives the same as JSON."""


def main(arguments: list[str], prog: str) -> None:
    command = parse(Command, arguments, prog, Command(Setup(model=REQUIRED)), short=True)
    quiet_libraries()
    if command.json is not None and not command.json.parent.is_dir():
        raise UserError(f"{command.json}: its folder does not exist")
    found = estimate_run(command.setup)
    verdicts = [fit(command.setup, card) for card in CARDS]
    for table in (_counts(found), _memory(found)):
        Console(highlight=False).print(table)
    for verdict in verdicts:
        print(f"{verdict.card} GB: {verdict}")
    if command.json is not None:
        with replacing(command.json) as aside:
            aside.write_text(json.dumps(as_data(found, verdicts), indent=1) + "\n", encoding="utf-8")


def as_data(found: Estimate, verdicts: list[Verdict]) -> dict:
    """All numbers by name, in bytes and FLOPs."""
    data = asdict(found)
    for name in ("memory", "checkpointed"):
        data[name]["total"] = getattr(found, name).total
    return data | {"cards": [asdict(verdict) for verdict in verdicts]}


def _counts(found: Estimate) -> Table:
    setup, flops, shape = found.setup, found.flops, " x ".join(map(str, found.latent))
    table = Table("what", "how much", title=f"{setup.model}: latents {shape}, {found.tokens} rows of text")
    for part, count in found.parameters.items():
        table.add_row(f"parameters of the {part}", f"{count / 1e6:,.1f} M")
    table.add_row("trainable parameters", f"{found.trainable / 1e6:,.1f} M")
    table.add_row("FLOPs of one forward, one sample", f"{flops.forward / TERA:.3g} T")
    table.add_row(f"FLOPs of a pair with {setup.method}", f"{flops.pair / TERA:.3g} T")
    table.add_row(f"FLOPs of a step of {setup.batch_size} pairs", f"{flops.step / TERA:,.4g} T")
    table.add_row("FLOPs of encoding one image, one prompt", f"{flops.image / TERA:.3g} T, {flops.prompt / TERA:.3g} T")
    table.add_row(f"embeddings of {setup.prompts} prompts", f"{found.embeddings / GIB:.2f} GiB")
    table.add_row(f"latents of {setup.pairs} pairs", f"{found.latents / GIB:.2f} GiB")
    return table


def _memory(found: Estimate) -> Table:
    memory, checkpointed = found.memory, found.checkpointed
    title = f"GPU memory in GiB, {found.setup.micro_batch} pairs at once"
    as_given = "as given (checkpointing)" if found.setup.gradient_checkpointing else "as given"
    table = Table("part", as_given, "with checkpointing", title=title)
    for name in (*asdict(memory), "total"):
        table.add_row(name, *(f"{getattr(m, name) / GIB:.2f}" for m in (memory, checkpointed)))
    table.add_row("text encoders, before training", f"{found.encoders / GIB:.2f}", "")
    return table
