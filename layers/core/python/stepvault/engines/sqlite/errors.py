"""What SQLite and the operating system report, as errors of Stepvault that name the file.

Four tables say what each code becomes: SQLite's and the system's, when a source is read and when a
target is written. Only what may pass by itself is transient: locks, exhausted handles, and the I/O
errors of a network file system. A code in no table is permanent.
"""

import errno
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from stepvault.errors import (
    OutOfTime,
    SourceBusy,
    SourceChanged,
    SourceCorrupt,
    SourceDenied,
    SourceMissing,
    SourceUnreachable,
    SourceUnsupported,
    StepvaultError,
    TargetMissing,
    TargetNotEmpty,
    TargetUnsupported,
)

_PRIMARY = 0xFF
_READONLY_DBMOVED, _IOERR_CORRUPTFS = 1032, 8458


@dataclass(frozen=True)
class _Meaning:
    """An error; its texts hold ``{name}`` for the file and ``{report}`` for what was reported."""

    error: type[StepvaultError]
    message: str
    fix: str

    def about(self, name: str, report: object) -> StepvaultError:
        return self.error(self.message.format(name=name, report=report), self.fix)


def _table(rows: Mapping[_Meaning, Iterable[int]]) -> dict[int, _Meaning]:
    return {code: meaning for meaning, codes in rows.items() for code in codes}


_HANDLES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR)
_LOCKS = (errno.EBUSY, errno.ETXTBSY, errno.EAGAIN, errno.ENOLCK, errno.EDEADLK)
_NETWORK = (
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH,
    errno.ENOTCONN, errno.ECONNRESET, errno.EREMOTEIO,
)  # fmt: skip
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

_CANCELLED = _Meaning(
    OutOfTime, "reading SQLite file {name} was cancelled", "give the function more time or memory"
)
_NO_SCRATCH = _Meaning(
    SourceUnsupported,
    "reading SQLite file {name} needs more temporary space than there is: {report}",
    "give the function more ephemeral storage",
)
_SOURCE_OTHER = _Meaning(
    SourceUnsupported,
    f"SQLite {sqlite3.sqlite_version} cannot read {{name}}: {{report}}",
    'set format = "file", which copies the pages as they are',
)
_SOURCE_SQLITE = _table(
    {
        _Meaning(
            SourceBusy,
            "SQLite file {name} is locked by another process: {report}",
            "wait until its long transaction ends, or stop using locking_mode=EXCLUSIVE there",
        ): (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL),
        _Meaning(
            SourceCorrupt,
            "SQLite file {name} is damaged: {report}",
            "run PRAGMA integrity_check on it, and restore an earlier backup or use .recover",
        ): (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, _IOERR_CORRUPTFS),
        _Meaning(
            SourceDenied,
            "SQLite file {name} cannot be opened: {report}",
            "let the function's user read the file and write its folder, where SQLite keeps "
            "the -wal and -shm files that readers share with the writer",
        ): (
            sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_READONLY,
            sqlite3.SQLITE_PERM,
            sqlite3.SQLITE_AUTH,
        ),
        _Meaning(
            SourceChanged,
            "SQLite file {name} was replaced or changed while it was read: {report}",
            "try again",
        ): (sqlite3.SQLITE_ABORT, sqlite3.SQLITE_SCHEMA, _READONLY_DBMOVED),
        _Meaning(
            SourceUnreachable,
            "SQLite file {name} cannot be read: {report}",
            "check the disk or the mount",
        ): (sqlite3.SQLITE_IOERR,),
        _CANCELLED: (sqlite3.SQLITE_INTERRUPT,),
        _NO_SCRATCH: (sqlite3.SQLITE_FULL,),
    }
)
_SOURCE_OTHER_SYSTEM = _Meaning(
    SourceUnsupported,
    "SQLite file {name} cannot be read: {report}",
    "name a database on a file system that supports this",
)
_SOURCE_SYSTEM = _table(
    {
        _Meaning(
            SourceMissing,
            "SQLite file {name} does not exist: {report}",
            "check the source's path and the mount",
        ): (
            errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO,
            errno.ENODEV,
        ),
        _Meaning(
            SourceDenied,
            "SQLite file {name} may not be read: {report}",
            "let the function's user (on EFS: the access point's) read the file",
        ): _DENIED,
        _Meaning(
            SourceBusy, "SQLite file {name} cannot be read now: {report}", "try again"
        ): (*_LOCKS, *_HANDLES),
        _Meaning(
            SourceUnreachable,
            "SQLite file {name} cannot be read: {report}",
            "check the disk or the mount",
        ): _NETWORK,
        _NO_SCRATCH: _NO_ROOM,
    }
)  # fmt: skip
_NO_MEMORY_AT_SOURCE = _Meaning(
    SourceUnsupported,
    "reading SQLite file {name} needs more memory than there is",
    "give the function more memory",
)

