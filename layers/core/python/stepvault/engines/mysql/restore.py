"""The tasks of a restore, and how each is done.

The rows of one stored object are one transaction, together with the object's name in a small
progress table. It is committed once the object's last byte has been verified, so a task may be
repeated at any time.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress

from stepvault.engines.base import Counts, RestoreJob
from stepvault.engines.mysql import definitions
from stepvault.engines.mysql.inventory import tables
from stepvault.engines.mysql.session import Session, literal, quote
from stepvault.engines.mysql.target import Chosen, check_target, choose, in_parallel, session_of
from stepvault.errors import (
    BackupTampered,
    OutOfTime,
    Permanent,
    SourceUnsupported,
    StepvaultError,
)
from stepvault.records import RestoreTask, StoredObject

#: A data task takes about this many raw bytes.
_TASK_BYTES = 2 << 30
#: Table with the names of the objects that are loaded; in the target while a restore runs.
_PROGRESS = "stepvault_restore_progress"
_BEFORE = ("sequence", "table", "placeholder")
_AFTER = ("post", "triggers", "view")


def plan_restore(job: RestoreJob) -> list[RestoreTask]:
    """Check the target and cut the restore into tasks."""
    chosen = choose(job)
    with session_of(job) as session:
        for original, target in chosen.databases.items():
            check_target(job, session, chosen, original, target)
    definitions_first = [o.name for k in ("database", *_BEFORE) for o in chosen.of(k)]
    tasks = [RestoreTask(stage="before", id="schema", objects=definitions_first)]
    data = sorted(chosen.of("data"), key=lambda o: -o.raw_bytes)
    for number, group in enumerate(_groups(data)):
        tasks.append(RestoreTask(stage="data", id=f"data-{number:05d}", objects=group))
    last = [o.name for k in _AFTER for o in sorted(chosen.of(k), key=_order)]
    return [*tasks, RestoreTask(stage="after", id="programs", objects=last)]


def _order(stored: StoredObject) -> int:
    return int(stored.facts.get("order", 0))


def _groups(data: Sequence[StoredObject]) -> Iterator[list[str]]:
    group: list[str] = []
    size = 0
    for stored in data:
        if group and size + stored.raw_bytes > _TASK_BYTES:
            yield group
            group, size = [], 0
        group.append(stored.name)
        size += stored.raw_bytes
    if group:
        yield group


def restore(job: RestoreJob, task: RestoreTask) -> Counts:
    """Do one task; the counts are those of the rows that it loaded."""
    chosen = choose(job)
    wanted = set(task.objects)
    objects = {o.name: o for o in chosen.objects if o.name in wanted}
    in_order = [objects[name] for name in task.objects]
    if task.stage == "data":
        return _load_all(job, chosen, in_order)
    with session_of(job) as session:
        if task.stage == "before":
            _prepare(job, session, chosen, in_order)
        else:
            _finish(job, session, chosen, in_order)
    return Counts()


def _prepare(
    job: RestoreJob, session: Session, chosen: Chosen, objects: list[StoredObject]
) -> None:
    """Create sequences, tables and stand-ins for views; what has their names is dropped first."""
    session.run("SET SESSION foreign_key_checks=0")
    for original, target in chosen.databases.items():
        session.run(f"USE {quote(target)}")
        created = chosen.names(original, "table", "view", "sequence")
        for table in tables(session, target):
            if table.name in created or table.name == _PROGRESS:
                session.run(f"DROP {table.kind.upper()} {table.sql}")
        session.run(
            f"CREATE TABLE {_PROGRESS} (object VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin"
            " PRIMARY KEY) ENGINE=InnoDB"
        )
        # Not empty: MariaDB locks an empty table as a whole for its first writer, see _shared.
        session.run(f"INSERT INTO {_PROGRESS} VALUES ('')")
        if job.options.overwrite:
            for name in chosen.names(original, "data") - created:
                session.run(f"TRUNCATE TABLE {quote(name)}")
    for stored in objects:
        if stored.facts["kind"] != "database":
            _define(job, session, chosen, stored)


def _finish(job: RestoreJob, session: Session, chosen: Chosen, objects: list[StoredObject]) -> None:
    """Create routines, events, triggers and views, then drop the progress table."""
    for stored in objects:
        with suppress(StepvaultError) if stored.facts.get("broken") else nullcontext():
            _define(job, session, chosen, stored)
    for target in chosen.databases.values():
        session.run(f"DROP TABLE IF EXISTS {quote(target)}.{_PROGRESS}")


def _define(job: RestoreJob, session: Session, chosen: Chosen, stored: StoredObject) -> None:
    session.run(f"USE {quote(chosen.target(stored))}")
    for setting in definitions.SETTINGS:
        session.run(setting)
    content = b"".join(job.read(stored))  # verified as a whole before the first statement runs
    for statement in definitions.split(content):
        owned = definitions.owned(statement, job.options.owner)
        session.run(owned.encode("utf-8", "surrogateescape"), stored.name)
    job.progress(stored.name, stored.raw_bytes)


def _load_all(job: RestoreJob, chosen: Chosen, objects: list[StoredObject]) -> Counts:
    """Load objects on several connections."""

    def load(session: Session, stored: StoredObject) -> int:
        return _load(job, session, chosen.target(stored), stored)

    return Counts(rows=sum(in_parallel(job, objects, load)))


def _load(job: RestoreJob, session: Session, database: str, stored: StoredObject) -> int:
    """Load one object's rows in one transaction, unless an earlier attempt did; return their number."""
    name, label = stored.facts["name"], f"{database}.{stored.facts['name']}"
    session.run(f"USE {quote(database)}")
    transactional = _transactional(session, database, name)
    session.run("START TRANSACTION")
    if session.one(f"SELECT 1 FROM {_PROGRESS} WHERE object = {literal(stored.name)}"):
        session.run("ROLLBACK")
        return stored.rows or 0
    if not transactional:  # its rows cannot be rolled back, but this object holds all of them
        session.run(f"TRUNCATE TABLE {quote(name)}")
        session.run("START TRANSACTION")
    try:
        rows = _insert_all(job, session, stored, label)
        session.run(f"INSERT INTO {_PROGRESS} VALUES ({literal(stored.name)})")
        session.run("COMMIT")
    except BaseException:
        _undo(session, None if transactional else name)
        raise
    return rows


