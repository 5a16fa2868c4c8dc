"""zstd, as a link of the pull chain."""

from collections.abc import Iterable, Iterator, Sequence

import zstandard

from stepvault.engines.base import Buffer, EndFrame


class Compressor:
    """One zstd stream, of several frames where the source asks for it.

    Every frame carries zstd's content checksum. No input at all gives one valid empty frame.
    The GIL is released while zstd works; chunks of 64 KiB and more make that worthwhile.

    Args:
        level: zstd level, 1 to 19.

    Attributes:
        frames: (raw offset, stored offset) where each frame starts.
    """

    def __init__(self, level: int) -> None:
        self._zstd = zstandard.ZstdCompressor(level=level, write_checksum=True)
        self._frame: zstandard.ZstdCompressionObj | None = None
        self._raw = 0
        self._stored = 0
        self.frames: list[tuple[int, int]] = []

    def feed(self, chunk: Buffer | EndFrame) -> bytes:
        """The stored bytes that are ready after this chunk; often none."""
        if isinstance(chunk, EndFrame):
            return self._end_frame()
        if self._frame is None:
            self._frame = self._zstd.compressobj()
            self.frames.append((self._raw, self._stored))
        self._raw += len(chunk)
        return self._count(self._frame.compress(chunk))

    def finish(self) -> bytes:
        """The last stored bytes."""
        if not self.frames:
            self.feed(b"")
        return self._end_frame()

    def _end_frame(self) -> bytes:
        if self._frame is None:
            return b""
        frame, self._frame = self._frame, None
        return self._count(frame.flush())

    def _count(self, out: bytes) -> bytes:
        self._stored += len(out)
        return out


class Plain:
    """For streams that are stored as they are."""

    frames: Sequence[tuple[int, int]] = ()

    def feed(self, chunk: Buffer | EndFrame) -> Buffer:
        return b"" if isinstance(chunk, EndFrame) else chunk

    def finish(self) -> bytes:
        return b""


def decompress(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The raw bytes of a zstd stream of any number of frames.

    Raises:
        zstandard.ZstdError: the bytes are not zstd. A cut-off stream ends early without an
            error here: the caller compares hashes.
    """
    frame = zstandard.ZstdDecompressor().decompressobj(read_across_frames=True)
    for chunk in chunks:
        if out := frame.decompress(chunk):
            yield out
