"""What an previous backup already holds of a source: the heart of incremental backups.

Its indexes and the walk are in the same order, so one pass over both finds what is unchanged.
An unchanged entry keeps its index line, which points straight at the pack that holds it; no
line ever leads to another index. Decision 0004 says when a pack is written anew instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from stepvault.engines.base import PlanJob, Previous
from stepvault.engines.files.format import index, tar
from stepvault.engines.files.paths import walk_key
from stepvault.engines.files.spool import BLOCK, Spooled, cut
from stepvault.engines.files.tree.walk import Entry
from stepvault.engines.files.tree.warnings import Warnings
from stepvault.errors import BackupTampered
from stepvault.records import StoredObject

#: Raw bytes of a member beside its content: its header, the two blocks of its times, and padding.
_AROUND = 4 * tar.BLOCK
#: A pack of which less than this share is still needed is given up and its rest stored anew.
_LIVE_AT_LEAST = 0.3
#: When more packs than the first number are used, the smallest are given up until the second
#: number is left, as long as they are small.
_PACKS_AT_MOST, _PACKS_AFTER = 128, 64
_SMALL_PACK = 64 << 20

#: Bytes of all indexes together that are held in memory, about: the run after one of a million
#: files, all new, has a hundred of them. Of each a block at a time is unpacked.
_HELD, _LEAST = 4 << 20, 4 << 10
_LINE = 256

#: Settings that change what is stored of a file; with others than before nothing is taken over.
_DECISIVE = ("path", "follow_symlinks", "preserve_metadata")


@dataclass(slots=True)
class _Pack:
    """A pack of an earlier run."""

    number: int
    stored: StoredObject
    was_live: int
    """Raw bytes of it that the previous backup needed."""
    live: int = 0
    given_up: bool = False


class _Cursor:
    """One index of it, read from its beginning to its end."""

    def __init__(self, text: Spooled, read: int, packs: dict[bytes, _Pack]) -> None:
        self._stream = cut(text.chunks(), b"\n")
        self._read = read
        """Lines to read at a time."""
        self._packs = packs
        """By their number in this index, as its lines have it."""
        self.passed_over = False
        """Whether lines were skipped because there is no such entry any more."""
        self._lines: list[bytes] = []
        """Some that were read of it; those before ``_next`` are done with."""
        self._next = 0

    def _ahead(self, count: int) -> list[bytes]:
        """Return the next lines, at most so many; none at the end only."""
        if self._next + count > len(self._lines):
            self._lines = [*self._lines[self._next :], *islice(self._stream, self._read)]
            self._next = 0
        return self._lines[self._next : self._next + count]

    def line(self) -> bytes:
        """Return the next line, nothing at the end."""
        if self._next == len(self._lines):
            self._ahead(1)
        return self._lines[self._next] if self._lines else b""

    def at(self, key: bytes) -> bool:
        """Go to the lines of that key; return whether there are any."""
        while line := self.line():
            here = index.key_of(line)
            if here >= key:
                return here == key
            self._next += 1
            self.passed_over = True
        return False

    def take(self) -> tuple[bytes, _Pack | None]:
        """Return the line as it goes into the index to come, and its pack if that is kept."""
        line = self.line()
        self._next += 1
        return self._kept(line)

    def _kept(self, line: bytes) -> tuple[bytes, _Pack | None]:
        rest, _, number = line.rpartition(b"\t")
        pack = self._packs.get(number)
        if pack is None or pack.given_up:
            return b"", None
        return b"%s\t%d\n" % (rest, pack.number), pack

    def take_same(
        self, entries: Sequence[Entry], begins: Sequence[bytes]
    ) -> tuple[int, list[bytes], list[Entry]]:
        """Go over the lines that begin in turn as those of the entries would.

        Returns:
            How many they are, as they go into the index to come, and the entries whose packs are
            not kept.
        """
        seen, lines, anew = 0, list[bytes](), list[Entry]()
        for line, begin, entry in zip(self._ahead(len(begins)), begins, entries, strict=False):
            # A piece of a file must not be taken without the others.
            if not line.startswith(begin) or line.startswith(index.PIECE, len(begin)):
                break
            seen += 1
            kept, pack = self._kept(line)
            if pack:
                pack.live += entry.size + _AROUND
                lines.append(kept)
            else:
                anew.append(entry)
        self._next += seen
        return seen, lines, anew


class Parent:
    """The lines of the previous backup, asked for in walk order."""

    def __init__(self, previous: Previous) -> None:
        """Read and verify its indexes.

        Raises:
            BackupTampered: an index is not what was stored.
        """
        self._packs: list[_Pack] = []
        self.mounts = set[bytes]()
        """Directories where another file system began."""
        # Without the counts of files: that is what the index's is for.
        self._objects = [
            o.model_copy(update={"run_id": o.run_id or previous.run_id, "files": None})
            for o in previous.objects
        ]
        indexes = [o for o in self._objects if o.name.endswith(index.SUFFIX)]
        block = min(BLOCK, max(_LEAST, _HELD // max(1, len(indexes))))
        self._cursors = [self._cursor(previous, stored, block) for stored in indexes]
        _give_up(self._packs)

    def _cursor(
        self,
        previous: Previous,
        stored: StoredObject,
        block: int,
    ) -> _Cursor:
        """Return a cursor over an index that is laid aside on disk in blocks, verified."""
        head, chunks = index.read_chunks(previous.read(stored))
        self.mounts |= head.mounts
        text = Spooled(block)
        for chunk in chunks:
            for start in range(0, len(chunk), block):
                text.add(chunk[start : start + block])
        objects = {(o.run_id, o.name): o for o in self._objects}
        packs: dict[bytes, _Pack] = {}
        for number, pack in head.packs.items():
            held = objects.get(index.pack_named(pack, stored))
            if held is not None:
                packs[b"%d" % number] = _Pack(len(self._packs), held, pack["live"])
                self._packs.append(packs[b"%d" % number])
        return _Cursor(text, block // _LINE, packs)

    def changed(self, entries: list[Entry]) -> tuple[list[Entry], list[bytes]]:
        """Return which of these neighbours it does not hold as they are now, and the lines of the others."""
        begins = [index.signature(e.path, e.size, e.mtime_ns, e.ctime_ns, e.inode) for e in entries]
        changed, unchanged, at = list[Entry](), list[bytes](), 0
        while at < len(entries):
            # The common case needs no keys: the next lines of one index are the entries'.
            cursor = next((c for c in self._cursors if c.line().startswith(begins[at])), None)
            if cursor:
                seen, lines, anew = cursor.take_same(entries[at:], begins[at:])
                if cursor is not self._cursors[0]:  # most likely has the next ones, too
                    self._cursors.remove(cursor)
                    self._cursors.insert(0, cursor)
                if seen:
                    at += seen
                    changed += anew
                    unchanged += lines
                    continue
            entry, begin = entries[at], begins[at]
            at += 1
            own = self.lines(entry.path)
            same = all(line.startswith(begin) for line, _ in own)
            lines = self.taken_over(own, entry.size) if same else []
            unchanged += lines
            if not lines:
                changed.append(entry)
        return changed, unchanged

    def lines(self, path: bytes) -> list[tuple[bytes, _Pack | None]]:
        """Return all lines of that path, whatever they say, each with its pack if that is kept."""
        key = walk_key(path)
        lines = []
        for cursor in self._cursors:
            while cursor.at(key):
                lines.append(cursor.take())
        return lines

    @staticmethod
    def taken_over(lines: list[tuple[bytes, _Pack | None]], size: int) -> list[bytes]:
        """Return the lines, counted as needed; none unless all their packs are kept."""
        packs = [pack for _, pack in lines if pack]
        if len(packs) < len(lines):
            return []
        for pack in packs:
            pack.live += size // len(packs) + _AROUND
        return [line for line, _ in lines]

    def withdraw(self, line: bytes) -> None:
        """Of a file in one piece: its line, which was counted as needed, is not taken over after all."""
        size, number = line.split(b"\t", 2)[1], line[line.rindex(b"\t") + 1 :]
        self._packs[int(number)].live -= int(size) + _AROUND

    def whole(self, files: int) -> list[StoredObject]:
        """Return all objects of the previous backup if none of its lines was passed over; else none.

        Args:
            files: how many files it describes.
        """
        if not self._cursors or any(
            cursor.passed_over or cursor.line() for cursor in self._cursors
        ):
            return []
        first = next(n for n, o in enumerate(self._objects) if o.name.endswith(index.SUFFIX))
        objects = [*self._objects]
        objects[first] = objects[first].model_copy(update={"files": files})
        return objects

    def packs(self) -> dict[str, dict[str, Any]]:
        """Return the packs that unchanged lines point at, for the unit's head."""
        return {
            str(p.number): {"object": p.stored.model_dump(mode="json"), "live": p.live}
            for p in self._packs
            if p.live
        }


def _give_up(packs: list[_Pack]) -> None:
    """Decide which packs nothing more is taken over out of."""
    for pack in packs:
        pack.given_up = pack.was_live < _LIVE_AT_LEAST * pack.stored.raw_bytes
    kept = sorted((p for p in packs if not p.given_up), key=lambda p: p.stored.raw_bytes)
    if len(kept) > _PACKS_AT_MOST:
        for pack in kept[: len(kept) - _PACKS_AFTER]:
            pack.given_up = pack.stored.raw_bytes < _SMALL_PACK


def parent_of(job: PlanJob, warnings: Warnings) -> Parent | None:
    """Return the previous backup, read and verified, if this one may build on it."""
    previous, source = job.previous, job.source
    if previous is None or not source.incremental:
        return None
    settings = source.model_dump(mode="json")
    if any(previous.config.get(key) != settings[key] for key in ("engine", *_DECISIVE)):
        return None
    try:
        return Parent(previous)
    except BackupTampered as error:
        message = f"the previous backup {previous.run_id} is damaged, all is stored anew: {error}"
        warnings.add(message, b".")
        return None
