"""Cutting a directory tree into units.

One walk, everything large laid aside on disk: what memory holds grows with the number of
batches, not with the number of files.
"""

import heapq
import sqlite3
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import batched, chain, groupby
from operator import itemgetter

from stepvault.batching import Batch, Item, balance, consecutive
from stepvault.engines.base import WHOLE, ObjectReader, PlanJob, UnitDraft
from stepvault.engines.files import bucket, index, listing
from stepvault.engines.files.beside import walked
from stepvault.engines.files.earlier import CARRIED, Earlier, usable
from stepvault.engines.files.notes import Notes
from stepvault.engines.files.same_content import SameContent
from stepvault.engines.files.spool import Records, Spool
from stepvault.engines.files.tree import Tree
from stepvault.engines.files.walk import DIRECTORY, FILE, Entry, walk
from stepvault.errors import BackupTampered, SourceUnsupported
from stepvault.records import StoredObject
from stepvault.settings import FilesSource

#: A file larger than this is read in ranges by several units, each of this many bytes.
SPLIT_ABOVE = 100 * 10**9
SPLIT_INTO = 32 << 30

#: A source of fewer bytes is one unit with one pack, directories included.
_ONE_PACK = 64 << 20

#: Objects of a bucket that are sorted at a time.
_TOGETHER = 512

#: Unit of all directories, restored after all files so that their times stay. It sorts last.
DIRECTORIES = "directories"


#: Of one name: inode, record, bytes of the file; place and number of its line, if it is carried.
_Name = tuple[bytes, bytes, int, bytes | None, int | None]

#: Gives the record of an entry, or of a part of it.
_Record = Callable[[Entry, listing.Range | None], bytes]


def plan(job: PlanJob) -> Iterator[UnitDraft]:
    """Units of a directory, the largest first.

    Raises:
        SourceMissing, SourceDenied: the root or a directory in it cannot be read.
    """
    source: FilesSource = job.source
    notes = Notes()
    with closing(Sorted()) as links:
        if source.path.startswith(bucket.SCHEME):
            earlier = _earlier(job, notes)
            laid = _LaidAside(job, links, earlier, None, bucket.object_record)
            objects = bucket.objects(source, _buckets(job), notes)
            laid.take(map(list, batched(objects, _TOGETHER, strict=False)))
        else:
            with Tree(source.path, follow=source.follow_symlinks) as tree:
                same = SameContent(tree) if source.compare == "content" else None
                with walked(tree, source, notes) as found:
                    earlier = _earlier(job, notes)
                    laid = _LaidAside(job, links, earlier, same, entry_record)
                    laid.take(found)
    yield from _with_warnings(laid.units(), notes)


def _buckets(job: PlanJob) -> ObjectReader:
    if job.buckets is None:
        raise SourceUnsupported(f"{job.source.path!r} cannot be read without access to S3")
    return job.buckets


def _earlier(job: PlanJob, notes: Notes) -> Earlier | None:
    """The earlier backup, read and verified. One that is damaged is not leant on."""
    previous = usable(job.previous, job.source)
    if previous is None:
        return None
    try:
        return Earlier(previous)
    except BackupTampered as error:
        message = f"the earlier backup {previous.run_id} is damaged, all is stored anew: {error}"
        notes.add(message, b".")
        return None


def entry_record(entry: Entry, part: listing.Range | None = None) -> bytes:
    """The record of an entry, or of a part of it."""
    if part:
        return part.record(entry.path)
    kind = b"h" if entry.kind == FILE and entry.links > 1 else entry.kind.encode()
    return kind + entry.path + listing.END


def stored_bytes(entry: Entry) -> int:
    """What reading the file gives: holes are not read."""
    return min(entry.size, entry.blocks * 512) if entry.kind == FILE else 0


