"""PostgreSQL: a stock directory archive, its rows read in parallel under one snapshot.

Backup: ``freeze`` takes one consistent ``snapshot``, whose ``streams`` the path reads; ``dump``
runs pg_dump, ``filters`` finds what cannot stay without the tables left out, ``facts`` describes
the source. Restore: ``restore`` cuts the work into tasks, with ``selection``, ``target``,
``progress`` and ``post_data``. ``verify`` compares, with ``extension_tables`` for extensions' own.
All stand on ``session`` (connections), ``programs`` (pg_dump and its kin), ``reader`` (COPY),
``tables`` (the catalog), ``toc`` (the archive's table of contents), ``errors`` (PostgreSQL's errors
as ours).
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager

from stepvault.engines.base import (
    WHOLE,
    Counts,
    Engine,
    Job,
    PlanJob,
    RestoreJob,
    Snapshot,
    UnitDraft,
)
from stepvault.engines.postgres import restore, verify
from stepvault.engines.postgres.freeze import open_snapshot
from stepvault.records import RestoreTask


class Postgres:
    """The engine; see ``engines.base.Engine``."""

    def plan(self, job: PlanJob) -> Iterator[UnitDraft]:  # noqa: ARG002
        """Plan one unit: a database is never split into several."""
        yield UnitDraft(WHOLE)

    def open(self, job: Job) -> AbstractContextManager[Snapshot]:
        """Freeze a consistent view of the database."""
        return open_snapshot(job)

    def plan_restore(self, job: RestoreJob) -> list[RestoreTask]:
        """Check the target and cut the restore into tasks."""
        return restore.plan(job)

    def restore(self, job: RestoreJob, task: RestoreTask) -> Counts:
        """Do one task of a restore."""
        return restore.do(job, task)

    def differences(self, job: RestoreJob) -> list[str]:
        """Compare a restored database with its backup."""
        return verify.differences(job)


engine: Engine = Postgres()

__all__ = ["engine"]
