"""The walk in a process of its own, beside the one that compares and sorts what it finds.

Half of a plan's time is the walk's, and Python does one thing at a time: on two cores a tree is
planned in little more than half the time.
"""

import fcntl
import gc
import marshal
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, NoReturn

from stepvault.engines.files.tree.handles import Tree
from stepvault.engines.files.tree.walk import Entry, Fields, stretches
from stepvault.engines.files.tree.warnings import Warnings
from stepvault.settings import FilesSource

#: Entries sent at a time, at least.
_TOGETHER = 512
_PIPE = 1 << 20
#: Bytes before each message, its length.
_SIZE = 8


@contextmanager
def walked(tree: Tree, source: FilesSource, warnings: Warnings) -> Iterator[Iterator[list[Entry]]]:
    """Give what ``tree.walk`` gives, neighbours together.

    Where there is a second core and it is safe, a child process walks; it begins at once.

    Raises:
        ChildProcessError: the child was killed.
    """
    if (os.process_cpu_count() or 1) == 1 or not _alone():
        yield map(_entries, stretches(tree, source, warnings))
        return
    reading, writing = os.pipe()
    with suppress(OSError):  # where it may not be so large, it stays as it is
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE)
    child = os.fork()
    if not child:
        os.close(reading)
        _send(tree, source, writing)
    os.close(writing)
    try:
        with open(reading, "rb", buffering=_PIPE) as pipe:
            yield _received(pipe, warnings)
    finally:  # a child whose pipe is closed ends at its next write
        os.waitpid(child, 0)


def _entries(stretch: list[Fields]) -> list[Entry]:
    return [*map(Entry._make, stretch)]


def _alone() -> bool:
    """Whether this process has one thread: a child would get the locks of others, never to be freed."""
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:  # not Linux
        return False


def _send(tree: Tree, source: FilesSource, writing: int) -> NoReturn:
    """Be the child: send stretches as lists of plain tuples, then the warnings or the error."""
    gc.disable()
    try:
        with open(writing, "wb", buffering=_PIPE) as pipe:
            last: list[Any]
            try:
                warnings, held = Warnings(), list[Fields]()
                for stretch in stretches(tree, source, warnings):
                    held += stretch
                    if len(held) >= _TOGETHER:
                        _write(pipe, held)
                        held = []
                _write(pipe, held)
                last = [None, *warnings.collected()]
            except Exception as error:
                last = [pickle.dumps(error)]
            _write(pipe, tuple(last))
    finally:  # nothing of the parent's is to be flushed or cleaned up here
        os._exit(0)


def _write(pipe: BinaryIO, message: list[Any] | tuple[Any, ...]) -> None:
    # Loaded from the pipe itself, marshal would read it in bits.
    text = marshal.dumps(message)
    pipe.write(len(text).to_bytes(_SIZE))
    pipe.write(text)


def _received(pipe: BinaryIO, warnings: Warnings) -> Iterator[list[Entry]]:
    while True:
        size = int.from_bytes(pipe.read(_SIZE))
        text = pipe.read(size)
        if not size or len(text) < size:
            raise ChildProcessError("the walk's process was killed before it was through")
        message = marshal.loads(text)  # noqa: S302 - from our own child
        if isinstance(message, list):
            yield _entries(message)
            continue
        error, *collected = message
        if error is not None:
            raise pickle.loads(error)  # noqa: S301
        warnings.take(*collected)
        return
