"""What a run costs as tables to read, and as numbers to go on with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from contrapose.estimate.estimate import RunCost
from contrapose.estimate.fitting import GIB, CardFit
from contrapose.estimate.hours import StageTime
from contrapose.methods import name_of
from contrapose.train.settings import CONVERTER

TERA = 1e12


class CostTable(NamedTuple):
    """A table of texts."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def as_data(cost: RunCost, cards: Sequence[CardFit], times: Sequence[StageTime]) -> dict[str, Any]:
    """All numbers by name, in bytes, FLOPs and hours."""
    data = asdict(cost) | {"setup": CONVERTER.unstructure(cost.setup)}
    data["memory"]["total"] = cost.memory.total
    data["checkpointed"]["total"] = cost.checkpointed.total
    data["cards"] = [asdict(card) for card in cards]
    data["times"] = [asdict(time) for time in times]
    return data


def counts(cost: RunCost) -> CostTable:
    """Parameters, FLOPs and caches."""
    setup = cost.setup
    flops = cost.flops
    latent = " x ".join(map(str, cost.latent))
    of_parts = [(f"parameters of the {part}", f"{count / 1e6:,.1f} M") for part, count in cost.parameters.items()]
    once = f"{flops.image / TERA:.3g} T, {flops.prompt / TERA:.3g} T"
    return CostTable(
        f"{setup.run.model}: latents {latent}, {cost.tokens} rows of text",
        ("what", "how much"),
        [
            *of_parts,
            ("trainable parameters", f"{cost.trainable / 1e6:,.1f} M"),
            ("FLOPs of one forward, one sample", f"{flops.forward / TERA:.3g} T"),
            (f"FLOPs of a pair with {name_of(setup.run.method)}", f"{flops.pair / TERA:.3g} T"),
            (f"FLOPs of a step of {setup.run.optimisation.batch_size} pairs", f"{flops.step / TERA:,.4g} T"),
            ("FLOPs of encoding one image, one prompt", once),
            (f"embeddings of {setup.prompts} prompts", f"{cost.embeddings / GIB:.2f} GiB"),
            (f"latents of {setup.pairs} pairs", f"{cost.latents / GIB:.2f} GiB"),
        ],
    )


def memory(cost: RunCost) -> CostTable:
    """GPU memory by part, as the run is set up and with gradient checkpointing."""
    as_given = asdict(cost.memory) | {"total": cost.memory.total}
    checkpointed = asdict(cost.checkpointed) | {"total": cost.checkpointed.total}
    rows = [(part, f"{as_given[part] / GIB:.2f}", f"{checkpointed[part] / GIB:.2f}") for part in as_given]
    rows.append(("text encoders, before training", f"{cost.encoders / GIB:.2f}", ""))
    run = cost.setup.run
    title = f"GPU memory in GiB, {run.optimisation.micro_batch} pairs at once in {cost.setup.precision}"
    usual = "as given (checkpointing)" if run.gradient_checkpointing else "as given"
    return CostTable(title, ("part", usual, "with checkpointing"), rows)
