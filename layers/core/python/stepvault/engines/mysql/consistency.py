"""Start transactions on several connections so that all of them see the same data.

There are four ways, and the one that disturbs the server least is tried first: comparing binlog
positions and transaction numbers (MariaDB, no lock at all), one short global read lock, read locks
on the tables, a single connection.

MySQL tries the locks on tables before the global lock. Its global lock waits for every running
statement and marks the tables for flushing first, so that the next users of these tables wait as
well, even after we have given up
(https://dev.mysql.com/doc/refman/8.4/en/flush.html, "FLUSH TABLES"). Locks on tables do not do that.
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from stepvault.engines.mysql.inventory import Table
from stepvault.engines.mysql.session import LOCK_WAIT, Session
from stepvault.errors import SourceBusy, SourceDenied, SourceUnsupported, StepvaultError

log = logging.getLogger(__name__)

#: Seconds to try each way. A lock is requested for one second at a time, so that writers that
#: queue behind our request never wait longer than that.
_PATIENCE = 10.0
#: A statement that has been running for so many seconds counts as a long one.
_LONG = 1
_BEGIN = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"


_Way = Callable[[Sequence[Session], Session, Sequence[Table]], dict[str, Any]]


@dataclass
class Moment:
    """The common state of the database that all sessions read."""

    way: str
    """snapshot position, global lock, table locks or one connection"""
    sessions: list[Session]
    """The sessions that read it; only one if the server allowed nothing better."""
    position: dict[str, Any] = field(default_factory=dict)
    """Where replication would continue: file, position, gtid; empty if not known exactly."""
    warnings: list[str] = field(default_factory=list)


def freeze(
    sessions: Sequence[Session],
    control: Session,
    tables: Sequence[Table],
    who_blocks: Callable[[], str],
) -> Moment:
    """Begin a transaction on every session so that all of them see the same data.

    Args:
        sessions: the readers, at least one.
        control: another connection, which takes and releases the locks.
        tables: the tables that will be read.
        who_blocks: describes who holds a lock.

    Raises:
        SourceUnreachable, SourceDenied.
    """
    for session in sessions:
        session.run("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    refused: list[str] = []
    locks: list[tuple[str, _Way]] = [
        ("global lock", _by_global_lock),
        ("table locks", _by_table_locks),
    ]
    by_position: tuple[str, _Way] = ("snapshot position", _by_position)
    for name, way in (by_position, *(locks if control.mariadb else reversed(locks))):
        if len(sessions) == 1 and name == "table locks":
            continue  # one connection is consistent without a lock
        try:
            position = way(sessions, control, tables)
        except (SourceDenied, SourceUnsupported) as error:
            refused.append(f"{name}: {error.message}")
        except SourceBusy as error:
            refused.append(f"{name}: {error.message}; {who_blocks()}")
        else:
            return Moment(name, list(sessions), position)
        log.info("mysql: no snapshot by %s", refused[-1])
    sessions[0].run(_BEGIN)
    warnings = []
    if len(sessions) > 1:
        warnings.append(
            "read through one connection, as no other could be given the same moment "
            f"({'; '.join(refused)}); grant RELOAD or LOCK TABLES for parallel reading"
        )
    return Moment("one connection", [sessions[0]], _position_of(sessions[0]), warnings)


def _by_position(
    sessions: Sequence[Session], control: Session, _: Sequence[Table]
) -> dict[str, Any]:
    """Begin on all sessions again and again until all see the same binlog position.

    No transaction may begin or commit meanwhile: the position does not move for a transaction that
    a filter or a session's setting keeps out of the binary log.
    """
    if not control.mariadb:
        raise SourceUnsupported("only MariaDB reports a snapshot's binlog position")
    if _applies_unlogged(control):
        raise SourceUnsupported("the server does not log the transactions that it replicates")
    until = time.monotonic() + _PATIENCE
    while True:
        for session in sessions:
            session.run("ROLLBACK")
        before = _last_transaction(control)
        for session in sessions:
            session.run(_BEGIN)
        quiet = _last_transaction(control) == before
        positions = [_position_of(session) for session in sessions]
        if not positions[0]:
            raise SourceUnsupported("the binary log is off")
        if quiet and all(p == positions[0] for p in positions):
            return positions[0]
        if time.monotonic() > until:
            raise SourceBusy(f"for {_PATIENCE:.0f} s there was a write between any two connections")


def _applies_unlogged(control: Session) -> bool:
    """Tell whether the server applies transactions of others without logging them."""
    if control.one("SELECT @@log_slave_updates")[0]:
        return False
    counts = dict(
        control.rows(
            "SHOW GLOBAL STATUS WHERE variable_name IN ('Slaves_running', 'wsrep_cluster_size')"
        )
    )
    return any(int(number) for number in counts.values())


def _last_transaction(control: Session) -> int:
    """Return InnoDB's last transaction number.

    Each writing transaction takes one when it begins and one when it commits:
    https://mariadb.com/kb/en/innodb-status-variables/#innodb_max_trx_id
    """
    status = control.one("SHOW GLOBAL STATUS LIKE 'Innodb_max_trx_id'")
    if not status:
        raise SourceUnsupported("the server does not report the last transaction's number")
    return int(status[1])


def _by_global_lock(
    sessions: Sequence[Session], control: Session, _: Sequence[Table]
) -> dict[str, Any]:
    lock = "FLUSH TABLES WITH READ LOCK"
    if control.mariadb:
        return _under(control, lock, sessions, _PATIENCE)
    running = control.one(
        "SELECT id, time FROM information_schema.processlist"
        f" WHERE command IN ('Query', 'Execute') AND time >= {_LONG} AND id <> CONNECTION_ID()"
        " AND user <> 'system user' LIMIT 1"
    )
    if running:
        raise SourceBusy("connection {} has been running a statement for {} s".format(*running))
    return _under(control, lock, sessions, patience=0)


def _by_table_locks(
    sessions: Sequence[Session], control: Session, tables: Sequence[Table]
) -> dict[str, Any]:
    locks = ", ".join(f"{t.sql} READ" for t in tables if t.kind == "table")
    if not locks:
        raise SourceUnsupported("there is no table to lock")
    return _under(control, f"LOCK TABLES {locks}", sessions, _PATIENCE)


def _under(
    control: Session, lock: str, sessions: Sequence[Session], patience: float
) -> dict[str, Any]:
    """Hold the lock while all sessions begin.

    The lock is requested at least once, and again for ``patience`` seconds.
    """
    control.wait_for_locks(1)
    until = time.monotonic() + patience
    try:
        while True:
            try:
                control.run(lock)
                break
            except SourceBusy:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)  # let those continue who queued behind us
        for session in sessions:
            session.run(_BEGIN)
        return _binlog_position(control)
    finally:
        with suppress(StepvaultError):
            control.run("UNLOCK TABLES")
        control.wait_for_locks(LOCK_WAIT)


def _position_of(session: Session) -> dict[str, Any]:
    """Return the binlog position of the session's snapshot (only MariaDB with its binlog on)."""
    if not session.mariadb:
        return {}
    # https://mariadb.com/kb/en/enhancements-for-start-transaction-with-consistent-snapshot/
    status = {str(k).lower(): v for k, v in session.rows("SHOW STATUS LIKE 'binlog_snapshot_%'")}
    name = status.get("binlog_snapshot_file")
    if not name:
        return {}
    position = int(status["binlog_snapshot_position"])
    return {"file": name, "position": position}


def gtid_at(session: Session, position: dict[str, Any]) -> str | None:
    """Return MariaDB's GTID at a binlog position; None if the user may not ask for it."""
    with suppress(StepvaultError):
        name = str(position["file"]).replace("'", "''")
        row = session.one(f"SELECT BINLOG_GTID_POS('{name}', {position['position']})")
        return str(row[0]) if row and row[0] else None
    return None


def _binlog_position(control: Session) -> dict[str, Any]:
    """Return the binlog's position while nobody can write.

    Empty if the binlog is off or the user may not ask for it.
    """
    # MySQL 8.4 renamed the statement: https://dev.mysql.com/doc/refman/8.4/en/show-binary-log-status.html
    renamed = not control.mariadb and control.number >= (8, 2, 0)
    try:
        status = control.one("SHOW BINARY LOG STATUS" if renamed else "SHOW MASTER STATUS")
    except StepvaultError:
        return {}
    if not status:
        return {}
    position: dict[str, Any] = {"file": status[0], "position": int(status[1])}
    if not control.mariadb and len(status) > 4 and status[4]:
        position["gtid"] = str(status[4]).replace("\n", "")
    return position
