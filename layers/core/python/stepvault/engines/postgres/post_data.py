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
from dataclasses import dataclass

import psycopg
from psycopg import Connection as Session

from stepvault.engines.base import RestoreJob
from stepvault.engines.postgres import errors, omit, progress, target
from stepvault.engines.postgres.script import Script
from stepvault.engines.postgres.toc import SECTION_POST_DATA, Entry, privileges_last
from stepvault.errors import OutOfTime, Transient

#: Kinds that take long and concern one table each.
PARALLEL = {b"INDEX", b"CONSTRAINT"}
#: Seconds before the end of the function's time at which it stops waiting for statements.
_RESERVE = 5.0
#: Foreign keys made in one transaction: each reads two tables, which takes its time.
_KEYS_AT_ONCE = 16


@dataclass(frozen=True)
class Parts:
    """What follows the rows."""

    parallel: list[Entry]
    """Indexes and constraints to make in parallel."""
    in_turn: list[tuple[list[Entry], int | None]]
    """What is made after them, in this order, with how many at most in one transaction."""
    event_triggers: list[Entry]
    """What comes last, so that it sees nothing of the restore."""


def split(entries: Sequence[Entry], ids: Collection[int]) -> Parts:
    """Split the entries with these ids.

    What depends on something that is made in turn is made in turn: the index of a materialized
    view that is grouped by a primary key, as pg_dump can make such a view after that key only.
    Foreign keys come before all that they do not need, and the contents of materialized views
    after all else, one by one, so that none of them keeps anything else from being restored.
    """
    late = {e.dump_id for e in entries if e.section == SECTION_POST_DATA and e.kind not in PARALLEL}
    late = _with_dependents(entries, late)
    mine = [e for e in entries if e.dump_id in ids]
    parallel = [e for e in mine if e.kind in PARALLEL and e.dump_id not in late]
    last = {e.dump_id for e in mine if e.kind == b"EVENT TRIGGER"}
    last |= {e.dump_id for e in mine if last.intersection(e.dependencies)}
    away = last | {e.dump_id for e in parallel}
    rest = [e for e in mine if e.dump_id not in away]
    contents = [e for e in rest if e.kind == b"MATERIALIZED VIEW DATA"]
    keys = {e.dump_id for e in rest if e.kind == b"FK CONSTRAINT"}
    needed = _needed(rest, keys)
    apart = needed | keys | {e.dump_id for e in contents}
    others = [e for e in rest if e.dump_id not in apart]
    return Parts(
        parallel,
        [
            ([e for e in rest if e.dump_id in needed - keys], None),
            ([e for e in rest if e.dump_id in keys], _KEYS_AT_ONCE),
            (privileges_last(others), None),
            (contents, 1),
        ],
        [e for e in mine if e.dump_id in last],
    )


def _with_dependents(entries: Sequence[Entry], ids: Collection[int]) -> set[int]:
    """Add all that depends on these entries."""
    dependents: dict[int, list[int]] = {}
    for entry in entries:
        for needed in entry.dependencies:
            dependents.setdefault(needed, []).append(entry.dump_id)
    reached, pending = set(ids), list(ids)
    while pending:
        above = set(dependents.get(pending.pop(), ())) - reached
        reached |= above
        pending += above
    return reached


def _needed(entries: Sequence[Entry], ids: Collection[int]) -> set[int]:
    """Collect the entries that these need, with themselves."""
    by_id = {e.dump_id: e for e in entries}
    needed: set[int] = set()
    pending = list(ids)
    while pending:
        current = pending.pop()
        if current in by_id and current not in needed:
            needed.add(current)
            pending += by_id[current].dependencies
    return needed


class Builder:
    """Builds indexes and constraints over several sessions.

    Args:
        restore: the restore's token, under which its steps are noted.
        script: writes what makes an entry.
    """

    def __init__(self, job: RestoreJob, restore: str, script: Script) -> None:
        self._job = job
        self._restore = restore
        self._script = script
        self._lock = threading.Lock()
        self._running: dict[Session, str] = {}

    def build(self, entries: Sequence[Entry]) -> None:
        """Make all that is not noted yet.

        Raises:
            OutOfTime: it will be continued by running the task again.
        """
        with target.connect(self._job) as opened:
            self._wait_for_earlier(opened)
            done = progress.done(opened, self._restore)
            todo = [e for e in entries if progress.steps([e.dump_id])[0] not in done]
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
        text = self._script.text_of(entry, server_version)
        with target.connect(self._job) as opened:
            opened.execute(f"SET application_name = '{self._name}'")
            opened.execute("SET lock_timeout = 0")
            with self._lock:
                self._running[opened] = entry.label
            note = progress.note(self._restore, *progress.steps([entry.dump_id]))
            try:
                # One message without BEGIN: it commits even if we are gone by then.
                opened.execute(note.encode() + text)
            except psycopg.Error as error:
                self._failed(entry, error, text, opened)
            finally:
                with self._lock:
                    del self._running[opened]
        self._job.progress(entry.label, 0)

    def _failed(self, entry: Entry, error: psycopg.Error, text: bytes, opened: Session) -> None:
        """Raise, or report the entry and go on."""
        known = errors.at_target(error, f"cannot make {entry.label}")
        if isinstance(known, Transient) or opened.closed or not self._job.options.keep_going:
            raise known from error
        reason = error.diag.message_primary or known.message
        statement = (entry.definition or text).decode(errors="replace").strip()
        self._job.unrestored(omit.unrestored(entry, reason, statement))


def _cut(opened: Session) -> None:
    """Break the connection without telling the server, which goes on with its statement."""
    with (
        contextlib.suppress(OSError, psycopg.Error),
        socket.socket(fileno=os.dup(opened.fileno())) as same,
    ):
        same.shutdown(socket.SHUT_RDWR)