class Sorted:
    """Names of files that have several, brought together by inode, on disk.

    All that a file has are carried or none: one that is stored anew would be another file than
    the rest when they are restored.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(
            "CREATE TABLE names (inode BLOB, record BLOB, size INTEGER, place BLOB, number INTEGER)"
        )
        self._database.execute("CREATE TABLE withdrawn (number INTEGER PRIMARY KEY)")
        self._held: list[_Name] = []

    def add(self, entry: Entry, place: bytes | None = None, number: int | None = None) -> None:
        """``place`` and ``number`` are those of the carried line, if the name has one."""
        inode = struct.pack(">QQ", entry.device, entry.inode)
        self._held.append((inode, entry_record(entry), stored_bytes(entry), place, number))
        if len(self._held) == 1000:
            self._flush()

    def _flush(self) -> None:
        self._database.executemany("INSERT INTO names VALUES (?, ?, ?, ?, ?)", self._held)
        self._held = []

    def groups(self) -> Iterator[tuple[int, list[bytes]]]:
        """Bytes and records of each inode that is to be stored."""
        self._flush()
        rows = self._database.execute("SELECT * FROM names ORDER BY inode, rowid")
        for _, names in groupby(rows, key=itemgetter(0)):
            group = list(names)
            if not _carried_as_one(group):
                self._withdraw(group)
                yield group[0][2], [record for _, record, *_ in group]

    def _withdraw(self, group: list[_Name]) -> None:
        numbers = [(number,) for *_, number in group if number is not None]
        self._database.executemany("INSERT INTO withdrawn VALUES (?)", numbers)

    def withdrawn(self) -> Iterator[int]:
        """Numbers of the carried lines of files that are stored, ascending; once those are known."""
        rows = self._database.execute("SELECT number FROM withdrawn ORDER BY number")
        return (number for (number,) in rows)

    def close(self) -> None:
        self._database.close()


def _carried_as_one(group: list[_Name]) -> bool:
    """Whether all names of a file found in this walk are carried, out of the same place."""
    places = {place for *_, place, _ in group}
    return len(places) == 1 and None not in places


@dataclass(frozen=True, slots=True)
class _Laid:
    """An item of the batches, on disk."""

    item: Item
    where: tuple[int, int]
    linked: bool


class _LaidAside:
    """What the walk found, sorted into items, directories and linked files."""

    def __init__(
        self,
        job: PlanJob,
        links: Sorted,
        earlier: Earlier | None,
        same: SameContent | None,
        record: _Record,
    ) -> None:
        self._job = job
        self._links = links
        self._earlier = earlier
        self._same = same
        self._record = record
        self._carried = Records(b"\n")
        self._carried_files = 0
        self._spool = Spool()
        self._directories = Records(listing.END)
        self._items: list[_Laid] = []

    def take(self, stretches: Iterable[list[Entry]]) -> None:
        """All that there is to back up, in walk order."""
        caps = (self._job.batch_bytes, self._job.batch_files)
        if self._earlier:
            stretches = self._changed(stretches, self._earlier)
        for item, records in consecutive(self._plain(chain.from_iterable(stretches)), *caps):
            self._lay(item, records, linked=False)
        for item, groups in consecutive(self._links.groups(), *caps):
            records = sorted(chain.from_iterable(groups), key=_key)
            self._lay(Item(item.bytes, len(records)), records, linked=True)
        if self._earlier:
            self._withdraw(self._links.withdrawn(), self._earlier)

    def _changed(self, stretches: Iterable[list[Entry]], earlier: Earlier) -> Iterator[list[Entry]]:
        """The entries that the earlier backup does not hold; the lines of the others are carried."""
        compare = self._same.changed if self._same else Earlier.changed
        for stretch in stretches:
            changed, lines = compare(earlier, stretch)
            if linked := [e for e in stretch if e.links > 1 and e.kind == FILE]:
                self._carry_linked(linked, lines)
            self._carried.extend(lines)
            self._carried_files += _files(stretch) - _files(changed)
            yield changed

    def _carry_linked(self, linked: list[Entry], lines: list[bytes]) -> None:
        """Note which of these names are carried, by what number of the carried lines."""
        numbers = {line[: line.index(b"\t")]: number for number, line in enumerate(lines)}
        for entry in linked:
            number = numbers.get(index.escape(entry.path))
            if number is not None:
                place = index.place(lines[number])
                self._links.add(entry, place, self._carried.count + number)

    def _withdraw(self, numbers: Iterator[int], earlier: Earlier) -> None:
        """Carry those lines no more."""
        withdrawn = next(numbers, None)
        if withdrawn is None:
            return
        carried, self._carried = self._carried, Records(b"\n")
        for number, line in enumerate(carried):
            if number != withdrawn:
                self._carried.add(line + b"\n")
                continue
            withdrawn = next(numbers, None)
            earlier.withdraw(line)
            self._carried_files -= 1

    def _plain(self, entries: Iterable[Entry]) -> Iterator[tuple[int, bytes]]:
        """Sizes and records of what can go into any batch; the rest is laid aside."""
        for entry in entries:
            if entry.kind == DIRECTORY:
                self._directories.add(entry_record(entry))
            elif entry.kind == FILE and entry.links > 1:
                self._links.add(entry)
            elif (size := stored_bytes(entry)) > SPLIT_ABOVE:
                yield from _pieces(entry, self._record)
            else:
                yield size, self._record(entry, None)

    def _lay(self, item: Item, records: list[bytes], *, linked: bool) -> None:
        self._items.append(_Laid(item, self._spool.put(b"".join(records)), linked))

    def units(self) -> Iterator[tuple[listing.Head, Iterable[bytes], int, int]]:
        """Head, frames of records, bytes and files of each unit."""
        if same := self._nothing_changed():
            objects = [stored.model_dump(mode="json") for stored in same]
            yield listing.Head(unit=CARRIED, carried=True, same=objects), [], 0, 0
            return
        batches = balance(
            [laid.item for laid in self._items], self._job.batch_bytes, self._job.batch_files
        )
        few = self._directories.count <= self._job.batch_files
        if len(batches) <= 1 and few and sum(b.bytes for b in batches) <= _ONE_PACK:
            yield from self._one_pack(batches)
        else:
            for number, batch in enumerate(batches, 1):
                head = listing.Head(unit=f"{number:04d}")
                yield head, self._frames(batch), batch.bytes, batch.files
            if self._directories.count:
                head = listing.Head(unit=DIRECTORIES)
                yield head, self._directories.frames(), 0, 0
        if self._earlier and self._carried.count:
            packs, files = self._earlier.packs(), self._carried_files
            head = listing.Head(unit=CARRIED, carried=True, packs=packs, files=files)
            yield head, self._carried.frames(), 0, files

    def _nothing_changed(self) -> list[StoredObject]:
        """The objects of the earlier backup, if they are this one's, too."""
        # What was compared by content may have other times.
        if not self._earlier or self._same or self._items or self._directories.count:
            return []
        return self._earlier.whole(self._carried_files)

    def _one_pack(
        self, batches: list[Batch]
    ) -> Iterator[tuple[listing.Head, Iterable[bytes], int, int]]:
        batch = batches[0] if batches else Batch((), 0, 0)
        if not batch.files and not self._directories.count and self._carried.count:
            return
        files = self._records(batch)
        directories = (r + listing.END for r in self._directories)
        records = heapq.merge(directories, files, key=_key)
        yield listing.Head(unit=WHOLE), listing.packed(records), batch.bytes, batch.files

    def _frames(self, batch: Batch) -> Iterator[bytes]:
        """A batch's records in walk order, in zstd frames."""
        laid = [self._items[position] for position in batch.items]
        if any(one.linked for one in laid):
            return listing.packed(self._records(batch))
        return (self._spool.frame(one.where) for one in laid)

    def _records(self, batch: Batch) -> Iterator[bytes]:
        """A batch's records in walk order."""
        laid = [self._items[position] for position in batch.items]
        plain = (self._spool.get(one.where) for one in laid if not one.linked)
        streams = [_cut(self._spool.get(one.where)) for one in laid if one.linked]
        return heapq.merge(chain.from_iterable(map(_cut, plain)), *streams, key=_key)


