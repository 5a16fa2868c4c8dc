"""Reads the entries of a directory tree, one by one, however they change meanwhile.

What is stored of a file is always as long as its header says: a file that shrinks is filled
with zeros, one that grows is cut, and both are noted.
"""

import errno
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from stepvault.engines.base import Buffer
from stepvault.engines.files import index, listing, tar
from stepvault.engines.files.holes import HoleDigest, Runs, runs_of
from stepvault.engines.files.notes import Notes
from stepvault.engines.files.pack import HELD, Member
from stepvault.engines.files.tree import Tree, split
from stepvault.engines.files.walk import VANISHED, unreadable, vanished
from stepvault.engines.files.xattrs import xattrs_at, xattrs_of
from stepvault.errors import SourceCorrupt
from stepvault.settings import FilesSource

_BUFFER = 1 << 20
#: Threads that read ahead on network file systems, and the files of up to a MiB they may hold.
_THREADS, _AHEAD = 8, 16
#: The page cache that reading filled is dropped this often.
_DROP = 8 << 20
_SPARSE_FROM = 64 << 10
#: A file changed this shortly before it was read may change again under the same time stamp
#: (file systems tick every few milliseconds, some every one or two seconds).
_TICK_NS, _COARSE_TICK_NS = 50_000_000, 2_000_000_000

_DENIED = {errno.EACCES, errno.EPERM}
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class _NotSmall(Exception):
    """The file is to be streamed."""


class DirectoryReader:
    """A ``Reader`` of paths below a root. For one thread."""

    def __init__(self, source: FilesSource, notes: Notes, *, small_only: bool = False) -> None:
        """``small_only`` opens no file that is to be streamed; ``member`` then raises _NotSmall."""
        self._source = source
        self._notes = notes
        self._small_only = small_only
        self._tree = Tree(source.path, follow=source.follow_symlinks)
        self._flags = _READ | (0 if source.follow_symlinks else os.O_NOFOLLOW)
        self._memory = memoryview(bytearray(_BUFFER))
        self._other_names: dict[tuple[int, int], tuple[Member, int]] = {}
        """Of each inode that was read: what to store of its other names, and how many they are."""

    def close(self) -> None:
        self._tree.close()

    def members(self, records: Iterable[bytes]) -> Iterator[Member]:
        """What is still there of the records' entries.

        Raises:
            SourceMissing: the root is gone.
            SourceDenied: an entry cannot be read and ``allow_unreadable`` is false.
            SourceCorrupt: the file system fails to read an entry.
        """
        for record in records:
            try:
                member = self.member(record)
            except OSError as error:
                self._failed(listing.path_of(record), error)
                continue
            if member is not None:
                yield member

    def _failed(self, path: bytes, error: OSError) -> None:
        if error.errno in VANISHED:
            if not self._tree.still_there():
                raise vanished(self._source) from error
            self._notes.add("vanished before it was read, left out", path)
        elif error.errno in _DENIED:
            if not self._source.allow_unreadable:
                raise unreadable(path, "file", error) from error
            self._notes.add("could not be read, left out", path)
        elif error.errno == errno.ELOOP:
            self._notes.add("became a link before it was read, left out", path)
        else:
            raise _broken(path, error) from error

    def member(self, record: bytes) -> Member | None:
        """The entry of a record, if it is still what it was; its content is good until the next.

        Raises:
            OSError: as the system says.
        """
        kind = record[:1]
        if kind == listing.PIECE:
            part, path = listing.piece(record)
            return self._file(path, part)
        path = record[1:]
        if kind == index.DIRECTORY:
            return self._directory(path)
        if kind == index.LINK:
            return self._link(path)
        return self._file(path, linked=kind == listing.LINKED)

    def _directory(self, path: bytes) -> Member | None:
        """A directory's own metadata; it need not be readable for that."""
        parent, name = split(path)
        follow = self._source.follow_symlinks
        status = os.stat(name, dir_fd=self._tree.directory(parent), follow_symlinks=follow)
        if not stat.S_ISDIR(status.st_mode):
            self._became_something_else(path)
            return None
        xattrs = self._xattrs_at(path, follow=follow)
        return self._described(path, index.DIRECTORY, status, xattrs)

    def _link(self, path: bytes) -> Member | None:
        parent, name = split(path)
        descriptor = self._tree.directory(parent)
        status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            self._became_something_else(path)
            return None
        member = self._described(path, index.LINK, status, self._xattrs_at(path, follow=False))
        member.link = os.readlink(name, dir_fd=descriptor)
        return member

    def _file(
        self, path: bytes, part: listing.Range | None = None, *, linked: bool = False
    ) -> Member | None:
        parent, name = split(path)
        descriptor = self._open(name, self._tree.directory(parent))
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                self._became_something_else(path)
                return None
            if linked and (other := self._other_name(status)):
                return replace(other, path=path)
            xattrs = xattrs_of(descriptor) if self._source.preserve_metadata else ()
            member = self._described(path, index.FILE, status, xattrs)
            member.full_size, member.names = status.st_size, status.st_nlink
            open_file = _OpenFile(path, descriptor, status, self._notes)
            if part is None and status.st_size <= HELD and not open_file.may_have_holes:
                member.size = status.st_size
                member.content = open_file.whole(self._memory)
            elif self._small_only:
                raise _NotSmall
            else:
                member = _streamed(member, open_file, part)
                descriptor = -1  # the content closes it
            if linked and status.st_nlink > 1:
                inode = (status.st_dev, status.st_ino)
                self._other_names[inode] = (_other_name(member), status.st_nlink - 1)
            return member
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _open(self, name: bytes, parent: int) -> int:
        try:
            return os.open(name, self._flags | os.O_NOATIME, dir_fd=parent)
        except PermissionError:
            # Only a file's owner may leave its access time alone.
            return os.open(name, self._flags, dir_fd=parent)

    def _other_name(self, status: os.stat_result) -> Member | None:
        """What to store of another name, if this inode is in the pack already."""
        inode = (status.st_dev, status.st_ino)
        other, left = self._other_names.pop(inode, (None, 0))
        if other and left > 1:
            self._other_names[inode] = (other, left - 1)
        return other

    def _described(
        self, path: bytes, kind: bytes, status: os.stat_result, xattrs: tar.Xattrs
    ) -> Member:
        mtime = status.st_mtime_ns
        if self._source.preserve_metadata:
            mode = stat.S_IMODE(status.st_mode)
            meta = tar.Metadata(mode, status.st_uid, status.st_gid, mtime)
        else:
            mode = 0o755 if kind == index.DIRECTORY else 0o644
            meta = tar.Metadata(mode, 0, 0, mtime // 10**9 * 10**9)
        return Member(
            path=path,
            kind=kind,
            meta=meta,
            mtime_ns=mtime,
            ctime_ns=settled(status.st_ctime_ns),
            inode=status.st_ino,
            xattrs=xattrs,
        )

    def _xattrs_at(self, path: bytes, *, follow: bool) -> tar.Xattrs:
        if not self._source.preserve_metadata:
            return ()
        parent, name = split(path)
        return xattrs_at(self._tree.directory(parent), name, follow=follow)

    def _became_something_else(self, path: bytes) -> None:
        self._notes.add("became something else before it was read, left out", path)


class AheadReader(DirectoryReader):
    """Reads small files ahead, several at a time, for file systems that make one wait for each.

    On EFS an open and a read take milliseconds, nearly all of it waiting. Order, hard links and
    large files are as with one thread: only what stands by itself is read ahead.
    """

    def __init__(self, source: FilesSource, notes: Notes) -> None:
        super().__init__(source, notes)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="read-ahead")
        self._own = threading.local()
        self._readers: list[DirectoryReader] = []

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        for reader in self._readers:
            reader.close()
        super().close()

    def members(self, records: Iterable[bytes]) -> Iterator[Member]:
        """See ``DirectoryReader.members``."""
        coming: deque[tuple[bytes, Callable[[], Member | None]]] = deque()
        for record in records:
            alone = record[:1] not in (listing.PIECE, listing.LINKED)
            read = self._pool.submit(self._read, record).result if alone else None
            coming.append((record, read or partial(self.member, record)))
            if len(coming) > _AHEAD and (member := self._next(*coming.popleft())) is not None:
                yield member
        while coming:
            if (member := self._next(*coming.popleft())) is not None:
                yield member

    def _next(self, record: bytes, read: Callable[[], Member | None]) -> Member | None:
        try:
            try:
                return read()
            except _NotSmall:
                return self.member(record)
        except OSError as error:
            self._failed(listing.path_of(record), error)
            return None

    def _read(self, record: bytes) -> Member | None:
        reader: DirectoryReader | None = getattr(self._own, "reader", None)
        if reader is None:
            reader = self._own.reader = DirectoryReader(self._source, self._notes, small_only=True)
            self._readers.append(reader)
        member = reader.member(record)
        if member is not None and isinstance(member.content, memoryview):
            member.content = bytes(member.content)  # the thread's memory is used for its next file
        return member


