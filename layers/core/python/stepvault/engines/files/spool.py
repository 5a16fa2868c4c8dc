"""Blocks of bytes laid aside on disk, compressed, while memory stays small."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from itertools import batched

import zstandard

#: Bytes laid aside at a time.
BLOCK = 256 << 10
#: Records taken at a time.
_TOGETHER = 512


def compressor() -> zstandard.ZstdCompressor:
    """Return one for lists of names: the cheapest level, and a checksum in each frame."""
    return zstandard.ZstdCompressor(level=1, write_checksum=True)


class Spool:
    """An unnamed temporary file of compressed blocks; gone with its last user."""

    def __init__(self) -> None:
        self._fd = -1
        descriptor, name = tempfile.mkstemp(prefix="stepvault-")
        os.unlink(name)
        self._fd = descriptor
        self._end = 0
        self._zstd = compressor()

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def put(self, data: bytes) -> tuple[int, int]:
        """Lay data aside; return where it lies, for ``get``."""
        block = self._zstd.compress(data)
        where = (self._end, len(block))
        written = 0
        while written < len(block):
            written += os.pwrite(self._fd, memoryview(block)[written:], self._end + written)
        self._end += len(block)
        return where

    def get(self, where: tuple[int, int]) -> bytes:
        """Return the data that lies there."""
        return zstandard.ZstdDecompressor().decompress(self.frame(where))

    def frame(self, where: tuple[int, int]) -> bytes:
        """Return the data as it lies there: a zstd frame."""
        offset, length = where
        return os.pread(self._fd, length, offset)


class Spooled:
    """A text of any length laid aside in order."""

    def __init__(self, block: int = BLOCK) -> None:
        self._block = block
        self._held: list[bytes] = []
        self._size = 0
        self._spool = Spool()
        self._blocks: list[tuple[int, int]] = []

    def add(self, record: bytes) -> None:
        """Add a piece of the text."""
        self._held.append(record)
        self._size += len(record)
        if self._size >= self._block:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            self._blocks.append(self._spool.put(b"".join(self._held)))
            self._held, self._size = [], 0

    def chunks(self) -> Iterator[bytes]:
        """Return all of it, some hundred kilobytes at a time."""
        self._flush()
        return map(self._spool.get, self._blocks)

    def frames(self) -> Iterator[bytes]:
        """Return all of it as zstd frames."""
        self._flush()
        return map(self._spool.frame, self._blocks)


class Records(Spooled):
    """Many small records laid aside in order; each is given with its end mark."""

    def __init__(self, end: bytes) -> None:
        super().__init__()
        self._end = end
        self.count = 0

    def add(self, record: bytes) -> None:
        """Add one record, end mark included."""
        super().add(record)
        self.count += 1

    def extend(self, records: Iterable[bytes]) -> None:
        """Add many records, end marks included."""
        for some in batched(records, _TOGETHER, strict=False):
            self._held += some
            self._size += sum(map(len, some))
            self.count += len(some)
            if self._size >= self._block:
                self._flush()

    def __iter__(self) -> Iterator[bytes]:
        """Yield the records one by one, without their end marks."""
        for chunk in self.chunks():
            yield from chunk[: -len(self._end)].split(self._end)


def cut(chunks: Iterable[bytes], end: bytes) -> Iterator[bytes]:
    """Yield the records in a stream of chunks of any size, without their end marks.

    A last record without its mark is given too; an empty one is not.
    """
    rest: list[bytes] = []
    for chunk in chunks:
        head, mark, tail = chunk.rpartition(end)
        if not mark:
            rest.append(chunk)
            continue
        records = (b"".join(rest) + head).split(end)
        yield from records
        rest = [tail] if tail else []
    if last := b"".join(rest):
        yield last
