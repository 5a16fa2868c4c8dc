"""Putting a backup of a bucket's objects back as objects, with all that they had.

An object is complete or not there at all: S3 shows none before its last byte, and that is sent only
when its hash is the one of the index. A marker object tells that a restore has begun, so that the same
restore, begun again, is let in.
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import batched, groupby
from typing import Any

from stepvault.engines.base import Buffer, Counts, ObjectStore, RestoreJob
from stepvault.engines.files.format import index
from stepvault.engines.files.format.digests import HoleDigest, xattrs_digest
from stepvault.engines.files.format.index import Line
from stepvault.engines.files.paths import STAGING, is_staging, show
from stepvault.engines.files.restore import unpack
from stepvault.engines.files.restore.failures import Failures
from stepvault.engines.files.restore.stored import Backup, Lines
from stepvault.engines.files.tree.selection import Selection
from stepvault.engines.object_paths import (
    PROPERTIES,
    as_attribute,
    bucket_and_prefix,
    is_bucket,
    key_of,
)
from stepvault.errors import (
    BackupTampered,
    ConfigInvalid,
    OutOfTime,
    SourceMissing,
    TargetMissing,
    TargetNotEmpty,
)

#: Objects up to this size are held whole and sent by several threads.
_HELD = 1 << 20
_THREADS, _AHEAD = 16, 32
#: Below this share of a pack, only the frames that are needed are read.
_RANGES_BELOW = 0.5


class ToBucket:
    """A restore into a bucket."""

    def __init__(self, job: RestoreJob, staging: str) -> None:
        """``staging`` becomes the marker's name.

        Raises:
            ConfigInvalid: the backup is of a directory.
        """
        if job.bucket is None or job.buckets is None:
            raise TargetMissing("no bucket to restore to is given", "Name one with --to")
        if not is_bucket(job.source.path):
            raise ConfigInvalid(
                f"{job.source.name!r} is a backup of a directory, which is restored to a directory",
                "Write --to ./folder",
            )
        self._job = job
        self._store: ObjectStore = job.buckets
        self._bucket, self._prefix = bucket_and_prefix(job.bucket)
        self._marker = self._prefix + staging
        self._backup = Backup(job.objects, job.read)
        self._failures = Failures(job)

    def check_empty(self) -> None:
        """Refuse a prefix under which there is something, if it is not this restore's.

        Raises:
            TargetMissing: there is no such bucket.
            TargetNotEmpty: there is something, and ``overwrite`` is not set.
        """
        try:
            if self._job.options.overwrite or next(self._listed(self._marker), None):
                return
            first = next(self._listed(self._prefix), None)
        except SourceMissing as error:
            raise TargetMissing(error.message, "Make the bucket first") from error
        if first:
            raise TargetNotEmpty(
                f"under {self._job.bucket!r} there are objects already ({first!r})",
                "Restore to another prefix, or say --overwrite to write over what is there",
            )

    def _listed(self, prefix: str) -> Iterator[str]:
        return (entry.key for entry in self._store.list(self._bucket, prefix))

    def restore_pack(self, by: Mapping[str, Any], pack: Mapping[str, Any]) -> Counts:
        """Restore what is wanted of a pack, by its index."""
        self._store.write(self._bucket, self._marker, [b""], 0, {})
        stored = self._backup.find(**pack)
        lines = self._backup.lines_of(self._backup.find(**by), stored, Selection.of(self._job))
        try:
            return Counts(files=self._restore(stored.name, self._members(stored, lines)))
        except BackupTampered as error:
            self._failures.pack(stored.name, lines.count, error)
            return Counts(files=0)

    def _members(self, stored: Any, lines: Lines) -> Iterator[unpack.Member]:
        if lines.stored_bytes >= _RANGES_BELOW * stored.stored_bytes:
            return unpack.whole(stored, self._job.read(stored), lines)
        return unpack.ranges(stored, self._job.read_range, lines)

    def _restore(self, name: str, members: Iterable[unpack.Member]) -> int:
        count = 0
        sending: deque[tuple[bytes, Callable[[], None]]] = deque()
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="object") as pool:
            for member in members:
                if self._job.remaining() <= 0:
                    raise OutOfTime(f"no time is left to restore {name}")
                line = member.line
                if line.kind != index.FILE:
                    continue
                chunks, send = (
                    self._content(member, name),
                    partial(self._send, line.path, line.size),
                )
                properties = self._properties(member)
                if line.size <= _HELD:
                    held = b"".join(chunks)
                    sending.append((line.path, pool.submit(send, [held], properties).result))
                else:
                    sending.append((line.path, partial(send, chunks, properties)))
                while len(sending) > (_AHEAD if line.size <= _HELD else 0):
                    count += self._end(*sending.popleft())
            while sending:
                count += self._end(*sending.popleft())
        return count

    def _end(self, path: bytes, result: Callable[[], None]) -> int:
        with self._failures.of("object", path):
            result()
            return 1
        return 0

    def _send(
        self, path: bytes, size: int, chunks: Iterable[Buffer], properties: Mapping[str, Any]
    ) -> None:
        self._store.write(self._bucket, self._key(path), chunks, size, properties)

    def _key(self, path: bytes) -> str:
        return self._prefix + key_of(path)

    @staticmethod
    def _properties(member: unpack.Member) -> dict[str, Any]:
        """Return what the object had beside its bytes.

        Raises:
            BackupTampered: that is not what was stored.
        """
        xattrs = member.header.xattrs
        if (xattrs_digest(xattrs) if xattrs else index.NONE) != member.line.xattrs:
            raise _differs(member.line)
        values: dict[str, Any] = json.loads(dict(xattrs).get(PROPERTIES, b"{}"))
        return values

    def _content(self, member: unpack.Member, name: str) -> Iterator[Buffer]:
        """Yield a member's bytes; raise BackupTampered instead of ending if they are others."""
        line, left = member.line, member.header.size
        start = int(line.link.split(b"-")[0]) if line.kind == index.PIECE else 0
        at, holes, plain = start, HoleDigest(), hashlib.sha256()
        while left:
            chunk = bytes(member.feed.some(left))
            if line.kind == index.PIECE:
                holes.update(at, chunk)
            else:
                plain.update(chunk)
            at += len(chunk)
            left -= len(chunk)
            self._job.progress(name, len(chunk))
            if left:
                yield chunk
                continue
            digest = holes.hexdigest() if line.kind == index.PIECE else plain.hexdigest().encode()
            if digest != line.sha256:
                raise _differs(line)
            yield chunk

    def finish(self) -> Counts:
        """Put objects back that came in pieces; remove what marks a restore."""
        count = 0
        lines = map(index.parse, self._backup.all_lines(Selection.of(self._job)))
        pieces = (line for line in lines if line.kind == index.PIECE)
        for path, group in groupby(pieces, key=lambda line: line.path):
            with self._failures.of("object", path):
                count += self._join(path, sorted(group, key=_start))
        for key in list(self._listed(self._prefix + STAGING.decode())):
            if is_staging(os.fsencode(key.removeprefix(self._prefix))):
                self._store.delete(self._bucket, key)
        return Counts(files=count)

    def _join(self, path: bytes, pieces: list[Line]) -> int:
        size = pieces[0].size
        if sum(_end(piece) - _start(piece) for piece in pieces) < size:
            reason = f"the backup lacks a part of {show(path)!r}"
            if not self._failures.keep_going:
                raise BackupTampered(reason)
            self._failures.report("object", path, reason)
            return 0
        properties = self._properties(self._piece(pieces[0]))
        chunks = (c for piece in pieces for c in self._content(self._piece(piece), show(path)))
        self._send(path, size, chunks, properties)
        return 1

    def _piece(self, line: Line) -> unpack.Member:
        """Read a piece anew: all pieces of an object are sent by one task, in order."""
        return unpack.one(self._backup.numbered(line.pack), self._job.read_range, line)

    def differences(self) -> Iterator[str]:
        """Yield one line for each object that is not what the backup says."""
        self._job.not_compared("objects that the backup does not have")
        self._job.not_compared("versions, ACLs and Object Lock of objects")
        lines = map(index.parse, self._backup.all_lines(Selection.of(self._job)))
        files = (line for line in lines if line.kind in (index.FILE, index.PIECE))
        groups = (list(group) for _, group in groupby(files, key=lambda line: line.path))
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="object") as pool:
            for some in batched(groups, _AHEAD, strict=False):
                for found in pool.map(self._different, some):
                    yield from found

    def _different(self, lines: list[Line]) -> list[str]:
        path, properties = lines[0].path, dict[str, Any]()
        pieces = lines[0].kind == index.PIECE
        digests = [HoleDigest() for _ in lines]
        plain, size = hashlib.sha256(), 0
        try:
            for chunk in self._store.read(
                self._bucket, self._key(path), None, None, properties.update
            ):
                if not pieces:
                    plain.update(chunk)
                for digest, line in zip(digests, lines if pieces else (), strict=False):
                    start, end = max(_start(line), size), min(_end(line), size + len(chunk))
                    if start < end:
                        digest.update(start, chunk[start - size : end - size])
                size += len(chunk)
        except SourceMissing:
            return [f"{show(path)}: missing"]
        found = (
            [digest.hexdigest() for digest in digests] if pieces else [plain.hexdigest().encode()]
        )
        different = []
        if size != lines[0].size:
            different.append(f"{show(path)}: {size} bytes, not {lines[0].size}")
        elif found != [line.sha256 for line in lines]:
            different.append(f"{show(path)}: other content")
        kept = as_attribute(properties) if self._job.source.preserve_metadata else ()
        if (xattrs_digest(kept) if kept else index.NONE) != lines[0].xattrs:
            different.append(f"{show(path)}: other type, metadata, tags or storage class")
        return different


def _start(piece: Line) -> int:
    return int(piece.link.split(b"-")[0])


def _end(piece: Line) -> int:
    return int(piece.link.split(b"-")[1])


def _differs(line: Line) -> BackupTampered:
    return BackupTampered(f"{show(line.path)!r} is not what its index says was stored")
