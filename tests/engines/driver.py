"""Drives any engine without S3: what the path does to streams, done to files in a folder.

``back_up`` plans a source and backs up every unit; ``backup_to_folder`` does one unit.
``restore_job`` and ``run_restore`` put the result back. Settings, facts, objects and tasks
travel through JSON here, as they do through S3.
"""

import hashlib
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import zstandard

from stepvault.engines.base import (
    Buffer,
    Counts,
    EndFrame,
    Engine,
    Job,
    PlanJob,
    Previous,
    RestoreJob,
    Snapshot,
    Stored,
    Stream,
)
from stepvault.errors import BackupTampered
from stepvault.records import RestoreTask, StoredObject

#: Told of every buffer read: the stream's name and the raw bytes so far.
Watch = Callable[[str, int], None]


@dataclass(frozen=True)
class Result:
    """What a receipt keeps of one unit."""

    objects: list[StoredObject]
    facts: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    references: list[StoredObject] = field(default_factory=list)


def back_up(
    engine: Engine,
    source: Any,
    folder: Path,
    *,
    plan: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
    **job: Any,
) -> list[Result]:
    """Plan the source and back up each of its units into folder, one after another.

    ``plan`` holds more fields of PlanJob (previous, buckets, batch sizes), the rest those of Job.
    """
    results = []
    for unit in engine.plan(PlanJob(source=source, **(plan or {}))):
        listing = None if unit.listing is None else iter([b"".join(unit.listing)])
        with tempfile.TemporaryDirectory() as scratch:
            one = Job(**{"source": source, "scratch": Path(scratch), "listing": listing} | job)
            results.append(backup_to_folder(engine, one, folder, watch=watch))
    return results


def backup_to_folder(
    engine: Engine, job: Job, folder: Path, *, level: int = 3, watch: Watch | None = None
) -> Result:
    """Back up one unit; on any error nothing of it stays in folder and the error goes on."""
    writer = _Writer(folder, level, watch)
    try:
        with engine.open(job) as snapshot:
            _store_all(snapshot, writer)
            for stream in snapshot.closing(list(writer.stored)):
                writer.store(stream)
            result = Result(
                [s.object for s in writer.stored],
                snapshot.facts,
                list(snapshot.warnings),
                list(snapshot.references),
            )
    except BaseException:
        writer.remove()
        raise
    return result


