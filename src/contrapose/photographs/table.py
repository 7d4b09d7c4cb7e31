"""All photographs of a run in one SQLite file: who they are, how far they have come, and why they were left out.

A photograph's `stage` is the number of the last stage that it has been through, which no worker that is behind takes
back, and its `reason` says why it goes no further than that. A batch is written in one transaction, so that a run that
is killed anywhere finds it whole or not at all. Rows are read by the page and not kept: memory does not grow with them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from contrapose.containers.left_out import LeftOut
from contrapose.containers.stored import InFile, InParquet, InTar, Stored
from contrapose.errors import UserError, one_line
from contrapose.files import full, is_full, is_writable
from contrapose.photographs.candidates import Candidate
from contrapose.pixels import Size

TABLE = "photographs.sqlite"
VERSION = 2  # of a folder's layout; the first one had a file of JSON lines for each stage
AGAIN = "delete the folder and run the same command again"
_LARGEST = 2**63 - 1  # number that SQLite has
_PAGE = 500  # rows that are read at a time
_WAIT = 60  # seconds for another program that looks at the file

# Those that were left out in the first stage have no more than a name, a kind and a reason. The checks hold for every
# program that writes here, and are made again when the file is opened.
_SCHEMA = f"""
BEGIN;
CREATE TABLE photographs (
    number INTEGER PRIMARY KEY CHECK (number >= 0),
    name TEXT NOT NULL CHECK (typeof(name) = 'text'),
    stage INTEGER NOT NULL CHECK (typeof(stage) = 'integer' AND stage >= 0),
    kind TEXT CHECK (typeof(kind) IN ('text', 'null')),
    reason TEXT CHECK (typeof(reason) = typeof(kind)),
    id TEXT CHECK (id IS NOT NULL OR (stage = 0 AND reason IS NOT NULL)),
    image TEXT,          -- where its bytes are, below the source
    width INTEGER,
    height INTEGER,
    fingerprint TEXT,    -- perceptual, 64 bits in hexadecimal digits
    bucket INTEGER,      -- place among the sizes that the model trains on, the narrowest first
    seed INTEGER,
    caption TEXT,
    flip INTEGER,
    crop_left REAL,      -- shares of what sticks out that are cropped off
    crop_top REAL,
    scores TEXT,         -- by side and measure
    why TEXT,            -- how the loser was made
    CHECK (id IS NULL OR (
        length(id) = 16 AND id NOT GLOB '*[^0-9a-f]*' AND typeof(image) = 'text'
        AND typeof(width) = 'integer' AND width > 0 AND typeof(height) = 'integer' AND height > 0
        AND typeof(fingerprint) = 'text' AND length(fingerprint) = 16 AND fingerprint NOT GLOB '*[^0-9a-f]*'
        AND typeof(bucket) = 'integer' AND bucket >= 0 AND typeof(seed) = 'integer' AND seed >= 0
        AND typeof(caption) IN ('text', 'null') AND typeof(flip) = 'integer' AND flip IN (0, 1)
        AND typeof(crop_left) = 'real' AND crop_left BETWEEN 0 AND 1
        AND typeof(crop_top) = 'real' AND crop_top BETWEEN 0 AND 1
        AND typeof(scores) = 'text' AND typeof(why) = 'text'
    ))
);
CREATE INDEX by_bucket ON photographs (bucket);  -- and in each by number, as in every index
PRAGMA user_version = {VERSION};
COMMIT;
"""
_CANDIDATE = (
    "number, name, id, image, width, height, fingerprint, bucket, seed, caption, flip, crop_left, crop_top, scores, why"
)
# Names and reasons may hold half a character, which only bytes can: they are text to everyone else.
_ADD_CANDIDATE = f"INSERT INTO photographs (stage, {_CANDIDATE}) VALUES (0, ?, CAST(? AS TEXT){', ?' * 13})"
_ADD_LEFT_OUT = (
    "INSERT INTO photographs (stage, number, name, kind, reason) VALUES (0, ?, CAST(? AS TEXT), ?, CAST(? AS TEXT))"
)
_KEEP = "UPDATE photographs SET stage = ?1, caption = ?2, scores = ?3, why = ?4 WHERE number = ?5 AND stage <= ?1"
_LEAVE_OUT = "UPDATE photographs SET stage = ?1, kind = ?2, reason = CAST(?3 AS TEXT) WHERE number = ?4 AND stage <= ?1"
_REACHED = "(stage >= :stage OR (stage = :stage - 1 AND reason IS NULL))"
_WAITING = "(stage = :stage - 1 AND reason IS NULL)"

_PLACES: dict[str, type[Stored]] = {"file": InFile, "tar": InTar, "parquet": InParquet}
_PLACE_NAMES = {cls: name for name, cls in _PLACES.items()}


class PhotoRow(NamedTuple):
    """What a stage says of one photograph: the candidate that goes on, as it now is, or why it is left out."""

    number: int
    entry: Candidate | LeftOut


class Portion(NamedTuple):
    """Neighbours in the order of a stage: the places of the first and the last, as `PhotoTable.places` tells them."""

    first: tuple[int, int]
    last: tuple[int, int]


class PhotoTable:
    """The file of one run; it is made by whatever is first asked of it.

    `sizes` are the buckets, narrowest first. From the stage `sorted_from` on, photographs are taken bucket by bucket,
    before that as they are listed. All methods raise `UserError` for a file that is broken, of another version, or on a
    disk that is full or cannot be written.
    """

    def __init__(self, path: Path, sizes: Sequence[Size], sorted_from: int):
        self.path = path
        self.sizes = tuple(sizes)
        self.sorted_from = sorted_from

    @property
    def begun(self) -> bool:
        return self.path.exists()

    @cached_property
    def _connection(self) -> sqlite3.Connection:
        # no isolation level: transactions are begun and ended here, not by Python's module
        connection = sqlite3.connect(self.path, timeout=_WAIT, isolation_level=None)
        connection.text_factory = lambda data: data.decode("utf-8", "surrogatepass")
        try:
            with self._naming_errors():
                [(version,)] = connection.execute("PRAGMA user_version")
                # SQLite's own number of a file that nobody has written
                if version == 0:
                    connection.executescript(_SCHEMA)
                elif version != VERSION:
                    raise UserError(f"{self.path}: is of version {version}, and this program reads {VERSION}; {AGAIN}")
                [(state,)] = connection.execute("PRAGMA quick_check(1)")
                if state != "ok":
                    raise self._broken(state)
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Let go of the file; nothing of it is left beside it."""
        connection = self.__dict__.pop("_connection", None)
        if connection is not None:
            connection.close()

    def num_through(self, stage: int) -> int:
        """Photographs that have been through a stage."""
        return self._count("stage >= :stage", stage)

    def num_kept(self, stage: int) -> int:
        """Photographs that go on after a stage."""
        return self._count("stage > :stage OR (stage = :stage AND reason IS NULL)", stage)

    def first_unfinished(self) -> int:
        """The first stage for which photographs that were looked at are waiting."""
        waiting = "SELECT MIN(stage) FROM photographs WHERE reason IS NULL"
        # Where all are left out, the stages after the last one have still to come.
        [[stage]] = self._rows(f"SELECT COALESCE(({waiting}), MAX(stage)) FROM photographs", {})
        return int(stage) + 1

    def name(self, number: int) -> str:
        """The name of the photograph of this number."""
        [[name]] = self._rows("SELECT name FROM photographs WHERE number = :number", {"number": number})
        return str(name)

    def reaching(self, stage: int, portion: Portion | None = None) -> Reaching:
        """The photographs of a stage, or a portion of them."""
        return Reaching(self, stage, portion)

    def places(self, stage: int) -> Iterator[tuple[int, int]]:
        """Bucket and number of the photographs that reach a stage, in its order; the bucket is 0 before the sorting."""
        column = "bucket" if stage >= self.sorted_from else "0"
        query = f"SELECT {column}, number FROM photographs WHERE id IS NOT NULL AND {_REACHED} ORDER BY 1, 2"
        yield from self._rows(query, {"stage": stage})

    def left_out(self) -> Iterator[LeftOut]:
        """Every photograph that was left out, stage by stage and in each as the stage took them."""
        order = f"stage, CASE WHEN stage >= {self.sorted_from} THEN bucket END, number"
        query = f"SELECT name, kind, reason FROM photographs WHERE reason IS NOT NULL ORDER BY {order}"
        with self._naming_errors():
            for name, kind, reason in self._connection.execute(query):
                yield LeftOut(name, kind, reason)

    def candidates(self, stage: int, condition: str, portion: Portion | None = None) -> Iterator[Candidate]:
        """The candidates of which a condition holds, in the order of a stage, which may write while they are read."""
        for part, before, end in self._ranges(stage, portion):
            query = (
                f"SELECT {_CANDIDATE} FROM photographs WHERE {part} AND number > :last AND number <= {end} "
                f"AND id IS NOT NULL AND {condition} ORDER BY number LIMIT {_PAGE}"
            )
            # pages from the last number on, and not a cursor, since the stage writes into what it reads
            last = before
            while page := self._rows(query, {"last": last, "stage": stage}):
                for row in page:
                    yield self._candidate(*row)
                last = page[-1][0]

    def _ranges(self, stage: int, portion: Portion | None) -> Iterator[tuple[str, int, int]]:
        """What the photographs of a stage are read by: conditions on buckets, the number before the first, the last."""
        # a page goes on from a number, which rises within one bucket alone
        buckets: Sequence[int | None] = range(len(self.sizes)) if stage >= self.sorted_from else [None]
        for bucket in buckets:
            before = -1
            end = _LARGEST
            if portion is not None:
                if bucket is not None and not portion.first[0] <= bucket <= portion.last[0]:
                    continue
                if bucket in (None, portion.first[0]):
                    before = portion.first[1] - 1
                if bucket in (None, portion.last[0]):
                    end = portion.last[1]
            yield ("1" if bucket is None else f"bucket = {bucket}"), before, end

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all that is written in the block is there when it ends well, and nothing of it otherwise."""
        connection = self._connection
        with self._naming_errors():
            # the lock at once: one taken at the first write could fail halfway
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # a full disk may have ended it
                    connection.execute("ROLLBACK")
                raise

    def values(self, candidate: Candidate) -> tuple[object, ...]:
        """A candidate's columns, in their order."""
        return (
            candidate.number,
            _bytes(candidate.name),
            candidate.id,
            _place_text(candidate.image),
            *candidate.size,
            f"{candidate.fingerprint:016x}",
            self.sizes.index(candidate.bucket),
            candidate.seed,
            candidate.caption,
            candidate.flip,
            *candidate.position,
            json.dumps(candidate.scores),
            json.dumps(candidate.why),
        )

    def _candidate(
        self, number: int, name: str, id_: str, image: str, width: int, height: int, fingerprint: str, bucket: int,
        seed: int, caption: str | None, flip: int, left: float, top: float, scores: str, why: str,
    ) -> Candidate:  # fmt: skip
        """The inverse of `values`; what the file's own checks do not see is looked at here."""
        try:
            if caption is not None and not is_writable(caption):
                raise ValueError("caption")
            return Candidate(
                number,
                id_,
                name,
                _place(image),
                Size(width, height),
                int(fingerprint, 16),
                self.sizes[bucket],
                seed,
                caption,
                bool(flip),
                (left, top),
                _mapping(scores, (float,)),
                _mapping(why, (str, int, float)),
            )
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            raise self._broken(f"photograph {number} is not as it was written") from None

    def _rows(self, query: str, values: Mapping[str, int]) -> list[Any]:
        with self._naming_errors():
            return self._connection.execute(query, values).fetchall()

    def _count(self, condition: str, stage: int) -> int:
        [[number]] = self._rows(f"SELECT COUNT(*) FROM photographs WHERE {condition}", {"stage": stage})
        return int(number)

    def _broken(self, reason: object) -> UserError:
        return UserError(f"{self.path}: is broken ({one_line(reason)}); {AGAIN}")

    @contextmanager
    def _naming_errors(self) -> Iterator[None]:
        """Tell SQLite's errors in a line that names the file and what to do."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if is_full(error):
                raise full(self.path) from error
            if "no such" in str(error):
                raise self._broken(error) from None
            raise UserError(
                f"{self.path}: cannot be read or written ({one_line(error)}); close what else uses it, see that the "
                "folder can be written, and run the same command again"
            ) from error
        except sqlite3.Error as error:
            raise self._broken(error) from None


class Reaching:
    """The photographs that reach a stage, or a portion of them, in its order; going through them reads anew."""

    def __init__(self, table: PhotoTable, stage: int, portion: Portion | None = None):
        self._table = table
        self._stage = stage
        self._portion = portion

    def __iter__(self) -> Iterator[Candidate]:
        """All of them, with what earlier stages found: those that this stage has left out already too."""
        return self._table.candidates(self._stage, _REACHED, self._portion)

    def waiting(self) -> Iterator[Candidate]:
        """Those that have not been through yet."""
        return self._table.candidates(self._stage, _WAITING, self._portion)

    @property
    def num_through(self) -> int:
        """How many of all photographs have been through the stage, left out or not."""
        return self._table.num_through(self._stage)

    def name(self, number: int) -> str:
        """The name of the photograph of this number."""
        return self._table.name(number)

    def add(self, rows: Iterable[PhotoRow]) -> int:
        """Write photographs that the first stage has looked at, one by one in one transaction; how many there were."""
        num = 0
        with self._table.writing() as connection:
            for number, entry in rows:
                if isinstance(entry, LeftOut):
                    text = _bytes(entry.name), entry.kind, _bytes(entry.reason)
                    connection.execute(_ADD_LEFT_OUT, (number, *text))
                else:
                    connection.execute(_ADD_CANDIDATE, self._table.values(entry))
                num += 1
        return num

    def write(self, rows: Iterable[PhotoRow]) -> int:
        """Write what becomes of photographs in this stage, in one transaction; how many there were."""
        num = 0
        with self._table.writing() as connection:
            for number, entry in rows:
                if isinstance(entry, LeftOut):
                    connection.execute(_LEAVE_OUT, (self._stage, entry.kind, _bytes(entry.reason), number))
                else:
                    connection.execute(_KEEP, (self._stage, *_findings(entry), number))
                num += 1
        return num

    def note(self, candidates: Sequence[Candidate]) -> int:
        """Write what was found of candidates that are still waiting, in one transaction; how many there were."""
        with self._table.writing() as connection:
            for candidate in candidates:
                connection.execute(_KEEP, (self._stage - 1, *_findings(candidate), candidate.number))
        return len(candidates)


def _findings(candidate: Candidate) -> tuple[str | None, str, str]:
    """The columns that change from stage to stage."""
    return candidate.caption, json.dumps(candidate.scores), json.dumps(candidate.why)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _place_text(place: Stored) -> str:
    """Where an image lies, as JSON: ["tar", "a.tar", "0.png", 512, 4711]."""
    rest = [getattr(place, part.name) for part in fields(place)[1:]]
    return json.dumps([_PLACE_NAMES[type(place)], str(place.path), *rest])


def _place(text: str) -> Stored:
    """The inverse of `_place_text`; an error for what it never writes, such as a path that leads out of the source."""
    kind, name, *rest = json.loads(text)
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(name)
    place = _PLACES[kind](path, *rest)
    for part in fields(place)[1:]:
        value = getattr(place, part.name)
        sound = isinstance(value, str) if part.type == "str" else type(value) is int and value >= 0
        if not sound:
            raise ValueError(part.name)
    return place


def _mapping(text: str, kinds: tuple[type, ...]) -> dict[str, Any]:
    """A JSON object whose values are of these types; `ValueError` for anything else."""
    values = json.loads(text)
    if not isinstance(values, dict) or any(type(value) not in kinds for value in values.values()):
        raise ValueError(text)
    return values
