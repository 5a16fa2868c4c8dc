"""Opening a database the way its place allows."""

import os
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote_from_bytes

from stepvault.engines.mounts import is_network
from stepvault.errors import SourceUnsupported

#: Seconds to wait for another process's lock.
LOCK_WAIT = 30.0

_WAL_MODE = 2  # the read version in the file's header

Sharing = Literal["shared", "exclusive", "unlocked"]


@dataclass
class Opened:
    """A connection that has read the schema."""

    connection: sqlite3.Connection
    sharing: Sharing = "shared"
    """shared: others go on reading and writing; exclusive: locked out; unlocked: SQLite may not
    lock, so only an unchanged file proves that nobody wrote."""
    schema_readable: bool = True
    warnings: list[str] = field(default_factory=list)


def connect(path: Path, name: str, head: bytes, device: int) -> Opened:
    """Open a database without changing it.

    Raises:
        sqlite3.Error: it is locked, damaged or unreadable.
        SourceUnsupported: WAL mode on a network file system, in use by another host.
    """
    wal_mode = head[19:20] == bytes([_WAL_MODE])
    if wal_mode and is_network(device):
        return _read_schema(_exclusive(path, name), name)
    opened = Opened(_open(path, "mode=rw"))
    if _log_bytes(path) is not None:  # leave a log we found as it is; remove one we made
        opened.connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)
    try:
        return _read_schema(opened, name)
    except sqlite3.Error as error:
        opened.connection.close()
        unwritable = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY_DIRECTORY)
        if not wal_mode or error.sqlite_errorcode not in unwritable or _log_bytes(path):
            raise
    return _read_schema(_unlocked(path, name), name)


def _open(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"file:{quote_from_bytes(os.fsencode(path.absolute()))}?{mode}"
    return sqlite3.connect(
        uri,
        uri=True,
        timeout=LOCK_WAIT,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=0,
    )


def _log_bytes(path: Path) -> int | None:
    """Size of the write-ahead log, None if there is none."""
    try:
        return companion(path, "-wal").stat().st_size
    except FileNotFoundError:
        return None


def companion(path: Path, suffix: str) -> Path:
    """The file SQLite keeps beside a database: -wal, -shm or -journal."""
    real = path.resolve()
    return real.with_name(real.name + suffix)


def _read_schema(opened: Opened, name: str) -> Opened:
    """Touch the database, so that errors show here and its log is open."""
    try:
        opened.connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
    except sqlite3.DatabaseError as error:
        if not str(error).startswith("malformed database schema"):
            raise
        # Written by a newer SQLite, most likely. The pages do not mind: this setting makes
        # SQLite ignore definitions it cannot read.
        opened.connection.execute("PRAGMA writable_schema = ON")
        opened.connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
        opened.schema_readable = False
        opened.warnings.append(
            f"{name}: SQLite {sqlite3.sqlite_version} cannot read its schema ({error}); "
            "its pages were copied unchecked"
        )
    return opened


def _exclusive(path: Path, name: str) -> Opened:
    """WAL mode where its shared memory does not work: alone, with the log put into the file."""
    connection = _open(path, "mode=rw")
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    except sqlite3.OperationalError as error:
        busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
        if not busy:
            connection.close()
            raise
    if busy:
        connection.close()
        raise SourceUnsupported(
            f"SQLite file {name} is in WAL mode on a network file system and open elsewhere; "
            "SQLite cannot share such a log between hosts",
            "set PRAGMA journal_mode=DELETE, whose locks work there, or back it up on the "
            "host that writes it",
        )
    return Opened(
        connection,
        "exclusive",
        warnings=[
            f"{name}: WAL mode on a network file system; others were locked out during the copy"
        ],
    )


def _unlocked(path: Path, name: str) -> Opened:
    """WAL mode in a folder we may not write, with nothing in the log and nobody at it."""
    return Opened(
        _open(path, "mode=ro&immutable=1"),
        "unlocked",
        warnings=[
            f"{name}: its folder is read-only, so SQLite could not lock it; "
            "it did not change while it was copied"
        ],
    )
