"""PostgreSQL: a stock directory archive, its rows read in parallel under one snapshot.

``snapshot`` backs up, ``restore`` puts back, ``verify`` compares, with ``configuration``
for extensions' own tables. Below them: ``session`` (connections), ``programs`` (pg_dump and its kin),
``reader`` (COPY), ``tables`` (the catalog), ``toc`` (the archive's table of contents),
``failures`` (what PostgreSQL says, in our errors).
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
from stepvault.engines.postgres.snapshot import open_snapshot
from stepvault.records import RestoreTask


class Postgres:
    """See ``engines.base.Engine``."""

    def plan(self, job: PlanJob) -> Iterator[UnitDraft]:  # noqa: ARG002
        yield UnitDraft(WHOLE)

    def open(self, job: Job) -> AbstractContextManager[Snapshot]:
        return open_snapshot(job)

    def plan_restore(self, job: RestoreJob) -> list[RestoreTask]:
        return restore.plan(job)

    def restore(self, job: RestoreJob, task: RestoreTask) -> Counts:
        return restore.do(job, task)

    def differences(self, job: RestoreJob) -> list[str]:
        return verify.differences(job)


engine: Engine = Postgres()

__all__ = ["engine"]
