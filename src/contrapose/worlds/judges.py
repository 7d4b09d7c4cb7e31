"""What can judge images one by one: every judge of scores, and the suite of the shapes world."""

from __future__ import annotations

from collections.abc import Sequence

from contrapose.errors import UserError
from contrapose.judges.table import JUDGES, AnyJudge
from contrapose.worlds.shapes.suite import Shapes

ImageJudge = AnyJudge | Shapes
IMAGE_JUDGES: dict[str, type[ImageJudge]] = JUDGES | {"shapes": Shapes}


def check_without_ceiling(judges: Sequence[ImageJudge], where: str) -> None:
    """Raise `UserError` for the shapes suite with an autoencoder, which only its ceiling is drawn with."""
    if any(isinstance(judge, Shapes) and judge.autoencoder for judge in judges):
        raise UserError(f"autoencoder: no ceiling is drawn {where}; leave it out")


def check_best_of(best_of: int, judges: Sequence[ImageJudge]) -> None:
    """Raise `UserError` for several images of which nobody keeps one, and for judges with nothing to choose from."""
    if best_of > 1 and not judges:
        raise UserError(f"best_of {best_of}: nobody says which is the best; name one with --judges")
    if judges and best_of == 1:
        raise UserError("judges: there is nothing to choose from; set --best-of")
