"""Packs: what becomes of one unit's paths. Any kind of source delivers ``Member``s.

Frames end between members, every ``FRAME`` bytes or so, so that one file can be read back
without the rest of its pack. A member larger than that has frames of its own.
"""

import hashlib
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from stepvault.engines.base import END_FRAME, Buffer, Counts, EndFrame, Stored, Stream
from stepvault.engines.files.format import index, listing, tar
from stepvault.engines.files.format.digests import xattrs_digest
from stepvault.engines.files.format.index import NONE
from stepvault.engines.files.paths import show
from stepvault.engines.files.spool import Records
from stepvault.engines.files.tree.warnings import Warnings
from stepvault.errors import OutOfTime
from stepvault.records import StoredObject

#: Raw bytes of a frame, the path's own size (decision 0003). What that adds to the stored bytes,
#: against one stream per pack at the same level, with a window over the whole frame:
#:
#:                       2 MiB   4 MiB   8 MiB
#:     /usr/include       25 %    11 %     4 %
#:     /usr/share/doc      0 %    -3 %    -8 %
#:     Python packages     0 %     0 %     0 %
#:
#: Reading one file back unpacks half a frame on average: some 3 ms.
FRAME = 4 << 20
#: Room in a frame for a member's headers and padding.
_HEADERS = 64 << 10
#: Raw bytes handed on at a time, at least.
_FLUSH = 512 << 10
#: Members up to this size are held whole, others are read bit by bit.
HELD = 1 << 20


@dataclass(slots=True)
class Member:
    """One entry as it is stored."""

    path: bytes
    kind: bytes
    """As in the index."""
    meta: tar.Metadata
    """As in the archive."""
    mtime_ns: int
    ctime_ns: int
    inode: int
    full_size: int = 0
    """Bytes of the file."""
    size: int = 0
    """Bytes of content that are stored."""
    content: bytes | memoryview | Iterator[Buffer] = b""
    """Good until the next member is asked for."""
    link: bytes = b""
    xattrs: tar.Xattrs = ()
    sparse_size: int | None = None
    """Full size of a member with holes; its content begins with their map."""
    name: bytes | None = None
    """Its name in the archive, if not the path."""
    names: int = 1
    """Hard links that the file has."""
    digest: Callable[[], bytes] | None = None
    """Gives the content's hash once it was read, where that is not the plain one."""


class Reader(Protocol):
    """Turns the records of a listing into members; one per pack, in one thread."""

    def members(self, records: Iterable[bytes]) -> Iterator[Member]:
        """Each entry that is still there; the content of one is read before the next is asked for."""
        ...

    def close(self) -> None:
        """Free what the reader holds."""
        ...


