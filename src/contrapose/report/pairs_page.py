"""The page of a folder of pairs: counts, and a few groups by lot with their images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from contrapose.containers.places import Remote
from contrapose.files import check_file, one_writer, write_text
from contrapose.judges.judge import Judge
from contrapose.report.html import fill
from contrapose.report.numbers import MINUS
from contrapose.report.runs import Fact
from contrapose.report.shown_groups import LARGEST, Decode, ShownGroup, show_groups
from contrapose.store.check import look_at_records
from contrapose.store.groups import GroupStore
from contrapose.store.manifest import MANIFEST


def write_pairs_page(
    store: GroupStore,
    decode: Decode,
    out: Path,
    *,
    number: int = 24,
    seed: int = 0,
    judge: Judge | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> bool:
    """Write a page of `number` groups of a store to `out`, whole or not at all; False where it was there already.

    Arguments and errors are those of `show_groups`; the store may be an unfinished one, which the page says.
    """
    check_file(out)
    with one_writer(out, beside=True):
        return write_text(out, render_pairs(store, show_groups(store, decode, number, seed, judge, progress), seed))


def render_pairs(store: GroupStore, shown: Sequence[ShownGroup], seed: int) -> str:
    """The page as text, of groups that `show_groups` chose with this seed."""
    findings = look_at_records(store)
    folder = store.folder
    facts = [Fact("Folder", str(folder)), Fact("Fingerprint", str(store.manifest.get("fingerprint", "–")))]
    return fill(
        "pairs.html.j2",
        title=folder.name if isinstance(folder, Remote) else folder.resolve().name,
        made=_made(store),
        counts=findings.facts,
        problems=findings.problem_lines(),
        remarks=findings.remark_lines(),
        kind=store.kind,
        shown=shown,
        total=len(store),
        seed=seed,
        gaps=gap_lines(shown),
        facts=facts,
        manifest=(folder / MANIFEST).read_bytes().decode("utf-8"),
        largest=LARGEST,
    )


def gap_lines(shown: Sequence[ShownGroup]) -> list[str]:
    """A line for each score: in how many of the pairs that are shown the winner has more of it, and by how much."""
    values: dict[str, list[float]] = {}
    for group in shown:
        for gap in group.gaps:
            values.setdefault(gap.name, []).append(gap.value)
    lines = []
    for name, gaps in values.items():
        higher = sum(gap > 0 for gap in gaps)
        mean = f"{sum(gaps) / len(gaps):+.3g}".replace("-", MINUS)
        lines.append(f"{name}: higher for the winner in {higher} of {len(gaps)} pairs, by {mean} on average")
    return lines


def _made(store: GroupStore) -> str:
    """How the groups were made, in a sentence."""
    settings = store.settings
    model = settings.get("model", "a model that is not recorded")
    if settings.get("samples_per_prompt"):
        return f"Drawn by {model}: samples of the prompt itself, each from noise of its own."
    if "draw" in store.manifest:
        degrade = settings.get("degrade", {}).get("name", "a way that is not recorded")
        return (
            f"Drawn by {model}: the winner from the prompt, the loser from the prompt as it was degraded ({degrade}), "
            "with the same starting noise."
        )
    if "real" in store.manifest:
        spoil = settings.get("spoil")
        way = spoil.get("name") if isinstance(spoil, dict) else "not recorded"
        return f"Photographs as winners, and as losers what spoiling ({way}) made of them; encoded by {model}."
    if "import" in store.manifest:
        sources = (settings.get(name) for name in ("source", "metadata", "winners"))
        source = next(filter(None, sources), "files that are not recorded")
        return f"Imported from {source} (format {settings.get('format', 'not recorded')}); encoded by {model}."
    return "How these were made is not recorded."
