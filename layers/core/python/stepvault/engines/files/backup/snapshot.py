"""Opening one unit of a source."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from stepvault.engines.base import WHOLE, Job, Snapshot
from stepvault.engines.files.backup import bucket_walk
from stepvault.engines.files.backup.ahead_reader import AheadReader
from stepvault.engines.files.backup.bucket_reader import BucketReader
from stepvault.engines.files.backup.directory_reader import DirectoryReader
from stepvault.engines.files.backup.pack import PackedUnit
from stepvault.engines.files.backup.unchanged import UnchangedUnit
from stepvault.engines.files.format import listing
from stepvault.engines.files.paths import ROOT
from stepvault.engines.files.tree.handles import Tree
from stepvault.engines.files.tree.walk import walk
from stepvault.engines.files.tree.warnings import Warnings
from stepvault.engines.mounts import is_network
from stepvault.engines.object_paths import is_bucket
from stepvault.errors import SourceUnsupported
from stepvault.settings import FilesSource


@contextmanager
def open_unit(job: Job) -> Iterator[Snapshot]:
    """Open a unit; without a listing, the whole source.

    Raises:
        SourceMissing, SourceDenied: the root cannot be read.
    """
    source: FilesSource = job.source
    head: listing.Head | None = None
    chunks: Iterator[bytes] = iter(())
    if job.listing is not None:
        head, chunks = listing.open_listing(job.listing)
        if head.unchanged:
            yield UnchangedUnit(head, chunks)
            return
    if is_bucket(source.path):
        yield _of_bucket(job, head, chunks)
    else:
        # Held open so that a root that is not there is told before anything is stored.
        with Tree(source.path, follow=source.follow_symlinks) as tree:
            yield _of_directory(job, head, chunks, tree)


def _of_directory(
    job: Job, head: listing.Head | None, chunks: Iterator[bytes], tree: Tree
) -> Snapshot:
    source: FilesSource = job.source
    warnings = Warnings()
    far = is_network(os.fstat(tree.directory(ROOT)).st_dev)
    reader = AheadReader if far else DirectoryReader
    everything = (listing.entry_record(e)[:-1] for e in walk(tree, source, warnings))
    return PackedUnit(
        head or listing.Head(unit=WHOLE),
        listing.records(chunks) if head else everything,
        lambda: reader(source, warnings),
        warnings,
        facts={"path": source.path},
    )


def _of_bucket(job: Job, head: listing.Head | None, chunks: Iterator[bytes]) -> Snapshot:
    source: FilesSource = job.source
    if (buckets := job.buckets) is None:
        raise SourceUnsupported(f"{source.path!r} cannot be read without access to S3")
    warnings = Warnings()
    objects = bucket_walk.objects(source, buckets, warnings)
    everything = (bucket_walk.object_record(e)[:-1] for e in objects)
    return PackedUnit(
        head or listing.Head(unit=WHOLE),
        listing.records(chunks) if head else everything,
        lambda: BucketReader(source, buckets, warnings),
        warnings,
        facts={"path": source.path},
    )
