"""Where restored databases go: their places, what stands in the way, and how it makes way."""

import errno
import fnmatch
import hashlib
import os
import shutil
import sqlite3
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from stepvault.engines.base import RestoreJob
from stepvault.engines.sqlite.errors import primary_code, writing
from stepvault.engines.sqlite.paths import PARTIAL, is_pattern, shown, unquoted
from stepvault.engines.sqlite.session import COMPANIONS, LOGS, companion, open_file
from stepvault.errors import (
    BackupTampered,
    ConfigInvalid,
    SourceDenied,
    TargetMissing,
    TargetNotEmpty,
    TargetUnsupported,
)
from stepvault.records import StoredObject

_WAIT = 1_000  # milliseconds for the lock of a database that is to be replaced


@dataclass(frozen=True)
class Placement:
    """A database of the backup and its place in the target."""

    stored: StoredObject
    relative: str
    """Its path in the backup."""
    folder: Path | None
    """The target's folder that its place must not lead out of; None if the target is the file."""
    place: Path


def placements(job: RestoreJob, names: Collection[str] | None = None) -> list[Placement]:
    """Return the databases to restore and the place of each.

    Args:
        job: the restore.
        names: the objects to look at; all that ``only`` asks for if left out.

    Raises:
        BackupTampered: a stored path is missing, leads out of the target or is there twice.
        ConfigInvalid: no target path, or ``only`` matches no database.
    """
    target = _target(job)
    if names is None:
        chosen = _chosen(job)
    else:
        chosen = [(s, _relative(s)) for s in job.objects if s.name in names]
    with writing(shown(target)):
        folder = target if is_pattern(job.source.path) or target.is_dir() else None
    if len({relative if folder else "" for _, relative in chosen}) < len(chosen):
        raise BackupTampered(
            "the backup says that two of its databases lie at one place",
            "do not restore this backup: its manifest was changed",
        )
    return [
        Placement(stored, relative, folder, folder / relative if folder else target)
        for stored, relative in chosen
    ]


def _target(job: RestoreJob) -> Path:
    if job.path is None:
        raise ConfigInvalid(
            f"SQLite source {job.source.name} is restored to a path, and the target names none",
            "give the target a path",
        )
    return job.path


def _chosen(job: RestoreJob) -> list[tuple[StoredObject, str]]:
    """Return the databases that ``only`` asks for, with their paths in the backup."""
    relatives = [(stored, _relative(stored)) for stored in job.objects]
    if not job.options.only:
        return relatives
    for glob in job.options.only:
        if not any(fnmatch.fnmatchcase(relative, glob) for _, relative in relatives):
            raise ConfigInvalid(
                f"no database of {job.source.name} matches {glob}",
                "name databases by their paths in the backup; wildcards are * and ?",
            )
    return [
        (stored, relative)
        for stored, relative in relatives
        if any(fnmatch.fnmatchcase(relative, glob) for glob in job.options.only)
    ]


def _relative(stored: StoredObject) -> str:
    path = stored.facts.get("path")
    if not isinstance(path, str):
        raise BackupTampered(
            f"the backup does not say where database {stored.name} lies",
            "do not restore this backup: its manifest was changed",
        )
    return unquoted(path)


def is_script(stored: StoredObject) -> bool:
    """Tell whether a database is stored as an SQL script, not as the file it is.

    Raises:
        TargetUnsupported: it is stored in a way that this version does not know.
    """
    form = stored.facts.get("format", "file")
    if form not in ("file", "sql"):
        raise TargetUnsupported(
            f"{stored.name} is stored in a format that this version does not know: {form!r}",
            "restore it with a newer Stepvault",
        )
    return bool(form == "sql")


def refuse_impossible(placement: Placement) -> None:
    """Check that a file can be made at the place, whatever is there now.

    Raises:
        TargetUnsupported: a name is longer than the file system takes.
        TargetNotEmpty: a link on the way leads out of the target, or the place is a folder.
    """
    folder, place = placement.folder, placement.place
    longest = max((len(os.fsencode(part)) for part in place.parts), default=0)
    if longest > (limit := _name_limit(folder or place.parent)):
        raise TargetUnsupported(
            f"{shown(place)} has a name of {longest} bytes, and the file system takes {limit}",
            "restore it alone, to a file with a shorter name",
        )
    if folder and not place.parent.resolve().is_relative_to(folder.resolve()):
        raise TargetNotEmpty(
            f"{shown(place.parent)} is a link out of {folder}", "restore into an empty folder"
        )
    if place.is_dir():
        raise TargetNotEmpty(f"{shown(place)} is a folder", "restore to a file name that is free")


