"""A row of a container: its place, for messages, and its fields, of which each is a plain value or a `Stored` place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from contrapose.containers.left_out import Skip
from contrapose.containers.places import Place, inside
from contrapose.containers.stored import InFile, InTar, Stored, TooLarge
from contrapose.errors import UserError
from contrapose.files import is_writable

FILE_NAME = "file_name"  # Hugging Face's word for the image file that a row of metadata is about
_LONGEST_TEXT = 1 << 16  # bytes of a caption or label


@dataclass(frozen=True, slots=True)
class ContainerRow:
    """One row, entry, line or sample; images are places, whose bytes are read when they are asked for."""

    source: Place
    """The file that the row is in, or the folder."""
    place: str
    """Where it is in there: a line, an entry, a row, or a sample's key."""
    fields: Mapping[str, Any]
    joint: str = " "
    """What stands between the source's name and the place."""
    alone: bool = True
    """Whether data of this kind is usually one file, so that the place tells rows apart."""
    typed: bool = True
    """Whether a number is a number; where all fields are texts, one that spells a number is taken for it."""
    loose: bool = False
    """Whether a row may lack fields that others have."""
    hint: str = ""
    """What is said beside, where a field is missing."""
    kinds: Mapping[str, str] = field(default_factory=dict)
    """The types of typed columns that hold no image files."""

    @property
    def where(self) -> str:
        """Source and place, for errors."""
        return f"{self.source}: {self.place}"

    @property
    def name(self) -> str:
        """What the row is called among all rows of a data set."""
        return self.place if self.alone else self.within(self.source.name)

    def within(self, label: str) -> str:
        """The row's name where its source is called `label`."""
        return f"{label}{self.joint}{self.place}"

    def need(self, key: str) -> Any:
        """A field's value; raises `UserError` where it is missing, and `Skip` where rows may lack it."""
        self.check(key)
        return self.fields.get(key)

    def check(self, key: str) -> None:
        """Raise `UserError` for a field that is missing, or `Skip` where rows may lack it."""
        if key in self.fields or key in self.kinds:
            return
        if self.loose:
            raise Skip(f"has no {key}{self.hint}", "incomplete")
        raise UserError(f"{self.where}: has no `{key}` field (fields found: {self.field_names}); add one")

    @property
    def field_names(self) -> str:
        """The names of the fields, for messages."""
        return ", ".join(dict.fromkeys([*self.fields, *self.kinds])) or "none"

    def text(self, key: str) -> Any:
        """A field's value, or the text in it where it is a file; raises `Skip` for a file that is not a text."""
        value = self.need(key)
        return read_text(value) if isinstance(value, Stored) else value

    def number(self, key: str) -> Any:
        """A field's value as a number if it is one or spells one, otherwise unchanged, for the caller to check."""
        value = self.text(key)
        if isinstance(value, Decimal):
            return float(value)
        if self.typed and not isinstance(self.fields[key], Stored):
            return value
        try:
            return float(value)
        except (TypeError, ValueError):
            return value

    def caption(self, *keys: str) -> str:
        """The first text with words in it of these fields, each of which may be a list of texts.

        Raises `Skip` when there is none, or none that every file can hold.
        """
        reasons: list[Skip] = []
        for key in keys:
            if key not in self.fields:
                continue
            try:
                return caption_of(self.text(key))
            except Skip as skip:
                reasons.append(skip)
        raise reasons[0] if reasons else Skip("has no caption", "no caption")

    def image(self, key: str, folder: Place | None = None) -> Stored:
        """The image, latent or other file of a field: its place in the container, or the file that it names.

        Names are relative to `folder`, by default the source's own. Raises `Skip` for a file that is missing or leads
        out of the folder, and `UserError` for a field that is not a file's name, or a column that holds no files.
        """
        value = self.need(key)
        if isinstance(value, Stored):
            return value
        if key in self.kinds and key != FILE_NAME:
            kind = self.kinds[key]
            raise UserError(
                f"{self.source}: its column {key} is of {kind}; write image files as bytes or {{bytes, path}}"
            )
        if not isinstance(value, str) or not value:
            raise UserError(f"{self.where}: `{key}` is {value!r}; write the name of a file")
        return InFile(inside(folder or self.source.parent, value))


def caption_of(value: Any) -> str:
    """The text, or the first text of a list, that has words in it; raises `Skip` when there is none."""
    texts = value if isinstance(value, list) else [value]
    text = next((text for text in texts if isinstance(text, str) and text.strip()), None)
    if text is None:
        raise Skip("has no caption", "no caption")
    if not is_writable(text):
        raise Skip("its caption holds a NUL or half a character", "no caption")
    return text


def read_text(stored: Stored) -> str:
    """A caption or label file, without a byte order mark; raises `Skip` when it is too long for one, or not UTF-8."""
    name = stored.member if isinstance(stored, InTar) else stored.name
    try:
        data = stored.read(_LONGEST_TEXT)
    except TooLarge:
        raise Skip(f"{name}: is too long for a text", "unreadable") from None
    except OSError as error:
        raise Skip(f"{name}: cannot be read ({error.strerror or error})", "unreadable") from None
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise Skip(f"{name}: is not readable as UTF-8", "unreadable") from None
