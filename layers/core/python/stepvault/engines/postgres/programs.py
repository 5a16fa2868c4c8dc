"""Run PostgreSQL's own programs: find them on PATH, feed and watch them, always end them."""

import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO

from stepvault.engines.base import Connection
from stepvault.engines.postgres.errors import from_program
from stepvault.errors import OutOfTime, SourceUnsupported

#: The oldest whose programs read and write our archives (zstd; --filter of pg_dump).
OLDEST = 17
_FIX = (
    f"Put PostgreSQL {OLDEST} or later first on PATH: its own packages, or the bin folder of the "
    "postgres_client layer (make layers; build/layers/postgres_client-<arch>/bin)"
)


def find(program: str) -> str:
    """Find one of PostgreSQL's programs on PATH.

    Raises:
        SourceUnsupported: it is not on PATH, or too old.
    """
    path = shutil.which(program)
    if path is None:
        raise SourceUnsupported(f"the program {program} is not on PATH", _FIX)
    if (version := _version(path)) < OLDEST:
        raise SourceUnsupported(f"{path} is of PostgreSQL {version}, which is too old", _FIX)
    return path


def client_version() -> int:
    """Ask the pg_dump on PATH for its major version."""
    return _version(find("pg_dump"))


def client_release() -> str:
    """Ask the pg_dump on PATH for its whole version, ``18.6``."""
    return _release(find("pg_dump"))


def _version(path: str) -> int:
    return int(_release(path).split(".")[0])


@cache
def _release(path: str) -> str:
    answer = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"(\d+)(\.\d+)?", answer)
    if match is None:
        raise SourceUnsupported(f"{path} --version says {answer.strip()!r}, not a version", _FIX)
    return match[0]


def dsn(connection: Connection, scratch: Path, database: str | None = None) -> str:
    """Write a connection string; the password goes into a file that only we can read."""
    passfile = scratch / ".pgpass"
    if connection.password is not None and not passfile.exists():
        escaped = connection.password.replace("\\", "\\\\").replace(":", "\\:")
        # Written elsewhere, then renamed: another thread must not read half of it.
        descriptor, temporary = tempfile.mkstemp(dir=scratch)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"*:*:*:*:{escaped}\n")
        Path(temporary).rename(passfile)
    settings = parameters(connection, database) | {"passfile": str(passfile)}
    return " ".join(f"{name}={_quoted(value)}" for name, value in settings.items())


def parameters(connection: Connection, database: str | None = None) -> dict[str, str | int]:
    """List libpq's parameters for that connection, without the password."""
    settings: dict[str, str | int | None] = {
        "host": connection.host,
        "port": connection.port or 5432,
        "user": connection.user,
        "dbname": database or connection.database or connection.user or "postgres",
        "sslmode": connection.tls,
        "sslrootcert": connection.tls_ca,
        "connect_timeout": connection.connect_timeout,
        "application_name": "stepvault",
        "gssencmode": "disable",
        # Below the 350 s after which AWS's network forgets an idle connection.
        "keepalives": 1,
        "keepalives_idle": 300,
        "keepalives_interval": 30,
        "keepalives_count": 3,
    }
    if connection.tls == "verify-full" and connection.tls_ca is None:
        settings["sslrootcert"] = "system"
    return {name: value for name, value in settings.items() if value is not None}


class Children:
    """The programs that one job runs, so that another thread can end them all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self.cancelled = False

    def start(
        self,
        arguments: Sequence[str],
        feed: bool = False,
        read: bool = False,
        buffer: int = 0,
        stderr: IO[bytes] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program whose standard error is kept for its error message.

        It goes into the file ``stderr``, or into a pipe, which blocks the program once it is full.
        """
        with self._lock:
            self.check()
            child = subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
                stdout=subprocess.PIPE if read else subprocess.DEVNULL,
                stderr=subprocess.PIPE if stderr is None else stderr,
                bufsize=buffer,
            )
            self._running.add(child)
        return child

    def forget(self, child: subprocess.Popen[bytes]) -> None:
        """End the child if it still runs, and close its pipes."""
        with self._lock:
            self._running.discard(child)
        if child.poll() is None:
            child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()

    def cancel(self) -> None:
        """Kill all children; what waits for one of them raises."""
        with self._lock:
            self.cancelled = True
            for child in self._running:
                child.kill()

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Cancel if the block takes longer than that."""
        timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), self.cancel)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def check(self) -> None:
        """Raise if the job was cancelled."""
        if self.cancelled:
            raise OutOfTime("the work was cancelled before it was done")


def run(
    children: Children,
    connection: Connection,
    arguments: Sequence[str],
    remaining: Callable[[], float] = lambda: float("inf"),
    warnings: list[str] | None = None,
    *,
    target: bool = False,
) -> bytes:
    """Run a program to its end and return what it printed.

    What it warns of is added to ``warnings``, if given. ``target`` as in ``errors.from_program``.

    Raises:
        StepvaultError: it failed; the class follows from its messages.
        OutOfTime: the job's time ran out first.
    """
    child = children.start([find(arguments[0]), *arguments[1:]], read=True)
    try:
        seconds = remaining()
        try:
            out, messages = child.communicate(timeout=None if seconds == float("inf") else seconds)
        except subprocess.TimeoutExpired:
            raise OutOfTime(f"{arguments[0]} was still running when the time ran out") from None
        children.check()
        if child.returncode:
            text = messages.decode(errors="replace")
            raise from_program(arguments[0], text, connection, target=target)
        if warnings is not None:
            lines = messages.decode(errors="replace").splitlines()
            warnings += [x for x in lines if re.match(r"\w+: warning: ", x)]
        return out
    finally:
        children.forget(child)


def _quoted(value: str | int) -> str:
    escaped = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
