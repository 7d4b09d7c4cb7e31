"""Pick-a-Pic: `jpg_0` and `jpg_1`, `label_0` (1, 0, 0.5 for a tie), and `caption`, which its tars call otherwise.

In Parquet the images are files as bytes, in webdataset tars KEY.jpg_0.jpg beside KEY.original_prompt.txt.
"""

from __future__ import annotations

from functools import partial

from contrapose.containers.left_out import Skip
from contrapose.containers.row import ContainerRow
from contrapose.errors import UserError
from contrapose.exchange.listings.listed import Format, Listed, Reading, each, first_share, judged
from contrapose.files import is_writable

IMAGE_0 = "jpg_0"
IMAGE_1 = "jpg_1"
LABEL_0 = "label_0"
LABEL_1 = "label_1"
CAPTION = "caption"
PROMPT_OF_TARS = "original_prompt"
DEGRADED = "degraded_prompt"  # ours, as 'contrapose pairs export' writes it
_HAS_LABEL = "has_label"  # False where nobody was asked


def _pair(row: ContainerRow, reading: Reading, prompt: str) -> Listed:
    images = row.image(IMAGE_0), row.image(IMAGE_1)
    label = row.number(LABEL_0)
    if label is None or row.fields.get(_HAS_LABEL) is False:
        raise Skip("has no label", "no label")
    shares = first_share(label, LABEL_0, row.where)
    return judged(row.name, row.caption(prompt), images, shares, reading.ties, _degraded(row))


def _degraded(row: ContainerRow) -> str:
    degraded = row.text(DEGRADED) if DEGRADED in row.fields else None
    if degraded is None or degraded == "":
        return ""
    if not isinstance(degraded, str):
        raise UserError(f"{row.where}: `{DEGRADED}` is {degraded!r}; write a text")
    if not is_writable(degraded):
        raise Skip("its degraded prompt holds a NUL or half a character")
    return degraded


_TAKES = frozenset({"ties", "split"})
_COLUMNS = (IMAGE_0, IMAGE_1, LABEL_0, CAPTION)
_FILES = (IMAGE_0, IMAGE_1, LABEL_0, PROMPT_OF_TARS)
PICK_A_PIC = Format((IMAGE_0, CAPTION), each(partial(_pair, prompt=CAPTION), _COLUMNS), _COLUMNS, _TAKES)
WEBDATASET = Format((IMAGE_0,), each(partial(_pair, prompt=PROMPT_OF_TARS), _FILES), takes=_TAKES)
