"""MySQL 5.7 to 9 and MariaDB 10.5 and later, over PyMySQL.

For both ways: ``errors`` (what the server's errors mean) and ``session`` (one connection).

Backup: ``inventory`` (databases, tables, columns), ``privileges`` (may the user see everything),
``consistency`` (several connections at the same moment), ``snapshot`` (the streams), ``contents`` (what
there is to store), ``definitions`` and ``programs`` (the schema as files), ``meaning`` (when two
definitions are the same), ``accounts`` (users and grants), ``ranges`` (cutting large tables), ``rows``
and ``wire`` (the data as files), ``script`` (restoring without Stepvault).

Restore: ``target`` (where to, and what goes there), ``preflight`` (what the target cannot take),
``restore`` (the tasks), ``load`` (rows), ``progress`` (what is done), ``verify`` (comparing).
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
from stepvault.engines.mysql import restore, verify
from stepvault.engines.mysql.snapshot import MySqlSnapshot
from stepvault.records import RestoreTask


class MySqlEngine:
    """See ``engines.base.Engine``."""

    def plan(self, job: PlanJob) -> Iterator[UnitDraft]:  # noqa: ARG002
        """Return one unit: a server is backed up as a whole."""
        yield UnitDraft(WHOLE)

    @contextmanager
    def open(self, job: Job) -> Iterator[Snapshot]:
        """Open the connections and freeze what they see."""
        snapshot = MySqlSnapshot(job)
        try:
            yield snapshot
        finally:
            snapshot.close()

    def plan_restore(self, job: RestoreJob) -> list[RestoreTask]:
        """Check the target and cut the restore into tasks."""
        return restore.plan_restore(job)

    def restore(self, job: RestoreJob, task: RestoreTask) -> Counts:
        """Do one task."""
        return restore.restore(job, task)

    def differences(self, job: RestoreJob) -> list[str]:
        """Compare the target with the backup."""
        return verify.differences(job)


engine: Engine = MySqlEngine()
