"""HPDv2's training list: {prompt, image_path: [a, b], human_preference: [1, 0]}, or lists of more images.

`file_path` is another name of `image_path`.
"""

from __future__ import annotations

from contrapose.containers.left_out import Skip
from contrapose.containers.places import inside
from contrapose.containers.row import ContainerRow
from contrapose.containers.stored import InFile
from contrapose.errors import UserError
from contrapose.exchange.listings.listed import Format, Listed, Reading, each, judged

PREFERENCE = "human_preference"
COLUMNS = ("prompt", PREFERENCE)
_PATHS = ("image_path", "file_path")


def _pair(row: ContainerRow, reading: Reading) -> Listed:
    """Of two images the one with the larger number won; more are a group, whose labels are their numbers."""
    key = next((key for key in _PATHS if key in row.fields), _PATHS[0])
    paths = row.need(key)
    preference = row.need(PREFERENCE)
    if not isinstance(paths, list) or not isinstance(preference, list) or len(paths) != len(preference):
        raise UserError(
            f"{row.where}: `{key}` and `{PREFERENCE}` are not two lists of one length; write a list of each"
        )
    if len(paths) < 2:
        raise Skip(f"ranks {len(paths)} images, which says nothing", "other number of images")
    for number in preference:
        if type(number) not in (int, float) or not 0 <= number <= 1:
            raise UserError(f"{row.where}: `{PREFERENCE}` is {preference!r}; write [1, 0] or [0, 1]")
    for path in paths:
        if not isinstance(path, str) or not path:
            raise UserError(f"{row.where}: `{key}` is {paths!r}; write the names of two files")
    folder = reading.folder(row)
    images = tuple(InFile(inside(folder, path)) for path in paths)
    labels = tuple(map(float, preference))
    # labels of a pair sum to 1, and a list may say [1, 1]
    if len(images) == 2:
        return judged(row.name, row.caption("prompt"), (images[0], images[1]), (labels[0], labels[1]), reading.ties)
    if len(set(labels)) == 1 and reading.ties == "drop":
        raise Skip("a tie of all; it is kept with --ties half", "tie")
    return Listed(row.name, row.caption("prompt"), images, labels)


HPDV2 = Format((PREFERENCE,), each(_pair, COLUMNS), COLUMNS, frozenset({"ties", "image_folder", "split"}))
