"""Large objects: many small ones become one object of the backup, and are compared by their bytes.

pg_dump writes a file for each, and each file would be an object in S3. An archive may hold SQL about
large objects instead, in one file of an entry BLOB COMMENTS: pg_dump wrote such entries up to 8.4,
and every pg_restore since then runs what is in them. Ours hold calls of ``lo_put``.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from psycopg import Connection as Session

from stepvault.compress import decompress
from stepvault.engines.base import Counts, RestoreJob
from stepvault.engines.postgres.toc import Entry, Toc
from stepvault.records import StoredObject

#: Oid of a large object, offset in it, bytes.
Block = tuple[int, int, bytes]
#: What an entry with the bytes of many large objects is called.
PACKED = b"BLOB COMMENTS"
#: Fewer than this in a database stay the files that pg_dump wrote.
MANY = 100
#: Those of one entry: a restore needs as many locks in its transaction.
_MOST = 1000
#: Bytes of one call of ``lo_put``. Larger ones on average gain nothing from being packed.
_BLOCK = 1 << 20
_ROWS = 200
_BEGIN = (
    b"SELECT pg_catalog.lo_put(o::pg_catalog.oid, p::pg_catalog.int8, "
    b"pg_catalog.decode(d, 'hex')) FROM (VALUES\n"
)
_ROW = b"(%d, %d, '%b')"
_END = b"\n) AS v (o, p, d);\n"
_ROW_READ = re.compile(rb"\((\d+), (\d+), '([0-9a-f]*)'\),?")
_FILE = re.compile(r"blob_(\d+)\.dat(\.zst)?")
_THERE = """
SELECT v.o, v.p, pg_catalog.lo_get(m.oid, v.p, v.n)
FROM ROWS FROM (pg_catalog.unnest(%s::pg_catalog.int8[]), pg_catalog.unnest(%s::pg_catalog.int8[]),
  pg_catalog.unnest(%s::pg_catalog.int4[])) AS v (o, p, n)
LEFT JOIN pg_catalog.pg_largeobject_metadata m ON m.oid = v.o::pg_catalog.oid
"""


class PackedStream:
    """Many large objects as SQL, from the files that pg_dump wrote; these are removed."""

    encoding: Literal["zstd", "none"] = "zstd"

    def __init__(self, name: str, files: Sequence[tuple[int, Path]]) -> None:
        self.name = name
        self._files = files

    def read(self) -> Iterator[bytes]:
        """Yield statements of about a megabyte."""
        for batch in _batches(self._all_blocks()):
            rows = [_ROW % (oid, offset, data.hex().encode()) for oid, offset, data in batch]
            yield _BEGIN + b",\n".join(rows) + _END

    def _all_blocks(self) -> Iterator[Block]:
        for oid, path in self._files:
            with path.open("rb") as file:
                yield from _blocks(oid, iter(lambda: file.read(_BLOCK), b""), path.name)
            path.unlink()

    def result(self) -> Counts:
        """Tell how many there are."""
        return Counts(facts={"large_objects": len(self._files)})


def pack(archive: Toc, files: Sequence[Path]) -> tuple[list[PackedStream], list[Path]]:
    """Turn the archive's small large objects into few entries, if they are many.

    Args:
        archive: its table of contents, which is changed.
        files: what pg_dump wrote beside it.

    Returns:
        The streams of the new entries, the files that stay as they are.
    """
    left = {path.name: path for path in files}
    groups: list[tuple[Entry, list[tuple[int, Path]]]] = []
    for entry in (e for e in archive.entries if e.kind == b"BLOBS" and e.file):
        listing = left[(entry.file or b"").decode()].read_text().split()
        found = [
            (int(oid), left[name + archive.suffix])
            for oid, name in zip(listing[::2], listing[1::2], strict=True)
        ]
        if sum(path.stat().st_size for _, path in found) < len(found) * _BLOCK:
            groups.append((entry, found))
    if sum(len(found) for _, found in groups) < MANY:
        return [], list(files)
    streams = []
    for entries, found in _merged(groups):
        last = entries[-1]  # all that they need comes before it
        needed = [d for e in entries for d in e.dependencies]
        name = b"%d.dat" % last.dump_id
        gone = {e.dump_id for e in entries[:-1]}
        merged = replace(last, kind=PACKED, dependencies=needed, file=name)
        kept = (e for e in archive.entries if e.dump_id not in gone)
        archive.entries = [merged if e is last else e for e in kept]
        streams.append(PackedStream(name.decode() + archive.suffix, found))
        for entry in entries:
            left.pop((entry.file or b"").decode()).unlink()
        for _, path in found:
            del left[path.name]
    return streams, list(left.values())


def _merged(
    groups: Sequence[tuple[Entry, list[tuple[int, Path]]]],
) -> Iterator[tuple[list[Entry], list[tuple[int, Path]]]]:
    """Put small groups together: pg_dump makes one per owner and set of privileges."""
    entries: list[Entry] = []
    files: list[tuple[int, Path]] = []
    for entry, found in groups:
        if entries and len(files) + len(found) > _MOST:
            yield entries, files
            entries, files = [], []
        entries.append(entry)
        files = files + found
    if entries:
        yield entries, files


def _blocks(oid: int, pieces: Iterator[bytes], name: str) -> Iterator[Block]:
    """Cut a file of pg_dump's into blocks; the last one is shorter than the others, or empty."""
    offset, held = 0, b""
    for piece in decompress(pieces) if name.endswith(".zst") else pieces:
        held += piece
        while len(held) >= _BLOCK:
            yield oid, offset, held[:_BLOCK]
            offset, held = offset + _BLOCK, held[_BLOCK:]
    yield oid, offset, held


