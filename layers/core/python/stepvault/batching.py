"""Cutting what is to be backed up into balanced batches. Pure: sizes in, batches out.

Two steps. ``consecutive`` joins neighbours into items a fraction of a batch large, so that a
million small files become a few thousand items and files of one folder stay together.
``balance`` then deals the items out, largest first, each to the least loaded batch.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil

#: An item of small entries is at most this fraction of a batch; finer items balance better,
#: coarser ones take less memory.
FINENESS = 64


@dataclass(frozen=True, slots=True)
class Item:
    """Something that goes into one batch whole."""

    bytes: int
    files: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What one batch holds: positions of its items, ascending, and their sums."""

    items: tuple[int, ...]
    bytes: int
    files: int


def consecutive[T](
    entries: Iterable[tuple[int, T]], max_bytes: int, max_files: int
) -> Iterator[tuple[Item, list[T]]]:
    """Join neighbouring ``(bytes, entry)`` pairs into items, keeping their order.

    An item is at most 1/64 of the caps, except that an entry larger than that is an item of its own.
    """
    fine_bytes, fine_files = max(1, max_bytes // FINENESS), max(1, max_files // FINENESS)
    held: list[T] = []
    held_bytes = 0
    for size, entry in entries:
        if held and (held_bytes + size > fine_bytes or len(held) >= fine_files):
            yield Item(held_bytes, len(held)), held
            held, held_bytes = [], 0
        held.append(entry)
        held_bytes += size
    if held:
        yield Item(held_bytes, len(held)), held


def balance(items: Sequence[Item], max_bytes: int, max_files: int) -> list[Batch]:
    """Deal the items out into batches under both caps, the fullest batch first.

    An item over a cap is a batch of its own. The number of batches is the least that the sums
    allow, or a few more where the items do not fit together.
    """

    def load(size: int, files: int) -> float:
        return max(size / max_bytes, files / max_files)

    def item_load(position: int) -> float:
        return load(items[position].bytes, items[position].files)

    order = sorted(range(len(items)), key=lambda p: (-item_load(p), p))
    oversize = [p for p in order if item_load(p) > 1]
    rest = order[len(oversize) :]
    batches = [Batch((p,), items[p].bytes, items[p].files) for p in oversize]

    count = max(
        1 if rest else 0,
        ceil(sum(items[p].bytes for p in rest) / max_bytes),
        ceil(sum(items[p].files for p in rest) / max_files),
    )
    while (dealt := _deal(items, rest, count, max_bytes, max_files)) is None:
        count += 1 + count // 64
    return sorted(batches + dealt, key=lambda b: -load(b.bytes, b.files))


def _deal(
    items: Sequence[Item], order: Sequence[int], count: int, max_bytes: int, max_files: int
) -> list[Batch] | None:
    """Deal the items in that order to ``count`` batches, or None if one does not fit."""
    least: list[tuple[float, int]] = [(0.0, n) for n in range(count)]
    members: list[list[int]] = [[] for _ in range(count)]
    sums = [(0, 0)] * count
    for position in order:
        where = least[0][1]
        size = sums[where][0] + items[position].bytes
        files = sums[where][1] + items[position].files
        if size > max_bytes or files > max_files:
            return None
        heapq.heapreplace(least, (max(size / max_bytes, files / max_files), where))
        members[where].append(position)
        sums[where] = (size, files)
    return [Batch(tuple(sorted(m)), *s) for m, s in zip(members, sums, strict=True) if m]
