"""The walk: every entry of a tree in one fixed order, filtered, in bounded memory.

Order: a directory, then what it holds by the bytes of the names, then its next sibling; that is
ascending ``tree.walk_key``. An index is in the same order, so the two can be merged.
"""

import heapq
import os
import stat
from collections.abc import Iterator
from itertools import batched, islice
from typing import NamedTuple, Protocol

from stepvault.engines.files.globs import Globs
from stepvault.engines.files.notes import Notes
from stepvault.engines.files.spool import Records
from stepvault.engines.files.tree import ROOT, Tree, join, show
from stepvault.errors import SourceDenied
from stepvault.models import FilesSource

#: Names of one directory held in memory; a larger directory is sorted on disk.
_NAMES = 50_000
#: Entries whose status is read ahead; the directory's descriptor stays open that long.
_AHEAD = 256

#: What an entry is: a directory, a regular file, a symbolic link.
DIRECTORY, FILE, LINK = "d", "f", "l"
_KINDS = {stat.S_IFDIR: DIRECTORY, stat.S_IFREG: FILE, stat.S_IFLNK: LINK}
_SPECIAL = {
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Status(Protocol):
    """What is known of an entry: an ``os.stat_result``, or what stands for it."""

    @property
    def st_size(self) -> int: ...
    @property
    def st_blocks(self) -> int: ...
    @property
    def st_mtime_ns(self) -> int: ...
    @property
    def st_ctime_ns(self) -> int: ...
    @property
    def st_mode(self) -> int: ...
    @property
    def st_uid(self) -> int: ...
    @property
    def st_gid(self) -> int: ...
    @property
    def st_ino(self) -> int: ...
    @property
    def st_dev(self) -> int: ...
    @property
    def st_nlink(self) -> int: ...


class Entry(NamedTuple):
    """One directory, file or link."""

    path: bytes
    kind: str
    status: Status


class _Level(NamedTuple):
    """A directory being walked."""

    children: Iterator[tuple[Entry, bool]]
    identity: tuple[int, int]
    pending: Entry | None
    """The directory itself, while nothing in it has matched ``include``."""


def walk(tree: Tree, source: FilesSource, notes: Notes) -> Iterator[Entry]:
    """Every entry that the source's settings ask for, the root first.

    Raises:
        SourceDenied: a directory cannot be read and ``allow_unreadable`` is false.
    """
    return _Walk(tree, source, notes).entries()


class _Walk:
    def __init__(self, tree: Tree, source: FilesSource, notes: Notes) -> None:
        self._tree = tree
        self._source = source
        self._notes = notes
        self._follow = source.follow_symlinks
        self._exclude = Globs(source.exclude)
        self._include = Globs(source.include)
        self._levels: list[_Level] = []

    def entries(self) -> Iterator[Entry]:
        root = Entry(ROOT, DIRECTORY, os.fstat(self._tree.directory(ROOT)))
        yield root
        self._descend(root, wanted=not self._include, pending=False)
        while self._levels:
            entry, wanted = next(self._levels[-1].children, (None, False))
            if entry is None:
                self._levels.pop()
            elif entry.kind == DIRECTORY:
                if wanted:
                    yield from self._pending()
                    yield entry
                self._descend(entry, wanted, pending=not wanted)
            elif wanted:
                if self._include:
                    yield from self._pending()
                yield entry

    def _pending(self) -> Iterator[Entry]:
        """The directories above that were held back until something in them matched."""
        for depth, level in enumerate(self._levels):
            if level.pending:
                yield level.pending
                self._levels[depth] = level._replace(pending=None)

    def _descend(self, directory: Entry, wanted: bool, *, pending: bool) -> None:
        self._levels.append(
            _Level(
                self._children(directory.path, wanted),
                (directory.status.st_dev, directory.status.st_ino),
                directory if pending else None,
            )
        )

    def _children(self, parent: bytes, wanted: bool) -> Iterator[tuple[Entry, bool]]:
        """What a directory holds, in order, with whether ``include`` wants it."""
        for names in batched(self._names(parent), _AHEAD, strict=False):
            for name, status in self._statuses(parent, names):
                entry = self._entry(join(parent, name), status)
                if entry is None:
                    continue
                is_directory = entry.kind == DIRECTORY
                if self._exclude and self._exclude.decide(entry.path, name, is_directory):
                    continue
                inside = wanted
                if self._include:
                    verdict = self._include.decide(entry.path, name, is_directory)
                    inside = wanted if verdict is None else verdict
                yield entry, inside

    def _names(self, parent: bytes) -> Iterator[bytes]:
        try:
            return _sorted_names(self._tree.directory(parent))
        except (FileNotFoundError, NotADirectoryError):
            self._notes.add("vanished during the walk", parent)
        except PermissionError as error:
            if not self._source.allow_unreadable:
                raise unreadable(parent, "directory", error) from error
            self._notes.add("could not be read, left out with all within", parent)
        return iter(())

    def _statuses(
        self, parent: bytes, names: tuple[bytes, ...]
    ) -> list[tuple[bytes, os.stat_result]]:
        found = []
        try:
            descriptor = self._tree.directory(parent)
        except OSError:
            self._notes.add("vanished during the walk", parent)
            return []
        for name in names:
            try:
                found.append((name, os.stat(name, dir_fd=descriptor, follow_symlinks=False)))
            except FileNotFoundError:
                self._notes.add("vanished during the walk", join(parent, name))
            except PermissionError as error:
                path = join(parent, name)
                if not self._source.allow_unreadable:
                    raise unreadable(path, "entry", error) from error
                self._notes.add("could not be read, left out", path)
        return found

    def _entry(self, path: bytes, status: os.stat_result) -> Entry | None:
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind == LINK and self._follow:
            kind, status = self._followed(path, status)
        if kind is None:
            what = _SPECIAL.get(stat.S_IFMT(status.st_mode), "a special file")
            self._notes.add(f"skipped {what}", path)
            return None
        limit = self._source.max_file_size
        if kind == FILE and limit is not None and status.st_size > limit:
            self._notes.add(f"skipped, larger than max_file_size {limit}", path)
            return None
        return Entry(path, kind, status)

    def _followed(self, path: bytes, link: os.stat_result) -> tuple[str | None, os.stat_result]:
        """What the link leads to; the link itself where it leads nowhere or in a circle."""
        parent, _, name = path.rpartition(b"/")
        try:
            status = os.stat(name, dir_fd=self._tree.directory(parent or ROOT))
        except OSError:
            self._notes.add("a link that leads nowhere, kept as a link", path)
            return LINK, link
        if (status.st_dev, status.st_ino) in {level.identity for level in self._levels}:
            self._notes.add("a link that leads in a circle, kept as a link", path)
            return LINK, link
        return _KINDS.get(stat.S_IFMT(status.st_mode)), status


def unreadable(path: bytes, what: str, error: OSError) -> SourceDenied:
    """The error for something that may not be read."""
    return SourceDenied(
        f"the {what} {show(path)!r} cannot be read ({error.strerror})",
        "Grant the user read on it, exclude it, or set allow_unreadable = true to leave it out",
    )


def _sorted_names(descriptor: int) -> Iterator[bytes]:
    """The names in a directory by their bytes; a huge one is sorted in runs on disk."""
    runs: list[Records] = []
    # By a path of bytes, as a scan by descriptor gives names as text, to be encoded one by one.
    with os.scandir(b"/proc/self/fd/%d" % descriptor) as entries:
        while len(names := [entry.name for entry in islice(entries, _NAMES)]) == _NAMES:
            runs.append(Records(b"/"))
            runs[-1].extend(name + b"/" for name in sorted(names))
    names.sort()
    return heapq.merge(*runs, names) if runs else iter(names)
