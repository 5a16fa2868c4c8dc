"""Opening a database without changing it, in the way that its file system allows."""

import errno
import os
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote_from_bytes

from stepvault.engines.mounts import is_network
from stepvault.engines.sqlite.errors import primary_code
from stepvault.errors import SourceUnsupported

#: Seconds to wait for another process's lock.
LOCK_WAIT = 30.0
#: Files of SQLite beside a database that hold part of its content.
LOGS = ("-wal", "-journal")
#: All files that SQLite keeps beside a database.
COMPANIONS = (*LOGS, "-shm")

_WAL_MODE = 2  # the read version in the file's header

Sharing = Literal["shared", "exclusive", "unlocked"]


@dataclass
class Session:
    """A connection that has read the schema."""

    connection: sqlite3.Connection
    sharing: Sharing = "shared"
    """shared: others go on reading and writing; exclusive: they are locked out; unlocked: SQLite
    may not lock, so only an unchanged file proves that nobody wrote."""
    schema_readable: bool = True
    warnings: list[str] = field(default_factory=list)


def connect(path: Path, name: str, head: bytes, device: int) -> Session:
    """Open a source's database without changing it.

    Args:
        path: the file.
        name: what messages call it.
        head: the first bytes of the file.
        device: ``st_dev`` of the file.

    Raises:
        sqlite3.Error: it is locked, damaged or unreadable.
        SourceUnsupported: WAL mode on a network file system, in use by another host.
    """
    wal_mode = head[19:20] == bytes([_WAL_MODE])
    if wal_mode and is_network(device):
        return _read_schema(_exclusive(path, name), name)
    session = Session(open_file(path, "mode=rw"))
    if _log_bytes(path) is not None:  # leave a log that was there; remove one that we make
        session.connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)
    try:
        return _read_schema(session, name)
    except sqlite3.Error as error:
        session.connection.close()
        unwritable = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY_DIRECTORY)
        if not wal_mode or error.sqlite_errorcode not in unwritable or _log_bytes(path):
            raise
    return _read_schema(_unlocked(path, name), name)


def open_file(path: Path, mode: str) -> sqlite3.Connection:
    """Open a database file with the given parameters of an SQLite URI (``mode=rw``)."""
    uri = f"file:{quote_from_bytes(os.fsencode(path.absolute()))}?{mode}"
    return sqlite3.Connection(  # not sqlite3.connect, which tracers replace by their own
        uri,
        uri=True,
        timeout=LOCK_WAIT,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=0,
    )


def open_new(path: Path) -> sqlite3.Connection:
    """Open a new or empty file to write a database into it, as fast as can be.

    The caller syncs the file. Statements reach no other file.
    """
    connection = open_file(path, "mode=rwc")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA journal_mode = OFF")
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    return connection


def companion(path: Path, end: str) -> Path:
    """Return the path of a file that SQLite keeps beside a database."""
    return path.with_name(path.name + end)


def _log_bytes(path: Path) -> int | None:
    """Return the size of the write-ahead log, None if there is none."""
    try:
        return companion(path.resolve(), "-wal").stat().st_size
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENAMETOOLONG):  # too long for a log's name
            raise
        return None


def _read_schema(session: Session, name: str) -> Session:
    """Read the schema, so that errors show here and the log is open."""
    try:
        session.connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
    except sqlite3.DatabaseError as error:
        if not str(error).startswith("malformed database schema"):
            raise
        # Most likely a newer SQLite wrote it. Copying pages needs no schema: with this setting
        # SQLite ignores definitions that it cannot read.
        session.connection.execute("PRAGMA writable_schema = ON")
        session.connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
        session.schema_readable = False
        session.warnings.append(
            f"{name}: SQLite {sqlite3.sqlite_version} cannot read its schema ({error}); "
            "its pages were copied unchecked"
        )
    return session


def _exclusive(path: Path, name: str) -> Session:
    """Open a WAL database where its shared memory does not work: alone, after a checkpoint."""
    connection = open_file(path, "mode=rw")
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    except sqlite3.OperationalError as error:
        busy = primary_code(error) == sqlite3.SQLITE_BUSY
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
    return Session(
        connection,
        "exclusive",
        warnings=[
            f"{name}: WAL mode on a network file system; others were locked out during the copy"
        ],
    )


def _unlocked(path: Path, name: str) -> Session:
    """Open a WAL database in a folder that we may not write, with an empty log and no users."""
    return Session(
        open_file(path, "mode=ro&immutable=1"),
        "unlocked",
        warnings=[
            f"{name}: its folder is read-only, so SQLite could not lock it; "
            "it did not change while it was copied"
        ],
    )
