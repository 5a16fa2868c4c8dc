"""Several connections that see the same moment.

From the gentlest way to the simplest: comparing binlog positions and transaction numbers (MariaDB,
no lock at all), one short global read lock, read locks on the tables, a single connection.

On MySQL the locks change places: its global lock waits for every running statement with the tables
already marked for flushing, so that whoever uses them next waits, too, even when the lock was given up
(https://dev.mysql.com/doc/refman/8.4/en/flush.html, "FLUSH TABLES"). Locks on tables do not.
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from stepvault.engines.mysql.connection import LOCK_WAIT, Session
from stepvault.engines.mysql.inventory import Table
from stepvault.errors import SourceBusy, SourceDenied, SourceUnsupported, StepvaultError

log = logging.getLogger(__name__)

#: Seconds to try each way; a lock is asked for one second at a time, so that writers who queue
#: behind it never stall for longer.
_PATIENCE = 10.0
#: Seconds that a statement has been running to count as a long one.
_LONG = 1
_BEGIN = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"


_Way = Callable[[Sequence[Session], Session, Sequence[Table]], dict[str, Any]]


@dataclass
class Moment:
    """What all sessions see."""

    way: str
    """snapshot position, global lock, table locks or one connection"""
    sessions: list[Session]
    """Those that see it; one if nothing better could be had."""
    position: dict[str, Any] = field(default_factory=dict)
    """Where replication would go on: file, position, gtid; empty if not known exactly."""
    warnings: list[str] = field(default_factory=list)


def freeze(
    sessions: Sequence[Session],
    control: Session,
    tables: Sequence[Table],
    who_blocks: Callable[[], str],
) -> Moment:
    """Begin a transaction on every session so that all see the same moment.

    Args:
        sessions: at least one.
        control: another connection, which takes and releases the locks.
        tables: what will be read.
        who_blocks: names the holder of a lock.

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
            continue  # one connection is consistent by itself; a lock would only serve the position
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
    """Begin everywhere until all transactions stand at the same binlog position, and none was
    begun or committed meanwhile: what a session or a filter keeps out of the log moves no position.
    """
    if not control.mariadb:
        raise SourceUnsupported("only MariaDB tells a snapshot's position")
    if _applies_unlogged(control):
        raise SourceUnsupported("what it replicates does not go into its binary log")
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
            raise SourceBusy(f"writers moved on for {_PATIENCE:.0f} s between any two connections")


def _applies_unlogged(control: Session) -> bool:
    """Whether the server is a replica or of a Galera cluster, and logs its own writes only."""
    if control.one("SELECT @@log_slave_updates")[0]:
        return False
    said = dict(
        control.rows(
            "SHOW GLOBAL STATUS WHERE variable_name IN ('Slaves_running', 'wsrep_cluster_size')"
        )
    )
    return any(int(number) for number in said.values())


def _last_transaction(control: Session) -> int:
    """InnoDB's last number: it gives one to each writing transaction, and one to its commit.

    https://mariadb.com/kb/en/innodb-status-variables/#innodb_max_trx_id
    """
    said = control.one("SHOW GLOBAL STATUS LIKE 'Innodb_max_trx_id'")
    if not said:
        raise SourceUnsupported("the server does not tell the last transaction's number")
    return int(said[1])


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
        raise SourceBusy("connection {} runs a statement of {} s already".format(*running))
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
    """Hold the lock just while all begin; it is asked for at least once, and so many seconds."""
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
                time.sleep(0.2)  # let those pass who queued behind us
        for session in sessions:
            session.run(_BEGIN)
        return _written(control)
    finally:
        with suppress(StepvaultError):
            control.run("UNLOCK TABLES")
        control.wait_for_locks(LOCK_WAIT)


def _position_of(session: Session) -> dict[str, Any]:
    """The binlog position that the session's snapshot stands at (MariaDB with its binlog on)."""
    if not session.mariadb:
        return {}
    # https://mariadb.com/kb/en/enhancements-for-start-transaction-with-consistent-snapshot/
    said = {str(k).lower(): v for k, v in session.rows("SHOW STATUS LIKE 'binlog_snapshot_%'")}
    name = said.get("binlog_snapshot_file")
    if not name:
        return {}
    position = int(said["binlog_snapshot_position"])
    return {"file": name, "position": position}


def gtid_at(session: Session, position: dict[str, Any]) -> str | None:
    """MariaDB's GTID at a binlog position; None if the user may not know it."""
    with suppress(StepvaultError):
        name = str(position["file"]).replace("'", "''")
        said = session.one(f"SELECT BINLOG_GTID_POS('{name}', {position['position']})")
        return str(said[0]) if said and said[0] else None
    return None


def _written(control: Session) -> dict[str, Any]:
    """Where the binlog stands while nobody can write; empty if it is off or not ours to know."""
    # MySQL 8.4 renamed the statement: https://dev.mysql.com/doc/refman/8.4/en/show-binary-log-status.html
    renamed = not control.mariadb and control.number >= (8, 2, 0)
    try:
        said = control.one("SHOW BINARY LOG STATUS" if renamed else "SHOW MASTER STATUS")
    except StepvaultError:
        return {}
    if not said:
        return {}
    position: dict[str, Any] = {"file": said[0], "position": int(said[1])}
    if not control.mariadb and len(said) > 4 and said[4]:
        position["gtid"] = str(said[4]).replace("\n", "")
    return position
