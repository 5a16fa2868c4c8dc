"""THE PATH: one unit of a source becomes objects in the vault and a receipt.

::

    engine.stream → zstd → parts → S3 → receipt

Each stream is pulled through the chain by one thread, so a slow S3 slows the source. An error
in any thread leaves this module only after every open upload has been aborted and a failure
record has been written.
"""

import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from stepvault import __version__, engines, keys, secrets
from stepvault.buckets import Buckets
from stepvault.catalog import Listed, Vault, first_astray
from stepvault.compress import FRAME, Compressor, Plain
from stepvault.deadline import Deadline
from stepvault.engines.base import Buffer, EndFrame, Job, Snapshot, Stored, Stream
from stepvault.errors import OutOfTime, SourceMissing, StepvaultError
from stepvault.governor import Governor
from stepvault.memory import keep_buffers, settle_memory
from stepvault.multipart import Upload
from stepvault.profiling import Meter, Watch
from stepvault.records import Failure, Profile, Receipt, StoredObject, Unit
from stepvault.settings import DatabaseSettings

#: The cores of the largest function; more helpers than that would only need memory.
_MOST_CORES = 6


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
    """Store one unit whole and return its receipt; a unit that is stored already is left alone.

    Of two invocations at work on one unit (a stopped run's function goes on beside its
    successor's) the first to be done wins: the other writes no more and returns that receipt.

    Raises:
        StepvaultError: nothing of the unit counts as backed up; no upload is left open.
    """
    deadline, governor, limits = deadline or Deadline(), governor or Governor(), limits or Limits()
    rivals = _Rivals(unit, vault)
    if done := _stored_already(unit, vault):
        return done
    settle_memory()
    started = datetime.now(UTC)
    try:
        if unit.unplanned:
            raise _unplanned(unit)
        receipt = _store_unit(unit, vault, started, deadline, governor, limits, rivals)
    except _Overtaken as overtaken:
        return overtaken.receipt
    except SourceMissing as error:
        if not unit.source.optional:
            _record_failure(unit, vault, error)
            raise
        receipt = _receipt(unit, started, skipped=str(error))
    except BaseException as error:
        _record_failure(unit, vault, error)
        raise
    if done := rivals.receipt():
        return done
    vault.put_receipt(receipt)
    return receipt


class _Overtaken(Exception):  # no error: the unit is stored
    """Another invocation has stored the unit meanwhile."""

    def __init__(self, receipt: Receipt) -> None:
        super().__init__(receipt.unit)
        self.receipt = receipt


class _Rivals:
    """Other invocations of the same unit; made before anything else is looked at."""

    def __init__(self, unit: Unit, vault: Vault) -> None:
        self._unit = unit
        self._vault = vault
        self._known = self._look()

    def _look(self) -> Listed | None:
        unit = self._unit
        return self._vault.look(keys.receipt(unit.source.name, unit.run_id, unit.id))

    def receipt(self) -> Receipt | None:
        """Return the receipt of another invocation that is done by now.

        One that does not hold does not count: we had written over an object of theirs before
        they were done, so the rest must be ours too.
        """
        found = self._look()
        if found is None or found == self._known:
            return None
        if done := _stored_already(self._unit, self._vault):
            return done
        self._known = found
        return None

    def give_way(self) -> None:
        """Stop before an object of theirs is written over."""
        if done := self.receipt():
            raise _Overtaken(done)


def _store_unit(
    unit: Unit,
    vault: Vault,
    started: datetime,
    deadline: Deadline,
    governor: Governor,
    limits: Limits,
    rivals: _Rivals,
) -> Receipt:
    engine, meter = engines.find(unit.source.engine), Meter()
    with tempfile.TemporaryDirectory(prefix="stepvault-") as scratch:
        job = _job(unit, vault, deadline, limits, Path(scratch))
        path = _Path(unit, vault, deadline, governor, meter, limits.inflight, rivals)
        try:
            with engine.open(job) as snapshot:
                stored = path.store_all(snapshot)
                facts, warnings = snapshot.facts, snapshot.warnings
                references = list(snapshot.references)
        except StepvaultError as error:
            if deadline.expired and not isinstance(error, OutOfTime):
                raise path.out_of_time() from error
            raise
    return _receipt(
        unit,
        started,
        objects=[s.object for s in stored] + references,
        facts=facts,
        warnings=warnings,
        profile=meter.profile(governor.sample(), governor.throttled),
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
        buckets=Buckets(),
    )


class _Path:
    """The chain for the streams of one unit: they share an upload pool and stop together."""

    def __init__(
        self,
        unit: Unit,
        vault: Vault,
        deadline: Deadline,
        governor: Governor,
        meter: Meter,
        inflight: int,
        rivals: _Rivals,
    ) -> None:
        self._unit = unit
        self._vault = vault
        self._rivals = rivals
        self._deadline = deadline
        self._governor = governor
        self._meter = meter
        self._inflight = inflight
        self._failed: BaseException | None = None
        self._bytes = 0

    def store_all(self, snapshot: Snapshot) -> list[Stored]:
        """Every stream of the snapshot, in parallel, then the closing ones in order."""
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
                    level = self._unit.source.compression_level
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
        meter, began, raw = self._meter, perf_counter(), hashlib.sha256()
        key = keys.data(self._unit.source.name, self._unit.run_id, stream.name)
        bucket = self._vault.bucket
        size = 0
        with Upload(bucket, key, uploads, inflight, self._governor, meter.upload) as upload:
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
            done = upload.complete(self._rivals.give_way)
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

    def _read(self, stream: Stream) -> Iterator[Buffer | EndFrame]:
        """Yield the stream's chunks, timed and counted, until time is up or a sibling has failed."""
        chunks = stream.read()
        while True:
            watch = Watch()
            chunk = next(chunks, None)
            size = 0 if chunk is None or isinstance(chunk, EndFrame) else len(chunk)
            self._meter.read.add(size, *watch.split())
            if chunk is None:
                return
            self._bytes += size
            if self._deadline.expired:
                raise self.out_of_time()
            if self._failed is not None:
                raise self._failed
            yield chunk

    def out_of_time(self) -> OutOfTime:
        unit = self._unit
        of = f" of about {unit.estimated_bytes / 1e6:,.0f} MB" if unit.estimated_bytes else ""
        return OutOfTime(
            f"{unit.source.name}/{unit.id} ran out of time after {self._deadline.elapsed():,.0f} s"
            f" with {self._bytes / 1e6:,.0f} MB{of} read",
            "Give it more connections or memory (limits), filter or split the source, "
            "or lower limits.batch_bytes",
        )


def _stored_already(unit: Unit, vault: Vault) -> Receipt | None:
    """Return the unit's receipt, if all its objects are still there as they were stored."""
    receipt = vault.receipt(unit.source.name, unit.run_id, unit.id)
    if receipt is None:
        return None
    there = vault.stored_objects(unit.source.name, [unit.run_id])
    own = (o for o in receipt.objects if o.run_id is None)
    return None if first_astray(there, unit.run_id, own) else receipt


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
