"""Directory trees and buckets as ``.tar.zst`` packs with an index.

``plan`` walks the source and deals it out into units (``walk``, ``plan``); a unit becomes packs
and an index (``directory`` or ``bucket`` read, ``pack`` writes); ``restore`` puts them back and
``compare`` proves it. docs/format.md describes the packs, decision 0004 the incremental backup.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from stepvault.engines.base import Counts, Job, PlanJob, RestoreJob, Snapshot, UnitDraft
from stepvault.engines.files import compare
from stepvault.engines.files import plan as planning
from stepvault.engines.files import restore as restoring
from stepvault.engines.files.unit import open_unit
from stepvault.errors import Permanent, SourceCorrupt, SourceDenied, SourceUnsupported
from stepvault.records import RestoreTask


class FilesEngine:
    """See ``engines.base.Engine``."""

    def plan(self, job: PlanJob) -> Iterator[UnitDraft]:
        with _explained(f"{job.source.path!r} cannot be walked", SourceCorrupt):
            yield from planning.plan(job)

    @contextmanager
    def open(self, job: Job) -> Iterator[Snapshot]:
        with (
            _explained(f"{job.source.path!r} cannot be read", SourceCorrupt),
            open_unit(job) as snapshot,
        ):
            yield snapshot

    def plan_restore(self, job: RestoreJob) -> list[RestoreTask]:
        with _explained(f"{str(job.path)!r} cannot be restored to", SourceDenied):
            return restoring.plan_restore(job)

    def restore(self, job: RestoreJob, task: RestoreTask) -> Counts:
        with _explained(f"{str(job.path)!r} cannot be written to", SourceDenied):
            return restoring.restore(job, task)

    def differences(self, job: RestoreJob) -> list[str]:
        with _explained(f"{str(job.path)!r} cannot be compared", SourceDenied):
            return compare.differences(job)


@contextmanager
def _explained(what: str, kind: type[Permanent]) -> Iterator[None]:
    """Turn what the system says, where nothing closer to it knows better, into our errors."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise SourceUnsupported(
                f"{what}: there is no room left, there or for temporary files",
                "Make room; a function's temporary files need more ephemeral storage",
            ) from error
        raise kind(f"{what} ({error.strerror or error})", "Check the file system") from error


engine = FilesEngine()
