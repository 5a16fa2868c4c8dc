"""Load the rows of one stored object into its table."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress

from stepvault.engines.base import RestoreJob
from stepvault.engines.mysql import definitions, meaning, progress
from stepvault.engines.mysql.inventory import Table
from stepvault.engines.mysql.session import Session, quote
from stepvault.errors import (
    BackupTampered,
    OutOfTime,
    SourceUnreachable,
    StepvaultError,
    TargetMissing,
    TargetUnsupported,
)
from stepvault.records import StoredObject

#: Warnings that a value was stored as another: out of range, cut, wrong.
_CHANGES = {1264, 1265, 1292, 1366, 1406}


def shared(objects: Iterable[StoredObject]) -> set[tuple[str, str]]:
    """Return the tables whose rows are in several objects.

    Without unique checks, the first writer of an empty table in MariaDB locks all of it:
    https://mariadb.com/kb/en/innodb-bulk-insert/. That is fast for one writer, but stops the others.
    """
    pieces = Counter(
        (o.facts["database"], o.facts["name"]) for o in objects if o.facts.get("kind") == "data"
    )
    return {table for table, count in pieces.items() if count > 1}


def load(
    job: RestoreJob,
    session: Session,
    database: str,
    name: str,
    table: Table | None,
    stored: StoredObject,
    shared: set[tuple[str, str]],
) -> int:
    """Load one object in one transaction, unless an earlier attempt did; return its number of rows.

    Args:
        job: the restore.
        session: a connection to the target.
        database: the database in the target.
        name: the table's name in the backup.
        table: the table in the target; None if it was not created.
        stored: the object.
        shared: the tables whose rows are in several objects.

    Raises:
        BackupTampered: the object is not what was stored; the table is as it was before.
        TargetUnsupported: the target refuses the rows, or changes a value.
        OutOfTime, and others of ``errors``.
    """
    label = f"{database}.{name}"
    if table is None:
        raise TargetMissing(f"table {label} does not exist", "See why it could not be created")
    session.run(f"USE {quote(database)}")
    session.run("START TRANSACTION")
    if progress.loaded(session, stored.name):
        session.run("ROLLBACK")
        return stored.rows or 0
    if not table.transactional:  # its rows cannot be rolled back, but this object holds all of them
        clear(session, table)
        session.run("START TRANSACTION")
    try:
        parallel = (stored.facts["database"], stored.facts["name"]) in shared
        rows = _insert_all(job, session, table, stored, parallel)
        progress.add(session, stored.name)
        session.run("COMMIT")
    except BaseException:
        with suppress(StepvaultError):
            session.run("ROLLBACK")
            if not table.transactional:
                clear(session, table)
        raise
    return rows


def clear(session: Session, table: Table) -> None:
    """Remove all rows of a table and keep its AUTO_INCREMENT counter."""
    if not session.one(f"SELECT 1 FROM {table.sql} LIMIT 1"):
        return
    text = definitions.create_table(session, table)
    if table.engine == "archive":  # it takes no row below its counter
        text = meaning.normal(text)
    try:
        session.run(f"TRUNCATE TABLE {table.sql}")
    except StepvaultError:  # ARCHIVE cannot, nor can a table with SYSTEM VERSIONING
        session.run(f"DROP TABLE {table.sql}")
        session.run(f"USE {quote(table.database)}")
        session.run(text.encode("utf-8", "surrogateescape"))
        return
    if table.counter:
        session.run(f"ALTER TABLE {table.sql} AUTO_INCREMENT={table.counter}")


def _insert_all(
    job: RestoreJob, session: Session, table: Table, stored: StoredObject, parallel: bool
) -> int:
    """Run an object's statements and return the number of rows, which is that of the backup."""
    chunks = iter(job.read(stored))
    try:
        return _run_all(job, session, table, stored, chunks, parallel)
    except (OutOfTime, SourceUnreachable):
        raise
    except StepvaultError:
        # Damage may be the cause, whatever the server says: reading on raises BackupTampered if so.
        for _ in chunks:
            pass
        raise


def _run_all(
    job: RestoreJob,
    session: Session,
    table: Table,
    stored: StoredObject,
    chunks: Iterator[bytes],
    parallel: bool,
) -> int:
    limit = int(session.one("SELECT @@max_allowed_packet")[0])
    insert = f"INSERT INTO {quote(stored.facts['name'])} ".encode()
    label = f"table {table.label}"
    rows = 0
    for statement in _statements(chunks, stored.name):
        if not statement.startswith(insert):
            if statement.decode("utf-8", "replace") not in definitions.SETTINGS:
                raise BackupTampered(f"{stored.name} holds a statement that no backup writes")
            session.run(statement)
            if parallel and statement == definitions.SETTINGS[-1].encode():
                session.run("SET unique_checks=1")
            continue
        if len(statement) >= limit:
            raise TargetUnsupported(
                f"a row of {label} needs {len(statement):,} bytes, the target's max_allowed_packet is {limit:,}",
                "Raise max_allowed_packet on the target",
            )
        if job.remaining() <= 0:
            raise OutOfTime(
                f"time ran out in {stored.name} after {rows:,} of {stored.rows:,} rows",
                "Restore from a terminal or a container, or raise connections",
            )
        rows += session.run(statement, label)
        if session.warnings:
            _check_warnings(session, table)
        job.progress(stored.name, len(statement))
    if rows != stored.rows:
        raise BackupTampered(f"{stored.name} holds {rows:,} rows instead of {stored.rows:,}")
    return rows


def _check_warnings(session: Session, table: Table) -> None:
    """Refuse rows of which the target stored a value as another.

    The error value of an ENUM gives a warning, too, though it is what the source holds.
    """
    enums = tuple(
        f"Data truncated for column '{c.name}'" for c in table.columns if c.type in {"enum", "set"}
    )
    for level, number, text in session.rows("SHOW WARNINGS"):
        if level != "Note" and int(number) in _CHANGES and not str(text).startswith(enums):
            raise TargetUnsupported(
                f"table {table.label}: the target stores another value: {number} {text}",
                f"Correct the value in the source, or go without the table's rows with --keep-going or --without table:{table.name}",
            )


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
