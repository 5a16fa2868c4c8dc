"""``compare = "content"``: a file is unchanged if its bytes are, whatever its times and inode say."""

import os

from stepvault.engines.files.backup.parent import Parent
from stepvault.engines.files.format import index
from stepvault.engines.files.format.digests import content_hash, xattrs_digest
from stepvault.engines.files.paths import split
from stepvault.engines.files.tree.handles import Tree
from stepvault.engines.files.tree.walk import FILE, Entry
from stepvault.engines.files.tree.xattrs import xattrs_of

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


class SameContent:
    """Compares files with their lines by reading them."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def changed(self, parent: Parent, entries: list[Entry]) -> tuple[list[Entry], list[bytes]]:
        """Return the same as ``Parent.changed``."""
        changed, unchanged = list[Entry](), list[bytes]()
        for entry in entries:
            lines = self._lines(entry, parent)
            unchanged += lines
            if not lines:
                changed.append(entry)
        return changed, unchanged

    def _lines(self, entry: Entry, parent: Parent) -> list[bytes]:
        """Return the entry's lines, with its times and inode of now, if they still describe it; else none."""
        lines = parent.lines(entry.path)
        if not lines or not all(pack for _, pack in lines):
            return []
        if not self._same(entry, [index.parse(line[:-1]) for line, _ in lines]):
            return []
        begin = index.signature(
            entry.path,
            entry.size,
            entry.mtime_ns,
            index.settled(entry.ctime_ns),
            entry.inode,
        )
        return [begin + line.split(b"\t", 5)[5] for line in parent.taken_over(lines, entry.size)]

    def _same(self, entry: Entry, lines: list[index.Line]) -> bool:
        """Whether a non-file's status, or a file's content and metadata, are what they were."""
        line = lines[0]
        as_before = (line.mtime_ns, line.ctime_ns, line.inode) == (
            entry.mtime_ns,
            entry.ctime_ns,
            entry.inode,
        )
        if entry.kind != FILE:
            return as_before
        metadata = (entry.size, entry.mode & 0o7777, entry.uid, entry.gid)
        if (line.size, line.mode, line.uid, line.gid) != metadata:
            return False
        # Of several names, now or then, it may have changed which belong together.
        alone = entry.links == 1 and line.kind not in index.HARD_LINKS
        return (as_before or alone) and self._same_bytes(entry, lines)

    def _same_bytes(self, entry: Entry, lines: list[index.Line]) -> bool:
        parent, name = split(entry.path)
        try:
            descriptor = os.open(name, _READ, dir_fd=self._tree.directory(parent))
        except OSError:
            return False  # reading it for the backup will say what is wrong
        try:
            xattrs = xattrs_of(descriptor)
            if (xattrs_digest(xattrs) if xattrs else index.NONE) != lines[0].xattrs:
                return False
            return all(content_hash(descriptor, one) == one.sha256 for one in lines)
        except OSError:
            return False
        finally:
            os.close(descriptor)
