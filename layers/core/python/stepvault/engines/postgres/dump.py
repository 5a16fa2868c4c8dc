"""What PostgreSQL's own programs write: definitions, sequences, large objects, roles."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import Connection as Session

from stepvault.engines.base import Connection, Job, Stream
from stepvault.engines.postgres import filters, large_objects, programs, session, tables, toc
from stepvault.engines.postgres.streams import BytesStream, FileStream
from stepvault.errors import SourceUnsupported, StepvaultError
from stepvault.settings import PostgresSource


@dataclass(frozen=True)
class Dump:
    """The runs of pg_dump and pg_dumpall of one backup."""

    job: Job
    source: PostgresSource
    connection: Connection
    children: programs.Children

    def check_scratch(self, holder: Session) -> None:
        """Raise SourceUnsupported if the large objects, which become files, do not fit."""
        if not (self.source.with_data and self.source.large_objects):
            return
        size = session.value(holder, "SELECT pg_catalog.pg_relation_size('pg_largeobject')")
        needed = int(size or 0)
        free = shutil.disk_usage(self.job.scratch)[2]
        if needed > free:
            raise SourceUnsupported(
                f"the large objects take {needed >> 20} MiB, scratch space has {free >> 20} MiB",
                "Give the function more ephemeral storage (up to 10 GiB)",
            )

    def run(
        self, snapshot: str, frozen: tables.Wanted, lost: filters.Losses, lock_timeout: int
    ) -> tuple[toc.Toc, list[Stream], list[str]]:
        """Dump everything but the rows of the tables that we read ourselves.

        Args:
            snapshot: name of the exported snapshot.
            frozen: the tables of the backup, and those left out.
            lost: what cannot be restored without the tables left out.
            lock_timeout: milliseconds to wait for a table's lock.

        Returns:
            The table of contents, the streams of what else pg_dump wrote, warnings.
        """
        job, source = self.job, self.source
        folder = job.scratch / "archive"
        shutil.rmtree(folder, ignore_errors=True)
        rules = job.scratch / "filters"
        rows = [t.quoted for t in [*frozen.tables, *frozen.unread]]
        left_out = [*(t.quoted for t in frozen.left_out), *lost.views]
        rules.write_bytes(b"".join(_rules(b"table_data", rows) + _rules(b"table", left_out)))
        options = ["-Fd", f"-Zzstd:{source.compression_level}", "--no-sync", "--no-password"]
        if not source.with_data:
            options.append("--schema-only")
        elif not source.large_objects:
            options.append("--no-large-objects")
        arguments = [
            *("pg_dump", *options, f"--snapshot={snapshot}", f"--filter={rules}"),
            *_options("--exclude-table-data", rows),
            *_options("--exclude-table", left_out),
            f"--lock-wait-timeout={lock_timeout}",
            *("--file", str(folder), "--dbname", programs.dsn(self.connection, job.scratch)),
        ]
        messages: list[str] = []
        programs.run(self.children, self.connection, arguments, job.remaining, messages)
        # Circular foreign keys matter to a restore of rows alone; ours switches triggers off.
        warnings = [line for line in messages if "circular foreign-key" not in line]
        written = sorted(p for p in folder.iterdir() if p.name != "toc.dat")
        archive = toc.read((folder / "toc.dat").read_bytes())
        archive.drop_internal_options()
        _check_left_out(archive, frozen)
        packed, files = large_objects.pack(archive, written)
        return archive, [*packed, *map(FileStream, files)], warnings

    def globals(self, holder: Session, database: str, warnings: list[str]) -> list[BytesStream]:
        """Dump roles and tablespaces, which belong to the server and not to the database.

        A failure is added to the warnings: the backup is whole without them.
        """
        if not (self.source.globals and self.source.with_schema):
            return []
        dsn = programs.dsn(self.connection, self.job.scratch) + without_time_outs(holder)
        options = ["--globals-only", "--no-role-passwords", "--no-password"]
        arguments = ["pg_dumpall", *options, "--database", database, "--dbname", dsn]
        try:
            script = programs.run(self.children, self.connection, arguments, self.job.remaining)
        except StepvaultError as error:
            warnings.append(f"globals.sql is left out: {error.message}")
            return []
        return [BytesStream("globals.sql", script)]


def without_time_outs(holder: Session) -> str:
    """Write a parameter that switches off time-outs: pg_dumpall, unlike pg_dump, keeps them.

    Nothing where there are none: a pooler may refuse the parameter.
    """
    query = (
        "SELECT coalesce(pg_catalog.string_agg('-c ' || name || '=0', ' '), '')"
        " FROM pg_catalog.pg_settings WHERE reset_val <> '0' AND name = ANY (ARRAY["
        "'statement_timeout', 'lock_timeout', 'transaction_timeout', 'idle_session_timeout'])"
    )
    options = session.value(holder, query)
    return f" options='{options}'" if options else ""


def _rules(kind: bytes, names: Sequence[bytes]) -> list[bytes]:
    """Write lines of a filter file, whose own escapes are within the quotes of a name.

    A line cannot hold a carriage return: such a name becomes an option.
    """
    escaped = [n.replace(b"\\", b"\\\\") for n in names if b"\r" not in n]
    return [b"exclude %b %b\n" % (kind, name) for name in escaped]


def _options(option: str, names: Sequence[bytes]) -> list[str]:
    """Write command-line options for the names that a filter file cannot hold."""
    return [f"{option}={os.fsdecode(n)}" for n in names if b"\r" in n]


def _check_left_out(archive: toc.Toc, frozen: tables.Wanted) -> None:
    """Raise SourceUnsupported if pg_dump wrote what it was told to leave out.

    The rows would be in the archive twice, or be there though the source's filters exclude them.
    """
    rows = {t.oid for t in [*frozen.tables, *frozen.unread, *frozen.left_out]}
    made = {t.oid for t in frozen.left_out}
    wrong = [
        e.label
        for e in archive.entries
        if (e.kind == b"TABLE DATA" and int(e.oid) in rows)
        or (e.kind == b"TABLE" and e.table_oid == b"1259" and int(e.oid) in made)
    ]
    if wrong:
        raise SourceUnsupported(
            f"pg_dump wrote {', '.join(wrong[:5])} though it was told to leave that out",
            "Rename the table, or leave out its whole schema; and report it, please",
        )
