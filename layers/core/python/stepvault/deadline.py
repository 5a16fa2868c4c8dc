"""Ends work before the platform kills it, so that nothing incomplete is left."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Deadline:
    """A time at which work must be given up.

    Args:
        seconds: time that the platform still allows; None for no limit.
        margin: seconds reserved for aborting uploads and reporting; by default a tenth of
            the time, at most 20 s.
    """

    def __init__(self, seconds: float | None = None, margin: float | None = None) -> None:
        self._started = time.monotonic()
        if seconds is None:
            self._ends = float("inf")
        else:
            kept = min(20.0, seconds / 10) if margin is None else margin
            self._ends = self._started + seconds - kept

    def remaining(self) -> float:
        """Return the seconds until work has to be given up; negative when that time has passed."""
        return self._ends - time.monotonic()

    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._started

    @property
    def expired(self) -> bool:
        """Tell whether work has to be given up now."""
        return self.remaining() <= 0

    @contextmanager
    def watch(self, cancel: Callable[[], None]) -> Iterator[None]:
        """Call ``cancel`` from another thread when the deadline passes inside the ``with`` block."""
        if self._ends == float("inf"):
            yield
            return
        timer = threading.Timer(max(0.0, self.remaining()), cancel)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
