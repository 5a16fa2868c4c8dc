"""Putting databases back: each into a file beside its place, moved there when it is proved whole."""

import contextlib
import fnmatch
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote_from_bytes

from stepvault.engines.base import Counts, RestoreJob
from stepvault.engines.sqlite.check import examine
from stepvault.engines.sqlite.find import is_pattern, shown, unquoted
from stepvault.engines.sqlite.script import Script, replay
from stepvault.errors import (
    ConfigInvalid,
    SourceDenied,
    SourceUnsupported,
    TargetMissing,
    TargetNotEmpty,
)
from stepvault.records import RestoreTask, StoredObject

_LOGS = ("-wal", "-journal")
_COMPANIONS = (*_LOGS, "-shm")
#: A task ends once it has this many bytes or databases.
_TASK_BYTES, _TASK_OBJECTS = 1 << 30, 500


def plan(job: RestoreJob) -> list[RestoreTask]:
    """Check every place and cut the databases into tasks of about 1 GiB."""
    chosen = _chosen(job)
    for stored, place in chosen:
        if not job.options.overwrite:
            _refuse_occupied(place, stored.name)
    _check_space(job, [stored for stored, _ in chosen])
    tasks: list[RestoreTask] = []
    names: list[str] = []
    size = 0
    for stored, _ in chosen:
        names.append(stored.name)
        size += stored.raw_bytes
        if size >= _TASK_BYTES or len(names) >= _TASK_OBJECTS:
            tasks.append(RestoreTask(stage="data", id=f"{len(tasks):04d}", objects=names))
            names, size = [], 0
    if names:
        tasks.append(RestoreTask(stage="data", id=f"{len(tasks):04d}", objects=names))
    return tasks


def run(job: RestoreJob, task: RestoreTask) -> Counts:
    """Restore the task's databases; one that is there already, whole, is left alone."""
    wanted = set(task.objects)
    done = 0
    for stored, place in _chosen(job):
        if stored.name in wanted:
            with _writing(place):
                _restore(job, stored, place)
            done += 1
    return Counts(files=done)


def differences(job: RestoreJob) -> list[str]:
    """What integrity_check says, and where content is not that of the backup."""
    found = []
    for stored, place in _chosen(job):
        if not place.exists():
            found.append(f"{shown(place)}: missing")
            continue
        if any(_size(_companion(place, end)) for end in _LOGS):
            found.append(f"{shown(place)}: in use since the restore (it has a -wal or -journal)")
            continue
        try:
            with _reading(place) as connection:
                damage = examine(connection, "integrity_check", 10).damage
                found += [f"{shown(place)}: {line}" for line in damage]
                same = _content_hash(connection, stored, place) == stored.raw_sha256
        except sqlite3.Error as error:
            found.append(f"{shown(place)}: {error}")
            continue
        if not same:
            found.append(f"{shown(place)}: its content is not that of {stored.name}")
    return found


def _target(job: RestoreJob) -> Path:
    if job.path is None:
        raise ConfigInvalid(
            f"SQLite source {job.source.name} is restored to a path, and the target names none",
            "give the target a path",
        )
    return job.path


def _into_folder(job: RestoreJob) -> bool:
    """Whether the target is the folder to restore into, not the file to make."""
    return is_pattern(job.source.path) or _target(job).is_dir()


def _chosen(job: RestoreJob) -> list[tuple[StoredObject, Path]]:
    """The databases to restore and where each goes."""
    relatives = [(stored, unquoted(str(stored.facts["path"]))) for stored in job.objects]
    if job.options.only:
        relatives = [
            (stored, relative)
            for stored, relative in relatives
            if any(fnmatch.fnmatchcase(relative, glob) for glob in job.options.only)
        ]
        if not relatives:
            raise ConfigInvalid(
                f"no database of {job.source.name} matches {', '.join(job.options.only)}",
                "name databases by their paths in the backup; wildcards are * and ?",
            )
    target = _target(job)
    if not _into_folder(job):
        return [(stored, target) for stored, _ in relatives]
    return [(stored, _inside(target, relative)) for stored, relative in relatives]


