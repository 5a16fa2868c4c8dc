"""Let a helper thread that dies fail its test at once, with the thread's own exception.

Without this, a test that waits for the thread's work hangs until its time limit.
"""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

import pytest


class HelperThreadDied(BaseException):
    """A thread ended with an exception; a BaseException, so that the tested code lets it pass."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    with _watched():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    with _watched():
        return (yield)


@contextmanager
def _watched() -> Generator[None]:
    """Raise in the main thread what ends any other thread during the block."""
    died: list[threading.ExceptHookArgs] = []
    main = threading.get_ident()

    def on_death(args: threading.ExceptHookArgs) -> None:
        died.append(args)
        signal.pthread_kill(main, signal.SIGUSR1)  # wakes it from whatever it waits for

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise _explained(died[0])

    hook, threading.excepthook = threading.excepthook, on_death
    handler = signal.signal(signal.SIGUSR1, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, handler)
        threading.excepthook = hook
    if died:  # in the last moment
        raise _explained(died[0])


def _explained(args: threading.ExceptHookArgs) -> HelperThreadDied:
    name = args.thread.name if args.thread else "of no name"
    error = HelperThreadDied(f"thread {name} died: {args.exc_value!r}")
    error.__cause__ = args.exc_value
    return error
