"""What PostgreSQL's own programs write: definitions, sequences, large objects, roles."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from psycopg import Connection as Session

from stepvault.engines.base import Connection, Job
from stepvault.engines.postgres import filters, programs, session, tables, toc
from stepvault.engines.postgres.streams import BytesStream
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
        if not self.source.with_data:
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
    ) -> tuple[toc.Toc, list[Path], list[str]]:
        """Dump everything but the rows of the tables that we read ourselves.

        Args:
            snapshot: name of the exported snapshot.
            frozen: the tables of the backup, and those left out.
            lost: what cannot be restored without the tables left out.
            lock_timeout: milliseconds to wait for a table's lock.

        Returns:
            The table of contents, the other files of the archive, warnings.
        """
        job, source = self.job, self.source
        folder = job.scratch / "archive"
        shutil.rmtree(folder, ignore_errors=True)
        rules = job.scratch / "filters"
        lines = [b"exclude table_data " + t.quoted for t in [*frozen.tables, *frozen.unread]]
        left_out = [*(t.quoted for t in frozen.left_out), *lost.views]
        lines += [b"exclude table " + name for name in left_out]
        rules.write_bytes(b"\n".join(lines) + b"\n")
        options = ["-Fd", f"-Zzstd:{source.compression_level}", "--no-sync", "--no-password"]
        if not source.with_data:
            options.append("--schema-only")
        arguments = [
            *("pg_dump", *options, f"--snapshot={snapshot}", f"--filter={rules}"),
            f"--lock-wait-timeout={lock_timeout}",
            *("--file", str(folder), "--dbname", programs.dsn(self.connection, job.scratch)),
        ]
        messages: list[str] = []
        programs.run(self.children, self.connection, arguments, job.remaining, messages)
        # Circular foreign keys matter to a restore of rows alone; ours switches triggers off.
        warnings = [line for line in messages if "circular foreign-key" not in line]
        files = sorted(p for p in folder.iterdir() if p.name != "toc.dat")
        return toc.read((folder / "toc.dat").read_bytes()), files, warnings

    def globals(self, database: str, warnings: list[str]) -> list[BytesStream]:
        """Dump roles and tablespaces, which belong to the server and not to the database.

        A failure is added to the warnings: the backup is whole without them.
        """
        if not (self.source.globals and self.source.with_schema):
            return []
        dsn = programs.dsn(self.connection, self.job.scratch)
        options = ["--globals-only", "--no-role-passwords", "--no-password"]
        arguments = ["pg_dumpall", *options, "--database", database, "--dbname", dsn]
        try:
            script = programs.run(self.children, self.connection, arguments, self.job.remaining)
        except StepvaultError as error:
            warnings.append(f"globals.sql is left out: {error.message}")
            return []
        return [BytesStream("globals.sql", script)]