def _name_limit(folder: Path) -> int:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.pathconf(folder, "PC_NAME_MAX")


def refuse_occupied(placement: Placement) -> None:
    """Raise TargetNotEmpty if a database or a file beside it is there already."""
    place = placement.place
    for path in (place, *(companion(place, end) for end in COMPANIONS)):
        if os.path.lexists(path):
            raise TargetNotEmpty(
                f"{shown(path)} exists already, where {placement.stored.name} would be restored",
                "restore elsewhere, remove it, or allow overwriting",
            )


def check_space(job: RestoreJob, chosen: Sequence[StoredObject]) -> None:
    """Check that the target's folder exists, is writable and has room for these databases.

    Raises:
        TargetMissing, SourceDenied: naming the folder.
    """
    target = _target(job)
    with writing(shown(target)):
        folder = target if target.is_dir() else target.parent
        if not folder.is_dir():
            raise TargetMissing(f"folder {folder} does not exist", "create it, or check the mount")
        free = shutil.disk_usage(folder).free
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        raise SourceDenied(
            f"folder {folder} may not be written", "let the function's user write it"
        )
    needed = sum(stored.raw_bytes for stored in chosen)
    if free < needed:
        raise TargetMissing(
            f"{folder} has {free >> 20} MiB free and the restore needs {needed >> 20} MiB",
            "make room or restore elsewhere",
        )


def partial_of(place: Path) -> Path:
    """Return where a database is written before it is moved to its place: always the same."""
    digest = hashlib.sha256(os.fsencode(place.name)).hexdigest()[:16]
    return place.with_name(f"{PARTIAL}{digest}")


def make_way(place: Path) -> None:
    """Prepare a place for a new file: check what is there and remove the logs beside it.

    SQLite would apply the old database's logs to the new one.

    Raises:
        TargetNotEmpty: a program has the database open.
    """
    if place.is_file() and not place.is_symlink():
        _refuse_in_use(place)
    remove_companions(place)


def remove_companions(place: Path) -> None:
    """Remove SQLite's files beside a database."""
    for end in COMPANIONS:
        with _no_such_file():
            companion(place, end).unlink()


def _refuse_in_use(place: Path) -> None:
    """Raise TargetNotEmpty if a program has the database open: it would keep the old file."""
    try:
        connection = open_file(place, "mode=rw")
    except sqlite3.Error:  # nobody can have opened it as a database either
        return
    try:
        connection.execute(f"PRAGMA busy_timeout = {_WAIT}")
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
    with _no_such_file():
        return path.stat().st_size
    return 0


@contextmanager
def _no_such_file() -> Iterator[None]:
    """Go on if there is no such file, as its name may be too long for one."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENAMETOOLONG):
            raise


@dataclass(frozen=True)
class Rights:
    """Who may do what with a database's file."""

    mode: int
    uid: int
    gid: int

    def give(self, file: Path, owner: str) -> None:
        """Set mode, owner and group of a file, as far as this user may.

        Args:
            file: a file of this user.
            owner: ``none`` to leave it to this user.

        Raises:
            OSError: root cannot set the owner here.
        """
        if owner != "none" and os.geteuid() == 0:
            os.chown(file, self.uid, self.gid)
        elif owner != "none":
            with suppress(OSError):  # a user may give a file to one of the own groups only
                os.chown(file, -1, self.gid)
        file.chmod(self.mode)


def rights_for(placement: Placement) -> Rights | None:
    """Return the rights of the file to make: of that which is replaced, else of the one backed up.

    Returns:
        None if neither exists: an object of a bucket has no mode.

    Raises:
        BackupTampered: the stored mode or owner cannot be one.
    """
    with _no_such_file():
        status = placement.place.lstat()
        if stat.S_ISREG(status.st_mode):
            return Rights(status.st_mode & 0o777, status.st_uid, status.st_gid)
    facts = placement.stored.facts
    if "mode" not in facts:
        return None
    try:
        rights = Rights(int(facts["mode"], 8), int(facts["uid"]), int(facts["gid"]))
    except (KeyError, OverflowError, TypeError, ValueError):
        rights = Rights(-1, -1, -1)
    if not (
        0 <= rights.mode <= 0o777 and all(0 <= i < 2**32 - 1 for i in (rights.uid, rights.gid))
    ):
        raise BackupTampered(
            f"the backup names no valid mode and owner of database {placement.stored.name}",
            "do not restore this backup: its manifest was changed",
        )
    return rights
