"""Keeps a function inside its memory: warns at 80 % of the limit, throttles at 90 %."""

import ctypes
import threading
import time
from collections.abc import Callable
from pathlib import Path

WARN_AT = 0.80
THROTTLE_AT = 0.90
_SAMPLE_EVERY = 0.1  # seconds; a sample costs about 20 microseconds
_PAGE = 4096


def resident_bytes() -> int:
    """Resident memory of this process (Linux: second field of /proc/self/statm, in pages)."""
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * _PAGE


#: Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


def settle_memory() -> None:
    """Have glibc keep little memory and hand out the same again and again.

    * Buffers of a MiB and more are mapped on their own, so that freeing returns them. Left alone,
      it raises that limit to 32 MiB once parts are freed, keeps them on the heap, and memory
      creeps up with the length of a stream (measured: 12 % from 200 MB to 2 GB).
    * What is free at the heap's end stays, up to some MiB. With 128 KiB, what that limit falls back
      to once the other is set, statements just below a MiB went back to the kernel and were faulted
      in again each time: half the CPU of reading blobs.
    * One heap serves all threads. A heap for each costs 8 MB more with three streams, and is no
      faster: Python's lock is held anyway.
    """
    _mallopt(_ARENA_MAX, 1)
    _mallopt(_MMAP_THRESHOLD, 1 << 20)
    _mallopt(_TRIM_THRESHOLD, 4 << 20)


def keep_buffers() -> None:
    """For a single stream: have its compressed frames made where the last ones were.

    They are some MiB, so that each was mapped and faulted in anew: three quarters of all page
    faults of a backup of files, 5 % of its time. Memory is no more. Three streams at once would
    take 28 MB more and be no faster.
    """
    _mallopt(_MMAP_THRESHOLD, 8 << 20)
    _mallopt(_TRIM_THRESHOLD, 18 << 20)


def _mallopt(parameter: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries have nothing to set
        mallopt(parameter, value)


class Governor:
    """Watches resident memory while uploads ask it how many of them may be in flight.

    Args:
        limit: bytes the platform allows; 0 means unknown, and the governor only measures.
        on_warning: told once, with used bytes and limit, when memory passes 80 %.
        measure: where the number comes from.
    """

    def __init__(
        self,
        limit: int = 0,
        on_warning: Callable[[int, int], None] = lambda used, limit: None,
        measure: Callable[[], int] = resident_bytes,
    ) -> None:
        self.limit = limit
        self.peak = 0
        self.throttled = 0
        self._on_warning = on_warning
        self._measure = measure
        self._warned = False
        self._lock = threading.Lock()
        self._sampled = 0.0
        self._used = 0

    def inflight(self, wanted: int) -> int:
        """How many uploads of a stream may be in flight now, given how many it would like."""
        with self._lock:
            self._look()
            if self.limit and self._used >= THROTTLE_AT * self.limit and wanted > 1:
                self.throttled += 1
                return 1
            return wanted

    def sample(self) -> int:
        """The highest resident memory seen so far, in bytes, this moment included."""
        with self._lock:
            self._sampled = 0.0
            self._look()
            return self.peak

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._sampled < _SAMPLE_EVERY:
            return
        self._sampled, self._used = now, self._measure()
        self.peak = max(self.peak, self._used)
        if self.limit and not self._warned and self._used >= WARN_AT * self.limit:
            self._warned = True
            self._on_warning(self._used, self.limit)
