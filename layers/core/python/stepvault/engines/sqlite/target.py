"""Where restored databases go: their places, what stands in the way, and how it makes way."""

import fnmatch
import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from stepvault.engines.base import RestoreJob
from stepvault.engines.sqlite.discovery import is_pattern, shown, unquoted
from stepvault.engines.sqlite.errors import primary_code
from stepvault.engines.sqlite.session import COMPANIONS, LOGS, companion, open_file
from stepvault.errors import ConfigInvalid, SourceDenied, TargetMissing, TargetNotEmpty
from stepvault.records import StoredObject

_WAIT = 1_000  # milliseconds for the lock of a database that is to be replaced


def placements(job: RestoreJob) -> list[tuple[StoredObject, Path]]:
    """Return the databases to restore and the path of each.

    Raises:
        BackupTampered: a stored path leads out of the target.
        ConfigInvalid: no target path, or ``only`` matches no database.
        TargetNotEmpty: a link in the target leads out of it.
    """
    target = _target(job)
    chosen = _chosen(job)
    if not (is_pattern(job.source.path) or target.is_dir()):
        return [(stored, target) for stored, _ in chosen]
    return [(stored, _inside(target, relative)) for stored, relative in chosen]


def _target(job: RestoreJob) -> Path:
    if job.path is None:
        raise ConfigInvalid(
            f"SQLite source {job.source.name} is restored to a path, and the target names none",
            "give the target a path",
        )
    return job.path


def _chosen(job: RestoreJob) -> list[tuple[StoredObject, str]]:
    """Return the databases that ``only`` asks for, with their paths in the backup."""
    relatives = [(stored, unquoted(str(stored.facts["path"]))) for stored in job.objects]
    if not job.options.only:
        return relatives
    chosen = [
        (stored, relative)
        for stored, relative in relatives
        if any(fnmatch.fnmatchcase(relative, glob) for glob in job.options.only)
    ]
    if not chosen:
        raise ConfigInvalid(
            f"no database of {job.source.name} matches {', '.join(job.options.only)}",
            "name databases by their paths in the backup; wildcards are * and ?",
        )
    return chosen


def _inside(folder: Path, relative: str) -> Path:
    """Return the place below folder; refuse it if links on the way lead out."""
    place = folder / relative
    if not place.parent.resolve().is_relative_to(folder.resolve()):
        raise TargetNotEmpty(
            f"{shown(place.parent)} is a link out of {folder}", "restore into an empty folder"
        )
    return place


def refuse_occupied(place: Path, name: str) -> None:
    """Raise TargetNotEmpty if a database or a file beside it is there already."""
    for path in (place, *(companion(place, end) for end in COMPANIONS)):
        if os.path.lexists(path):
            raise TargetNotEmpty(
                f"{shown(path)} exists already, where {name} would be restored",
                "restore elsewhere, remove it, or allow overwriting",
            )


def check_space(job: RestoreJob, chosen: Sequence[StoredObject]) -> None:
    """Check that the target's folder exists, is writable and has room for these databases.

    Raises:
        TargetMissing, SourceDenied: naming the folder.
    """
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


def make_way(place: Path) -> None:
    """Prepare a place for a new file: check what is there and remove the logs beside it.

    SQLite would apply the old database's logs to the new one.

    Raises:
        TargetNotEmpty: it is a folder, or a database that a program has open.
    """
    if place.is_dir():
        raise TargetNotEmpty(f"{shown(place)} is a folder", "restore to a file name that is free")
    if place.is_file() and not place.is_symlink():
        _refuse_in_use(place)
    remove_companions(place)


def remove_companions(place: Path) -> None:
    """Remove SQLite's files beside a database."""
    for end in COMPANIONS:
        companion(place, end).unlink(missing_ok=True)


def _refuse_in_use(place: Path) -> None:
    """Raise TargetNotEmpty if a program has the database open: it would keep the old file."""
    connection = open_file(place, "mode=rw")
    connection.execute(f"PRAGMA busy_timeout = {_WAIT}")
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        if primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise TargetNotEmpty(
                f"{shown(place)} is in use by another program", "stop it, or restore elsewhere"
            ) from error
    finally:
        connection.close()


def has_logs(place: Path) -> bool:
    """Tell whether there is content in files beside a database."""
    return any(_size(companion(place, end)) for end in LOGS)


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Translate the operating system's errors about a place that is written.

    Raises:
        SourceDenied, TargetMissing: instead of each OSError.
    """
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