_TARGET_OTHER = _Meaning(
    TargetUnsupported,
    f"SQLite {sqlite3.sqlite_version} cannot make {{name}}: {{report}}",
    "use a newer SQLite: zstd -dc the object into its sqlite3 shell",
)
_TARGET_NO_ROOM = _Meaning(
    TargetMissing, "there is no room for {name}: {report}", "make room or restore elsewhere"
)
_TARGET_DENIED = _Meaning(
    SourceDenied, "{name} may not be written: {report}", "let the function's user write there"
)
_TARGET_UNREACHABLE = _Meaning(
    SourceUnreachable, "{name} cannot be written: {report}", "check the disk or the mount"
)
_TARGET_BUSY = _Meaning(
    SourceBusy, "{name} cannot be written now: {report}", "stop what uses it, and try again"
)
_TARGET_SQLITE = _table(
    {
        _TARGET_BUSY: (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL),
        _TARGET_DENIED: (
            sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_READONLY,
            sqlite3.SQLITE_PERM,
            sqlite3.SQLITE_AUTH,
        ),
        _TARGET_UNREACHABLE: (sqlite3.SQLITE_IOERR,),
        _TARGET_NO_ROOM: (sqlite3.SQLITE_FULL,),
        _Meaning(
            OutOfTime, "restoring {name} was cancelled", "give the function more time or memory"
        ): (sqlite3.SQLITE_INTERRUPT,),
    }
)
_TARGET_OTHER_SYSTEM = _Meaning(
    TargetUnsupported,
    "{name} cannot be made: {report}",
    "restore elsewhere, on a file system that supports it",
)
_TARGET_SYSTEM = _table(
    {
        _Meaning(
            TargetMissing, "{name} cannot be written: {report}", "check the disk or the mount"
        ): (errno.ENOENT, errno.ENXIO, errno.ENODEV),
        _Meaning(
            TargetNotEmpty,
            "something else is in the way of {name}: {report}",
            "restore elsewhere, or remove it",
        ): (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP),
        _TARGET_DENIED: _DENIED,
        _TARGET_BUSY: (*_LOCKS, *_HANDLES),
        _TARGET_UNREACHABLE: _NETWORK,
        _TARGET_NO_ROOM: _NO_ROOM,
    }
)
_NO_MEMORY_AT_TARGET = _Meaning(
    TargetUnsupported,
    "restoring {name} needs more memory than there is",
    "give the function more memory, or restore from a terminal",
)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Translate what is raised inside while a source's file is read.

    Args:
        name: what messages call the file.

    Raises:
        StepvaultError: instead of each sqlite3.Error, OSError and MemoryError.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _of_sqlite(error, _SOURCE_SQLITE, _SOURCE_OTHER).about(name, error) from error
    except OSError as error:
        raise from_system(error, name) from error
    except MemoryError as error:
        raise _NO_MEMORY_AT_SOURCE.about(name, error) from error


@contextmanager
def writing(name: str) -> Iterator[None]:
    """Translate what is raised inside while a database is put back.

    Args:
        name: what messages call the file to make.

    Raises:
        StepvaultError: instead of each sqlite3.Error, OSError and MemoryError.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _of_sqlite(error, _TARGET_SQLITE, _TARGET_OTHER).about(name, error) from error
    except OSError as error:
        meaning = _TARGET_SYSTEM.get(error.errno or 0, _TARGET_OTHER_SYSTEM)
        raise meaning.about(name, error.strerror or error) from error
    except MemoryError as error:
        raise _NO_MEMORY_AT_TARGET.about(name, error) from error


def _of_sqlite(error: sqlite3.Error, table: dict[int, _Meaning], other: _Meaning) -> _Meaning:
    """Look up the extended code, then the primary one."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return table.get(code) or table.get(code & _PRIMARY, other)


def primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code; that of a general error where Python knows none."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & _PRIMARY


def from_system(error: OSError, name: str) -> StepvaultError:
    """Translate the operating system's error about a source's file or folder."""
    meaning = _SOURCE_SYSTEM.get(error.errno or 0, _SOURCE_OTHER_SYSTEM)
    return meaning.about(name, error.strerror or error)


def cancelled(name: str) -> StepvaultError:
    """Return the error for a read that was stopped from another thread."""
    return _CANCELLED.about(name, None)
