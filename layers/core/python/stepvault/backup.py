"""THE PATH: one unit of a source becomes objects in the vault and a receipt.

::

    engine.stream → zstd → parts → S3 → receipt

Each stream is pulled through the chain by one thread, so a slow S3 slows the source. An error
in any thread leaves this module only after every open upload has been aborted and a failure
record has been written.
"""

import errno
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from stepvault import __version__, engines, keys, secrets
from stepvault.buckets import Buckets
from stepvault.catalog import Vault
from stepvault.claim import Claim, Overtaken
from stepvault.compress import FRAME, Compressor, Plain
from stepvault.deadline import Deadline
from stepvault.engines.base import Buffer, EndFrame, Job, Snapshot, Stored, Stream
from stepvault.errors import (
    OutOfTime,
    ScratchFull,
    ShortRead,
    SourceMissing,
    SourceUnreachable,
    StepvaultError,
    StorageUnavailable,
)
from stepvault.governor import Governor
from stepvault.memory import keep_buffers, settle_memory
from stepvault.multipart import Upload
from stepvault.profiling import Meter, Watch
from stepvault.records import Failure, Profile, Receipt, StoredObject, Unit
from stepvault.settings import DatabaseSettings

#: The cores of the largest function; more helpers than that would only need memory.
_MOST_CORES = 6
#: What a stage's time was spent on, for messages.
_SPENT = {"source": "waiting for the source", "cpu": "compression", "network": "waiting for S3"}


@dataclass(frozen=True)
class Limits:
    """What a unit may use; the defaults suit a terminal."""

    connections: int = 3
    """Streams read at a time, where the source does not say."""
    inflight: int = 2
    """Parts of one stream that are uploaded at a time; several streams at once get one each."""


def back_up(
    unit: Unit,
    vault: Vault,
    deadline: Deadline | None = None,
    governor: Governor | None = None,
    limits: Limits | None = None,
) -> Receipt:
    """Store one unit and return its receipt; a unit that is stored already is left alone.

    If two invocations work on one unit (the function of a stopped run goes on beside its
    successor's), the one that began last stores it: the other cannot write any more, and returns
    that receipt if it is there by then.

    Raises:
        StepvaultError: nothing of the unit counts as backed up; no upload is left open.
    """
    deadline, governor, limits = deadline or Deadline(), governor or Governor(), limits or Limits()
    claim = Claim(unit, vault.within(deadline))
    try:
        claim.take()
    except Overtaken as overtaken:
        return overtaken.receipt
    settle_memory()
    started = datetime.now(UTC)
    path = _Path(unit, claim, deadline, governor, limits.inflight)
    try:
        try:
            if unit.unplanned:
                raise _unplanned(unit)
            receipt = deadline.call(
                lambda: _store_unit(path, started, deadline, governor, limits), path.give_up
            )
        except SourceMissing as error:
            if not unit.source.optional:
                raise
            receipt = _receipt(unit, started, skipped=str(error))
        claim.turn_into(receipt)
    except Overtaken as overtaken:
        return overtaken.receipt
    except BaseException as error:
        if isinstance(error, StepvaultError) and (done := claim.stored_by_another()):
            return done
        _record_failure(unit, vault.within(deadline.for_cleanup()), error)
        raise
    return receipt


def _store_unit(
    path: "_Path", started: datetime, deadline: Deadline, governor: Governor, limits: Limits
) -> Receipt:
    unit = path.unit
    engine = engines.find(unit.source.engine)
    with tempfile.TemporaryDirectory(prefix="stepvault-") as scratch:
        try:
            job = _job(unit, path.vault, deadline, limits, Path(scratch))
            with engine.open(job) as snapshot:
                stored = path.store_all(snapshot)
                facts, warnings = snapshot.facts, snapshot.warnings
                references = list(snapshot.references)
                path.doing = "the source was being closed"
            if not stored and not references:
                raise ShortRead(f"Nothing of {unit.source.name}/{unit.id} was read")
        except OSError as error:
            raise _of_scratch(error, unit, scratch) from error
        except StepvaultError as error:
            # What S3 did not answer is tried again; everything else was cut off by the deadline.
            if deadline.expired and not isinstance(error, StorageUnavailable):
                raise path.out_of_time() from error
            raise
    return _receipt(
        unit,
        started,
        objects=[s.object for s in stored] + references,
        facts=facts,
        warnings=warnings,
        profile=path.meter.profile(governor.sample(), governor.throttled),
    )