class Pack:
    """One ``.tar.zst``."""

    encoding: Literal["zstd", "none"] = "zstd"

    def __init__(
        self,
        name: str,
        reader: Callable[[], Reader],
        records: Iterable[bytes],
        stop: threading.Event,
    ) -> None:
        self.name = name
        self.drafts = Records(b"\n")
        """The index's lines, without their last columns; complete once ``read`` has ended."""
        self._reader = reader
        self._records = records
        self._stop = stop
        self._held = memoryview(bytearray(_FLUSH + HELD + 2 * _HEADERS))
        """What is to be handed on, up to ``_end``; the memory is used again."""
        self._end = 0
        self._raw = 0
        self._frame = 0
        self._files = 0
        self._firsts: dict[bytes, tuple[bytes, bytes, int]] = {}

    def read(self) -> Iterator[Buffer | EndFrame]:
        """Yield the archive; frames end between members. The memory of each buffer is used again."""
        reader = self._reader()
        try:
            for member in reader.members(self._records):
                self._check()
                if self._frame and self._frame + member.size > FRAME - _HEADERS:
                    yield self._flush()
                    yield self._end_frame()
                if isinstance(member.content, (bytes, memoryview)):
                    self._add(member, member.content)
                else:
                    yield from self._stream(member, member.content)
                if self._end >= _FLUSH:
                    yield self._flush()
            self._put(tar.END)
            yield self._flush()
        finally:
            reader.close()

    def result(self) -> Counts:
        """Return how many files it holds, directories excluded."""
        return Counts(files=self._files)

    def _add(self, member: Member, content: bytes | memoryview) -> None:
        """Write a member that is small enough to be held whole."""
        digest = hashlib.sha256(content).hexdigest().encode() if _has_content(member) else NONE
        self._note(member, digest, self._raw)
        self._put(_header(member))
        if content:
            self._put(content)
            self._put(tar.padding(len(content)))

    def _stream(self, member: Member, content: Iterator[Buffer]) -> Generator[Buffer | EndFrame]:
        """Yield a member that is read piece by piece."""
        offset = self._raw
        self._put(_header(member))
        yield self._flush()
        plain, read = hashlib.sha256(), 0
        for buffer in content:
            self._check()
            if not member.digest:
                plain.update(buffer)
            read += len(buffer)
            yield buffer
        if read != member.size:
            raise AssertionError(f"{show(member.path)}: {read} bytes for {member.size}")
        self._raw += read
        self._frame += read
        self._put(tar.padding(read))
        digest = member.digest() if member.digest else plain.hexdigest().encode()
        self._note(member, digest, offset)

    def _note(self, member: Member, digest: bytes, offset: int) -> None:
        """Write the member's line for the index."""
        meta, kind = member.meta, member.kind
        self._files += kind != index.DIRECTORY
        if kind == index.HARD_LINK:
            kind, digest, offset = self._firsts[member.link]
        elif member.names > 1:
            shared = index.link_digest(member.link) if kind == index.LINK else digest
            self._firsts[member.path] = _LINKED.get(kind, index.HARD_LINK), shared, offset
        self.drafts.add(
            b"%s%s\t%o\t%d\t%d\t%s\t%s\t%s\t%d\n"
            % (
                index.signature(
                    member.path, member.full_size, member.mtime_ns, member.ctime_ns, member.inode
                ),
                kind,
                meta.mode,
                meta.uid,
                meta.gid,
                xattrs_digest(member.xattrs) if member.xattrs else NONE,
                digest,
                index.escape(member.link),
                offset,
            )
        )

    def _put(self, data: bytes | memoryview) -> None:
        """Hold bytes of the archive."""
        size = len(data)
        end = self._end + size
        if end > len(self._held):  # attributes beyond all measure
            self._held = memoryview(bytearray(self._held[: self._end]) + bytes(2 * size))
        self._held[self._end : end] = data
        self._end = end
        self._raw += size
        self._frame += size

    def _flush(self) -> memoryview:
        held, self._end = self._held[: self._end], 0
        return held

    def _end_frame(self) -> EndFrame:
        self._frame = 0
        return END_FRAME

    def _check(self) -> None:
        if self._stop.is_set():
            raise OutOfTime(f"reading was stopped in {self.name}", "Make the batches smaller")


_TAR_KINDS = {
    index.DIRECTORY: tar.DIRECTORY,
    index.LINK: tar.LINK,
    index.HARD_LINK: tar.HARD_LINK,
}


#: Of a file's kind, that of its other names.
_LINKED = {index.SPARSE: index.SPARSE_HARD_LINK, index.LINK: index.LINK_HARD_LINK}


def _has_content(member: Member) -> bool:
    return member.kind not in _TAR_KINDS


def _header(member: Member) -> bytes:
    kind = _TAR_KINDS.get(member.kind, tar.FILE)
    name = member.name or member.path
    return tar.header(
        name + b"/" if kind == tar.DIRECTORY else name,
        kind,
        member.meta,
        size=member.size,
        link=member.link if kind in (tar.LINK, tar.HARD_LINK) else b"",
        xattrs=member.xattrs,
        sparse_size=member.sparse_size,
    )


class PackedUnit:
    """The snapshot of a unit whose paths become a pack."""

    parallel = 1
    """One reader: where there are more cores, the path compresses beside it."""

    def __init__(
        self,
        head: listing.Head,
        records: Iterator[bytes],
        reader: Callable[[], Reader],
        collected: Warnings,
        *,
        facts: dict[str, Any],
    ) -> None:
        self.facts = facts
        self.warnings = list(head.warnings)
        self.references: Sequence[StoredObject] = ()
        self._unit = head.unit
        self._mounts = head.mounts
        self._collected = collected
        self._stop = threading.Event()
        self._pack = Pack(f"{self._unit}.tar.zst", reader, records, self._stop)

    def streams(self) -> Iterator[Stream]:
        """Yield the pack."""
        yield self._pack

    def closing(self, stored: Sequence[Stored]) -> Iterator[Stream]:
        """Yield the index."""
        self.warnings += self._collected.lines()
        (pack,) = stored
        packs = {1: {"name": self._pack.name, "live": pack.object.raw_bytes}}
        lines = index.finished(self._pack.drafts, index.Places(pack), 1)
        yield index.Index(self._unit + index.SUFFIX, index.head_line(packs, self._mounts), lines)

    def cancel(self) -> None:
        """Make the pack's ``read`` raise before its next member."""
        self._stop.set()
