"""Dealing out what is to be stored into batches, on disk."""

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from stepvault.batching import Batch, Item, balance, consecutive
from stepvault.engines.files.backup.hard_links import HardLinks
from stepvault.engines.files.format import listing
from stepvault.engines.files.spool import Records, Spool
from stepvault.engines.files.tree.walk import DIRECTORY, Entry

#: A file larger than this is read in ranges by several units, each of this many bytes.
SPLIT_ABOVE = 100 * 10**9
SPLIT_INTO = 32 << 30

#: Gives the record of an entry, or of a part of it.
Record = Callable[[Entry, listing.Range | None], bytes]


@dataclass(frozen=True, slots=True)
class _Laid:
    """An item of the batches, on disk."""

    item: Item
    where: tuple[int, int]
    linked: bool


class Batches:
    """Takes entries in walk order; gives them back in batches, and the directories apart."""

    def __init__(self, batch_bytes: int, batch_files: int, record: Record) -> None:
        self.directories = Records(listing.END)
        """Records of all directories, in walk order."""
        self._caps = batch_bytes, batch_files
        self._record = record
        self._spool = Spool()
        self._items: list[_Laid] = []

    def fill(self, stretches: Iterable[list[Entry]], links: HardLinks) -> None:
        """Lay aside all that there is to store. All names of a file go into one batch."""
        plain = self._plain(chain.from_iterable(stretches), links)
        for item, records in consecutive(plain, *self._caps):
            self._lay(item, records, linked=False)
        for item, groups in consecutive(links.groups(), *self._caps):
            records = sorted(chain.from_iterable(groups), key=sort_key)
            self._lay(Item(item.bytes, len(records)), records, linked=True)

    def _plain(self, entries: Iterable[Entry], links: HardLinks) -> Iterator[tuple[int, bytes]]:
        """Sizes and records of what can go into any batch; the rest is laid aside."""
        for entry in entries:
            if entry.kind == DIRECTORY:
                self.directories.add(listing.entry_record(entry))
            elif entry.links > 1:
                links.add(entry)
            elif (size := entry.stored_bytes) > SPLIT_ABOVE:
                yield from _pieces(entry, self._record)
            else:
                yield size, self._record(entry, None)

    def _lay(self, item: Item, records: list[bytes], *, linked: bool) -> None:
        self._items.append(_Laid(item, self._spool.put(b"".join(records)), linked))

    @property
    def empty(self) -> bool:
        """Whether there is nothing to store, not even a directory."""
        return not self._items and not self.directories.count

    @property
    def files_at_most(self) -> int:
        """What one batch may hold."""
        return self._caps[1]

    def balanced(self) -> list[Batch]:
        """Return the batches, the fullest first."""
        return balance([laid.item for laid in self._items], *self._caps)

    def frames(self, batch: Batch) -> Iterator[bytes]:
        """Return a batch's records in walk order, in zstd frames."""
        laid = [self._items[position] for position in batch.items]
        if any(one.linked for one in laid):
            return listing.packed(self.records(batch))
        return (self._spool.frame(one.where) for one in laid)

    def records(self, batch: Batch) -> Iterator[bytes]:
        """Return a batch's records in walk order."""
        laid = [self._items[position] for position in batch.items]
        plain = (self._spool.get(one.where) for one in laid if not one.linked)
        linked = [_cut(self._spool.get(one.where)) for one in laid if one.linked]
        return heapq.merge(chain.from_iterable(map(_cut, plain)), *linked, key=sort_key)


def sort_key(record: bytes) -> bytes:
    """Sort records, each with its end mark, as the walk met them."""
    return listing.sort_key(record[:-1])


def _cut(chunk: bytes) -> Iterator[bytes]:
    return (record + listing.END for record in chunk[:-1].split(listing.END))


def _pieces(entry: Entry, record: Record) -> Iterator[tuple[int, bytes]]:
    size = entry.size
    count = -(-size // SPLIT_INTO)
    for number in range(count):
        start = number * SPLIT_INTO
        end = min(start + SPLIT_INTO, size)
        yield end - start, record(entry, listing.Range(start, end, number + 1, count))
