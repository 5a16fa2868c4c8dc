"""A regular file that is read, however it changes meanwhile.

What is stored is always as long as the header says: a file that shrinks is filled with zeros, one
that grows is cut, and both are noted.
"""

import os
from collections.abc import Iterator

from stepvault.engines.base import Buffer
from stepvault.engines.files.backup.pack import Member
from stepvault.engines.files.errors import broken
from stepvault.engines.files.format import index, listing, tar
from stepvault.engines.files.format.digests import HoleDigest
from stepvault.engines.files.tree.holes import Runs, runs_of
from stepvault.engines.files.tree.warnings import Warnings

_BUFFER = 1 << 20
#: The page cache that reading filled is dropped this often.
_DROP = 8 << 20
_SPARSE_FROM = 64 << 10


class OpenFile:
    """A regular file being read."""

    def __init__(
        self, path: bytes, descriptor: int, status: os.stat_result, warnings: Warnings
    ) -> None:
        self.path = path
        self.descriptor = descriptor
        self.status = status
        self.warnings = warnings
        allocated = status.st_blocks * 512
        self.may_have_holes = status.st_size >= _SPARSE_FROM and allocated < status.st_size

    def whole(self, memory: memoryview) -> bytes | memoryview:
        """All of a small file, exactly as long as its status says, in that memory."""
        size = self.status.st_size
        if not size:
            return b""
        wanted = memory[:size]
        if got := _read_cached(self.descriptor, wanted):
            cached = got == size
        else:
            got, cached = os.preadv(self.descriptor, [wanted], 0), False
        while got < size:
            more = os.preadv(self.descriptor, [wanted[got:]], got)
            if not more:
                wanted[got:] = bytes(size - got)
                break
            got += more
        self.check()
        if not cached:
            os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return wanted

    def check(self) -> None:
        """Note when the file is not what it was when it was opened."""
        now, then = os.fstat(self.descriptor), self.status
        # The time of the last change tells even where that of the content was put back.
        if now.st_ctime_ns != then.st_ctime_ns or now.st_size != then.st_size:
            self.warnings.add("changed while it was read; what is stored may be mixed", self.path)

    def content(
        self, runs: Runs, prefix: bytes = b"", digest: HoleDigest | None = None
    ) -> Iterator[Buffer]:
        """Yield the prefix, then the bytes of the runs, which ``digest`` takes too; close the file."""
        try:
            if prefix:
                yield prefix
            os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            memory = memoryview(bytearray(_BUFFER))
            for offset, length in runs:
                at = offset
                for buffer in self._run(offset, length, memory):
                    if digest:
                        digest.update(at, buffer)
                    at += len(buffer)
                    yield buffer
            self.check()
        except OSError as error:
            raise broken(self.path, error) from error
        finally:
            os.close(self.descriptor)

    def _run(self, start: int, length: int, memory: memoryview) -> Iterator[memoryview]:
        at, end, dropped = start, start + length, start
        while at < end:
            wanted = memory[: min(_BUFFER, end - at)]
            got = os.preadv(self.descriptor, [wanted], at)
            if not got:  # shorter than it was: the header's promise is kept with zeros
                wanted[:] = bytes(len(wanted))
                got = len(wanted)
            at += got
            yield wanted[:got]
            if at - dropped >= _DROP or at == end:
                os.posix_fadvise(self.descriptor, dropped, at - dropped, os.POSIX_FADV_DONTNEED)
                dropped = at


def streamed(member: Member, file: OpenFile, part: listing.Range | None) -> Member:
    """Return the member with content that is read as it is asked for; of a part, that part's."""
    start, end = (part.start, part.end) if part else (0, file.status.st_size)
    if part:
        member.kind, member.name = index.PIECE, part.name(member.path)
        member.link = b"%d-%d" % (start, end)
    runs: Runs = [(start, end - start)]
    if file.may_have_holes:
        runs = runs_of(file.descriptor, start, end)
    data = sum(length for _, length in runs)
    member.size, prefix, digest = data, b"", None
    if data < end - start:
        # GNU tar wants the map to reach the end of the file.
        shown = [(offset - start, length) for offset, length in runs]
        if not shown or sum(shown[-1]) < end - start:
            shown.append((end - start, 0))
        prefix = tar.sparse_map(shown)
        member.sparse_size = end - start
        member.size += len(prefix)
        if not part:
            member.kind = index.SPARSE
    if member.kind in (index.SPARSE, index.PIECE):
        digest = HoleDigest()
        member.digest = digest.hexdigest
    member.content = file.content(runs, prefix, digest)
    return member


def _read_cached(descriptor: int, memory: memoryview) -> int:
    """Read what the page cache holds of the file's start; 0 if that is nothing or not told.

    What was cached before us is somebody's working set and stays; what we bring in goes again.
    """
    try:
        return os.preadv(descriptor, [memory], 0, os.RWF_NOWAIT)
    except OSError:  # nothing cached, or a file system that does not say, such as NFS
        return 0
