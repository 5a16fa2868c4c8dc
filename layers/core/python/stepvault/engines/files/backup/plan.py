"""Cutting a source into units; the walk, from top to bottom.

Everything large is laid aside on disk: what memory holds grows with the number of batches, not
with the number of files. The rooms, in order; none is entered twice:

1. ``plan``: opens the source and connects the other rooms
2. ``walk_process``: the walk in a process of its own, where there is a second core
3. ``tree.walk``: every entry, filtered, in one fixed order (of a bucket ``bucket_walk``)
4. ``parent``: which entries the previous backup holds as they are now
   (``same_content`` where files are compared by content)
5. ``unchanged``: their index lines are laid aside, the other entries go on
6. ``hard_links``: the names of one file are brought together
7. ``batches``: what is to be stored is dealt out into batches of equal size
8. ``units``: a listing for each batch, for the directories and for the unchanged lines, after a look
   at the ``mounts`` of the previous backup

Each unit is then stored by itself: ``snapshot`` opens it, ``directory_reader`` (or
``bucket_reader``) reads its entries, ``pack`` writes them and their index.
"""

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import batched

from stepvault.engines.base import PlanJob, UnitDraft
from stepvault.engines.files.backup import bucket_walk, units
from stepvault.engines.files.backup.batches import Batches, Record
from stepvault.engines.files.backup.hard_links import HardLinks
from stepvault.engines.files.backup.parent import parent_of
from stepvault.engines.files.backup.same_content import SameContent
from stepvault.engines.files.backup.unchanged import Unchanged
from stepvault.engines.files.backup.walk_process import walked
from stepvault.engines.files.format import listing
from stepvault.engines.files.tree.handles import Tree
from stepvault.engines.files.tree.walk import Entry
from stepvault.engines.files.tree.warnings import Warnings
from stepvault.engines.object_paths import is_bucket
from stepvault.settings import FilesSource

#: Objects of a bucket that are compared at a time.
_TOGETHER = 512


@dataclass(frozen=True)
class _Opened:
    """A source whose walk has begun."""

    entries: Iterable[list[Entry]]
    """In walk order, neighbours together."""
    record: Record
    content: SameContent | None = None
    """Compares by content, where the settings ask for that."""


def plan(job: PlanJob) -> Iterator[UnitDraft]:
    """Cut the source into units, the largest first.

    Raises:
        SourceMissing, SourceDenied: the root or a directory in it cannot be read.
    """
    warnings = Warnings()
    with closing(HardLinks()) as links:
        with _opened(job, warnings) as source:
            unchanged = Unchanged(parent_of(job, warnings), source.content, links)
            batches = Batches(job.batch_bytes, job.batch_files, source.record)
            batches.fill(unchanged.left_out_of(source.entries), links)
        unchanged.withdraw(links.withdrawn())
    yield from units.drafts(job.source, batches, unchanged, warnings)


@contextmanager
def _opened(job: PlanJob, warnings: Warnings) -> Iterator[_Opened]:
    """Begin the walk of a directory or a bucket."""
    source: FilesSource = job.source
    if is_bucket(source.path):
        objects = bucket_walk.objects(source, job.buckets, warnings)
        stretches = map(list, batched(objects, _TOGETHER, strict=False))
        yield _Opened(stretches, bucket_walk.object_record)
        return
    with Tree(source.path, follow=source.follow_symlinks) as tree:
        content = SameContent(tree) if source.compare == "content" else None
        with walked(tree, source, warnings) as entries:
            yield _Opened(entries, listing.entry_record, content)
