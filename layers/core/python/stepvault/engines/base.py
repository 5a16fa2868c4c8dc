"""What an engine promises to the path, and the path to an engine.

An engine knows one kind of source. It reads that source as *streams* of bytes under one
consistent *snapshot* and puts them back; it knows nothing of S3, Lambda, AWS or Stepvault's
keys. The path (``backup.py``, ``restore.py``) compresses, hashes, uploads, downloads and
verifies. All engines pass one contract suite, ``tests/engines/contract.py``.

Backup: ``open(job)`` connects, freezes a consistent view and checks that it can be read in
full. The path then reads every stream of ``snapshot.streams()``, up to ``snapshot.parallel``
at a time, each wholly in one thread, then those of ``snapshot.closing()`` one after another,
and leaves the ``with`` block. An engine raises rather than ends short: a child's exit code,
the server's completion tag and the count of rows are checked before a stream ends.

Restore: ``plan_restore`` looks at the target (refusing one that holds data) and cuts the work
into tasks; ``restore`` does one of them. Bytes come through ``job.read``, which raises
``BackupTampered`` at the end of a stream that does not match its hashes: an engine makes
nothing of a stream final (commit, rename) before its iterator has ended.

Errors are those of ``stepvault.errors``; anything else an engine lets out is a bug.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from stepvault.buffers import END_FRAME as END_FRAME  # noqa: PLC0414 - part of the contract
from stepvault.buffers import Buffer as Buffer  # noqa: PLC0414
from stepvault.buffers import EndFrame as EndFrame  # noqa: PLC0414
from stepvault.records import RestoreOptions, RestoreTask, StoredObject, Unrestored

#: The id of the only unit of a source that is not split.
WHOLE = "0000"


@dataclass(frozen=True)
class Connection:
    """Resolved address and credentials of a database server. Not printed."""

    host: str
    port: int | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    database: str | None = None
    tls: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] = "prefer"
    tls_ca: str | None = None
    connect_timeout: int = 10
    """Seconds."""


class ObjectReader(Protocol):
    """Reads S3 objects that are sources, so that engines need no AWS library.

    Every method raises SourceMissing, SourceDenied or SourceUnreachable.
    """

    def list(self, bucket: str, prefix: str) -> "Iterator[ObjectEntry]":
        """Yield every object under the prefix, in key order."""
        ...

    def read(
        self,
        bucket: str,
        key: str,
        etag: str | None = None,
        part: tuple[int, int] | None = None,
        properties: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> Iterator[bytes]:
        """Yield the object's bytes, or those from one offset up to another.

        Args:
            bucket: its bucket.
            key: its key.
            etag: the ETag that it has to have.
            part: offsets of the first byte and after the last.
            properties: told, before the first bytes, what else the object has (as S3's API names
                it, JSON): ``ContentType``, ``Metadata``, ``Tags``, ``StorageClass``, … ``Tags`` is
                None if they may not be read.

        Raises:
            SourceChanged: its ETag is no longer the one given.
        """
        ...


class ObjectStore(ObjectReader, Protocol):
    """Also writes objects, for restores into a bucket.

    Every method raises TargetMissing, SourceDenied, SourceBusy or SourceUnreachable.
    """

    def write(
        self,
        bucket: str,
        key: str,
        chunks: Iterable[Buffer],
        size: int,
        properties: Mapping[str, Any],
    ) -> None:
        """Store an object of that many bytes; none is stored if ``chunks`` raises.

        ``properties`` are those that ``read`` tells.
        """
        ...

    def delete(self, bucket: str, key: str) -> None:
        """Remove an object, if it is there."""
        ...


@dataclass(frozen=True)
class ObjectEntry:
    """One object of a bucket."""

    key: str
    size: int
    etag: str
    modified: float
    """Unix time in seconds."""


@dataclass(frozen=True)
class PlanJob:
    """One source to cut into units."""

    source: Any
    batch_bytes: int = 1 << 30
    batch_files: int = 50_000
    previous: "Previous | None" = None
    """The newest sealed backup of the same source, if there is one."""
    buckets: ObjectReader | None = None


@dataclass(frozen=True)
class Previous:
    """An earlier backup that a new one may build on."""

    run_id: str
    config: Mapping[str, Any]
    """The source's settings at that time."""
    objects: Sequence[StoredObject]
    read: Callable[[StoredObject], Iterator[bytes]]
    """The raw bytes of an object, verified at the end."""


@dataclass(frozen=True)
class UnitDraft:
    """One unit, before it has keys."""

    id: str
    """Unique within the source, safe as a key segment."""
    listing: Iterable[bytes] | None = None
    """What the unit needs to know, opaque to all but the engine; stored as it is."""
    estimated_bytes: int = 0
    estimated_files: int = 0


