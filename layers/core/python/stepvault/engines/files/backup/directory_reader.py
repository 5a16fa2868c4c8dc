"""Reads the entries of a directory tree, one by one, however they change meanwhile.

What is stored of a file is always as long as its header says: a file that shrinks is filled
with zeros, one that grows is cut, and both are noted.
"""

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace

from stepvault.engines.files.backup.open_file import OpenFile, streamed
from stepvault.engines.files.backup.pack import HELD, Member
from stepvault.engines.files.errors import VANISHED, broken, unreadable, vanished
from stepvault.engines.files.format import index, listing, tar
from stepvault.engines.files.paths import split
from stepvault.engines.files.tree.handles import Tree
from stepvault.engines.files.tree.warnings import Warnings
from stepvault.engines.files.tree.xattrs import xattrs_at, xattrs_of
from stepvault.settings import FilesSource

_DENIED = {errno.EACCES, errno.EPERM}
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


_LIVE_DATABASE = (
    "a SQLite database in use, with its WAL beside it: what is stored may be a state that it never had "
    "(back it up as a source of engine sqlite, and exclude it here)"
)


class NotSmall(Exception):
    """The file is to be streamed."""


class DirectoryReader:
    """A ``Reader`` of paths below a root. For one thread."""

    def __init__(
        self, source: FilesSource, warnings: Warnings, *, small_only: bool = False
    ) -> None:
        """``small_only`` opens no file that is to be streamed; ``member`` then raises NotSmall."""
        self._source = source
        self._warnings = warnings
        self._small_only = small_only
        self._tree = Tree(source.path, follow=source.follow_symlinks)
        self._flags = _READ | (0 if source.follow_symlinks else os.O_NOFOLLOW)
        self._memory = memoryview(bytearray(HELD))
        self._other_names: dict[tuple[int, int], tuple[Member, int]] = {}
        """Of each inode that was read: what to store of its other names, and how many they are."""

    def close(self) -> None:
        """Close every directory that is open."""
        self._tree.close()

    def members(self, records: Iterable[bytes]) -> Iterator[Member]:
        """Yield what is still there of the records' entries.

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
            self._warnings.add("vanished before it was read, left out", path)
        elif error.errno in _DENIED:
            if not self._source.allow_unreadable:
                raise unreadable(path, "file", error) from error
            self._warnings.add("could not be read, left out", path)
        elif error.errno == errno.ELOOP:
            self._warnings.add("became a link before it was read, left out", path)
        else:
            raise broken(path, error) from error

    def member(self, record: bytes) -> Member | None:
        """Return the entry of a record, if it is still of that kind; its content is good until the next.

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
        if kind in (index.LINK, listing.LINKED_LINK):
            return self._link(path, linked=kind == listing.LINKED_LINK)
        return self._file(path, linked=kind == listing.LINKED)

    def _directory(self, path: bytes) -> Member | None:
        """Return a directory's own metadata; it need not be readable for that."""
        parent, name = split(path)
        follow = self._source.follow_symlinks
        status = os.stat(name, dir_fd=self._tree.directory(parent), follow_symlinks=follow)
        if not stat.S_ISDIR(status.st_mode):
            self._became_something_else(path)
            return None
        xattrs = self._xattrs_at(path, follow=follow)
        return self._described(path, index.DIRECTORY, status, xattrs)

    def _link(self, path: bytes, *, linked: bool = False) -> Member | None:
        parent, name = split(path)
        descriptor = self._tree.directory(parent)
        status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            self._became_something_else(path)
            return None
        if linked and (other := self._other_name(status)):
            return replace(other, path=path)
        member = self._described(path, index.LINK, status, self._xattrs_at(path, follow=False))
        member.link = os.readlink(name, dir_fd=descriptor)
        if linked:
            self._expect_other_names(member, status)
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
            open_file = OpenFile(path, descriptor, status, self._warnings)
            if part is None and status.st_size <= HELD and not open_file.may_have_holes:
                member.size = status.st_size
                member.content = open_file.whole(self._memory)
            elif self._small_only:
                raise NotSmall
            else:
                member = streamed(member, open_file, part)
                descriptor = -1  # the content closes it
            # Sizes of databases are whole pages: others need not be looked at.
            if (
                status.st_size
                and not status.st_size % 512
                and _is_wal(member, open_file.descriptor)
            ):
                self._look_for_wal(path)
            if linked:
                self._expect_other_names(member, status)
            return member
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _look_for_wal(self, path: bytes) -> None:
        """Warn of a database in use: it is two files, which are not read at the same moment."""
        parent, name = split(path)
        with suppress(OSError):
            status = os.stat(name + b"-wal", dir_fd=self._tree.directory(parent))
            if status.st_size:
                self._warnings.add(_LIVE_DATABASE, path)

    def _open(self, name: bytes, parent: int) -> int:
        try:
            return os.open(name, self._flags | os.O_NOATIME, dir_fd=parent)
        except PermissionError:
            # Only a file's owner may leave its access time alone.
            return os.open(name, self._flags, dir_fd=parent)

    def _other_name(self, status: os.stat_result) -> Member | None:
        """Return what to store of another name, if this inode is in the pack already."""
        inode = (status.st_dev, status.st_ino)
        other, left = self._other_names.pop(inode, (None, 0))
        # Links that are followed give a file more names than it counts.
        if other and (left > 1 or self._source.follow_symlinks):
            self._other_names[inode] = (other, left - 1)
        return other

    def _expect_other_names(self, member: Member, status: os.stat_result) -> None:
        member.names = status.st_nlink
        if status.st_nlink > 1:
            inode = (status.st_dev, status.st_ino)
            self._other_names[inode] = (_other_name(member), status.st_nlink - 1)

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
            ctime_ns=index.settled(status.st_ctime_ns),
            inode=status.st_ino,
            xattrs=xattrs,
        )

    def _xattrs_at(self, path: bytes, *, follow: bool) -> tar.Xattrs:
        if not self._source.preserve_metadata:
            return ()
        parent, name = split(path)
        return xattrs_at(self._tree.directory(parent), name, follow=follow)

    def _became_something_else(self, path: bytes) -> None:
        self._warnings.add("became something else before it was read, left out", path)


def _is_wal(member: Member, descriptor: int) -> bool:
    """Whether it is a SQLite database in WAL mode, by its header."""
    content = member.content
    if isinstance(content, (bytes, memoryview)):
        start = bytes(content[:20])
    elif member.kind != index.PIECE:  # large: one more read is little
        start = os.pread(descriptor, 20, 0)
    else:
        return False
    return start.startswith(b"SQLite format 3\0") and start[18:20] == b"\2\2"


def _other_name(first: Member) -> Member:
    """Return what to store of a file's other names: all as it was when its content was read.

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
