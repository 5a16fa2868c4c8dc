"""Directory trees and buckets as ``.tar.zst`` packs with an index.

``plan`` walks the source and deals it out into units (``walk``, ``plan``); a unit becomes packs
and an index (``directory`` or ``bucket`` read, ``pack`` writes); ``restore`` puts them back and
``compare`` proves it. docs/format.md describes the packs, decision 0004 the incremental backup.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from stepvault.engines.base import Counts, Job, PlanJob, RestoreJob, Snapshot, UnitDraft
from stepvault.engines.files import compare
from stepvault.engines.files import plan as planning
from stepvault.engines.files import restore as restoring
from stepvault.engines.files.unit import open_unit
from stepvault.models import RestoreTask


class FilesEngine:
    """See ``engines.base.Engine``."""

    def plan(self, job: PlanJob) -> Iterator[UnitDraft]:
        return planning.plan(job)

    @contextmanager
    def open(self, job: Job) -> Iterator[Snapshot]:
        with open_unit(job) as snapshot:
            yield snapshot

    def plan_restore(self, job: RestoreJob) -> list[RestoreTask]:
        return restoring.plan_restore(job)

    def restore(self, job: RestoreJob, task: RestoreTask) -> Counts:
        return restoring.restore(job, task)

    def differences(self, job: RestoreJob) -> list[str]:
        return compare.differences(job)


engine = FilesEngine()
