"""What a run costs as tables to read, and as numbers to go on with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from contrapose.estimate.estimate import RunCost
from contrapose.estimate.fitting import CardFit

GIB = 2**30
TERA = 1e12


class CostTable(NamedTuple):
    """A table of texts."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def as_data(cost: RunCost, cards: Sequence[CardFit]) -> dict[str, Any]:
    """All numbers by name, in bytes and FLOPs."""
    data = asdict(cost)
    data["memory"]["total"] = cost.memory.total
    data["checkpointed"]["total"] = cost.checkpointed.total
    data["cards"] = [asdict(card) for card in cards]
    return data


def counts(cost: RunCost) -> CostTable:
    """Parameters, FLOPs and caches."""
    setup = cost.setup
    flops = cost.flops
    latent = " x ".join(map(str, cost.latent))
    of_parts = [(f"parameters of the {part}", f"{count / 1e6:,.1f} M") for part, count in cost.parameters.items()]
    once = f"{flops.image / TERA:.3g} T, {flops.prompt / TERA:.3g} T"
    return CostTable(
        f"{setup.model}: latents {latent}, {cost.tokens} rows of text",
        ("what", "how much"),
        [
            *of_parts,
            ("trainable parameters", f"{cost.trainable / 1e6:,.1f} M"),
            ("FLOPs of one forward, one sample", f"{flops.forward / TERA:.3g} T"),
            (f"FLOPs of a pair with {setup.method}", f"{flops.pair / TERA:.3g} T"),
            (f"FLOPs of a step of {setup.batch_size} pairs", f"{flops.step / TERA:,.4g} T"),
            ("FLOPs of encoding one image, one prompt", once),
            (f"embeddings of {setup.num_prompts} prompts", f"{cost.embeddings / GIB:.2f} GiB"),
            (f"latents of {setup.num_pairs} pairs", f"{cost.latents / GIB:.2f} GiB"),
        ],
    )


def memory(cost: RunCost) -> CostTable:
    """GPU memory by part, as the run is set up and with gradient checkpointing."""
    as_given = asdict(cost.memory) | {"total": cost.memory.total}
    checkpointed = asdict(cost.checkpointed) | {"total": cost.checkpointed.total}
    rows = [(part, f"{as_given[part] / GIB:.2f}", f"{checkpointed[part] / GIB:.2f}") for part in as_given]
    rows.append(("text encoders, before training", f"{cost.encoders / GIB:.2f}", ""))
    return CostTable(
        f"GPU memory in GiB, {cost.setup.micro_batch} pairs at once",
        ("part", "as given (checkpointing)" if cost.setup.gradient_checkpointing else "as given", "with checkpointing"),
        rows,
    )