def _files(entries: list[Entry]) -> int:
    return len(entries) - [entry.kind for entry in entries].count(DIRECTORY)


def _key(record: bytes) -> bytes:
    return listing.sort_key(record[:-1])


def _cut(chunk: bytes) -> Iterator[bytes]:
    return (record + listing.END for record in chunk[:-1].split(listing.END))


def _pieces(entry: Entry, record: _Record) -> Iterator[tuple[int, bytes]]:
    size = entry.size
    count = -(-size // SPLIT_INTO)
    for number in range(count):
        start = number * SPLIT_INTO
        end = min(start + SPLIT_INTO, size)
        yield end - start, record(entry, listing.Range(start, end, number + 1, count))


def _with_warnings(
    units: Iterator[tuple[listing.Head, Iterable[bytes], int, int]], notes: Notes
) -> Iterator[UnitDraft]:
    """Drafts of the units; the first one carries what the walk has to say."""
    warnings = notes.lines()
    for head, frames, size, files in units:
        full = replace(head, warnings=warnings)
        warnings = []
        yield UnitDraft(
            id=head.unit,
            listing=chain(listing.packed([full.record()]), frames),
            estimated_bytes=size,
            estimated_files=files,
        )


def whole(source: FilesSource, tree: Tree, notes: Notes) -> Iterator[bytes]:
    """The records of a whole directory, for a unit that has no listing."""
    return (entry_record(entry)[:-1] for entry in walk(tree, source, notes))
