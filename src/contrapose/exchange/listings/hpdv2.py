"""HPDv2's lists: {prompt, image_path: [a, b], human_preference: [1, 0]} to train, and ranks of more images to test.

`file_path` is another name of `image_path`. `rank` is read where `human_preference` is absent; the smallest is best.
"""

from __future__ import annotations

import math
from typing import Any

from contrapose.containers.left_out import Skip
from contrapose.containers.places import inside
from contrapose.containers.row import ContainerRow
from contrapose.containers.stored import InFile
from contrapose.errors import UserError
from contrapose.exchange.listings.listed import Format, Listed, Reading, each, judged

PREFERENCE = "human_preference"
RANK = "rank"
COLUMNS = ("prompt",)
_PATHS = ("image_path", "file_path")


def _pair(row: ContainerRow, reading: Reading) -> Listed:
    """Of two images the one with the larger number, or smaller rank, won; more are a group, labelled by them."""
    key = next((key for key in _PATHS if key in row.fields), _PATHS[0])
    by = RANK if RANK in row.fields and PREFERENCE not in row.fields else PREFERENCE
    paths = row.need(key)
    numbers = row.need(by)
    if not isinstance(paths, list) or not isinstance(numbers, list) or len(paths) != len(numbers):
        raise UserError(f"{row.where}: `{key}` and `{by}` are not two lists of one length; write a list of each")
    if len(paths) < 2:
        raise Skip(f"ranks {len(paths)} images, which says nothing", "other number of images")
    labels = _from_ranks(row, numbers) if by == RANK else _from_preference(row, numbers)
    for path in paths:
        if not isinstance(path, str) or not path:
            raise UserError(f"{row.where}: `{key}` is {paths!r}; write the names of two files")
    folder = reading.folder(row)
    images = tuple(InFile(inside(folder, path)) for path in paths)
    # labels of a pair sum to 1, and a list may say [1, 1]
    if len(images) == 2:
        return judged(row.name, row.caption("prompt"), (images[0], images[1]), (labels[0], labels[1]), reading.ties)
    if len(set(labels)) == 1 and reading.ties == "drop":
        raise Skip("a tie of all; it is kept with --ties half", "tie")
    return Listed(row.name, row.caption("prompt"), images, labels)


def _from_preference(row: ContainerRow, numbers: list[Any]) -> tuple[float, ...]:
    """The numbers as they are; raises `UserError` for others than those from 0 to 1."""
    for number in numbers:
        if type(number) not in (int, float) or not 0 <= number <= 1:
            raise UserError(f"{row.where}: `{PREFERENCE}` is {numbers!r}; write [1, 0] or [0, 1]")
    return tuple(map(float, numbers))


def _from_ranks(row: ContainerRow, ranks: list[Any]) -> tuple[float, ...]:
    """Labels at even distances from 1 for the smallest rank to 0 for the largest; of equal ranks the same label.

    Only the order of ranks counts, since lists number from 0 or 1 and leave numbers out. Raises `UserError` for what is
    no number.
    """
    for rank in ranks:
        if type(rank) not in (int, float) or not math.isfinite(rank):
            raise UserError(f"{row.where}: `{RANK}` is {ranks!r}; write numbers, such as [1, 2, 3] with 1 for the best")
    worst_first = sorted(set(ranks), reverse=True)
    if len(worst_first) == 1:
        return (1.0,) * len(ranks)
    return tuple(worst_first.index(rank) / (len(worst_first) - 1) for rank in ranks)


HPDV2 = Format(
    (PREFERENCE,),
    each(_pair, COLUMNS),
    COLUMNS,
    frozenset({"ties", "image_folder", "split"}),
    or_told_by=((_PATHS[0], RANK),),
)
