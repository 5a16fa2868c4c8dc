"""The streams of a backup: the rows of tables, the files that pg_dump wrote, small objects."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

from stepvault.engines.base import Counts
from stepvault.engines.postgres.reader import Content, Reader
from stepvault.engines.postgres.tables import Storage, Table
from stepvault.engines.postgres.toc import TRAILER, TableData, Toc
from stepvault.errors import SourceUnsupported

#: Range scans over ctid exist since PostgreSQL 14; before, each piece would read the whole table.
SPLITS_SINCE = 140000
_MOST_PIECES = 1000
_MEBI = 1 << 20
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Piece:
    """A table, or a range of its pages, that becomes one object."""

    table: Table
    storage: Storage
    number: int
    count: int
    """How many pieces the table has."""
    name: str
    root: Table | None
    """The partitioned table that sorts the rows into partitions again at restore."""

    @property
    def size(self) -> int:
        """Its share of the table's bytes."""
        return self.storage.size // self.count

    @property
    def query(self) -> bytes:
        """What to COPY."""
        columns = self.storage.columns
        if self.count == 1:
            return self.table.quoted + (b" (" + columns + b")" if columns else b"")
        step = -(-self.storage.pages // self.count)
        bounds = []
        if self.number > 0:
            bounds.append(b"ctid >= '(%d,0)'" % (self.number * step))
        if self.number < self.count - 1:
            bounds.append(b"ctid < '(%d,0)'" % ((self.number + 1) * step))
        where = b" AND ".join(bounds)
        return b"(SELECT %b FROM ONLY %b WHERE %b)" % (columns, self.table.quoted, where)


class TableStream:
    """The rows of a table, as COPY prints them.

    Args:
        piece: what to read.
        readers: where a free reader waits; it is put back afterwards.
        check_names: raises if the table has another name by now.
    """

    encoding: Literal["zstd", "none"] = "zstd"

    def __init__(
        self, piece: Piece, readers: "SimpleQueue[Reader]", check_names: Callable[[], None]
    ) -> None:
        self.name = piece.name
        self._piece = piece
        self._readers = readers
        self._check_names = check_names
        self._content = Content()

    def read(self) -> Iterator[bytes]:
        """Yield the rows and COPY's end mark."""
        reader = self._readers.get()
        try:
            yield from reader.copy(self._piece.query, self._piece.table.label, self._content)
        except SourceUnsupported:  # the server refused: it may know the table by another name
            self._check_names()
            raise
        finally:
            self._readers.put(reader)
        yield TRAILER

    def result(self) -> Counts:
        """Count the rows and give their digest."""
        facts: dict[str, Any] = {
            "table": self._piece.table.label,
            "oid": self._piece.table.oid,
            "fingerprint": self._content.sums.text(),
        }
        if self._piece.count > 1:
            facts |= {"piece": self._piece.number, "pieces": self._piece.count}
        if self._piece.root:
            facts["root"] = self._piece.root.label
        return Counts(rows=self._content.sums.rows, facts=facts)


class FileStream:
    """A file that pg_dump wrote, compressed already; removed once it has been read."""

    encoding: Literal["zstd", "none"] = "none"

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._path = path

    def read(self) -> Iterator[bytes]:
        """Yield the file's bytes."""
        with self._path.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block
        self._path.unlink()

    def result(self) -> Counts:
        """Count nothing."""
        return Counts()


class BytesStream:
    """A small object that is in memory."""

    encoding: Literal["zstd", "none"] = "none"

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self._data = data

    def read(self) -> Iterator[bytes]:
        """Yield it."""
        yield self._data

    def result(self) -> Counts:
        """Count nothing."""
        return Counts()


def cut(
    archive: Toc,
    tables: Sequence[Table],
    storage: Mapping[int, Storage],
    roots: Mapping[int, Table],
    piece_bytes: int | None,
) -> list[Piece]:
    """Announce the tables' rows in the archive and cut them into pieces, the largest first.

    Args:
        archive: its table of contents, to which the rows are added.
        tables: those to read.
        storage: what reading each takes, by oid.
        roots: the tables through which to load some of them, by oid.
        piece_bytes: size above which a table is split; None: tables are never split.
    """
    rows = [
        TableData(
            oid=t.oid,
            schema=t.schema,
            name=t.name,
            owner=storage[t.oid].owner,
            copy=_copy_from(roots.get(t.oid, t), storage[t.oid]),
            pieces=_pieces(storage[t.oid], piece_bytes),
            root=(roots[t.oid].oid, roots[t.oid].quoted) if t.oid in roots else None,
        )
        for t in tables
    ]
    pieces = [
        Piece(table, storage[table.oid], number, len(names), name, roots.get(table.oid))
        for table, names in zip(tables, archive.add_table_data(rows), strict=True)
        for number, name in enumerate(names)
    ]
    return sorted(pieces, key=lambda piece: -piece.size)


def _pieces(storage: Storage, piece_bytes: int | None) -> int:
    if piece_bytes is None or storage.size <= piece_bytes:
        return 1
    return max(1, min(-(-storage.size // piece_bytes), storage.pages, _MOST_PIECES))


def _copy_from(table: Table, storage: Storage) -> bytes:
    columns = b"(" + storage.columns + b")" if storage.columns else b""
    return b"COPY %b %b FROM stdin;\n" % (table.quoted, columns)
