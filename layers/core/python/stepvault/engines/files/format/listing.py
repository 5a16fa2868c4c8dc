"""What ``plan`` tells a unit: which paths to back up. Opaque to all but this engine.

zstd frames of NUL-ended records, since a path may hold any other byte. The first is a JSON head;
each other is one letter and a path. The unit of unchanged entries has index lines after its head
instead. A hundred thousand paths are about 1 MB.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from stepvault.compress import decompress
from stepvault.engines.files.paths import walk_key
from stepvault.engines.files.spool import compressor, cut
from stepvault.engines.files.tree.walk import DIRECTORY, FILE, Entry

END = b"\0"

#: One file name of several: all names of an inode are in one unit and go into one pack.
LINKED = b"h"
#: The same of a symbolic link.
LINKED_LINK = b"L"
#: A range of a file too large for one unit: ``p<start>-<end>-<number>-<count>:<path>``.
PIECE = b"p"
#: An object of a bucket: ``o<length>:<what to ask S3 for><path>``.
OBJECT = b"o"


@dataclass(frozen=True)
class Head:
    """What holds for the whole unit."""

    unit: str
    unchanged: bool = False
    """Index lines follow instead of paths."""
    packs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of a unit of unchanged entries with lines: number, stored object and live bytes of each pack its lines point at."""
    files: int = 0
    """Of a unit of unchanged entries: how many it describes."""
    same: list[dict[str, Any]] = field(default_factory=list)
    """Of a unit of unchanged entries, when nothing at all has changed: the previous backup's objects."""
    mounts: list[str] = field(default_factory=list)
    """For the index's head; in one unit of the source only."""
    warnings: list[str] = field(default_factory=list)
    """The walk's; in one unit of the source only."""

    def record(self) -> bytes:
        """Return it as the first record."""
        return json.dumps(self.__dict__).encode() + END


@dataclass(frozen=True, slots=True)
class Range:
    """One piece of a file."""

    start: int
    end: int
    number: int
    count: int

    def record(self, path: bytes) -> bytes:
        """Return the record of this piece of the file at that path."""
        numbers = (self.start, self.end, self.number, self.count)
        return PIECE + b"%d-%d-%d-%d:" % numbers + path + END

    def name(self, path: bytes) -> bytes:
        """Return the name of its member: ``cat`` of all pieces in order gives the file."""
        return path + b".part-%04d-of-%04d" % (self.number, self.count)


def piece(record: bytes) -> tuple[Range, bytes]:
    """Return the range and the path of a ``PIECE`` record (without its end)."""
    numbers, _, path = record[1:].partition(b":")
    return Range(*map(int, numbers.split(b"-"))), path


def path_of(record: bytes) -> bytes:
    """Return the path that a record (without its end) is about."""
    if record[:1] == PIECE:
        return piece(record)[1]
    if record[:1] == OBJECT:
        length, _, rest = record[1:].partition(b":")
        return rest[int(length) :]
    return record[1:]


def sort_key(record: bytes) -> bytes:
    """Return a key that sorts records as the walk met them."""
    return walk_key(path_of(record))


def packed(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the chunks as a zstd frame."""
    stream = compressor().compressobj()
    yield from map(stream.compress, chunks)
    yield stream.flush()


def open_listing(chunks: Iterable[bytes]) -> tuple[Head, Iterator[bytes]]:
    """Yield the head, and the raw chunks that follow it."""
    stream = decompress(chunks)
    first = b""
    for chunk in stream:
        first += chunk
        if END in first:
            break
    head, _, rest = first.partition(END)

    def following() -> Iterator[bytes]:
        if rest:
            yield rest
        yield from stream

    return Head(**json.loads(head)), following()


def records(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Return the records after the head, without their ends."""
    return cut(chunks, END)


def entry_record(entry: Entry, part: "Range | None" = None) -> bytes:
    """Return the record of an entry, or of a part of it."""
    if part:
        return part.record(entry.path)
    kind = entry.kind.encode()
    if entry.links > 1 and entry.kind != DIRECTORY:
        kind = LINKED if entry.kind == FILE else LINKED_LINK
    return kind + entry.path + END
