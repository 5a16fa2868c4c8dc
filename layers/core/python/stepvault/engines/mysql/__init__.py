"""MySQL 5.7 to 9 and MariaDB 10.5 and later, over PyMySQL.

``connection`` (sessions, errors), ``inventory`` (what there is), ``snapshot`` (the same moment on
several connections), ``rows`` and ``definitions`` (data and schema as SQL), ``dump`` (the
streams), ``restore`` (tasks and proof), ``script`` (restoring without us).
"""

from collections.abc import Iterator
from contextlib import contextmanager

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
from stepvault.engines.mysql import restore
from stepvault.engines.mysql.dump import MySqlSnapshot
from stepvault.models import RestoreTask


class MySqlEngine:
    """See ``engines.base.Engine``."""

    def plan(self, job: PlanJob) -> Iterator[UnitDraft]:  # noqa: ARG002
        yield UnitDraft(WHOLE)

    @contextmanager
    def open(self, job: Job) -> Iterator[Snapshot]:
        snapshot = MySqlSnapshot(job)
        try:
            yield snapshot
        finally:
            snapshot.close()

    def plan_restore(self, job: RestoreJob) -> list[RestoreTask]:
        return restore.plan_restore(job)

    def restore(self, job: RestoreJob, task: RestoreTask) -> Counts:
        return restore.restore(job, task)

    def differences(self, job: RestoreJob) -> list[str]:
        return restore.differences(job)


engine: Engine = MySqlEngine()
