"""Objects of a bucket as if they were files: the same plan, packs, index and restore.

A key becomes a path below the source's prefix. What no file system can hold gets a name that begins
with a percent sign: an empty, ``.`` or ``..`` segment, and an object whose key is also a folder of
others. An object changes when its ETag does, so that stands in for the inode.
"""

import hashlib
import heapq
import json
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import chain
from typing import NamedTuple

from stepvault.engines import object_paths
from stepvault.engines.base import Buffer, ObjectEntry, ObjectReader
from stepvault.engines.files import index, listing, tar
from stepvault.engines.files.holes import HoleDigest
from stepvault.engines.files.notes import Notes
from stepvault.engines.files.pack import HELD, Member
from stepvault.engines.files.selection import Filters
from stepvault.engines.files.tree import walk_key
from stepvault.engines.files.walk import FILE, Entry
from stepvault.errors import SourceChanged, SourceDenied, SourceMissing
from stepvault.settings import FilesSource

SCHEME = "s3://"

#: Small objects are fetched by this many threads; S3's latency hides behind them.
_THREADS = 16
_AHEAD = 32
_ATTEMPTS = 5


#: Where an object lies whose key is also a folder.
_INSIDE = f"/{object_paths.SAME_AS_FOLDER}".encode()

#: What all objects have for a mode.
_MODE = 0o644