def settled(ctime_ns: int) -> int:
    """The time of change, or 0 when it is so recent that it may not tell of the next change."""
    tick = _TICK_NS if ctime_ns % 10**9 else _COARSE_TICK_NS
    return 0 if time.time_ns() - ctime_ns < tick else ctime_ns


def _other_name(first: Member) -> Member:
    """What to store of a file's other names: all as it was when its content was read.

    A size or time of later would make changed content look like what was stored.
    """
    return Member(
        path=first.path,
        kind=index.HARD_LINK,
        meta=first.meta,
        mtime_ns=first.mtime_ns,
        ctime_ns=first.ctime_ns,
        inode=first.inode,
        full_size=first.full_size,
        link=first.path,
        xattrs=first.xattrs,
        names=first.names,
    )


class _OpenFile:
    """A regular file being read."""

    def __init__(self, path: bytes, descriptor: int, status: os.stat_result, notes: Notes) -> None:
        self.path = path
        self.descriptor = descriptor
        self.status = status
        self.notes = notes
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
        if now.st_mtime_ns != then.st_mtime_ns or now.st_size != then.st_size:
            self.notes.add("changed while it was read; what is stored may be mixed", self.path)

    def content(
        self, runs: Runs, prefix: bytes = b"", digest: HoleDigest | None = None
    ) -> Iterator[Buffer]:
        """The prefix, then the bytes of the runs; closes the file. The digest sees the runs."""
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
            raise _broken(self.path, error) from error
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


def _streamed(member: Member, file: _OpenFile, part: listing.Range | None) -> Member:
    """The member with content that is read as it is asked for."""
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


def _broken(path: bytes, error: OSError) -> SourceCorrupt:
    return SourceCorrupt(
        f"{os.fsdecode(path)!r} cannot be read ({error.strerror})",
        "Check the file system, or exclude the file",
    )
