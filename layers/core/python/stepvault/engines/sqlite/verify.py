"""Comparing restored databases with what the backup says of them."""

import hashlib
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from stepvault.engines.base import RestoreJob
from stepvault.engines.sqlite.integrity import examine
from stepvault.engines.sqlite.paths import shown
from stepvault.engines.sqlite.script import Script
from stepvault.engines.sqlite.session import open_file
from stepvault.engines.sqlite.target import Placement, has_logs, is_script, placements
from stepvault.errors import StepvaultError

_SIGNS_OF_DAMAGE = 10


def differences(job: RestoreJob) -> list[str]:
    """Return a line for each sign of damage and each database whose content differs."""
    job.not_compared("mode and owner of the database files")
    lines: list[str] = []
    for placement in placements(job):
        place = shown(placement.place)
        lines += [f"{place}: {line}" for line in _differences(placement)]
    return lines


def _differences(placement: Placement) -> list[str]:
    place = placement.place
    try:
        if not place.exists():
            return ["missing"]
        if has_logs(place):
            return ["in use since the restore (it has a -wal or -journal)"]
        with closing(_open_unused(place)) as connection:
            lines = examine(connection, "integrity_check", _SIGNS_OF_DAMAGE).damage
            equal = _has_content(connection, placement)
    except sqlite3.Error as error:
        return [str(error)]
    except OSError as error:
        return [f"cannot be read: {error.strerror}"]
    except StepvaultError as error:
        return [error.message]
    return lines if equal else [*lines, f"its content is not that of {placement.stored.name}"]


def is_restored(placement: Placement) -> bool:
    """Tell whether the database is at its place already, whole and unused."""
    place = placement.place
    try:
        if place.is_symlink() or not place.is_file() or has_logs(place):
            return False
        with closing(_open_unused(place)) as connection:
            return _has_content(connection, placement)
    except (sqlite3.Error, OSError, StepvaultError):
        return False


def _open_unused(place: Path) -> sqlite3.Connection:
    """Open a file that nobody uses, leaving nothing beside it."""
    return open_file(place, "mode=ro&immutable=1")


def _has_content(connection: sqlite3.Connection, placement: Placement) -> bool:
    """Tell whether a database's file, or the script of it, is what was stored."""
    if is_script(placement.stored):
        digest = _sha256(Script(connection, shown(placement.place)).read())
    else:
        with placement.place.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    return digest == placement.stored.raw_sha256


def _sha256(pieces: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()
