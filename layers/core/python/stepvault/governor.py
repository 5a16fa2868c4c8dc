"""Keep a function inside its memory: it warns at 80 % of the limit, throttles at 90 %."""

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


class Governor:
    """Watches resident memory while uploads ask it how many of them may be in flight.

    Args:
        limit: bytes the platform allows; 0 means unknown, and the governor only measures.
        on_warning: called once, with used bytes and limit, when memory passes 80 %.
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
        """Return the highest resident memory seen so far, in bytes, this moment included."""
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
