"""Share of its time that `pairs real` spends inside networks: denoiser, autoencoder and text encoder.

Photographs of the shapes world, the shipped model, one spoiler; a clock around every network's forward. What is left is
reading, looking, cutting, saving and bookkeeping. In a network counts once where networks call each other.

    python benchmarks/real.py                                the table for 1,000 photographs (one core: some minutes)
    python benchmarks/real.py --device cuda --batch-size 64  the same on a GPU
    python benchmarks/real.py --num 8 --steps 2              seconds, for the tests
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from narrow import print_table, synchronise
from PIL import Image

from contrapose.backbones.families.table import load_backbone
from contrapose.cli.notes import quiet_libraries
from contrapose.photographs.real import Real, make_pairs
from contrapose.photographs.spoil import SPOILERS
from contrapose.worlds.shapes import pretrain
from contrapose.worlds.shapes.photos import photographs

MODEL = Path(pretrain.__file__).with_name("model")


class Clock:
    """Seconds inside some calls, those within another not counted twice."""

    def __init__(self, device: str):
        self.seconds, self._depth, self._device = 0.0, 0, device

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            synchronise(self._device)
            start, self._depth = time.perf_counter(), self._depth + 1
            try:
                return call(*args, **kwargs)
            finally:
                synchronise(self._device)
                self._depth -= 1
                self.seconds += (time.perf_counter() - start) * (self._depth == 0)

        return timed


def write_photographs(folder: Path, num: int) -> None:
    for number, photo in enumerate(photographs(num, seed=0)):
        Image.fromarray(photo.image).save(folder / f"{number:06}.png")
        (folder / f"{number:06}.txt").write_text(photo.caption, encoding="utf-8")


def measure(args: argparse.Namespace, folder: Path) -> list[tuple[str, float, float]]:
    """(stage, its seconds, those of them inside networks)."""
    (folder / "photos").mkdir()
    write_photographs(folder / "photos", args.num)
    settings = Real(
        str(MODEL), folder / "photos", spoil=SPOILERS[args.spoil](), near_duplicates=None, steps=args.steps,
        batch_size=args.batch_size,
    )  # fmt: skip
    backbone, clock = load_backbone(settings.model, device=args.device), Clock(args.device)
    backbone.sampler.stock.to(args.device)
    backbone.denoiser.network.forward = clock.around(backbone.denoiser.network.forward)
    backbone.sampler.stock.text_encoder.forward = clock.around(backbone.sampler.stock.text_encoder.forward)
    for name in ("encode", "decode"):
        setattr(backbone.sampler.stock.vae, name, clock.around(getattr(backbone.sampler.stock.vae, name)))
    found: dict[str, list[float]] = {}
    start, inside = time.perf_counter(), 0.0
    for state in make_pairs(settings, backbone, folder / "out"):
        now = time.perf_counter()
        spent = found.setdefault(state.stage, [0.0, 0.0])
        spent[0], spent[1] = spent[0] + now - start, spent[1] + clock.seconds - inside
        start, inside = now, clock.seconds
    return [(stage, *spent) for stage, spent in found.items()]


def main(arguments: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=1000, help="photographs")
    parser.add_argument("--spoil", choices=SPOILERS, default="inpaint", help="how losers are made")
    parser.add_argument("--steps", type=int, default=15, help="sampling steps")
    parser.add_argument("--batch-size", type=int, default=16, help="photographs at once")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(arguments)
    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args, Path(folder))
    whole, inside = (sum(column) for column in list(zip(*found, strict=True))[1:])
    rows = [*found, ("all", whole, inside)]
    told = [[stage, f"{s:.2f}", f"{n:.2f}", f"{100 * n / s:.1f} %"] for stage, s, n in rows]
    print_table(["stage", "seconds", "in networks", "share"], told)
    print(f"{args.num / whole:.2f} pairs/s")
    return inside / whole


if __name__ == "__main__":
    main()
