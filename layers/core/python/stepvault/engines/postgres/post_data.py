"""Make what follows the rows: indexes and constraints in parallel, then what depends on them.

Each index or constraint is one transaction of one message, its note included, on a session of
its own name. Should the function's time run out, the server still finishes and commits what it
has begun; running the restore's last task again waits for that and goes on from there.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Collection, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path

import psycopg
from psycopg import Connection as Session

from stepvault.engines.base import RestoreJob
from stepvault.engines.postgres import errors, programs, progress, target
from stepvault.engines.postgres.toc import SECTION_POST_DATA, Entry
from stepvault.errors import OutOfTime

#: Kinds that take long and concern one table each.
PARALLEL = {b"INDEX", b"CONSTRAINT"}
#: Seconds before the end of the function's time at which it stops waiting for statements.
_RESERVE = 5.0
#: Settings in a script's head that older servers do not know; they lack what it switches.
_NEWER = {b"SET transaction_timeout = 0;": 170000}


def split(entries: Sequence[Entry], ids: Collection[int]) -> tuple[list[Entry], list[Entry]]:
    """Split the entries with these ids: those to make in parallel and, in order, those after them.

    What depends on one of the latter is one of them: the index of a materialized view that is
    grouped by a primary key, as pg_dump can make such a view after that key only.
    """
    late = {e.dump_id for e in entries if e.section == SECTION_POST_DATA and e.kind not in PARALLEL}
    dependents: dict[int, list[int]] = {}
    for entry in entries:
        for needed in entry.dependencies:
            dependents.setdefault(needed, []).append(entry.dump_id)
    pending = list(late)
    while pending:
        above = set(dependents.get(pending.pop(), ())) - late
        late |= above
        pending += above
    mine = [e for e in entries if e.dump_id in ids]
    alone = [e for e in mine if e.kind in PARALLEL and e.dump_id not in late]
    parallel = {e.dump_id for e in alone}
    return alone, [e for e in mine if e.dump_id not in parallel]


def known_to(server_version: int, line: bytes) -> bool:
    """Tell whether a server of that version understands this line of a script."""
    return server_version >= _NEWER.get(line.strip(), 0)


class Builder:
    """Builds indexes and constraints over several sessions.

    Args:
        restore: the restore's token, under which its steps are noted.
        folder: where toc.dat is.
        options: how pg_restore is to write its scripts.
    """

    def __init__(self, job: RestoreJob, restore: str, folder: Path, options: Sequence[str]) -> None:
        self._job = job
        self._restore = restore
        self._folder = folder
        self._options = options
        self._children = programs.Children()
        self._lock = threading.Lock()
        self._running: dict[Session, str] = {}

    def build(self, entries: Sequence[Entry]) -> None:
        """Make all that is not noted yet.

        Raises:
            OutOfTime: it will be continued by running the task again.
        """
        with target.connect(self._job) as opened:
            self._wait_for_earlier(opened)
            todo = [e for e in entries if not progress.is_done(opened, self._restore, _step(e))]
            version = opened.info.server_version
        with ThreadPoolExecutor(max_workers=max(1, self._job.connections)) as pool:
            futures = [pool.submit(self._make, entry, version) for entry in todo]
            try:
                self._wait_for(futures)
            finally:
                for future in futures:
                    future.cancel()

    def _wait_for(self, futures: Sequence[Future[None]]) -> None:
        seconds = self._job.remaining() - _RESERVE
        timeout = None if seconds == float("inf") else max(0.0, seconds)
        done, pending = wait(futures, timeout, FIRST_EXCEPTION)
        failed = next((f for f in done if f.exception() is not None), None)
        if failed is None and pending:
            with self._lock:
                names = sorted(self._running.values())
                for opened in self._running:
                    _cut(opened)
            raise OutOfTime(
                f"{len(pending)} indexes and constraints are not made yet; the server goes on "
                f"with {', '.join(names) or 'none'}",
                "Run the same restore again: it waits for them and makes the rest",
            )
        if failed is not None:
            failed.result()

    def _wait_for_earlier(self, opened: Session) -> None:
        """Wait for statements that an earlier attempt may have left running."""
        query = (
            "SELECT count(*) FROM pg_catalog.pg_stat_activity"
            " WHERE application_name = %s AND state <> 'idle'"
        )
        while (row := opened.execute(query, [self._name]).fetchone()) and row[0]:
            if self._job.remaining() < _RESERVE:
                raise OutOfTime(
                    f"the server still makes {row[0]} indexes of an earlier attempt",
                    "Run the same restore again",
                )
            time.sleep(0.5)

    @property
    def _name(self) -> str:
        return f"stepvault {self._restore}"

    def _make(self, entry: Entry, server_version: int) -> None:
        if self._job.remaining() < _RESERVE:
            return
        script = self._script(entry, server_version)
        with target.connect(self._job) as opened:
            opened.execute(f"SET application_name = '{self._name}'")
            opened.execute("SET lock_timeout = 0")
            with self._lock:
                self._running[opened] = entry.label
            try:
                # One message without BEGIN: it commits even if we are gone by then.
                opened.execute(progress.note(self._restore, _step(entry)).encode() + script)
            except psycopg.Error as error:
                raise errors.from_server(error, f"cannot make {entry.label}") from error
            finally:
                with self._lock:
                    del self._running[opened]
        self._job.progress(entry.label, 0)

    def _script(self, entry: Entry, server_version: int) -> bytes:
        """Write what pg_restore would run for that entry alone."""
        ids = self._folder / f"ids-{entry.dump_id}"
        ids.write_text(f"{entry.dump_id};\n")
        arguments = ["pg_restore", f"--use-list={ids}", "--file=-", *self._options]
        script = programs.run(
            self._children,
            target.address(self._job),
            [*arguments, str(self._folder)],
            self._job.remaining,
        )
        return b"".join(
            line
            for line in script.splitlines(keepends=True)
            if known_to(server_version, line) and not _meta(line)
        )


def _meta(line: bytes) -> bool:
    """Tell psql's own commands, with which pg_restore guards its scripts."""
    return line.startswith((b"\\restrict ", b"\\unrestrict "))


def _step(entry: Entry) -> str:
    return f"entry {entry.dump_id}"


def _cut(opened: Session) -> None:
    """Break the connection without telling the server, which goes on with its statement."""
    with (
        contextlib.suppress(OSError, psycopg.Error),
        socket.socket(fileno=os.dup(opened.fileno())) as same,
    ):
        same.shutdown(socket.SHUT_RDWR)
