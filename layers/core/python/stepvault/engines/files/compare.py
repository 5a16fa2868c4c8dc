"""Proving a restore: the tree against the backup's index."""

import os
import stat
from collections.abc import Iterator

from stepvault.engines.base import RestoreJob
from stepvault.engines.files import index
from stepvault.engines.files.bucket import SCHEME
from stepvault.engines.files.content import content_hash
from stepvault.engines.files.index import Line
from stepvault.engines.files.notes import Notes
from stepvault.engines.files.selection import Selection
from stepvault.engines.files.stored import Backup
from stepvault.engines.files.tree import Tree, show, split, walk_key
from stepvault.engines.files.walk import DIRECTORY, FILE, LINK, Entry, walk
from stepvault.engines.files.xattrs import xattrs_at
from stepvault.errors import TargetMissing
from stepvault.models import FilesSource

_KINDS = {
    index.DIRECTORY: DIRECTORY,
    index.FILE: FILE,
    index.SPARSE: FILE,
    index.PIECE: FILE,
    index.HARD_LINK: FILE,
    index.SPARSE_HARD_LINK: FILE,
    index.LINK: LINK,
}


def differences(job: RestoreJob) -> list[str]:
    """One line for each way in which the directory is not what the index says.

    Owners and extended attributes count only as far as the user may set them: for root.
    """
    if job.path is None:
        raise TargetMissing("no directory to compare is given", "Name one with --to")
    plain = FilesSource(
        name=job.source.name, engine="files", path=str(job.path), allow_unreadable=True
    )
    selection = Selection(job.options.only)
    lines = map(index.parse, Backup(job.objects, job.read).all_lines(selection))
    with Tree(job.path) as tree:
        return list(_Comparison(job, tree, selection).run(lines, walk(tree, plain, Notes())))


class _Comparison:
    def __init__(self, job: RestoreJob, tree: Tree, selection: Selection) -> None:
        self._tree = tree
        self._metadata = job.source.preserve_metadata
        self._owner = self._metadata and job.options.owner != "none" and os.geteuid() == 0
        self._extras = selection.everything and not job.options.overwrite
        self._selection = selection
        self._no_directories = job.source.path.startswith(SCHEME)
        self._inodes: dict[tuple[bytes, int], tuple[int, int]] = {}

    def run(self, lines: Iterator[Line], entries: Iterator[Entry]) -> Iterator[str]:
        """Merge the two; both are in walk order."""
        line, entry = next(lines, None), next(entries, None)
        while line or entry:
            there = walk_key(entry.path) if entry else None
            wanted = walk_key(line.path) if line else None
            if line and (there is None or (wanted is not None and wanted < there)):
                yield f"{show(line.path)}: missing"
                line = next(lines, None)
            elif entry and (line is None or there != wanted):
                if self._extras and not (entry.kind == DIRECTORY and self._no_directories):
                    yield f"{show(entry.path)}: not in the backup"
                entry = next(entries, None)
            elif line and entry:
                same = [line]
                while (line := next(lines, None)) and line.path == entry.path:
                    same.append(line)
                yield from (f"{show(entry.path)}: {what}" for what in self._of(same, entry))
                entry = next(entries, None)

    def _of(self, lines: list[Line], entry: Entry) -> Iterator[str]:
        """What differs of one entry; a file in pieces has several lines."""
        line = lines[0]
        if _KINDS[line.kind] != entry.kind:
            yield "of another kind"
            return
        if line.kind in index.HARD_LINKS and self._selection.wants(line.link, is_directory=False):
            yield from self._link(line, entry)
        if entry.kind == FILE:
            yield from self._content(lines, entry)
        elif entry.kind == LINK and self._target(entry) != line.link:
            yield f"links to {show(self._target(entry))}, not {show(line.link)}"
        if self._metadata:
            yield from self._attributes(line, entry)

    def _attributes(self, line: Line, entry: Entry) -> Iterator[str]:
        if entry.kind != LINK and stat.S_IMODE(entry.mode) != line.mode:
            yield f"mode {stat.S_IMODE(entry.mode):o}, not {line.mode:o}"
        if entry.mtime_ns != line.mtime_ns:
            yield f"modified at {entry.mtime_ns} ns, not {line.mtime_ns} ns"
        if not self._owner:
            return
        if (entry.uid, entry.gid) != (line.uid, line.gid):
            yield f"owner {entry.uid}:{entry.gid}, not {line.uid}:{line.gid}"
        parent, name = split(entry.path)
        xattrs = xattrs_at(self._tree.directory(parent), name)
        if (index.xattrs_digest(xattrs) if xattrs else index.NONE) != line.xattrs:
            yield "other extended attributes"

    def _link(self, line: Line, entry: Entry) -> Iterator[str]:
        """The same file as its first name; where that is not there, as the name seen before."""
        inode = (entry.device, entry.inode)
        parent, name = split(line.link)
        before = self._inodes.setdefault((line.link, line.offset), inode)
        try:
            first = os.stat(name, dir_fd=self._tree.directory(parent), follow_symlinks=False)
            before = (first.st_dev, first.st_ino)
        except OSError:
            pass
        if inode != before:
            yield f"not the same file as {show(line.link)}"

    def _target(self, entry: Entry) -> bytes:
        parent, name = split(entry.path)
        return os.readlink(name, dir_fd=self._tree.directory(parent))

    def _content(self, lines: list[Line], entry: Entry) -> Iterator[str]:
        line = lines[0]
        if entry.size != line.size:
            yield f"{entry.size} bytes, not {line.size}"
            return
        parent, name = split(entry.path)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(name, flags, dir_fd=self._tree.directory(parent))
        except OSError as error:
            yield f"cannot be read ({error.strerror})"
            return
        try:
            for one in lines:
                if content_hash(descriptor, one) != one.sha256:
                    yield "other content"
        finally:
            os.close(descriptor)
