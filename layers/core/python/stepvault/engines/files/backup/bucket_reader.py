"""Reads the objects of a bucket, small ones ahead."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import Any

from stepvault.engines.base import Buffer, ObjectReader
from stepvault.engines.files.backup.bucket_walk import MODE, Object, parse_record
from stepvault.engines.files.backup.pack import HELD, Member
from stepvault.engines.files.format import index, listing, tar
from stepvault.engines.files.format.digests import HoleDigest
from stepvault.engines.files.tree.warnings import Warnings
from stepvault.engines.object_paths import as_attribute, bucket_and_prefix
from stepvault.errors import SourceChanged, SourceDenied, SourceMissing
from stepvault.settings import FilesSource

#: Small objects are fetched by this many threads; S3's latency hides behind them.
_THREADS = 16
_AHEAD = 32
_ATTEMPTS = 5


class BucketReader:
    """A ``Reader`` of objects."""

    def __init__(self, source: FilesSource, buckets: ObjectReader, warnings: Warnings) -> None:
        self._source = source
        self._buckets = buckets
        self._warnings = warnings
        self._bucket, _ = bucket_and_prefix(source.path)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="object")

    def close(self) -> None:
        """Stop fetching."""
        self._pool.shutdown(cancel_futures=True)

    def members(self, records: Iterable[bytes]) -> Iterator[Member]:
        """Yield the records' objects; small ones are fetched ahead.

        Raises:
            SourceMissing: the bucket is gone.
            SourceDenied: an object may not be read and ``allow_unreadable`` is false.
            SourceUnreachable, SourceChanged: S3 does not deliver.
        """
        ahead: deque[Callable[[], Member | None]] = deque()
        for record in records:
            path, known, part = parse_record(record)
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

    def _member(self, path: bytes, known: Object) -> Member | None:
        """Return the object, as it is now if it was replaced since it was listed."""
        for attempt in range(_ATTEMPTS):
            try:
                return self._as_member(path, known)
            except SourceChanged:
                if attempt == _ATTEMPTS - 1:
                    raise
            except SourceDenied as error:
                self._left_out(path, known, error)
                return None
            except SourceMissing:
                pass
            now = self._look(known.key)  # raises if it is the bucket that is missing
            if now is None:
                self._warnings.add("vanished before it was read, left out", path)
                return None
            known = now
        return None

    def _left_out(self, path: bytes, known: Object, error: SourceDenied) -> None:
        """Go on without an object that may not be read, if the source's settings allow it."""
        if not self._source.allow_unreadable:
            raise error
        reason = error.message.removeprefix(f"s3://{self._bucket}/{known.key} ")
        self._warnings.add(f"{reason}, left out", path)

    def _part(self, path: bytes, known: Object, part: listing.Range) -> Member | None:
        """Return a part of an object that is too large for one unit.

        Raises:
            SourceChanged: the object was replaced, so that this part would not fit the others.
        """
        name = f"s3://{self._bucket}/{known.key}"
        ends = part.start, part.end
        properties: dict[str, Any] = {}
        chunks = _exactly(
            self._buckets.read(self._bucket, known.key, known.etag, ends, properties.update),
            part.end - part.start,
            name,
        )
        try:
            first = next(chunks)
        except SourceDenied as error:
            self._left_out(path, known, error)
            return None
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
        member.xattrs = self._as_attribute(path, properties)
        return member

    def _look(self, key: str) -> Object | None:
        for one in self._buckets.list(self._bucket, key):
            if one.key == key:
                mtime = round(one.modified * 1000) * 10**6
                return Object(key, one.etag, one.size, mtime)
            break  # keys come in order: the shortest with that prefix is first
        return None

    def _as_member(self, path: bytes, known: Object) -> Member:
        properties: dict[str, Any] = {}
        chunks = _exactly(
            self._buckets.read(self._bucket, known.key, known.etag, None, properties.update),
            known.size,
            f"s3://{self._bucket}/{known.key}",
        )
        # The first bytes of a large one tell whether it is still the object that was listed.
        small = known.size <= HELD
        member = self._described(path, known, known.size)
        member.content = b"".join(chunks) if small else chain([next(chunks)], chunks)
        member.xattrs = self._as_attribute(path, properties)
        return member

    def _as_attribute(self, path: bytes, properties: dict[str, Any]) -> tar.Xattrs:
        """Return what an object has beside its bytes, as it is kept with them."""
        if "Tags" in properties and properties["Tags"] is None:
            self._warnings.add(
                "its tags may not be read (s3:GetObjectTagging) and are not kept", path
            )
            del properties["Tags"]
        return as_attribute(properties) if self._source.preserve_metadata else ()

    @staticmethod
    def _described(path: bytes, known: Object, size: int) -> Member:
        meta = tar.Metadata(MODE, 0, 0, known.mtime_ns)
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


def _hashed(chunks: Iterator[bytes], offset: int, digest: HoleDigest) -> Iterator[Buffer]:
    """Yield the chunks, seen by the digest first."""
    for chunk in chunks:
        digest.update(offset, chunk)
        offset += len(chunk)
        yield chunk


def _exactly(chunks: Iterator[bytes], size: int, name: str) -> Iterator[bytes]:
    """Yield the chunks; raise SourceChanged if they are not ``size`` bytes."""
    got = 0
    for chunk in chunks:
        got += len(chunk)
        if chunk and got <= size:
            yield chunk
    if got != size:
        raise SourceChanged(f"{name} gave {got} bytes instead of {size}")
