"""Directory trees and buckets as ``.tar.zst`` packs with an index.

Four floors, each standing on those below it only:

- ``backup`` (a source to packs; read ``backup/plan.py`` first) and ``restore`` (packs to a
  directory; ``restore/tasks.py``), which know nothing of each other;
- ``format``: tar members, indexes, listings, hashes;
- ``tree``: handles, the walk, patterns, attributes, holes;
- ``paths``, ``spool``, ``errors``.

docs/format.md describes the packs, decision 0004 the incremental backup.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from stepvault.engines.base import Counts, Job, PlanJob, RestoreJob, Snapshot, UnitDraft
from stepvault.engines.files.backup import plan
from stepvault.engines.files.backup.snapshot import open_unit
from stepvault.engines.files.errors import explained
from stepvault.engines.files.restore import tasks, verify
from stepvault.errors import SourceCorrupt, SourceDenied
from stepvault.records import RestoreTask


class FilesEngine:
    """See ``engines.base.Engine``."""

    def plan(self, job: PlanJob) -> Iterator[UnitDraft]:
        """Walk the source and deal out what it holds into units."""
        with explained(f"{job.source.path!r} cannot be walked", SourceCorrupt):
            yield from plan.plan(job)

    @contextmanager
    def open(self, job: Job) -> Iterator[Snapshot]:
        """Open one unit."""
        with (
            explained(f"{job.source.path!r} cannot be read", SourceCorrupt),
            open_unit(job) as snapshot,
        ):
            yield snapshot

    def plan_restore(self, job: RestoreJob) -> list[RestoreTask]:
        """Check the target; return a task for each pack that is needed and one for the end."""
        with explained(f"{_target(job)!r} cannot be restored to", SourceDenied):
            return tasks.plan_restore(job)

    def restore(self, job: RestoreJob, task: RestoreTask) -> Counts:
        """Do one task; any may be repeated."""
        with explained(f"{_target(job)!r} cannot be written to", SourceDenied):
            return tasks.restore(job, task)

    def differences(self, job: RestoreJob) -> list[str]:
        """Compare the directory with the backup's index."""
        with explained(f"{_target(job)!r} cannot be compared", SourceDenied):
            return verify.differences(job)


def _target(job: RestoreJob) -> str:
    return job.bucket or str(job.path)


engine = FilesEngine()
