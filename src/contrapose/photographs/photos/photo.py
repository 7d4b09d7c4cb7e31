"""One photograph as it is listed: its name, its place and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from contrapose.containers.folders import parsed_fields
from contrapose.containers.images import IMAGES
from contrapose.containers.left_out import LeftOut, Skip, attempt
from contrapose.containers.row import ContainerRow
from contrapose.containers.stored import Stored
from contrapose.containers.tables import check_columns
from contrapose.errors import UserError
from contrapose.exchange.listings.hpdv3 import MODELS, PATHS
from contrapose.exchange.listings.listed import Reading
from contrapose.exchange.listings.pick_a_pic import IMAGE_0, IMAGE_1, PICK_A_PIC, WEBDATASET
from contrapose.files import is_writable

CAPTIONS = ("caption", "text", "prompt", "captions")
FILES = ("file_path", "image", "file_name", "real_image_path")
REAL = "real_images"  # HPDv3's word for the source of its photographs
_OF_TARS = tuple(ending.removeprefix(".") for ending in IMAGES)  # webdataset names a field after its ending


@dataclass(frozen=True, slots=True)
class Photo:
    """A photograph that nobody has opened yet; `name` is its own within the source, and no place on this machine."""

    name: str
    image: Stored
    caption: str | None
    fields: str = ""
    """The names of the fields that its row has, and what else tells a user where its caption could be."""


def photos_of(row: ContainerRow, name: str) -> Iterator[Photo | LeftOut]:
    """The photographs of a row that is called `name`: one image and its caption, or a pair's better image.

    Of HPDv3's pairs they are the images whose model is `real_images`, both winners and losers. Raises `UserError` for
    a row that names no image file.
    """
    columns = {*row.fields, *row.kinds}
    if not is_writable(name):
        yield LeftOut(name, "unusable", "its name is not UTF-8; rename it")
    # a sample of a tar may lack its second image, and is a pair's all the same
    elif IMAGE_0 in columns and (row.loose or IMAGE_1 in columns):
        yield _better(row, name)
    elif columns.issuperset(PATHS):
        for model, path in zip(MODELS, PATHS, strict=True):
            if row.fields.get(model) == REAL:
                yield attempt(f"{name} {path}", _photo, row, f"{name} {path}", path)
    else:
        yield attempt(name, _photo, row, name)


def _better(row: ContainerRow, name: str) -> Photo | LeftOut:
    """The image of Pick-a-Pic's pair that was liked better; a tie has none."""
    format = WEBDATASET if row.loose else PICK_A_PIC
    check_columns(row.source, [*row.fields, *row.kinds], format.needs)
    (pair,) = format.pairs([row], Reading(ties="half"))
    if isinstance(pair, LeftOut):
        return replace(pair, name=name)
    if pair.preference == 0.5:
        return LeftOut(name, "tie", "a tie: neither of its images was liked better")
    return Photo(name, pair.winner, " ".join(pair.prompt.split()))


def _photo(row: ContainerRow, name: str, key: str | None = None) -> Photo:
    image = row.image(key or _image_field(row))
    return Photo(name, image, _caption(row), f"{row.field_names}{row.hint}")


def _image_field(row: ContainerRow) -> str:
    """The field that holds the image, or names its file; raises `Skip` for a sample of a tar that has none."""
    stored = (key for key in (*FILES, *_OF_TARS) if isinstance(row.fields.get(key), Stored))
    named = (key for key in FILES if key in row.fields or key in row.kinds)
    key = next(stored, None) or next(named, None)
    if key is not None:
        return key
    if row.loose:
        hint = row.hint or "; a name is KEY.ENDING, and its key ends at the first dot"
        raise Skip(f"holds no image that is read, but {', '.join(sorted(row.fields))}{hint}")
    raise UserError(
        f"{row.where}: names no image file (found: {row.field_names}); photographs need one of {', '.join(FILES)}, and "
        f"{' or '.join(CAPTIONS)} for their caption"
    )


def _caption(row: ContainerRow) -> str | None:
    """The first text with words in it, in one line: of a text beside the image, a field, or a JSON object."""
    try:
        return " ".join(row.caption("txt", *CAPTIONS).split())
    except Skip:
        pass
    if "json" not in row.fields or not row.loose:
        return None
    try:
        beside = replace(row, fields=parsed_fields(row.text("json")))
        return " ".join(beside.caption(*CAPTIONS).split())
    except Skip:
        return None
