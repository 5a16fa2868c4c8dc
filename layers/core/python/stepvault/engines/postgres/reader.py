r"""Read rows fast: COPY through psql and a pipe, counted and hashed by the megabyte.

psql takes a third of the CPU time of a loop over rows in Python on narrow rows, and in another
process, so that several streams do not wait for one interpreter (decision 0002). One
psql serves one connection for the whole backup; after each COPY it prints a line that no row
can look like (``\.`` and the count of the server's completion tag), as a backslash in data is
always doubled.
"""

import fcntl
import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from stepvault.engines.base import Connection
from stepvault.engines.postgres import errors, programs
from stepvault.engines.row_digest import Sums
from stepvault.errors import SourceUnreachable, StepvaultError

#: What the kernel lets a pipe hold.
_PIPE = 1 << 20
#: Bytes asked for at a time: more is no faster and leaves the processor's cache.
_BLOCK = 512 << 10
_END = re.compile(rb"(?:\A|\n)\\\. (\d+)\n\Z")
_LONGEST_END = 32
_NEWLINE = 10


@dataclass
class Content:
    """Count and digest of the rows so far, whatever their order."""

    sums: Sums = field(default_factory=Sums)
    _unfinished: Any = None
    """Hash of a row whose end has not come yet."""

    def add(self, data: bytes) -> None:
        """Take in the next bytes of the rows, cut anywhere."""
        if self._unfinished is not None:
            end = data.find(b"\n")
            if end < 0:
                self._unfinished.update(data)
                return
            self._unfinished.update(data[:end])
            self.sums.add_hash(self._unfinished.intdigest())
            self._unfinished = None
            data = data[end + 1 :]
        rows = data.split(b"\n")
        beginning = rows.pop()
        self.sums.add(rows)
        if beginning:
            self._unfinished = xxhash.xxh3_64(beginning)


class Reader:
    """One psql, set up by a script, that runs COPY after COPY.

    Args:
        script: SQL to run first; its failure shows at the first COPY.
        target: it reads the database that was restored into, for the words of errors.
    """

    def __init__(
        self,
        children: programs.Children,
        connection: Connection,
        scratch: Path,
        script: bytes,
        database: str | None = None,
        *,
        target: bool = False,
    ) -> None:
        self._children = children
        self._connection = connection
        self._target = target
        self.broken = False
        options = ["-X", "-w", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose"]
        dsn = programs.dsn(connection, scratch, database)
        self._child = children.start(
            [programs.find("psql"), *options, "-d", dsn], feed=True, read=True
        )
        if self._child.stdout is None or self._child.stdin is None:
            raise AssertionError("psql was started without pipes")
        self._out: Any = self._child.stdout
        self._in = self._child.stdin
        with suppress(OSError):  # a small pipe is slower, not wrong
            fcntl.fcntl(self._out.fileno(), fcntl.F_SETPIPE_SZ, _PIPE)
        self.send(script)

    def send(self, script: bytes) -> None:
        """Have psql run SQL; its failure shows at the next COPY or check."""
        try:
            self._in.write(script)
        except BrokenPipeError:
            raise self._failure() from None

    def check(self) -> None:
        """Wait until all that was sent has run.

        Raises:
            StepvaultError: it failed.
        """
        for _ in self.copy(b"(SELECT 1 WHERE false)", "nothing", Content()):
            pass

    def copy(self, what: bytes, label: str, content: Content) -> Iterator[bytes]:
        """Yield the rows of ``COPY what TO STDOUT``, whole lines at a time.

        Raises:
            StepvaultError: the server refused or the connection broke.
            ShortRead: the server says that it sent another number of rows.
        """
        if self.broken:
            raise SourceUnreachable(f"the connection that was to read {label} is gone", "Try again")
        self.broken = True  # until the end has come
        # To a file of its own psql keeps the completion tag, and with it the count.
        self.send(b"COPY " + what + b" TO STDOUT \\g /proc/self/fd/1\n\\echo '\\\\.' :ROW_COUNT\n")
        block = bytearray(_BLOCK)
        filled, row_begins = 0, True
        while True:
            with memoryview(block) as view:
                got = self._out.readinto(view[filled:])
            if not got:
                raise self._failure()
            filled += got
            end = None
            if block[filled - 1] == _NEWLINE:
                end = _END.search(block, max(0, filled - _LONGEST_END), filled)
                if end and not end.start() and not row_begins and block[0] != _NEWLINE:
                    end = None
            if end is None and filled < _BLOCK:
                continue
            cut = self._cut(block) if end is None else end.start(1) - 3
            data = bytes(memoryview(block)[:cut])
            if data:
                content.add(data)
                yield data
                row_begins = data[-1] == _NEWLINE
            if end is not None:
                break
            block[: filled - cut] = block[cut:filled]
            filled -= cut
        if int(end[1]) != content.sums.rows:
            raise errors.short(label, int(end[1]), content.sums.rows)
        self.broken = False

    def close(self) -> None:
        """End psql; the transaction goes with it."""
        self._children.forget(self._child)

    # ------------------------------------------------------------ inside

    @staticmethod
    def _cut(block: bytearray) -> int:
        """Find how much of a full block to hand on: not what may be the start of the end mark."""
        last = block.rfind(b"\n") + 1
        return last if len(block) - last < _LONGEST_END else len(block)

    def _failure(self) -> StepvaultError:
        """Explain why psql ended."""
        self._children.check()
        try:
            message = self._child.stderr.read() if self._child.stderr else b""
            self._child.wait(10)
        except subprocess.TimeoutExpired:
            message = b"psql closed its output and did not end"
        if message.strip():
            text = message.decode(errors="replace")
            return errors.from_program("psql", text, self._connection, target=self._target)
        return SourceUnreachable(
            f"psql ended with code {self._child.returncode} in the middle of a table",
            "Try again; if memory ran out, raise the function's memory",
        )