class _Object(NamedTuple):
    """What is known of an object."""

    key: str
    etag: str
    size: int
    mtime_ns: int

    def inode(self) -> int:
        """A number that is another one when the ETag is."""
        return int.from_bytes(hashlib.sha256(self.etag.encode()).digest()[:7], "big")

    def entry(self, path: bytes) -> Entry:
        """What a file's known would say."""
        return Entry(
            path=path,
            kind=FILE,
            size=self.size,
            blocks=-(-self.size // 512),
            mtime_ns=self.mtime_ns,
            ctime_ns=0,
            inode=self.inode(),
            mode=_MODE,
            uid=0,
            gid=0,
            device=0,
            links=1,
            origin=(self.key, self.etag),
        )


def place(source: FilesSource) -> tuple[str, str]:
    """Bucket and prefix; a prefix that is not empty ends in a slash."""
    bucket, _, prefix = source.path.removeprefix(SCHEME).partition("/")
    return bucket, f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""


def objects(source: FilesSource, buckets: ObjectReader, notes: Notes) -> Iterator[Entry]:
    """Every object that the source's settings ask for, in walk order.

    Raises:
        SourceMissing: no such bucket, or nothing under the prefix.
        SourceDenied, SourceUnreachable.
    """
    bucket, prefix = place(source)
    with closing(_InWalkOrder()) as found:
        for one in buckets.list(bucket, prefix):
            found.add(one, prefix)
        if prefix and not found.count:
            raise SourceMissing(
                f"there is nothing under {source.path!r}", "Check the source's path for a typo"
            )
        yield from _without_clashes(_wanted(found, source, notes))


def object_record(entry: Entry, part: listing.Range | None = None) -> bytes:
    """The listing's record of an object or a part of it: what to ask S3 for, and its path."""
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
            yield _Object(key, etag, size, mtime).entry(path)

    def close(self) -> None:
        self._database.close()


def _wanted(entries: Iterable[Entry], source: FilesSource, notes: Notes) -> Iterator[Entry]:
    filters = Filters(source)
    for entry in entries:
        if _is_marker(entry):
            notes.add("skipped a folder's marker object", entry.path.rpartition(b"/")[0] + b"/")
        elif source.max_file_size is not None and entry.size > source.max_file_size:
            notes.add(f"skipped, larger than max_file_size {source.max_file_size}", entry.path)
        elif filters.want(object_paths.as_in_key(entry.path)):
            yield entry


def _is_marker(entry: Entry) -> bool:
    """Whether it is what consoles put where a folder is to be seen."""
    return not entry.size and entry.origin is not None and entry.origin[0].endswith("/")


def _without_clashes(entries: Iterable[Entry]) -> Iterator[Entry]:
    """An object ``a`` beside ``a/b`` is stored as ``a/%``, at its place in the order."""
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


class BucketReader:
    """A ``Reader`` of objects."""

    def __init__(self, source: FilesSource, buckets: ObjectReader, notes: Notes) -> None:
        self._source = source
        self._buckets = buckets
        self._notes = notes
        self._bucket, _ = place(source)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="object")

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def members(self, records: Iterable[bytes]) -> Iterator[Member]:
        """The records' objects; small ones are fetched ahead.

        Raises:
            SourceMissing: the bucket is gone.
            SourceDenied: an object may not be read and ``allow_unreadable`` is false.
            SourceUnreachable, SourceChanged: S3 does not deliver.
        """
        ahead: deque[Callable[[], Member | None]] = deque()
        for record in records:
            path, known, part = _parse(record)
            if part:
                ahead.append(partial(self._part, path, known, part))
            elif known.size <= HELD:
                ahead.append(self._pool.submit(self._member, path, known).result)
            else:  # asked for when its turn comes, so that no connection waits
                ahead.append(partial(self._member, path, known))
            if len(ahead) >= _AHEAD and (member := ahead.popleft()()):
                yield member
        while ahead:
            if member := ahead.popleft()():
                yield member

    def _member(self, path: bytes, known: _Object) -> Member | None:
        """The object, as it is now if it was replaced since it was listed."""
        for attempt in range(_ATTEMPTS):
            try:
                return self._as_member(path, known)
            except SourceChanged:
                if attempt == _ATTEMPTS - 1:
                    raise
            except SourceDenied:
                if not self._source.allow_unreadable:
                    raise
                self._notes.add("could not be read, left out", path)
                return None
            except SourceMissing:
                pass
            now = self._look(known.key)  # raises if it is the bucket that is missing
            if now is None:
                self._notes.add("vanished before it was read, left out", path)
                return None
            known = now
        return None

    def _part(self, path: bytes, known: _Object, part: listing.Range) -> Member:
        """A part of an object too large for one unit; another object's would not fit the others."""
        name = f"s3://{self._bucket}/{known.key}"
        ends = part.start, part.end
        chunks = _exactly(
            self._buckets.read(self._bucket, known.key, known.etag, ends),
            part.end - part.start,
            name,
        )
        try:
            first = next(chunks)
        except (SourceMissing, SourceChanged) as error:
            raise SourceChanged(
                f"{name} was replaced or deleted while it was read in {part.count} parts",
                "Run the backup again",
            ) from error
        digest = HoleDigest()
        member = self._described(path, known, part.end - part.start)
        member.kind, member.name = index.PIECE, part.name(path)
        member.link, member.digest = b"%d-%d" % ends, digest.hexdigest
        member.content = _hashed(chain([first], chunks), part.start, digest)
        return member

    def _look(self, key: str) -> _Object | None:
        for one in self._buckets.list(self._bucket, key):
            if one.key == key:
                mtime = round(one.modified * 1000) * 10**6
                return _Object(key, one.etag, one.size, mtime)
            break  # keys come in order: the shortest with that prefix is first
        return None

    def _as_member(self, path: bytes, known: _Object) -> Member:
        chunks = _exactly(
            self._buckets.read(self._bucket, known.key, known.etag),
            known.size,
            f"s3://{self._bucket}/{known.key}",
        )
        # The first bytes of a large one tell whether it is still the object that was listed.
        small = known.size <= HELD
        member = self._described(path, known, known.size)
        member.content = b"".join(chunks) if small else chain([next(chunks)], chunks)
        return member

    @staticmethod
    def _described(path: bytes, known: _Object, size: int) -> Member:
        meta = tar.Metadata(_MODE, 0, 0, known.mtime_ns)
        return Member(
            path=path,
            kind=index.FILE,
            meta=meta,
            mtime_ns=known.mtime_ns,
            ctime_ns=0,
            inode=known.inode(),
            full_size=known.size,
            size=size,
        )


def _parse(record: bytes) -> tuple[bytes, _Object, listing.Range | None]:
    length, _, rest = record[1:].partition(b":")
    key, etag, size, mtime, *numbers = json.loads(rest[: int(length)])
    part = listing.Range(*numbers) if numbers else None
    return rest[int(length) :], _Object(key, etag, size, mtime), part


def _hashed(chunks: Iterator[bytes], offset: int, digest: HoleDigest) -> Iterator[Buffer]:
    """The chunks, seen by the digest first."""
    for chunk in chunks:
        digest.update(offset, chunk)
        offset += len(chunk)
        yield chunk


def _exactly(chunks: Iterator[bytes], size: int, name: str) -> Iterator[bytes]:
    """The chunks; SourceChanged if they are not size bytes."""
    got = 0
    for chunk in chunks:
        got += len(chunk)
        if chunk and got <= size:
            yield chunk
    if got != size:
        raise SourceChanged(f"{name} gave {got} bytes instead of {size}")
