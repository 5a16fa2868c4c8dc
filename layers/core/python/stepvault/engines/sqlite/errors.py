"""What SQLite and the operating system report, as errors of Stepvault that name the file."""

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
def reading(name: str) -> Iterator[None]:
    """Translate what is raised inside while a source's file is read.

    Args:
        name: what messages call the file.

    Raises:
        StepvaultError: instead of each sqlite3.Error and OSError.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise from_sqlite(error, name) from error
    except OSError as error:
        raise from_system(error, name) from error


def from_sqlite(error: sqlite3.Error, name: str) -> StepvaultError:
    """Translate SQLite's error about a source's file."""
    match primary_code(error):
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


def primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code; that of a general error where Python knows none."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & _PRIMARY


def from_system(error: OSError, name: str) -> StepvaultError:
    """Translate the operating system's error about a source's file or folder."""
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
    """Return the error for a read that was stopped from another thread."""
    return OutOfTime(
        f"reading SQLite file {name} was cancelled", "give the function more time or memory"
    )
