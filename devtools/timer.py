"""The one timer of tests, demo, benchmarks and servers: measure seconds, and wait with a limit."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self


class Timer:
    """Measure how long something takes: ``with Timer() as timer: ...``, then ``timer.seconds``."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._ended: float | None = None

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the start, up to the end of the block if it has ended."""
        return (self._ended or time.perf_counter()) - self._started


def wait_until[T](
    check: Callable[[], T | None],
    waiting_for: str,
    *,
    seconds: float = 30,
    pause: float = 0.02,
    given_up: Callable[[], bool] | None = None,
) -> T:
    """Call ``check`` again and again until its answer is true; return that answer.

    Args:
        check: what to ask; an answer that is false (None, empty) means not yet.
        waiting_for: what is waited for, for the message.
        seconds: how long to wait.
        pause: seconds between two calls.
        given_up: tells that the answer can never come, such as that the server has ended.

    Raises:
        TimeoutError: the answer did not come; names what was waited for.
    """
    timer = Timer()
    while not (answer := check()):
        if given_up is not None and given_up():
            raise TimeoutError(
                f"{waiting_for}: it will not come; given up after {timer.seconds:.1f} s"
            )
        if timer.seconds > seconds:
            raise TimeoutError(f"{waiting_for}: it did not come within {seconds:g} s")
        time.sleep(pause)
    return answer
