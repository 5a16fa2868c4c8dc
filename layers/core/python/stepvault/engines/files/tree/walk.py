"""The walk: every entry of a tree in one fixed order, filtered, in bounded memory.

Order: a directory, then what it holds by the bytes of the names, then its next sibling; that is
ascending ``tree.walk_key``. An index is in the same order, so the two can be merged.
"""

import heapq
import os
import stat
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import batched, chain, islice
from typing import Any, NamedTuple

from stepvault.engines.files.errors import VANISHED, unreadable, vanished
from stepvault.engines.files.paths import ROOT, is_staging, join, split
from stepvault.engines.files.spool import Records
from stepvault.engines.files.tree.globs import Globs
from stepvault.engines.files.tree.handles import Tree
from stepvault.engines.files.tree.warnings import Warnings
from stepvault.engines.mounts import is_network
from stepvault.settings import FilesSource

#: Names of one directory held in memory; a larger directory is sorted on disk.
_NAMES = 50_000
#: Entries whose status is read ahead; the directory's descriptor stays open that long.
_AHEAD = 256
#: On network file systems, where each status is a wait, so many threads ask, for so many each.
_THREADS, _EACH = 16, 16


#: What an entry is: a directory, a regular file, a symbolic link.
DIRECTORY, FILE, LINK = "d", "f", "l"
_KINDS = {stat.S_IFDIR: DIRECTORY, stat.S_IFREG: FILE, stat.S_IFLNK: LINK}
_SPECIAL = {
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Entry(NamedTuple):
    """One directory, file or link; the numbers are those of stat(2)."""

    path: bytes
    kind: str
    size: int
    """Bytes of a file; 0 of anything else."""
    blocks: int
    """Allocated, of 512 bytes."""
    mtime_ns: int
    ctime_ns: int
    inode: int
    mode: int
    uid: int
    gid: int
    device: int
    links: int
    origin: tuple[str, str] | None
    """Key and ETag of an object of a bucket."""

    @property
    def stored_bytes(self) -> int:
        """Bytes that reading a file gives: holes are not read."""
        return min(self.size, self.blocks * 512) if self.kind == FILE else 0


_DEVICE = Entry._fields.index("device")

#: An entry as a plain tuple, which is made in half the time and can be sent elsewhere by marshal.
Fields = tuple[Any, ...]


class _Stretch(NamedTuple):
    """Part of a directory: neighbours, then a directory to go into."""

    files: list[Fields]
    directory: Entry | None = None
    wanted: bool = False
    """Whether ``include`` wants the directory."""


class _Level(NamedTuple):
    """A directory being walked."""

    children: Iterator[_Stretch]
    identity: tuple[int, int]
    pending: Entry | None
    """The directory itself, while nothing in it has matched ``include``."""


def walk(tree: Tree, source: FilesSource, warnings: Warnings) -> Iterator[Entry]:
    """Yield every entry that the source's settings ask for, the root first.

    Raises:
        SourceMissing: the root is gone.
        SourceDenied: a directory cannot be read and ``allow_unreadable`` is false.
    """
    return map(Entry._make, chain.from_iterable(stretches(tree, source, warnings)))


def stretches(tree: Tree, source: FilesSource, warnings: Warnings) -> Iterator[list[Fields]]:
    """Yield what ``walk`` does, neighbours together."""
    with closing(_Walk(tree, source, warnings)) as walking:
        yield from walking.stretches()


class _Walk:
    def __init__(self, tree: Tree, source: FilesSource, warnings: Warnings) -> None:
        self._tree = tree
        self._source = source
        self._warnings = warnings
        self._follow = source.follow_symlinks
        self._limit = source.max_file_size
        self._exclude = Globs(source.exclude)
        self._include = Globs(source.include)
        self._levels: list[_Level] = []
        self._on_the_way: Counter[tuple[int, int]] = Counter()
        """Directories that are being walked, by identity; only if links are followed."""
        far = is_network(os.fstat(tree.directory(ROOT)).st_dev)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="status") if far else None

    def close(self) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def stretches(self) -> Iterator[list[Fields]]:
        root = _fields(ROOT, DIRECTORY, os.fstat(self._tree.directory(ROOT)))
        yield [root]
        if os.stat("..", dir_fd=self._tree.directory(ROOT)).st_dev != root[_DEVICE]:
            self._warnings.mounts.append(ROOT)
        self._descend(Entry._make(root), wanted=not self._include, pending=False)
        while self._levels:
            part = next(self._levels[-1].children, None)
            if part is None:
                left = self._levels.pop()
                if self._follow:
                    self._on_the_way[left.identity] -= 1
                continue
            stretch, directory, wanted = part
            if stretch and self._include:
                stretch = [*self._pending(), *stretch]
            if directory and wanted:
                stretch = [*stretch, *self._pending(), tuple(directory)]
            if stretch:
                yield stretch
            if directory:
                self._descend(directory, wanted, pending=not wanted)

    def _pending(self) -> Iterator[Fields]:
        """Yield the directories above that were held back until something in them matched."""
        # Above one that was given out all have been, too.
        first = len(self._levels)
        while first and self._levels[first - 1].pending:
            first -= 1
        for depth in range(first, len(self._levels)):
            level = self._levels[depth]
            if level.pending:
                yield tuple(level.pending)
                self._levels[depth] = level._replace(pending=None)

    def _descend(self, directory: Entry, wanted: bool, *, pending: bool) -> None:
        if self._levels and directory.device != self._levels[-1].identity[0]:
            self._note_mount(directory.path)
        identity = directory.device, directory.inode
        if self._follow:
            self._on_the_way[identity] += 1
        self._levels.append(
            _Level(self._children(directory.path, wanted), identity, directory if pending else None)
        )

    def _note_mount(self, path: bytes) -> None:
        """Remember where another file system begins; a link that is followed is no such place."""
        parent, name = split(path)
        if self._follow:
            status = os.stat(name, dir_fd=self._tree.directory(parent), follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                return
        self._warnings.mounts.append(path)

    def _children(self, parent: bytes, wanted: bool) -> Iterator[_Stretch]:
        """Yield what a directory holds, in order."""
        picky = self._follow or self._exclude or self._include or self._limit is not None
        prefix = join(parent, b"")
        for names in batched(self._names(parent), _AHEAD, strict=False):
            files: list[Fields] = []
            for name, status in self._statuses(parent, names):
                path, inside = prefix + name, wanted
                if not picky and stat.S_ISREG(status.st_mode):
                    files.append(_fields(path, FILE, status))
                    continue
                kept = self._judged(path, name, status)
                if kept is None:
                    continue
                if self._include:
                    verdict = self._include.decide(path, name, kept[1] == DIRECTORY)
                    inside = wanted if verdict is None else verdict
                if kept[1] == DIRECTORY:
                    if is_staging(name):
                        self._warnings.add("left out, as an unfinished restore left it", path)
                        continue
                    yield _Stretch(files, Entry._make(kept), inside)
                    files = []
                elif inside:
                    files.append(kept)
            yield _Stretch(files)

    def _names(self, parent: bytes) -> Iterator[bytes]:
        try:
            return _sorted_names(self._tree.directory(parent))
        except OSError as error:
            self._failed(parent, "directory", "left out with all within", error)
        return iter(())

    def _statuses(
        self, parent: bytes, names: tuple[bytes, ...]
    ) -> list[tuple[bytes, os.stat_result]]:
        try:
            descriptor = self._tree.directory(parent)
        except OSError as error:
            self._failed(parent, "directory", "left out with all within", error)
            return []
        ask = partial(self._ask, parent, descriptor)
        if self._pool is None:
            return ask(names)
        return [*chain.from_iterable(self._pool.map(ask, batched(names, _EACH, strict=False)))]

    def _ask(
        self, parent: bytes, descriptor: int, names: tuple[bytes, ...]
    ) -> list[tuple[bytes, os.stat_result]]:
        statuses = []
        for name in names:
            try:
                statuses.append((name, os.stat(name, dir_fd=descriptor, follow_symlinks=False)))
            except OSError as error:
                self._failed(join(parent, name), "entry", "left out", error)
        return statuses

    def _failed(self, path: bytes, what: str, left_out: str, error: OSError) -> None:
        """Note what vanished or may be left out; all else is an error of the source."""
        if error.errno in VANISHED:
            if not self._tree.still_there():
                raise vanished(self._source) from error
            self._warnings.add("vanished during the walk", path)
        elif isinstance(error, PermissionError):
            if not self._source.allow_unreadable:
                raise unreadable(path, what, error) from error
            self._warnings.add(f"could not be read, {left_out}", path)
        else:
            raise error

    def _judged(self, path: bytes, name: bytes, status: os.stat_result) -> Fields | None:
        """Return the entry, if it is of a kind and size that is kept and not excluded."""
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind == LINK and self._follow:
            kind, status = self._followed(path, status)
        if kind is None:
            what = _SPECIAL.get(stat.S_IFMT(status.st_mode), "a special file")
            self._warnings.add(f"skipped {what}", path)
            return None
        if kind == FILE and self._limit is not None and status.st_size > self._limit:
            self._warnings.add(f"skipped, larger than max_file_size {self._limit}", path)
            return None
        if self._exclude and self._exclude.decide(path, name, kind == DIRECTORY):
            return None
        return _fields(path, kind, status)

    def _followed(self, path: bytes, link: os.stat_result) -> tuple[str | None, os.stat_result]:
        """Return what the link leads to; the link itself where it leads nowhere or in a circle."""
        parent, _, name = path.rpartition(b"/")
        try:
            status = os.stat(name, dir_fd=self._tree.directory(parent or ROOT))
        except OSError:
            self._warnings.add("a link that leads nowhere, kept as a link", path)
            return LINK, link
        if self._on_the_way[status.st_dev, status.st_ino]:
            self._warnings.add("a link that leads in a circle, kept as a link", path)
            return LINK, link
        return _KINDS.get(stat.S_IFMT(status.st_mode)), status


def _fields(path: bytes, kind: str, status: os.stat_result) -> Fields:
    """Those of an ``Entry``."""
    return (
        path,
        kind,
        status.st_size if kind == FILE else 0,
        status.st_blocks,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_dev,
        status.st_nlink,
        None,
    )


def _sorted_names(descriptor: int) -> Iterator[bytes]:
    """Return the names in a directory by their bytes; a huge one is sorted in runs on disk."""
    runs: list[Records] = []
    # By a path of bytes, as a scan by descriptor gives names as text, to be encoded one by one.
    with os.scandir(b"/proc/self/fd/%d" % descriptor) as entries:
        while len(names := [entry.name for entry in islice(entries, _NAMES)]) == _NAMES:
            runs.append(Records(b"/"))
            runs[-1].extend([name + b"/" for name in sorted(names)])
    names.sort()
    return heapq.merge(*runs, names) if runs else iter(names)