@dataclass(frozen=True)
class Job:
    """One unit to back up."""

    source: Any
    """The source's settings, of the engine's own model."""
    connection: Connection | None = None
    """Where to connect; None for engines that read files."""
    listing: Iterable[bytes] | None = None
    """What ``plan`` wrote for this unit, in chunks of any size; None means the whole source."""
    connections: int = 1
    """How many streams may be read in parallel."""
    scratch: Path = Path("/tmp")
    """An empty folder for small temporary files; removed afterwards."""
    remaining: Callable[[], float] = lambda: float("inf")
    """Seconds left before the path gives up."""
    buckets: "ObjectReader | None" = None
    """For sources that are objects in S3."""


class Stream(Protocol):
    """One object to be."""

    name: str
    """Path below the backup's data folder, with the suffix of its encoding (``.zst``)."""
    encoding: Literal["zstd", "none"]
    """zstd: the path compresses; none: stored as it is."""

    def read(self) -> Iterator[Buffer | EndFrame]:
        """Yield the raw bytes, in order; called once."""
        ...

    def result(self) -> "Counts":
        """Return what was read; called once, after ``read`` has ended."""
        ...


@dataclass(frozen=True)
class Counts:
    """What a stream held."""

    rows: int | None = None
    files: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Kept with the object (small, JSON)."""


@dataclass(frozen=True)
class Stored:
    """A stream that is now an object."""

    object: StoredObject
    frames: Sequence[tuple[int, int]] = ()
    """(raw offset, stored offset) where each zstd frame starts; only if frames were asked for."""


class Snapshot(Protocol):
    """A consistent view of a source, held while its streams are read."""

    parallel: int
    """Streams that may be read at a time; at most ``job.connections``."""
    facts: dict[str, Any]
    """What is known of the source: server version, snapshot, position (small, JSON)."""
    warnings: list[str]
    """What the person should know though the backup is whole; may grow while reading."""
    references: Sequence[StoredObject]
    """Objects of earlier runs (``run_id`` set) that this backup builds on; mostly empty."""

    def streams(self) -> Iterator[Stream]:
        """Yield the streams, largest first; consumed by several threads under a lock."""
        ...

    def closing(self, stored: Sequence[Stored]) -> Iterator[Stream]:
        """Streams that describe the others (an index, a table of contents), stored last."""
        ...

    def cancel(self) -> None:
        """Make every blocked ``read`` raise soon; called from another thread when time is up."""
        ...


@dataclass(frozen=True)
class RestoreJob:
    """One restore, as the engine sees it; the same for planning and for every task."""

    source: Any
    """The source's settings as they were at the backup."""
    objects: Sequence[StoredObject]
    """Every object of the backup."""
    facts: Sequence[Mapping[str, Any]]
    """The engine's facts, one mapping per unit."""
    read: Callable[[StoredObject], Iterator[bytes]]
    """The raw bytes of an object; raises ``BackupTampered`` at the end if they are not what was stored."""
    read_range: Callable[[StoredObject, int, int], bytes]
    """Stored bytes [start, end) of an object, for engines that keep an index."""
    connection: Connection | None = None
    path: Path | None = None
    """Where to restore to, for engines that write files."""
    bucket: str | None = None
    """Where to restore to instead, as ``s3://bucket/prefix``, for engines that write objects."""
    buckets: ObjectStore | None = None
    """Writes there."""
    connections: int = 1
    scratch: Path = Path("/tmp")
    options: RestoreOptions = RestoreOptions()
    remaining: Callable[[], float] = lambda: float("inf")
    progress: Callable[[str, int], None] = lambda what, done: None
    """Told of each further piece: the object's name and how many raw bytes more were put back."""
    unrestored: Callable[[Unrestored], None] = lambda what: None
    """Told of each thing that ``options.keep_going`` or ``options.without`` left out."""
    not_compared: Callable[[str], None] = lambda what: None
    """Told by ``differences`` of each kind of thing that it does not look at."""


class Engine(Protocol):
    """One kind of source."""

    def plan(self, job: PlanJob) -> Iterator[UnitDraft]:
        """Cut the source into units; databases are one unit (``WHOLE``)."""
        ...

    def open(self, job: Job) -> AbstractContextManager[Snapshot]:
        """Connect and freeze a consistent view.

        Raises:
            SourceMissing, SourceDenied, SourceUnreachable, SourceBusy, SourceUnsupported,
            SourceCorrupt: with a message that names the thing and the fix.
        """
        ...

    def plan_restore(self, job: RestoreJob) -> list[RestoreTask]:
        """Check the target and cut the restore into tasks; writes nothing but an empty database.

        Raises:
            TargetMissing, TargetNotEmpty, SourceDenied, SourceUnreachable.
        """
        ...

    def restore(self, job: RestoreJob, task: RestoreTask) -> Counts:
        """Do one task; idempotent, so that a retry after a crash is safe."""
        ...

    def differences(self, job: RestoreJob) -> list[str]:
        """Compare what was restored with what the backup's receipts say of its content.

        One line per difference; empty when all is equal.
        """
        ...