def _store_all(snapshot: Snapshot, writer: "_Writer") -> None:
    """Read the streams in up to ``snapshot.parallel`` threads; the first error stops them all."""
    streams, lock = snapshot.streams(), threading.Lock()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            while not errors:
                with lock:
                    stream = next(streams, None)
                if stream is None:
                    return
                writer.store(stream)
        except BaseException as error:
            errors.append(error)
            snapshot.cancel()

    threads = [threading.Thread(target=work) for _ in range(snapshot.parallel)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


class _Writer:
    """Compresses, hashes and writes streams below a folder."""

    def __init__(self, folder: Path, level: int, watch: Watch | None) -> None:
        self.folder, self.level, self.watch = folder, level, watch
        self.stored: list[Stored] = []
        self.paths: list[Path] = []

    def store(self, stream: Stream) -> None:
        path = _below(self.folder, stream.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        raw, stored = hashlib.sha256(), hashlib.sha256()
        raw_bytes = 0
        with path.open("xb") as file:
            self.paths.append(path)
            sink = _Sink(file.write, stored, self.level if stream.encoding == "zstd" else None)
            for item in stream.read():
                if isinstance(item, EndFrame):
                    sink.end_frame()
                    continue
                raw.update(item)
                raw_bytes += memoryview(item).nbytes
                sink.write(item)
                if self.watch:
                    self.watch(stream.name, raw_bytes)
            sink.close()
        counts = stream.result()
        stored_object = StoredObject(
            name=stream.name,
            raw_bytes=raw_bytes,
            stored_bytes=sink.stored_bytes,
            raw_sha256=raw.hexdigest(),
            stored_sha256=stored.hexdigest(),
            encoding=stream.encoding,
            rows=counts.rows,
            files=counts.files,
            facts=dict(counts.facts),
        )
        self.stored.append(Stored(stored_object, tuple(sink.frames) if sink.asked else ()))

    def remove(self) -> None:
        for path in self.paths:
            path.unlink()
            with suppress(OSError):  # holds the objects of other units
                path.parent.rmdir()


class _Sink:
    """One stored object: zstd frames, or bytes as they are when level is None."""

    def __init__(self, write: Callable[[bytes], Any], hasher: Any, level: int | None) -> None:
        self._write, self._hasher = write, hasher
        self._zstd = (
            None if level is None else zstandard.ZstdCompressor(level=level, write_checksum=True)
        )
        self._frame: Any = None
        self.raw_bytes = self.stored_bytes = 0
        self.frames: list[tuple[int, int]] = []
        self.asked = False

    def write(self, data: Buffer) -> None:
        if self._zstd is None:
            self._emit(bytes(data))
        else:
            if self._frame is None:
                self.frames.append((self.raw_bytes, self.stored_bytes))
                self._frame = self._zstd.compressobj()
            self._emit(self._frame.compress(data))
        self.raw_bytes += memoryview(data).nbytes

    def end_frame(self) -> None:
        self.asked = True
        if self._frame is not None:
            self._emit(self._frame.flush())
            self._frame = None

    def close(self) -> None:
        """An object without a frame is not zstd, so an empty stream gets an empty frame."""
        if self._zstd is not None and not self.frames:
            self.write(b"")
        if self._frame is not None:
            self._emit(self._frame.flush())

    def _emit(self, data: bytes) -> None:
        self._hasher.update(data)
        self.stored_bytes += len(data)
        self._write(data)


def previous_of(
    run_id: str,
    results: Sequence[Result],
    folder: Path,
    source: Any,
    earlier: Mapping[str, Path] | None = None,
) -> Previous:
    """What a later backup may know of these results, stored in folder as that run.

    ``earlier`` names the folders of earlier runs whose objects the results refer to.
    """
    folders = earlier or {}
    objects = [
        o if o.run_id else o.model_copy(update={"run_id": run_id})
        for r in results
        for o in [*r.objects, *r.references]
    ]
    return Previous(
        run_id=run_id,
        config=source.model_dump(mode="json"),
        objects=objects,
        read=lambda stored: _read(stored, folders.get(stored.run_id or "", folder)),
    )


def restore_job(
    result: Result | Sequence[Result],
    folder: Path,
    source: Any,
    *,
    earlier: Mapping[str, Path] | None = None,
    **job: Any,
) -> RestoreJob:
    """The restore of these results, with more fields of RestoreJob (path, connection, options).

    ``earlier`` names the folders of earlier runs whose objects the results refer to.
    """
    results = [result] if isinstance(result, Result) else list(result)
    folders = earlier or {}

    def place(stored: StoredObject) -> Path:
        return folders.get(stored.run_id or "", folder)

    def read_range(stored: StoredObject, start: int, end: int) -> bytes:
        with _below(place(stored), stored.name).open("rb") as file:
            file.seek(start)
            return file.read(end - start)

    return RestoreJob(
        source=type(source).model_validate_json(source.model_dump_json()),
        objects=[
            StoredObject.model_validate_json(o.model_dump_json())
            for r in results
            for o in [*r.objects, *r.references]
        ],
        facts=[r.facts for r in results],
        read=lambda stored: _read(stored, place(stored)),
        read_range=read_range,
        **job,
    )


def run_restore(engine: Engine, job: RestoreJob, *, times: int = 1) -> list[Counts]:
    """Plan the restore and do its tasks stage by stage, those of a stage in parallel.

    ``times`` repeats every task, as a retry after a crash would.
    """
    tasks = [RestoreTask.model_validate_json(t.model_dump_json()) for t in engine.plan_restore(job)]
    counts: list[Counts] = []
    for stage in ("before", "data", "after"):
        now = [t for t in tasks if t.stage == stage for _ in range(times)]
        if times > 1:  # a retry comes after the attempt, never beside it
            counts += [_do(engine, job, task) for task in now]
            continue
        with ThreadPoolExecutor(max_workers=4) as pool:
            counts += list(pool.map(lambda task: _do(engine, job, task), now))
    return counts


def _do(engine: Engine, job: RestoreJob, task: RestoreTask) -> Counts:
    with tempfile.TemporaryDirectory() as scratch:
        return engine.restore(replace(job, scratch=Path(scratch)), task)


def _read(stored: StoredObject, folder: Path) -> Iterator[bytes]:
    """The raw bytes of an object; BackupTampered at the end if they are not what was stored."""
    raw, file_hash, raw_bytes = hashlib.sha256(), hashlib.sha256(), 0
    try:
        with _below(folder, stored.name).open("rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                file_hash.update(block)
            file.seek(0)
            plain: Any = file
            if stored.encoding == "zstd":
                plain = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
            for block in iter(lambda: plain.read(256 << 10), b""):
                raw.update(block)
                raw_bytes += len(block)
                yield block
    except (zstandard.ZstdError, FileNotFoundError) as error:
        raise BackupTampered(f"{stored.name} cannot be read: {error}") from error
    content = (raw_bytes, raw.hexdigest(), file_hash.hexdigest())
    if content != (stored.raw_bytes, stored.raw_sha256, stored.stored_sha256):
        raise BackupTampered(f"{stored.name} is not what was stored")


def _below(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or path == folder.resolve():
        raise AssertionError(f"stream name {name!r} leaves the backup's folder")
    return path
