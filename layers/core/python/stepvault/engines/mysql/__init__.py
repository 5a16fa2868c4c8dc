"""MySQL 5.7 to 9 and MariaDB 10.5 and later, over PyMySQL.

Reading: ``connection`` (sessions, errors), ``inventory`` (what there is), ``privileges`` (whether
all of it shows), ``snapshot`` (the same moment on several connections), ``contents`` and
``definitions`` (the schema as files), ``rows`` and ``wire`` (the data as files), ``ranges``
(cutting large tables), ``dump`` (the streams), ``script`` (restoring without us). Putting back:
``target``, ``restore``, ``proof``.
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
from stepvault.engines.mysql import proof, restore
from stepvault.engines.mysql.dump import MySqlSnapshot
from stepvault.records import RestoreTask


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
        return proof.differences(job)


engine: Engine = MySqlEngine()
