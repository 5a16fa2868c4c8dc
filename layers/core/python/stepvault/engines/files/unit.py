"""Opening one unit of a source."""

from collections.abc import Iterator
from contextlib import contextmanager

from stepvault.engines.base import WHOLE, Job, Snapshot
from stepvault.engines.files import listing, plan
from stepvault.engines.files.carried import CarriedUnit
from stepvault.engines.files.directory import DirectoryReader
from stepvault.engines.files.notes import Notes
from stepvault.engines.files.pack import PackedUnit
from stepvault.engines.files.tree import Tree
from stepvault.models import FilesSource


@contextmanager
def open_unit(job: Job) -> Iterator[Snapshot]:
    """The snapshot of a unit; without a listing, of the whole source.

    Raises:
        SourceMissing, SourceDenied: the root cannot be read.
    """
    source: FilesSource = job.source
    notes = Notes()
    with Tree(source.path, follow=source.follow_symlinks) as tree:
        if job.listing is None:
            head, records = listing.Head(unit=WHOLE), plan.whole(source, tree, notes)
        else:
            head, chunks = listing.open_listing(job.listing)
            if head.carried:
                yield CarriedUnit(head, chunks)
                return
            records = listing.records(chunks)
        yield PackedUnit(
            head,
            records,
            lambda: DirectoryReader(source, notes),
            notes,
            connections=job.connections,
            facts={"path": source.path},
        )
