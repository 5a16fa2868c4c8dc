"""SQLite: live databases, copied page by page under one commit while their writers go on.

A source is one file, a pattern that names many, or objects in S3. ``format = "file"`` stores
each database as the file it is (``zstd -d`` gives it back), ``"sql"`` as a script.
``snapshot.py`` tells how a database is held still, ``restore.py`` how it is put back.

On EFS: SQLite's locks work over NFS, so databases with a rollback journal are safe there. WAL
mode is not, as its users share memory: such a file is read only if nobody else has it open.
"""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from stepvault.engines.base import (
    WHOLE,
    Counts,
    Job,
    PlanJob,
    RestoreJob,
    Stored,
    Stream,
    UnitDraft,
)
from stepvault.engines.sqlite import restore, verify
from stepvault.engines.sqlite.discovery import (
    DatabaseFile,
    DatabaseObject,
    Found,
    find_files,
    find_objects,
    leave_out_others,
)
from stepvault.engines.sqlite.paths import is_object, is_pattern, object_names
from stepvault.engines.sqlite.snapshot import DatabaseSnapshot, freeze
from stepvault.engines.sqlite.streams import FileStream, ObjectStream
from stepvault.errors import SourceUnsupported, StepvaultError
from stepvault.records import RestoreTask, StoredObject
from stepvault.settings import SqliteSource


@dataclass
class SqliteSnapshot:
    """The databases of one source: a single one is frozen already, of many each while it is read."""

    parallel: int
    facts: dict[str, Any]
    warnings: list[str]
    references: Sequence[StoredObject] = ()
    _streams: list[Stream] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def streams(self) -> Iterator[Stream]:
        """Yield a stream per database, largest first."""
        return iter(self._streams)

    def closing(self, stored: Sequence[Stored]) -> Iterator[Stream]:  # noqa: ARG002
        """Yield nothing: no stream describes the others."""
        return iter(())

    def cancel(self) -> None:
        """Make every ``read`` raise OutOfTime soon."""
        self._stop.set()


class SqliteEngine:
    """See ``stepvault.engines.base.Engine``."""

    def plan(self, job: PlanJob) -> Iterator[UnitDraft]:
        """Make one unit; what cannot be listed here is reported when the source is opened."""
        found = Found()
        with suppress(StepvaultError):
            found = _find(job.source, job)
        databases = found.databases
        yield UnitDraft(
            WHOLE, estimated_bytes=sum(d.size for d in databases), estimated_files=len(databases)
        )

    @contextmanager
    def open(self, job: Job) -> Iterator[SqliteSnapshot]:
        """List the databases; freeze a single one now, each of many while its stream is read."""
        source: SqliteSource = job.source
        found = _find(source, job)
        if is_pattern(source.path):
            leave_out_others(found)
        databases = found.databases
        suffix = ".sql.zst" if source.format == "sql" else ".sqlite.zst"
        snapshot = SqliteSnapshot(
            parallel=max(1, min(job.connections, len(databases))),
            facts={
                "sqlite": sqlite3.sqlite_version,
                "databases": len(databases),
                "left_out": found.left_out,
            },
            warnings=found.warnings,
        )
        with ExitStack() as stack:
            names = object_names((d.relative for d in databases), suffix)
            for database, name in zip(databases, names, strict=True):
                snapshot._streams.append(self._stream(job, snapshot, database, name, stack))
            yield snapshot

    def _stream(
        self,
        job: Job,
        snapshot: SqliteSnapshot,
        database: DatabaseFile | DatabaseObject,
        name: str,
        stack: ExitStack,
    ) -> Stream:
        stop, warnings = snapshot._stop, snapshot.warnings
        if isinstance(database, DatabaseObject):
            return ObjectStream(name, database, stop, warnings)
        held: DatabaseSnapshot | None = None
        if not is_pattern(job.source.path):
            frozen = freeze(database.path, database.name, job.scratch, stop, warnings)
            held = stack.enter_context(frozen)
        return FileStream(name, database, job.source.format, job.scratch, stop, warnings, held)

    def plan_restore(self, job: RestoreJob) -> list[RestoreTask]:
        """See ``restore.plan_restore``."""
        return restore.plan_restore(job)

    def restore(self, job: RestoreJob, task: RestoreTask) -> Counts:
        """See ``restore.restore``."""
        return restore.restore(job, task)

    def differences(self, job: RestoreJob) -> list[str]:
        """See ``verify.differences``."""
        return verify.differences(job)


def _find(source: SqliteSource, job: Job | PlanJob) -> Found:
    if not is_object(source.path):
        return find_files(source.path, source.exclude)
    if source.format == "sql":
        raise SourceUnsupported(
            f'{source.path}: format = "sql" needs a file, not an object in S3',
            'set format = "file"',
        )
    if job.buckets is None:
        raise SourceUnsupported(f"{source.path} cannot be read here: no access to S3", "")
    return find_objects(source.path, job.buckets, source.exclude)


engine = SqliteEngine()
