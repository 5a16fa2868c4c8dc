"""SQLite's and the system's complaints in our words."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from stepvault.errors import (
    OutOfTime,
    SourceBusy,
    SourceCorrupt,
    SourceDenied,
    SourceMissing,
    SourceUnreachable,
    SourceUnsupported,
    StepvaultError,
)

_PRIMARY = 0xFF


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn what SQLite and the system raise inside into errors that name the file."""
    try:
        yield
    except sqlite3.Error as error:
        raise of_sqlite(error, name) from error
    except OSError as error:
        raise of_system(error, name) from error


def of_sqlite(error: sqlite3.Error, name: str) -> StepvaultError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & _PRIMARY
    match code:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return SourceBusy(
                f"SQLite file {name} is locked by another process: {error}",
                "wait until its long transaction ends, or stop using locking_mode=EXCLUSIVE there",
            )
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return SourceCorrupt(
                f"SQLite file {name} is damaged: {error}",
                "run PRAGMA integrity_check on it, and restore an earlier backup or use .recover",
            )
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return SourceDenied(
                f"SQLite file {name} cannot be opened: {error}",
                "let the function's user read the file and write its folder, where SQLite keeps "
                "the -wal and -shm files that readers share with the writer",
            )
        case sqlite3.SQLITE_INTERRUPT:
            return cancelled(name)
        case sqlite3.SQLITE_IOERR:
            return SourceUnreachable(
                f"SQLite file {name} cannot be read: {error}", "check the disk or the mount"
            )
        case _:
            return SourceUnsupported(
                f"SQLite {sqlite3.sqlite_version} cannot read {name}: {error}",
                'set format = "file", which copies the pages as they are',
            )


def of_system(error: OSError, name: str) -> StepvaultError:
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return SourceMissing(
                f"SQLite file {name} does not exist", "check the source's path and the mount"
            )
        case PermissionError():
            return SourceDenied(
                f"SQLite file {name} may not be read: {error.strerror}",
                "let the function's user (on EFS: the access point's) read the file",
            )
        case _:
            return SourceUnreachable(
                f"SQLite file {name} cannot be read: {error.strerror}",
                "check the disk or the mount",
            )


def cancelled(name: str) -> StepvaultError:
    return OutOfTime(
        f"reading SQLite file {name} was cancelled", "give the function more time or memory"
    )
