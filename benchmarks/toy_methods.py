"""Every method that the Gaussians toy can train, on it: each at a learning rate of its own, chosen on other seeds.

    python benchmarks/toy_methods.py out/ [--rates 3e-6 1e-5 3e-5 1e-4] [--dev-seeds 1000] [--seeds 0 1 2 3 4]

All have the same pairs, two a class, and the same number of tries: of the rates, each takes the one at which its energy
distance to clean data is lowest on the dev seeds, and is told by the test seeds. Everything else is the toy's default,
beta 25 included, which had been chosen for Diffusion-DPO (worlds/gaussians/toy.py). Finished seeds are kept, so that
the same command goes on where it was cut. Prints a table, best first, which is also `out/table.md`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from contrapose.errors import UserError
from contrapose.methods import METHODS
from contrapose.worlds.gaussians.outcome import HEADINGS
from contrapose.worlds.gaussians.settings import Toy
from contrapose.worlds.gaussians.toy import run_toy

PAIRS = 2


def energies(settings: Toy, out: Path) -> dict[str, tuple[float, list[str]]]:
    """Of each method its mean energy distance, and its row of the table."""
    result = run_toy(settings, out, print)
    rows = {row[0]: row for row in result.rows()}
    return {
        name: (result.average((title, PAIRS), "energy")[0], rows[title])
        for name, title in zip(settings.methods, settings.titles, strict=True)
    }


def is_playable(name: str) -> bool:
    """Whether the toy can train this method: not those of several policies, or that ask without a prompt."""
    try:
        Toy(methods=(name,)).aligned()
    except UserError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-6, 1e-5, 3e-5, 1e-4])
    parser.add_argument("--dev-seeds", type=int, nargs="+", default=[1000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = tuple(filter(is_playable, METHODS))
    every = Toy(methods=names, pairs_per_class=(PAIRS,), shown=PAIRS, seeds=tuple(options.dev_seeds))
    of_rates = {}
    for rate in options.rates:
        of_rates[rate] = energies(replace(every, learning_rate=rate), options.out / f"dev-{rate:g}")
    chosen = {name: min(options.rates, key=lambda rate: of_rates[rate][name][0]) for name in names}
    lines = []
    for rate in options.rates:
        of_rate = tuple(name for name in names if chosen[name] == rate)
        if of_rate:
            test = replace(every, methods=of_rate, learning_rate=rate, seeds=tuple(options.seeds))
            tested = energies(test, options.out / f"test-{rate:g}")
            lines += [(energy, [row[0], f"{rate:g}", *row[2:]]) for energy, row in tested.values()]
    heading = ["method", "learning rate", *HEADINGS.values()]
    rows = [heading, ["---", *["---:"] * (len(heading) - 1)], *(row for _, row in sorted(lines))]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    (options.out / "table.md").write_text(table, encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