def _batches(blocks: Iterable[Block]) -> Iterator[list[Block]]:
    """Put blocks together that are about a megabyte."""
    batch: list[Block] = []
    size = 0
    for block in blocks:
        batch.append(block)
        size += len(block[2])
        if size >= _BLOCK or len(batch) >= _ROWS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def differences(job: RestoreJob, opened: Session) -> list[str]:
    """Compare every large object by its bytes."""
    wrong: dict[int, str] = {}
    known: set[int] = set()
    for stored in job.objects:
        for batch in _batches(_stored_blocks(job, stored)):
            known.update(oid for oid, _, _ in batch)
            for oid, what in _compare(opened, batch):
                wrong[oid] = f"large object {oid} {what}"
    if job.source.with_data and job.source.large_objects:
        query = "SELECT oid::pg_catalog.int8 FROM pg_catalog.pg_largeobject_metadata"
        extra = {oid for (oid,) in opened.execute(query)} - known
        wrong |= {oid: f"large object {oid} is not in the backup" for oid in extra}
    return [wrong[oid] for oid in sorted(wrong)]


def _stored_blocks(job: RestoreJob, stored: StoredObject) -> Iterator[Block]:
    """Read the large objects that an object of the backup holds, if it holds any."""
    if match := _FILE.fullmatch(stored.name):
        yield from _blocks(int(match[1]), job.read(stored), stored.name)
    elif "large_objects" in stored.facts:
        held = b""
        for piece in job.read(stored):
            *rows, held = (held + piece).split(b"\n")
            for row in filter(None, map(_ROW_READ.fullmatch, rows)):
                yield int(row[1]), int(row[2]), bytes.fromhex(row[3].decode())


def _compare(opened: Session, batch: Sequence[Block]) -> Iterator[tuple[int, str]]:
    """Tell which large objects are missing or hold other bytes.

    Of the last block, which is a short one, a byte more is asked for: there must be none.
    """
    oids, offsets, datas = zip(*batch, strict=True)
    sizes = [min(len(data) + 1, _BLOCK) for data in datas]
    rows: dict[Any, Any] = {
        (oid, offset): data
        for oid, offset, data in opened.execute(_THERE, [list(oids), list(offsets), sizes])
    }
    for oid, offset, data in batch:
        there = rows[oid, offset]
        if there is None:
            yield oid, "is missing"
        elif bytes(there) != data:
            yield oid, "holds other bytes"
