"""An open snapshot of a server, and its streams in mydumper's layout.

::

    <database>-schema-create.sql.zst              CREATE DATABASE
    <database>.<table>-schema.sql.zst             CREATE TABLE
    <database>.<sequence>-schema-sequence.sql.zst
    <database>.<table>.00000.sql.zst              rows, one object per range of the key
    <database>.<table>-schema-triggers.sql.zst
    <database>-schema-post.sql.zst                functions, procedures, events
    <database>.<view>-schema-view.sql.zst
    accounts.grants.zst                              users, roles and grants
    metadata, restore.sh                          plain

A name that is not safe as a file name becomes ``mydumper_<n>``, as in mydumper; ``metadata`` holds
the real one.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Any, Literal

from stepvault.engines.base import Counts, Job, Stored, Stream
from stepvault.engines.mysql import accounts, definitions, meaning, privileges, ranges
from stepvault.engines.mysql.consistency import Moment, freeze, gtid_at
from stepvault.engines.mysql.contents import Contents, Names, Text, chosen
from stepvault.engines.mysql.inventory import Column, Table, databases, tables
from stepvault.engines.mysql.rows import FORM, statements
from stepvault.engines.mysql.script import restore_script
from stepvault.engines.mysql.session import Session, blocking, connect, server_of
from stepvault.engines.row_digest import Sums
from stepvault.errors import Permanent, SourceBusy, SourceChanged
from stepvault.records import StoredObject
from stepvault.settings import MySqlSource

log = logging.getLogger(__name__)

_MIB = 1 << 20


@dataclass
class Rows:
    """The rows of a table, or of one range of its key."""

    name: str
    table: Table
    where: str
    snapshot: "MySqlSnapshot"
    encoding: Literal["zstd", "none"] = "zstd"
    sums: Sums = field(default_factory=Sums)

    def read(self) -> Iterator[bytes]:
        """Yield the SQL file of the rows."""
        yield definitions.DATA_HEAD
        with self.snapshot.borrow() as session:
            try:
                self.snapshot.pin(session, self.table)
                yield from statements(session, self.table, self.where, self.sums)
            except SourceBusy as error:
                who = self.snapshot.who_blocks()
                raise SourceBusy(f"{error.message}; {who}", error.fix) from None

    def result(self) -> Counts:
        """Return the number of rows and the hash of their content."""
        facts = {"kind": "data", "database": self.table.database, "name": self.table.name}
        return Counts(rows=self.sums.rows, facts={**facts, "hash": self.sums.text(), "form": FORM})


class MySqlSnapshot:
    """What ``engine.open`` returns: sessions that see the same data, and what is to be read."""

    references: Sequence[StoredObject] = ()

    def __init__(self, job: Job) -> None:
        self._job = job
        self._source: MySqlSource = job.source
        self._connection = server_of(job.connection)
        self._names = Names()
        self._sessions: list[Session] = []
        self._readers: list[Session] = []
        self._pinned: set[tuple[int, str]] = set()
        self._pool: SimpleQueue[Session] = SimpleQueue()
        self._started = datetime.now(UTC)
        self.warnings: list[str] = []
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        control = self._control = self._connect()
        self._databases, self.warnings = databases(
            control, self._source.databases, self._connection.database
        )
        for database in self._databases:
            self._check_privileges(control, database)
        for _ in range(3):
            self._contents = Contents(control, self._source, self._databases, self._names)
            moment = self._freeze(control)
            later = list(self._listed(control))
            if _shapes(later) == _shapes(self._contents.tables):
                break
            log.info(
                "mysql: tables were created, dropped or changed while the snapshot was taken; again"
            )
        else:
            raise SourceChanged(
                "tables are created, dropped or changed faster than a snapshot can be taken",
                "Try again",
            )
        self._contents.add_numbers(later)
        if self._source.tables and self._source.with_schema:
            named = (t for t in self._contents.tables if t.kind == "table")
            privileges.check_tables(control, named, {"TRIGGER"})
        self._accounts = self._read_accounts(control)
        self.parallel = len(moment.sessions)
        for session in moment.sessions:
            self._pool.put(session)
        self.warnings += [*self._contents.warnings, *moment.warnings]
        position = dict(moment.position)
        if control.mariadb and position:
            position["gtid"] = gtid_at(control, position)
        self.facts: dict[str, Any] = {
            "server": "MariaDB" if control.mariadb else "MySQL",
            "version": control.version,
            "databases": self._databases,
            "consistency": moment.way,
            "connections": self.parallel,
            "position": position,
        }
        log.info("mysql: snapshot by %s on %d connections", moment.way, self.parallel)

    def _check_privileges(self, control: Session, database: str) -> None:
        """Refuse to back up what may be only a part; tables named one by one are checked later."""
        if self._source.tables:
            return
        needed = {"SELECT"}
        if self._source.with_schema:
            needed |= {"SHOW VIEW", "TRIGGER", "EVENT"}
            if not privileges.sees_routines(control, database):
                self.warnings.append(
                    f"functions and procedures of {database} that this user may not see are not in the backup; "
                    "grant SELECT ON mysql.proc (MariaDB) or SHOW_ROUTINE (MySQL)"
                )
        privileges.check(control, database, needed)

    def _read_accounts(self, control: Session) -> list[Text]:
        """Return the script of users, roles and grants, if it is wanted and may be read."""
        source = self._source
        if source.accounts == "none" or not source.with_schema or source.tables:
            return []
        try:
            script = accounts.script(control, source.accounts == "with-passwords")
        except Permanent as error:
            self.warnings.append(
                f"users and grants are not in the backup: {error.message}; "
                'grant SELECT ON mysql.*, or set accounts = "none"'
            )
            return []
        # Not .sql: older myloaders would take it for rows of a database of that name.
        return [Text("accounts.grants.zst", script.encode(), {"kind": "accounts"})]

    def _connect(self) -> Session:
        session = connect(self._connection)
        self._sessions.append(session)
        return session

    def _freeze(self, control: Session) -> Moment:
        tables_to_read = self._contents.with_rows
        if not self._readers:
            wanted = min(self._job.connections, sum(map(self._parts, tables_to_read)))
            self._readers = [self._connect() for _ in range(max(1, wanted))]
        return freeze(self._readers, control, tables_to_read, self.who_blocks)

    def _listed(self, control: Session) -> Iterator[Table]:
        for database in self._databases:
            yield from chosen(self._source, tables(control, database))

    def streams(self) -> Iterator[Stream]:
        """Yield the rows, largest table first, then the definitions."""
        for table in sorted(self._contents.with_rows, key=lambda t: -t.bytes):
            name = self._names.table(table)
            for number, where in enumerate(self._ranges(table)):
                yield Rows(f"{name}.{number:05d}.sql.zst", table, where, self)
        yield from self._contents.texts
        yield from self._accounts

    def _parts(self, table: Table) -> int:
        """Return into how many ranges the table is to be cut."""
        if ranges.column(table) is None:
            return 1
        return 1 + table.bytes // (self._source.split_above_mb * _MIB)

    def _ranges(self, table: Table) -> Iterator[str]:
        """Yield conditions that put every row into exactly one range."""
        by, parts = ranges.column(table), self._parts(table)
        if by is None or parts == 1:
            return iter([""])
        with self.borrow() as session:
            self.pin(session, table)
            evenly = ranges.evenly(session, table, by, parts)
        return ranges.walk(self.borrow, table, by, parts) if evenly is None else iter(evenly)

    def closing(self, stored: Sequence[Stored]) -> Iterator[Stream]:
        """Yield ``metadata`` as mydumper writes it, and the script that restores without Stepvault.

        Raises:
            SourceChanged: a table was replaced by another one before it was read.
        """
        self._check_not_replaced()
        objects = [s.object for s in stored]
        yield Text("metadata", self._metadata(objects).encode(), {"kind": "metadata"}, "none")
        script = restore_script(objects)
        yield Text("restore.sh", script.encode(), {"kind": "script"}, "none")

    def _metadata(self, objects: Sequence[StoredObject]) -> str:
        position = self.facts["position"]
        lines = [f"# Started dump at: {self._started:%Y-%m-%d %H:%M:%S}", "[config]"]
        lines += ["quote-character = BACKTICK", ""]
        if position:
            lines += [
                "[source]",
                f"File = {position['file']}",
                f"Position = {position['position']}",
            ]
            lines += [f"Executed_Gtid_Set = {position.get('gtid') or ''}", ""]
        rows: dict[str, int] = {}
        for stored in objects:
            if stored.facts.get("kind") == "data":
                label = f"{stored.facts['database']}.{stored.facts['name']}"
                rows[label] = rows.get(label, 0) + (stored.rows or 0)
        for table in self._contents.tables:
            # The section has the alias too, as the files are named by it.
            database, _, alias = self._names.table(table).partition(".")
            lines += [f"[`{database}`.`{alias}`]", f"real_table_name={table.name}"]
            lines += ["is_sequence = 1"] if table.kind == "sequence" else []
            lines += [f"rows = {rows.get(table.label, 0)}", ""]
        return "\n".join([*lines, f"# Finished dump at: {datetime.now(UTC):%Y-%m-%d %H:%M:%S}", ""])

    @contextmanager
    def borrow(self) -> Iterator[Session]:
        """Lend a session of the snapshot to one thread."""
        session = self._pool.get()
        try:
            yield session
        finally:
            if session.in_answer:  # the reader gave up in the middle: the next one must fail
                session.cut()
            self._pool.put(session)

    def pin(self, session: Session, table: Table) -> None:
        """Lock the table's definition for the session's transaction, and check that it is as expected.

        Raises:
            SourceChanged, SourceBusy.
        """
        if (session.id, table.label) in self._pinned:
            return
        session.run(f"SELECT 1 FROM {table.sql} LIMIT 0", f"table {table.label}")
        now = meaning.normal(definitions.create_table(session, table))
        if now != self._contents.definitions[table.label]:
            raise _changed(table)
        self._pinned.add((session.id, table.label))

    def _check_not_replaced(self) -> None:
        """Check that the tables read are those of the snapshot, by the times of their creation.

        A table that was swapped in shows only the rows that it held when the snapshot was taken. One
        query for all is enough, as a pinned table cannot be replaced. The control session asks: in
        the snapshot MySQL gives the time of the table before.
        """
        now = {t.label: t.created for t in self._listed(self._control)}
        for table in self._contents.with_rows:
            if now.get(table.label) != table.created:
                raise _changed(table)

    def who_blocks(self) -> str:
        """Describe who most likely holds the lock that a reader waits for."""
        return blocking(self._connection, [s.id for s in self._sessions])

    def cancel(self) -> None:
        """Break all connections, so that blocked readers raise."""
        for session in self._sessions:
            session.cut()

    def close(self) -> None:
        """Close all connections."""
        for session in self._sessions:
            session.close()


def _changed(table: Table) -> SourceChanged:
    return SourceChanged(
        f"table {table.label} was altered or replaced while the backup ran",
        "Try again when no migration is under way",
    )


#: By label: kind, columns, primary key and time of creation.
_Shapes = dict[str, tuple[str, list[Column], list[str], str]]


def _shapes(tables: Iterable[Table]) -> _Shapes:
    """Return what must be the same before the definitions are read and after the snapshot."""
    return {t.label: (t.kind, t.columns, t.key, t.created) for t in tables}