def _of_scratch(error: OSError, unit: Unit, scratch: str) -> Exception:
    """Return the error of ours for a full scratch folder; any other error as it is."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    return ScratchFull(
        f"{unit.source.name}/{unit.id} needs more temporary storage than there is in {scratch} "
        f"({error.strerror})",
        "On AWS raise limits.ephemeral_mb for the engine; elsewhere free space there, or set TMPDIR",
    )


def _job(unit: Unit, vault: Vault, deadline: Deadline, limits: Limits, scratch: Path) -> Job:
    connection, connections = None, limits.connections
    if isinstance(unit.source, DatabaseSettings):
        connection = secrets.resolve(unit.source.connection)
        connections = unit.source.connections or connections
    return Job(
        source=unit.source,
        connection=connection,
        listing=vault.listing(unit.listing) if unit.listing else None,
        connections=connections,
        scratch=scratch,
        remaining=deadline.remaining,
        buckets=Buckets(deadline),
    )


class _Path:
    """The chain for the streams of one unit: they share an upload pool and stop together."""

    def __init__(
        self, unit: Unit, claim: Claim, deadline: Deadline, governor: Governor, inflight: int
    ) -> None:
        self.unit = unit
        self.vault = claim.vault
        self.meter = Meter()
        self.doing = "the source was being opened"
        """What is waited for; for the message when it does not end."""
        self._claim = claim
        self._deadline = deadline
        self._governor = governor
        self._inflight = inflight
        self._failed: BaseException | None = None
        self._bytes = 0
        self._uploads: set[Upload] = set()

    def store_all(self, snapshot: Snapshot) -> list[Stored]:
        """Every stream of the snapshot, in parallel, then the closing ones in order."""
        self.doing = "the source was being read"
        parallel = max(1, snapshot.parallel)
        inflight = self._inflight if parallel == 1 else 1
        if parallel == 1:
            keep_buffers()
        cores = min(os.process_cpu_count() or 1, _MOST_CORES)
        helpers = cores if parallel == 1 and cores > 1 else 0
        with (
            ThreadPoolExecutor(parallel * inflight, thread_name_prefix="upload") as uploads,
            ThreadPoolExecutor(cores, thread_name_prefix="compress") as compressors,
            self._deadline.watch(snapshot.cancel),
        ):

            def store(stream: Stream) -> Stored:
                encoder: Compressor | Plain = Plain()
                if stream.encoding == "zstd":
                    level = self.unit.source.compression_level
                    # Several streams keep the cores busy on their own, and share the memory.
                    frame = FRAME if parallel == 1 else FRAME // 2
                    encoder = Compressor(level, compressors if helpers else None, helpers, frame)
                return self._store(stream, encoder, uploads, inflight)

            stored = self._in_parallel(snapshot, store, parallel)
            for stream in snapshot.closing(stored):
                stored.append(store(stream))
            return stored

    def _in_parallel(
        self, snapshot: Snapshot, store: Callable[[Stream], Stored], parallel: int
    ) -> list[Stored]:
        streams, lock, stored = snapshot.streams(), threading.Lock(), list[Stored]()

        def work() -> None:
            try:
                while self._failed is None:
                    with lock:
                        stream = next(streams, None)
                    if stream is None:
                        return
                    stored.append(store(stream))
            except BaseException as error:  # raised again by the caller
                if self._failed is None:
                    self._failed = error
                    snapshot.cancel()  # the others would read on for nothing

        workers = [threading.Thread(target=work, name=f"stream-{n}") for n in range(parallel)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if self._failed is not None:
            raise self._failed
        return stored

    def _store(
        self,
        stream: Stream,
        encoder: Compressor | Plain,
        uploads: ThreadPoolExecutor,
        inflight: int,
    ) -> Stored:
        """One stream, pulled through the chain: read, compress, upload."""
        meter, began, raw = self.meter, perf_counter(), hashlib.sha256()
        size = 0
        with self._upload(stream.name, uploads, inflight) as upload:
            for chunk in self._read(stream):
                watch = Watch()
                if not isinstance(chunk, EndFrame):
                    raw.update(chunk)
                    size += len(chunk)
                ready = encoder.feed(chunk)
                meter.compress.add(sum(map(len, ready)), *watch.split())
                for piece in ready:
                    upload.write(piece)
            watch = Watch()
            ready = encoder.finish()
            meter.compress.add(sum(map(len, ready)), *watch.split())
            for piece in ready:
                upload.write(piece)
            counts = stream.result()
            done = upload.complete()
        return Stored(
            StoredObject(
                name=stream.name,
                raw_bytes=size,
                stored_bytes=done.bytes,
                raw_sha256=raw.hexdigest(),
                stored_sha256=done.sha256,
                etag=done.etag,
                encoding=stream.encoding,
                parts=done.parts,
                seconds=perf_counter() - began,
                rows=counts.rows,
                files=counts.files,
                facts=dict(counts.facts),
            ),
            encoder.frames,
        )

    @contextmanager
    def _upload(self, name: str, pool: ThreadPoolExecutor, inflight: int) -> Iterator[Upload]:
        """Open the upload of a data object and keep it in mind until it has ended."""
        key = keys.data(self.unit.source.name, self.unit.run_id, name)
        with Upload(
            self.vault.bucket,
            key,
            pool,
            inflight,
            self._governor,
            self.meter.upload,
            self._claim.condition(name),
            self._deadline,
        ) as upload:
            self._uploads.add(upload)
            try:
                yield upload
            finally:
                self._uploads.discard(upload)

    def _read(self, stream: Stream) -> Iterator[Buffer | EndFrame]:
        """Yield the stream's chunks, timed and counted, until time is up or a sibling has failed."""
        chunks = stream.read()
        while True:
            watch, size = Watch(), 0
            try:
                chunk = next(chunks, None)
                size = 0 if chunk is None or isinstance(chunk, EndFrame) else len(chunk)
            finally:  # also what was waited for in vain
                self.meter.read.add(size, *watch.split())
            if chunk is None:
                return
            self._bytes += size
            if self._deadline.expired:
                raise self.out_of_time()
            if self._failed is not None:
                raise self._failed
            yield chunk

    def give_up(self) -> StepvaultError:
        """Abort all uploads of a thread that does not end, and return why it was given up."""
        self._failed = error = self._stuck()
        for upload in [*self._uploads]:
            upload.abort()
        return error

    def _stuck(self) -> StepvaultError:
        unit = self.unit
        return SourceUnreachable(
            f"{unit.source.name}/{unit.id} got no answer while {self.doing}: the time was up after "
            f"{self._deadline.elapsed():,.0f} s with {self._bytes / 1e6:,.0f} MB read",
            "See whether the source's server or file system answers other clients",
        )

    def out_of_time(self) -> OutOfTime:
        """Return the error that says how far the unit got."""
        unit = self.unit
        of = f" of about {unit.estimated_bytes / 1e6:,.0f} MB" if unit.estimated_bytes else ""
        return OutOfTime(
            f"{unit.source.name}/{unit.id} ran out of time after {self._deadline.elapsed():,.0f} s,"
            f" most of them spent on {_SPENT[self.meter.bottleneck]},"
            f" with {self._bytes / 1e6:,.0f} MB{of} read",
            "Give it more connections or memory (limits), filter or split the source, "
            "or lower limits.batch_bytes",
        )