def _inside(folder: Path, relative: str) -> Path:
    """The place below folder; refused if links on the way lead out of it."""
    place = folder / relative
    if not place.parent.resolve().is_relative_to(folder.resolve()):
        raise TargetNotEmpty(
            f"{shown(place.parent)} is a link out of {folder}", "restore into an empty folder"
        )
    return place


def _refuse_occupied(place: Path, name: str) -> None:
    for path in (place, *(_companion(place, end) for end in _COMPANIONS)):
        if os.path.lexists(path):
            raise TargetNotEmpty(
                f"{shown(path)} exists already, where {name} would be restored",
                "restore elsewhere, remove it, or allow overwriting",
            )


def _check_space(job: RestoreJob, chosen: list[StoredObject]) -> None:
    target = _target(job)
    folder = target if target.is_dir() else target.parent
    if not folder.is_dir():
        raise TargetMissing(f"folder {folder} does not exist", "create it, or check the mount")
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        raise SourceDenied(
            f"folder {folder} may not be written", "let the function's user write it"
        )
    free, needed = shutil.disk_usage(folder).free, sum(stored.raw_bytes for stored in chosen)
    if free < needed:
        raise TargetMissing(
            f"{folder} has {free >> 20} MiB free and the restore needs {needed >> 20} MiB",
            "make room or restore elsewhere",
        )


def _restore(job: RestoreJob, stored: StoredObject, place: Path) -> None:
    occupied = os.path.lexists(place)
    if occupied and _is_restored(stored, place):
        return
    if occupied and not job.options.overwrite:
        _refuse_occupied(place, stored.name)
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
        _retire(place)
        partial.rename(place)
        _sync_folder(place.parent)
    finally:
        for end in ("", *_COMPANIONS):
            _companion(partial, end).unlink(missing_ok=True)


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


def _retire(place: Path) -> None:
    """Make way for the new file: the old one's log would be applied to it."""
    if place.exists() and not place.is_symlink() and place.is_file():
        _refuse_in_use(place)
    if place.is_dir():
        raise TargetNotEmpty(f"{shown(place)} is a folder", "restore to a file name that is free")
    for end in _COMPANIONS:
        _companion(place, end).unlink(missing_ok=True)


def _refuse_in_use(place: Path) -> None:
    """Overwriting a database under a program that has it open would leave that on a lost file."""
    connection = _connect(place, "mode=rw")
    connection.execute("PRAGMA busy_timeout = 1000")
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        code = error.sqlite_errorcode & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise TargetNotEmpty(
                f"{shown(place)} is in use by another program", "stop it, or restore elsewhere"
            ) from error
    finally:
        connection.close()


def _is_restored(stored: StoredObject, place: Path) -> bool:
    """Whether an earlier attempt at the same task did its work."""
    if place.is_symlink() or not place.is_file():
        return False
    if any(_size(_companion(place, end)) for end in _LOGS):
        return False
    try:
        with _reading(place) as connection:
            return _content_hash(connection, stored, place) == stored.raw_sha256
    except sqlite3.Error:
        return False


def _content_hash(connection: sqlite3.Connection, stored: StoredObject, place: Path) -> str:
    if stored.facts.get("format") == "sql":
        return _sha256(Script(connection, str(place)).read())
    with place.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256(pieces: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


@contextmanager
def _reading(place: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a file that nobody uses, which leaves nothing beside it."""
    connection = _connect(place, "mode=ro&immutable=1")
    try:
        yield connection
    finally:
        connection.close()


def _connect(place: Path, mode: str) -> sqlite3.Connection:
    uri = f"file:{quote_from_bytes(os.fsencode(place.absolute()))}?{mode}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, cached_statements=0)


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise SourceDenied(
            f"{shown(place)} may not be written: {error.strerror}",
            "let the function's user write there",
        ) from error
    except OSError as error:
        raise TargetMissing(
            f"{shown(place)} cannot be written: {error.strerror}", "check the disk or the mount"
        ) from error


def _companion(place: Path, end: str) -> Path:
    return place.with_name(place.name + end)


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
