"""Opening one unit of a source."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from stepvault.engines.base import WHOLE, Job, ObjectReader, Snapshot
from stepvault.engines.files import bucket, listing, plan
from stepvault.engines.files.bucket import BucketReader
from stepvault.engines.files.carried import CarriedUnit
from stepvault.engines.files.directory import AheadReader, DirectoryReader
from stepvault.engines.files.notes import Notes
from stepvault.engines.files.pack import PackedUnit
from stepvault.engines.files.tree import ROOT, Tree
from stepvault.engines.mounts import is_network
from stepvault.errors import SourceUnsupported
from stepvault.settings import FilesSource


@contextmanager
def open_unit(job: Job) -> Iterator[Snapshot]:
    """The snapshot of a unit; without a listing, of the whole source.

    Raises:
        SourceMissing, SourceDenied: the root cannot be read.
    """
    source: FilesSource = job.source
    head: listing.Head | None = None
    chunks: Iterator[bytes] = iter(())
    if job.listing is not None:
        head, chunks = listing.open_listing(job.listing)
        if head.carried:
            yield CarriedUnit(head, chunks)
            return
    if source.path.startswith(bucket.SCHEME):
        yield _of_bucket(job, head, chunks)
    else:
        # Held open so that a root that is not there is told before anything is stored.
        with Tree(source.path, follow=source.follow_symlinks) as tree:
            yield _of_directory(job, head, chunks, tree)


def _of_directory(
    job: Job, head: listing.Head | None, chunks: Iterator[bytes], tree: Tree
) -> Snapshot:
    source: FilesSource = job.source
    notes = Notes()
    far = is_network(os.fstat(tree.directory(ROOT)).st_dev)
    reader = AheadReader if far else DirectoryReader
    return PackedUnit(
        head or listing.Head(unit=WHOLE),
        listing.records(chunks) if head else plan.whole(source, tree, notes),
        lambda: reader(source, notes),
        notes,
        facts={"path": source.path},
    )


def _of_bucket(job: Job, head: listing.Head | None, chunks: Iterator[bytes]) -> Snapshot:
    source: FilesSource = job.source
    notes = Notes()
    if job.buckets is None:
        raise SourceUnsupported(f"{source.path!r} cannot be read without access to S3")
    buckets: ObjectReader = job.buckets
    everything = (bucket.object_record(e)[:-1] for e in bucket.objects(source, buckets, notes))
    return PackedUnit(
        head or listing.Head(unit=WHOLE),
        listing.records(chunks) if head else everything,
        lambda: BucketReader(source, buckets, notes),
        notes,
        facts={"path": source.path},
    )
