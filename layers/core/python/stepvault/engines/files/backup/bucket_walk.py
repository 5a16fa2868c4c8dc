"""Objects of a bucket as if they were files: the same plan, packs, index and restore.

A key becomes a path below the source's prefix. What no file system can hold gets a name that begins
with a percent sign: an empty, ``.`` or ``..`` segment, and an object whose key is also a folder of
others. An object changes when its ETag does, so that stands in for the inode.
"""

import hashlib
import heapq
import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import NamedTuple

from stepvault.engines import object_paths
from stepvault.engines.base import ObjectEntry, ObjectReader
from stepvault.engines.files.format import listing
from stepvault.engines.files.paths import is_staging, split, walk_key
from stepvault.engines.files.tree.selection import Filters
from stepvault.engines.files.tree.walk import FILE, Entry
from stepvault.engines.files.tree.warnings import Warnings
from stepvault.errors import SourceMissing, SourceUnsupported
from stepvault.settings import FilesSource

#: Where an object lies whose key is also a folder.
_INSIDE = f"/{object_paths.SAME_AS_FOLDER}".encode()

#: Bytes of a name that file systems take.
_NAME_MAX = 255
_TOO_LONG = "has a name of over 255 bytes, which no file system takes"

#: What all objects have for a mode.
MODE = 0o644


class Object(NamedTuple):
    """What is known of an object."""

    key: str
    etag: str
    size: int
    mtime_ns: int

    def inode(self) -> int:
        """Return a number that changes when the ETag does."""
        return int.from_bytes(hashlib.sha256(self.etag.encode()).digest()[:7], "big")

    def entry(self, path: bytes) -> Entry:
        """Return the object as an entry of a tree."""
        return Entry(
            path=path,
            kind=FILE,
            size=self.size,
            blocks=-(-self.size // 512),
            mtime_ns=self.mtime_ns,
            ctime_ns=0,
            inode=self.inode(),
            mode=MODE,
            uid=0,
            gid=0,
            device=0,
            links=1,
            origin=(self.key, self.etag),
        )


def objects(
    source: FilesSource, buckets: ObjectReader | None, warnings: Warnings
) -> Iterator[Entry]:
    """Yield every object that the source's settings ask for, in walk order.

    Raises:
        SourceMissing: no such bucket, or nothing under the prefix.
        SourceDenied, SourceUnreachable.
    """
    if buckets is None:
        raise SourceUnsupported(f"{source.path!r} cannot be read without access to S3")
    bucket, prefix = object_paths.bucket_and_prefix(source.path)
    with closing(_InWalkOrder()) as entries:
        for one in buckets.list(bucket, prefix):
            entries.add(one, prefix)
        if prefix and not entries.count:
            raise SourceMissing(
                f"there is nothing under {source.path!r}", "Check the source's path for a typo"
            )
        yield from _without_clashes(_wanted(entries, source, warnings))


def object_record(entry: Entry, part: listing.Range | None = None) -> bytes:
    """Return the listing's record of an object or a part of it: what to ask S3 for, and its path."""
    numbers = [part.start, part.end, part.number, part.count] if part else []
    asked = json.dumps([*(entry.origin or ()), entry.size, entry.mtime_ns, *numbers]).encode()
    return listing.OBJECT + b"%d:" % len(asked) + asked + entry.path + listing.END


class _InWalkOrder:
    """S3 lists in the order of keys; a tree is walked folder by folder. Sorted on disk."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(
            "CREATE TABLE objects (sort BLOB, path BLOB, key TEXT, etag TEXT, size INT, mtime INT)"
        )
        self._held: list[tuple[bytes, bytes, str, str, int, int]] = []
        self.count = 0

    def add(self, one: ObjectEntry, prefix: str) -> None:
        self.count += 1
        path = object_paths.path_of(one.key[len(prefix) :]).encode("utf-8", "surrogatepass")
        mtime = round(one.modified * 1000) * 10**6
        self._held.append((walk_key(path), path, one.key, one.etag, one.size, mtime))
        if len(self._held) == 1000:
            self._flush()

    def _flush(self) -> None:
        self._database.executemany("INSERT INTO objects VALUES (?, ?, ?, ?, ?, ?)", self._held)
        self._held = []

    def __iter__(self) -> Iterator[Entry]:
        self._flush()
        rows = self._database.execute(
            "SELECT path, key, etag, size, mtime FROM objects ORDER BY sort, key"
        )
        for path, key, etag, size, mtime in rows:
            yield Object(key, etag, size, mtime).entry(path)

    def close(self) -> None:
        self._database.close()


def _wanted(entries: Iterable[Entry], source: FilesSource, warnings: Warnings) -> Iterator[Entry]:
    filters = Filters(source)
    for entry in entries:
        if _is_marker(entry):
            warnings.add("skipped a folder's marker object", entry.path.rpartition(b"/")[0] + b"/")
        elif is_staging(split(entry.path)[1]):
            warnings.add("left out, as an unfinished restore left it", entry.path)
        elif source.max_file_size is not None and entry.size > source.max_file_size:
            warnings.add(f"skipped, larger than max_file_size {source.max_file_size}", entry.path)
        elif filters.want(object_paths.as_in_key(entry.path)):
            if len(max(entry.path.split(b"/"), key=len)) > _NAME_MAX:
                warnings.add(_TOO_LONG, entry.path)
            yield entry


def _is_marker(entry: Entry) -> bool:
    """Whether it is what consoles put where a folder is to be seen."""
    return not entry.size and entry.origin is not None and entry.origin[0].endswith("/")


def _without_clashes(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Yield the entries; an object ``a`` beside ``a/b`` becomes ``a/%``, at its place in the order."""
    moved: list[tuple[bytes, Entry]] = []
    last: Entry | None = None
    for entry in entries:
        if last is not None:
            if entry.path.startswith(last.path + b"/"):
                last = last._replace(path=last.path + _INSIDE)
                heapq.heappush(moved, (walk_key(last.path), last))
            else:
                yield last
        while moved and moved[0][0] < walk_key(entry.path):
            yield heapq.heappop(moved)[1]
        last = entry
    if last is not None:
        yield last
    yield from (heapq.heappop(moved)[1] for _ in range(len(moved)))


def parse_record(record: bytes) -> tuple[bytes, Object, listing.Range | None]:
    """Return path, object and part out of a record made by ``object_record``."""
    length, _, rest = record[1:].partition(b":")
    key, etag, size, mtime, *numbers = json.loads(rest[: int(length)])
    part = listing.Range(*numbers) if numbers else None
    return rest[int(length) :], Object(key, etag, size, mtime), part
