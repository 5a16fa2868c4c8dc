"""Putting databases back: each into a file beside its place, moved there when it is proved whole."""

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from stepvault.engines.base import Counts, RestoreJob
from stepvault.engines.sqlite.script import replay
from stepvault.engines.sqlite.target import (
    check_space,
    make_way,
    placements,
    refuse_occupied,
    remove_companions,
    writing,
)
from stepvault.engines.sqlite.verify import is_restored
from stepvault.errors import SourceUnsupported
from stepvault.records import RestoreTask, StoredObject

#: A task ends once it has this many bytes or databases.
_TASK_BYTES, _TASK_OBJECTS = 1 << 30, 500


def plan_restore(job: RestoreJob) -> list[RestoreTask]:
    """Check every place and cut the databases into tasks of about 1 GiB."""
    chosen = placements(job)
    for stored, place in chosen:
        if not job.options.overwrite:
            refuse_occupied(place, stored.name)
    check_space(job, [stored for stored, _ in chosen])
    return [
        RestoreTask(stage="data", id=f"{number:04d}", objects=names)
        for number, names in enumerate(_batches([stored for stored, _ in chosen]))
    ]


def _batches(chosen: list[StoredObject]) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for stored in chosen:
        names.append(stored.name)
        size += stored.raw_bytes
        if size >= _TASK_BYTES or len(names) >= _TASK_OBJECTS:
            yield names
            names, size = [], 0
    if names:
        yield names


def restore(job: RestoreJob, task: RestoreTask) -> Counts:
    """Restore the task's databases; leave alone one that is there already, whole."""
    wanted = set(task.objects)
    done = 0
    for stored, place in placements(job):
        if stored.name in wanted:
            with writing(place):
                _restore(job, stored, place)
            done += 1
    return Counts(files=done)


def _restore(job: RestoreJob, stored: StoredObject, place: Path) -> None:
    if os.path.lexists(place):
        if is_restored(stored, place):
            return
        if not job.options.overwrite:
            refuse_occupied(place, stored.name)
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f".{place.name}.stepvault-partial")
    partial.unlink(missing_ok=True)
    try:
        if stored.facts.get("format") == "sql":
            _write_script(job, stored, partial)
        else:
            _write_file(job, stored, partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        make_way(place)
        partial.rename(place)
        _sync_folder(place.parent)
    finally:
        partial.unlink(missing_ok=True)
        remove_companions(partial)


def _write_file(job: RestoreJob, stored: StoredObject, partial: Path) -> None:
    with partial.open("xb") as file:
        for piece in job.read(stored):
            file.write(piece)
            job.progress(stored.name, len(piece))


def _write_script(job: RestoreJob, stored: StoredObject, partial: Path) -> None:
    def pieces() -> Iterator[bytes]:
        for piece in job.read(stored):
            job.progress(stored.name, len(piece))
            yield piece

    connection = sqlite3.connect(partial, isolation_level=None, cached_statements=0)
    try:
        connection.execute("PRAGMA synchronous = OFF")  # synced as a whole before it is moved
        connection.execute("PRAGMA journal_mode = OFF")
        replay(connection, pieces())
    except (sqlite3.Error, sqlite3.Warning, UnicodeDecodeError) as error:
        raise SourceUnsupported(
            f"SQLite {sqlite3.sqlite_version} cannot run {stored.name}: {error}",
            "use a newer SQLite: zstd -dc the object into its sqlite3 shell",
        ) from error
    finally:
        connection.close()


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
