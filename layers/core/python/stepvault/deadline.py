"""Ends work before the platform kills it, so that nothing incomplete is left."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager

#: Seconds that work has at least to end by itself.
_GRACE = 1.0


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
            self._margin, self._ends = 0.0, float("inf")
        else:
            self._margin = min(20.0, seconds / 10) if margin is None else margin
            self._ends = self._started + seconds - self._margin

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

    def for_cleanup(self) -> "Deadline":
        """Return the deadline of aborting and reporting: the end of the margin, but some seconds."""
        if self._ends == float("inf"):
            return Deadline()
        return Deadline(max(2 * _GRACE, self.remaining() + self._margin), margin=0)

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

    def call[T](self, work: Callable[[], T], late: Callable[[], Exception]) -> T:
        """Return what ``work`` returns, or raise what ``late`` returns if it does not end in time.

        Work gets half of the margin, at least a second, to end by itself. If it waits where nothing can interrupt it
        (a silent server, a hung file system), the thread that runs it is left behind: it must
        look at the deadline before it does anything that others can see.
        """
        if self._ends == float("inf"):
            return work()
        result = Future[T]()

        def run() -> None:
            try:
                result.set_result(work())
            except BaseException as error:  # raised again in the caller's thread
                result.set_exception(error)

        threading.Thread(target=run, name="work", daemon=True).start()
        wait([result], max(0.0, self.remaining()) + max(_GRACE, self._margin / 2))
        if not result.done():
            raise late()
        return result.result()
