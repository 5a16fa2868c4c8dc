"""Proving a restore: the tree against the backup's index."""

import os
import stat
from collections.abc import Iterable, Iterator

from stepvault.engines.base import RestoreJob
from stepvault.engines.files.format import index
from stepvault.engines.files.format.digests import content_hash, xattrs_digest
from stepvault.engines.files.format.index import Line
from stepvault.engines.files.paths import show, split, walk_key
from stepvault.engines.files.restore.stored import Backup
from stepvault.engines.files.restore.to_bucket import ToBucket
from stepvault.engines.files.tree.handles import Tree
from stepvault.engines.files.tree.selection import Selection
from stepvault.engines.files.tree.walk import DIRECTORY, FILE, LINK, Entry, walk
from stepvault.engines.files.tree.warnings import Warnings
from stepvault.engines.files.tree.xattrs import xattrs_at
from stepvault.engines.object_paths import is_bucket
from stepvault.errors import TargetMissing
from stepvault.settings import FilesSource

_KINDS = {
    index.DIRECTORY: DIRECTORY,
    index.FILE: FILE,
    index.SPARSE: FILE,
    index.PIECE: FILE,
    index.HARD_LINK: FILE,
    index.SPARSE_HARD_LINK: FILE,
    index.LINK: LINK,
    index.LINK_HARD_LINK: LINK,
}

_OWNERS_RIGHTS = stat.S_ISUID | stat.S_ISGID

#: Pack and offset: what identifies content.
Place = tuple[int, int]


def differences(job: RestoreJob) -> list[str]:
    """Return one line for each way in which the directory is not what the index says.

    Owners and extended attributes count only as far as the user may set them: for root.
    """
    if job.bucket:
        return list(ToBucket(job, "").differences())
    if job.path is None:
        raise TargetMissing("no directory to compare is given", "Name one with --to")
    for what in _not_compared(job):
        job.not_compared(what)
    plain = FilesSource(
        name=job.source.name, engine="files", path=str(job.path), allow_unreadable=True
    )
    selection = Selection.of(job)
    lines = Backup(job.objects, job.read).all_lines(selection)
    with Tree(job.path) as tree:
        comparison = _Comparison(job, tree, selection, _with_other_names(lines))
        return list(comparison.run(map(index.parse, lines), walk(tree, plain, Warnings())))


def _not_compared(job: RestoreJob) -> Iterator[str]:
    """Yield each kind of thing that the comparison does not look at."""
    yield "access and creation times, and flags of files (chattr)"
    if not job.source.preserve_metadata:
        yield "modes, times, owners and extended attributes (preserve_metadata is false)"
    elif job.options.owner == "none" or os.geteuid() != 0:
        yield "owners and extended attributes (only root restores all of them)"
    if is_bucket(job.source.path):
        yield "what objects have beside their content (type, metadata, tags, storage class)"
    if job.options.only or job.options.overwrite:
        yield "what the target holds beside the backup"


def _with_other_names(lines: Iterable[bytes]) -> Iterator[Place]:
    """Where the content of each file lies that has a hard link."""
    for raw in lines:
        if raw.split(b"\t", 6)[5] in index.HARD_LINKS:
            yield _place(index.parse(raw))


def _place(line: Line) -> Place:
    return line.pack, line.offset


class _Comparison:
    def __init__(
        self, job: RestoreJob, tree: Tree, selection: Selection, linked: Iterable[Place]
    ) -> None:
        self._tree = tree
        self._metadata = job.source.preserve_metadata
        self._owner = self._metadata and job.options.owner != "none" and os.geteuid() == 0
        self._extras = selection.everything and not job.options.overwrite
        self._of_bucket = is_bucket(job.source.path)
        self._inodes: dict[Place, tuple[int, int] | None] = dict.fromkeys(linked)
        """Of each file with hard links, once one of its names was seen."""

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
                if self._extras and not (entry.kind == DIRECTORY and self._of_bucket):
                    yield f"{show(entry.path)}: not in the backup"
                entry = next(entries, None)
            elif line and entry:
                same = [line]
                while (line := next(lines, None)) and line.path == entry.path:
                    same.append(line)
                yield from (f"{show(entry.path)}: {what}" for what in self._differing(same, entry))
                entry = next(entries, None)

    def _differing(self, lines: list[Line], entry: Entry) -> Iterator[str]:
        """Yield what differs of one entry; a file in pieces has several lines."""
        line = lines[0]
        if _KINDS[line.kind] != entry.kind:
            yield "of another kind"
            return
        if entry.kind != DIRECTORY and not self._same_file(line, entry):
            yield f"not the same file as {show(line.link)}"
        if entry.kind == FILE:
            yield from self._content(lines, entry)
        elif line.kind == index.LINK_HARD_LINK:
            if index.link_digest(self._target(entry)) != line.sha256:
                yield f"links to {show(self._target(entry))}, as {show(line.link)} did not"
        elif entry.kind == LINK and self._target(entry) != line.link:
            yield f"links to {show(self._target(entry))}, not {show(line.link)}"
        if self._metadata:
            yield from self._attributes(line, entry)

    def _attributes(self, line: Line, entry: Entry) -> Iterator[str]:
        same_owner = (entry.uid, entry.gid) == (line.uid, line.gid)
        # Rights of the owner's are not given to another.
        mode = line.mode if same_owner or self._owner else line.mode & ~_OWNERS_RIGHTS
        if entry.kind != LINK and stat.S_IMODE(entry.mode) != mode:
            yield f"mode {stat.S_IMODE(entry.mode):o}, not {mode:o}"
        if entry.mtime_ns != line.mtime_ns:
            yield f"modified at {entry.mtime_ns} ns, not {line.mtime_ns} ns"
        if not self._owner:
            return
        if not same_owner:
            yield f"owner {entry.uid}:{entry.gid}, not {line.uid}:{line.gid}"
        if self._of_bucket:  # those of the line are an object's
            return
        parent, name = split(entry.path)
        xattrs = xattrs_at(self._tree.directory(parent), name)
        if (xattrs_digest(xattrs) if xattrs else index.NONE) != line.xattrs:
            yield "other extended attributes"

    def _same_file(self, line: Line, entry: Entry) -> bool:
        """Whether it is the same file as the names seen before it, if it has any."""
        place, inode = _place(line), (entry.device, entry.inode)
        if place not in self._inodes:
            return True
        before = self._inodes[place] = self._inodes[place] or inode
        return inode == before

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