def _receipt(
    unit: Unit,
    started: datetime,
    objects: Sequence[StoredObject] = (),
    facts: dict[str, Any] | None = None,
    warnings: Sequence[str] = (),
    skipped: str | None = None,
    profile: Profile | None = None,
) -> Receipt:
    return Receipt(
        tool_version=__version__,
        run_id=unit.run_id,
        source=unit.source.name,
        engine=unit.source.engine,
        unit=unit.id,
        started=started,
        ended=datetime.now(UTC),
        objects=list(objects),
        facts=facts or {},
        warnings=list(warnings),
        skipped=skipped,
        profile=profile or Profile(),
    )


def _unplanned(unit: Unit) -> OutOfTime:
    return OutOfTime(
        f"Planning {unit.source.name} was cut off: its function ran out of time or memory, as the "
        "log of plan_source says",
        f"Raise limits.memory.{unit.source.engine}, leave folders out, or make several sources of "
        "it; then finish the run, which plans it again",
    )


def _record_failure(unit: Unit, vault: Vault, error: BaseException) -> None:
    """Record why the unit failed; the error itself is raised whether or not this works."""
    failure = Failure(
        source=unit.source.name,
        unit=unit.id,
        error=type(error).__name__,
        message=str(error),
        at=datetime.now(UTC),
    )
    with suppress(StepvaultError):
        vault.put_failure(unit.run_id, failure)
