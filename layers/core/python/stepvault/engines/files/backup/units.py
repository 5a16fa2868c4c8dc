"""Batches become units: what each has to store, as a listing."""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain

from stepvault.batching import Batch
from stepvault.engines.base import WHOLE, UnitDraft
from stepvault.engines.files.backup.batches import Batches, sort_key
from stepvault.engines.files.backup.mounts import mounts_to_expect
from stepvault.engines.files.backup.unchanged import UNCHANGED, Unchanged
from stepvault.engines.files.format import index, listing
from stepvault.engines.files.tree.warnings import Warnings
from stepvault.settings import FilesSource

#: A source of fewer bytes is one unit with one pack, directories included.
_ONE_PACK = 64 << 20

#: Unit of all directories, restored after all files so that their times stay. It sorts last.
DIRECTORIES = "directories"

#: Head, frames of records, bytes and files of a unit.
_Unit = tuple[listing.Head, Iterable[bytes], int, int]


def drafts(
    source: FilesSource, batches: Batches, unchanged: Unchanged, warnings: Warnings
) -> Iterator[UnitDraft]:
    """Yield the units as drafts; the first one carries mounts and warnings of the walk."""
    mounts = mounts_to_expect(source, unchanged.parent, warnings)
    lines, places = warnings.lines(), [*map(index.as_text, mounts)]
    for head, frames, size, files in _units(batches, unchanged, mounts):
        full = replace(head, warnings=lines, mounts=places)
        lines, places = [], []
        yield UnitDraft(
            id=head.unit,
            listing=chain(listing.packed([full.record()]), frames),
            estimated_bytes=size,
            estimated_files=files,
        )


def _units(batches: Batches, unchanged: Unchanged, mounts: list[bytes]) -> Iterator[_Unit]:
    if batches.empty and (same := unchanged.whole_backup(mounts)):
        objects = [stored.model_dump(mode="json") for stored in same]
        yield listing.Head(unit=UNCHANGED, unchanged=True, same=objects), [], 0, 0
        return
    balanced = batches.balanced()
    few = batches.directories.count <= batches.files_at_most
    if len(balanced) <= 1 and few and sum(b.bytes for b in balanced) <= _ONE_PACK:
        if not batches.empty or not unchanged.count:
            yield _one_pack(batches, balanced)
    else:
        yield from _several_packs(batches, balanced)
    if unchanged.count:
        packs, files = unchanged.packs(), unchanged.files
        head = listing.Head(unit=UNCHANGED, unchanged=True, packs=packs, files=files)
        yield head, unchanged.frames(), 0, files


def _one_pack(batches: Batches, balanced: list[Batch]) -> _Unit:
    batch = balanced[0] if balanced else Batch((), 0, 0)
    directories = (record + listing.END for record in batches.directories)
    records = heapq.merge(directories, batches.records(batch), key=sort_key)
    return listing.Head(unit=WHOLE), listing.packed(records), batch.bytes, batch.files


def _several_packs(batches: Batches, balanced: list[Batch]) -> Iterator[_Unit]:
    for number, batch in enumerate(balanced, 1):
        head = listing.Head(unit=f"{number:04d}")
        yield head, batches.frames(batch), batch.bytes, batch.files
    if batches.directories.count:
        yield listing.Head(unit=DIRECTORIES), batches.directories.frames(), 0, 0
