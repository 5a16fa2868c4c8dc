"""Compresses and decompresses with zstd, as one step of the pull chain."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import Any

import zstandard

from stepvault.buffers import Buffer, EndFrame

#: Raw bytes of a frame at most. Each frame is compressed at once from one buffer: up to a third
#: faster than a running stream, whose window wraps round inside zstd, and no larger, as the
#: window spans the frame (decision 0003).
FRAME = 4 << 20
_WINDOW_LOG = 22
#: Raw bytes that ``decompress`` yields at a time.
_PIECE = 1 << 20


class Compressor:
    """One zstd stream of many frames.

    Every frame has its size and zstd's content checksum. Without any input the result is one
    valid empty frame. The GIL is released while zstd works.

    Args:
        level: zstd level, 1 to 19.
        helpers: threads that compress frames; without them ``feed`` does it itself.
        ahead: frames that may be with the helpers at a time; each takes ``frame`` bytes.
        frame: raw bytes of a frame at most.

    Attributes:
        frames: (raw offset, stored offset) of the beginning and of what follows each EndFrame;
            one such stretch may be several zstd frames.
    """

    def __init__(
        self, level: int, helpers: Executor | None = None, ahead: int = 0, frame: int = FRAME
    ) -> None:
        self._parameters = zstandard.ZstdCompressionParameters.from_level(
            level, window_log=_WINDOW_LOG, write_checksum=True
        )
        self._thread = threading.local()
        self._helpers = helpers
        self._ahead = ahead
        self._flying: deque[tuple[Future[bytes], bytearray, int | None]] = deque()
        self._frame = frame
        self._spare = [bytearray(frame) for _ in range(ahead + 1)]
        self._buffer = self._spare.pop()
        self._filled = 0
        self._raw = 0
        self._stored = 0
        self._mark: int | None = 0
        """Raw offset of a stretch whose first frame is still to come."""
        self.frames: list[tuple[int, int]] = []

    def feed(self, chunk: Buffer | EndFrame) -> Sequence[Buffer]:
        """Take a chunk and return the stored bytes that are ready after it; often none."""
        if isinstance(chunk, EndFrame):
            ready = self._end_frame() if self._filled else []
            self._mark = self._raw
            return ready
        ready, done = list[bytes](), 0
        with memoryview(chunk) as whole:
            while taken := min(len(whole) - done, self._frame - self._filled):
                end = self._filled + taken
                # Assigned to itself, a bytearray would copy the slice once more.
                with memoryview(self._buffer) as buffer:
                    buffer[self._filled : end] = whole[done : done + taken]
                self._filled, done = end, done + taken
                if end == self._frame:
                    ready += self._end_frame()
        self._raw += done
        return ready

    def finish(self) -> Sequence[Buffer]:
        """Return the last stored bytes."""
        ready = self._end_frame() if self._filled or not self._raw else []
        while self._flying:
            ready.append(self._landed())
        return ready

    def _end_frame(self) -> list[bytes]:
        """Have the buffer compressed and return the frames that are ready by now."""
        mark, self._mark = self._mark, None
        size, self._filled = self._filled, 0
        if self._helpers is None:
            return [self._placed(self._compress(self._buffer, size), mark)]
        flying = self._helpers.submit(self._compress, self._buffer, size)
        self._flying.append((flying, self._buffer, mark))
        ready = []
        while len(self._flying) > self._ahead or (self._flying and self._flying[0][0].done()):
            ready.append(self._landed())
        self._buffer = self._spare.pop()
        return ready

    def _landed(self) -> bytes:
        flying, buffer, mark = self._flying.popleft()
        out = flying.result()
        self._spare.append(buffer)
        return self._placed(out, mark)

    def _placed(self, out: bytes, mark: int | None) -> bytes:
        if mark is not None:
            self.frames.append((mark, self._stored))
        self._stored += len(out)
        return out

    def _compress(self, buffer: bytearray, size: int) -> bytes:
        zstd = getattr(self._thread, "zstd", None)
        if zstd is None:  # a context serves one thread at a time
            zstd = zstandard.ZstdCompressor(compression_params=self._parameters)
            self._thread.zstd = zstd
        with memoryview(buffer)[:size] as raw:
            return bytes(zstd.compress(raw))


class Plain:
    """For streams that are stored as they are."""

    frames: Sequence[tuple[int, int]] = ()

    def feed(self, chunk: Buffer | EndFrame) -> Sequence[Buffer]:
        """Return the chunk."""
        return () if isinstance(chunk, EndFrame) else (chunk,)

    def finish(self) -> Sequence[Buffer]:
        """Return nothing: all bytes were returned by ``feed``."""
        return ()


def decompress(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the raw bytes of a zstd stream of any number of frames.

    A piece is at most 1 MiB, however well it was compressed.

    Raises:
        zstandard.ZstdError: the bytes are not zstd. A cut-off stream ends early without an
            error here: the caller compares hashes.
    """
    source: Any = _Source(chunks)  # only its method ``read`` is used
    with zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True) as reader:
        while out := reader.read(_PIECE):
            yield out


class _Source:
    """The file that zstandard reads from."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._chunk = memoryview(b"")

    def read(self, size: int) -> bytes:
        """Return the next bytes, at most ``size``; none at the end."""
        while not self._chunk:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._chunk = memoryview(chunk)
        taken, self._chunk = self._chunk[:size], self._chunk[size:]
        return bytes(taken)
