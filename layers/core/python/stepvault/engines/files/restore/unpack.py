"""Reading members back out of a pack: the whole of it, or only the frames that are needed."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import zstandard

from stepvault.engines.files.format import index, tar
from stepvault.engines.files.format.index import Line
from stepvault.errors import BackupTampered
from stepvault.records import StoredObject

ReadRange = Callable[[StoredObject, int, int], bytes]

#: Stored bytes asked for at a time, and raw bytes handed on.
_RANGE = 4 << 20
_BUFFER = 256 << 10


class Feed:
    """Exact reads from an iterator of buffers."""

    def __init__(self, name: str, buffers: Iterator[bytes]) -> None:
        self._name = name
        self._buffers = buffers
        self._held = memoryview(b"")
        self.position = 0

    def some(self, most: int) -> memoryview:
        """Return between one and ``most`` bytes."""
        while not self._held:
            buffer = next(self._buffers, None)
            if buffer is None:
                raise BackupTampered(f"{self._name} ends before its index says")
            self._held = memoryview(buffer)
        piece, self._held = self._held[:most], self._held[most:]
        self.position += len(piece)
        return piece

    def exactly(self, size: int) -> bytes:
        """Return that many bytes."""
        if len(self._held) >= size:
            self.position += size
            piece, self._held = bytes(self._held[:size]), self._held[size:]
            return piece
        pieces, left = [], size
        while left:
            pieces.append(bytes(self.some(left)))
            left -= len(pieces[-1])
        return b"".join(pieces)

    def skip(self, size: int) -> None:
        """Pass over that many bytes."""
        while size > 0:
            size -= len(self.some(size))

    def drain(self) -> None:
        """Read to the end, so that what verifies at the end does."""
        for _ in self._buffers:
            pass


@dataclass
class Member:
    """A member that ``feed`` stands at the content of."""

    line: Line
    header: tar.Header
    feed: Feed


def whole(
    stored: StoredObject, buffers: Iterator[bytes], lines: Iterable[bytes]
) -> Iterator[Member]:
    """Yield the members of those lines (ascending by offset) out of the unpacked pack.

    The pack is read to its end, so that it is verified before the iterator ends.
    """
    feed = Feed(stored.name, buffers)
    for raw in lines:
        line = index.parse(raw)
        feed.skip(line.offset - feed.position)
        yield Member(line, _header(stored, feed), feed)
    feed.drain()


def ranges(
    stored: StoredObject,
    read_range: ReadRange,
    lines: Iterable[bytes],
) -> Iterator[Member]:
    """Yield the same, by reading no more than the frames that hold the members."""
    feed, frame = Feed(stored.name, iter(())), -1
    for raw in lines:
        line = index.parse(raw)
        if line.start != frame:
            feed = Feed(stored.name, _unpacked(stored, read_range, line.start, line.end))
            frame = line.start
        feed.skip(line.skip - feed.position)
        yield Member(line, _header(stored, feed), feed)


def one(stored: StoredObject, read_range: ReadRange, line: Line) -> Member:
    """Return the member of one line, by reading the frames that hold it as they are asked for."""
    feed = Feed(stored.name, _unpacked(stored, read_range, line.start, line.end))
    feed.skip(line.skip)
    return Member(line, _header(stored, feed), feed)


class _Range:
    """Stored bytes of a pack as a file."""

    def __init__(self, stored: StoredObject, read_range: ReadRange, start: int, end: int) -> None:
        self._stored = stored
        self._read_range = read_range
        self._at = start
        self._end = end

    def read(self, size: int) -> bytes:
        size = min(max(size, _RANGE), self._end - self._at)
        if size <= 0:
            return b""
        self._at += size
        return self._read_range(self._stored, self._at - size, self._at)


def _unpacked(stored: StoredObject, read_range: ReadRange, start: int, end: int) -> Iterator[bytes]:
    # A reader, because a few stored bytes may unpack to gigabytes.
    frames = zstandard.ZstdDecompressor().stream_reader(
        _Range(stored, read_range, start, end),  # type: ignore[arg-type]
        read_size=_RANGE,
        read_across_frames=True,
    )
    try:
        while buffer := frames.read(_BUFFER):
            yield buffer
    except zstandard.ZstdError as error:
        raise BackupTampered(f"{stored.name} is damaged: {error}") from error


def _header(stored: StoredObject, feed: Feed) -> tar.Header:
    try:
        return tar.read_header(feed.exactly)
    except (BackupTampered, ValueError) as error:
        raise BackupTampered(f"{stored.name} is not what was stored: {error}") from error