def _insert_all(job: RestoreJob, session: Session, stored: StoredObject, label: str) -> int:
    """Run an object's statements and return the number of rows, which is that of the backup."""
    chunks = iter(job.read(stored))
    try:
        return _run_all(job, session, stored, label, chunks)
    except Permanent:
        for _ in chunks:  # damage may be the cause: reading on raises BackupTampered if so
            pass
        raise


def _shared(job: RestoreJob, stored: StoredObject) -> bool:
    """Tell whether other objects hold rows of the same table.

    Without unique checks, the first writer of an empty table in MariaDB locks all of it:
    https://mariadb.com/kb/en/innodb-bulk-insert/. That is fast for one writer, but stops the others.
    """
    table = {k: stored.facts[k] for k in ("kind", "database", "name")}
    return sum(table.items() <= o.facts.items() for o in job.objects) > 1


def _run_all(
    job: RestoreJob, session: Session, stored: StoredObject, label: str, chunks: Iterator[bytes]
) -> int:
    limit = int(session.one("SELECT @@max_allowed_packet")[0])
    insert = f"INSERT INTO {quote(stored.facts['name'])} ".encode()
    rows = 0
    shared = _shared(job, stored)
    for statement in _statements(chunks, stored.name):
        if not statement.startswith(insert):
            if statement.decode("utf-8", "replace") not in definitions.SETTINGS:
                raise BackupTampered(f"{stored.name} holds a statement that no backup writes")
            session.run(statement)
            if shared and statement == definitions.SETTINGS[-1].encode():
                session.run("SET unique_checks=1")
            continue
        if len(statement) >= limit:
            raise SourceUnsupported(
                f"a row of {label} needs {len(statement):,} bytes, the target's max_allowed_packet is {limit:,}",
                "Raise max_allowed_packet on the target",
            )
        if job.remaining() <= 0:
            raise OutOfTime(
                f"time ran out in {stored.name} after {rows:,} of {stored.rows:,} rows",
                "Restore from a terminal or a container, or raise connections",
            )
        rows += session.run(statement, f"table {label}")
        job.progress(stored.name, len(statement))
    if rows != stored.rows:
        raise BackupTampered(f"{stored.name} holds {rows:,} rows instead of {stored.rows:,}")
    return rows


def _undo(session: Session, table: str | None) -> None:
    with suppress(StepvaultError):
        session.run("ROLLBACK")
        if table is not None:
            session.run(f"TRUNCATE TABLE {quote(table)}")


def _transactional(session: Session, database: str, name: str) -> bool:
    row = session.one(
        "SELECT e.transactions FROM information_schema.tables t JOIN information_schema.engines e"
        f" ON e.engine = t.engine WHERE table_schema = {literal(database)} AND table_name = {literal(name)}"
    )
    return bool(row) and row[0] == "YES"


def _statements(chunks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """Yield the statements of a data file: each ends with the first ``;`` at the end of a line."""
    pending = bytearray()
    searched = 0
    for chunk in chunks:
        pending += chunk
        while (end := pending.find(b";\n", searched)) >= 0:
            yield bytes(pending[:end])
            del pending[: end + 2]
            searched = 0
        searched = max(0, len(pending) - 1)
    if pending:
        raise BackupTampered(f"{name} ends in the middle of a statement")
