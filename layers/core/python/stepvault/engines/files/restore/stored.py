"""A backup's packs and indexes, found among its objects and verified before use."""

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from stepvault.engines.files.format import index
from stepvault.engines.files.format.index import Line
from stepvault.engines.files.spool import Records
from stepvault.engines.files.tree.selection import Selection
from stepvault.errors import BackupTampered
from stepvault.records import StoredObject

PACK_SUFFIX = ".tar.zst"


class Lines:
    """Index lines laid aside on disk; may be read more than once."""

    def __init__(self) -> None:
        self._records = Records(b"\n")
        self.count = 0
        self.stored_bytes = 0
        """Stored bytes of the frames that hold their members."""
        self._frame = -1

    def add(self, line: bytes) -> None:
        """Lay a line aside, offsets ascending."""
        start, end = map(int, line.rsplit(b"\t", 4)[1:3])
        if start != self._frame:
            self._frame = start
            self.stored_bytes += end - start
        self.count += 1
        self._records.add(line + b"\n")

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._records)

    def without(self, done: Callable[[Line], bool]) -> "Lines":
        """Return those that are not done."""
        left = Lines()
        for line in self:
            if not done(index.parse(line)):
                left.add(line)
        return left


class Backup:
    """What the manifest lists."""

    def __init__(
        self,
        objects: Sequence[StoredObject],
        read: Callable[[StoredObject], Iterator[bytes]],
    ) -> None:
        self._objects = {(stored.run_id, stored.name): stored for stored in objects}
        self._numbers = {key: number for number, key in enumerate(self._objects)}
        self._read = read
        self.indexes = [stored for stored in objects if stored.name.endswith(index.SUFFIX)]

    def find(self, run_id: str | None, name: str) -> StoredObject:
        """Return that object of the manifest.

        Raises:
            BackupTampered: the manifest does not list it.
        """
        try:
            return self._objects[run_id, name]
        except KeyError:
            where = f" of run {run_id}" if run_id else ""
            raise BackupTampered(
                f"the backup needs {name}{where}, which its manifest does not list"
            ) from None

    def number(self, stored: StoredObject) -> int:
        """Return its number in the manifest: an index's numbers mean something in it alone."""
        return self._numbers[stored.run_id, stored.name]

    def numbered(self, number: int) -> StoredObject:
        """Return the object of that number in the manifest."""
        return list(self._objects.values())[number]

    def packs(
        self, selection: Selection, look: Callable[[bytes], None]
    ) -> Iterator[tuple[StoredObject, StoredObject]]:
        """Yield each pack that holds something wanted, with the index that knows its members.

        ``look`` sees every wanted line.
        """
        for index_object in self.indexes:
            used: dict[int, int] = {}
            named, lines = index.read(self._read(index_object))
            for line in _wanted(lines, selection):
                look(line)
                number = int(line[line.rindex(b"\t") + 1 :])
                used[number] = used.get(number, 0) + 1
            for number in sorted(used):
                pack = named[number]
                yield self.find(*index.pack_named(pack, index_object)), index_object

    def lines_of(
        self, index_object: StoredObject, pack: StoredObject, selection: Selection
    ) -> Lines:
        """Return the wanted lines of one pack, ascending by offset, proved to be what was stored.

        A hard link is among them only if the file's first name is not: then its content is
        needed, once for all its names.
        """
        named, lines = index.read(self._read(index_object))
        number = next(
            n
            for n, p in named.items()
            if index.pack_named(p, index_object) == (pack.run_id, pack.name)
        )
        end = b"\t%d" % number
        kept, orphans = Lines(), dict[int, bytes]()
        for line in _wanted(lines, selection):
            if line.endswith(end):
                if line.split(b"\t", 6)[5] in index.HARD_LINKS:
                    orphans.setdefault(_offset(line), line)
                else:
                    kept.add(line)
        if orphans:
            for line in kept:
                orphans.pop(_offset(line), None)
        if not orphans:
            return kept
        both = Lines()
        for line in heapq.merge(kept, sorted(orphans.values(), key=_offset), key=_offset):
            both.add(line)
        return both

    def all_lines(self, selection: Selection) -> "AllLines":
        """Return all wanted lines in walk order, proved to be what was stored.

        Their packs have the manifest's numbers, so that pack and offset identify content.
        """
        kept = []
        for index_object in self.indexes:
            records = Records(b"\n")
            named, lines = index.read(self._read(index_object))
            records.extend(self._numbered(_wanted(lines, selection), named, index_object))
            kept.append(records)
        return AllLines(kept)

    def _numbered(
        self, lines: Iterator[bytes], named: Mapping[int, Mapping[str, Any]], by: StoredObject
    ) -> Iterator[bytes]:
        numbers: dict[bytes, int] = {}
        for line in lines:
            rest, _, number = line.rpartition(b"\t")
            if number not in numbers:
                pack = self.find(*index.pack_named(named[int(number)], by))
                numbers[number] = self.number(pack)
            yield b"%s\t%d\n" % (rest, numbers[number])


class AllLines:
    """Lines of several indexes laid aside on disk; may be read more than once."""

    def __init__(self, kept: Sequence[Records]) -> None:
        self._kept = kept

    def __iter__(self) -> Iterator[bytes]:
        return index.merged(self._kept) if self._kept else iter(())


def _offset(line: bytes) -> int:
    return int(line.rsplit(b"\t", 5)[1])


def _wanted(lines: Iterable[bytes], selection: Selection) -> Iterator[bytes]:
    """Yield the lines of an index that the selection wants."""
    if selection.everything:
        yield from lines
        return
    for line in lines:
        fields = line.split(b"\t", 6)
        path = index.unescape(fields[0])
        if selection.wants(path, is_directory=fields[5] == index.DIRECTORY):
            yield line
