"""Comparing restored databases with what the backup says of them."""

import hashlib
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from stepvault.engines.base import RestoreJob
from stepvault.engines.sqlite.discovery import shown
from stepvault.engines.sqlite.integrity import examine
from stepvault.engines.sqlite.script import Script
from stepvault.engines.sqlite.session import open_file
from stepvault.engines.sqlite.target import has_logs, placements
from stepvault.records import StoredObject

_SIGNS_OF_DAMAGE = 10


def differences(job: RestoreJob) -> list[str]:
    """Return a line for each sign of damage and each database whose content differs."""
    lines: list[str] = []
    for stored, place in placements(job):
        lines += [f"{shown(place)}: {line}" for line in _differences(stored, place)]
    return lines


def _differences(stored: StoredObject, place: Path) -> list[str]:
    if not place.exists():
        return ["missing"]
    if has_logs(place):
        return ["in use since the restore (it has a -wal or -journal)"]
    try:
        with closing(_open_unused(place)) as connection:
            lines = examine(connection, "integrity_check", _SIGNS_OF_DAMAGE).damage
            equal = _content_hash(connection, stored, place) == stored.raw_sha256
    except sqlite3.Error as error:
        return [str(error)]
    return lines if equal else [*lines, f"its content is not that of {stored.name}"]


def is_restored(stored: StoredObject, place: Path) -> bool:
    """Tell whether the database is at its place already, whole and unused."""
    if place.is_symlink() or not place.is_file() or has_logs(place):
        return False
    try:
        with closing(_open_unused(place)) as connection:
            return _content_hash(connection, stored, place) == stored.raw_sha256
    except sqlite3.Error:
        return False


def _open_unused(place: Path) -> sqlite3.Connection:
    """Open a file that nobody uses, leaving nothing beside it."""
    return open_file(place, "mode=ro&immutable=1")


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
