"""What each error of SQLite and of the operating system becomes, at the source and at the target."""

import errno
import os
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from stepvault.engines.sqlite import engine
from stepvault.engines.sqlite.errors import reading, writing
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
from stepvault.records import RestoreTask
from tests.engines.driver import back_up, restore_job
from tests.engines.sqlite.databases import as_nobody, make_database, settings

#: Code: what it becomes when a source is read, and when a target is written.
BY_SQLITE: dict[str, tuple[type[StepvaultError], type[StepvaultError]]] = {
    "SQLITE_ERROR": (SourceUnsupported, TargetUnsupported),
    "SQLITE_INTERNAL": (SourceUnsupported, TargetUnsupported),
    "SQLITE_PERM": (SourceDenied, SourceDenied),
    "SQLITE_ABORT": (SourceChanged, TargetUnsupported),
    "SQLITE_BUSY": (SourceBusy, SourceBusy),
    "SQLITE_LOCKED": (SourceBusy, SourceBusy),
    "SQLITE_NOMEM": (SourceUnsupported, TargetUnsupported),
    "SQLITE_READONLY": (SourceDenied, SourceDenied),
    "SQLITE_INTERRUPT": (OutOfTime, OutOfTime),
    "SQLITE_IOERR": (SourceUnreachable, SourceUnreachable),
    "SQLITE_CORRUPT": (SourceCorrupt, TargetUnsupported),
    "SQLITE_NOTFOUND": (SourceUnsupported, TargetUnsupported),
    "SQLITE_FULL": (SourceUnsupported, TargetMissing),
    "SQLITE_CANTOPEN": (SourceDenied, SourceDenied),
    "SQLITE_PROTOCOL": (SourceBusy, SourceBusy),
    "SQLITE_EMPTY": (SourceUnsupported, TargetUnsupported),
    "SQLITE_SCHEMA": (SourceChanged, TargetUnsupported),
    "SQLITE_TOOBIG": (SourceUnsupported, TargetUnsupported),
    "SQLITE_CONSTRAINT": (SourceUnsupported, TargetUnsupported),
    "SQLITE_MISMATCH": (SourceUnsupported, TargetUnsupported),
    "SQLITE_MISUSE": (SourceUnsupported, TargetUnsupported),
    "SQLITE_NOLFS": (SourceUnsupported, TargetUnsupported),
    "SQLITE_AUTH": (SourceDenied, SourceDenied),
    "SQLITE_FORMAT": (SourceUnsupported, TargetUnsupported),
    "SQLITE_RANGE": (SourceUnsupported, TargetUnsupported),
    "SQLITE_NOTADB": (SourceCorrupt, TargetUnsupported),
    "SQLITE_READONLY_DBMOVED": (SourceChanged, SourceDenied),
    "SQLITE_IOERR_CORRUPTFS": (SourceCorrupt, SourceUnreachable),
}
#: Results that are no errors.
NO_ERRORS = {"SQLITE_OK", "SQLITE_ROW", "SQLITE_DONE", "SQLITE_NOTICE", "SQLITE_WARNING"}

BY_SYSTEM: dict[str, tuple[type[StepvaultError], type[StepvaultError]]] = {
    "ENOENT": (SourceMissing, TargetMissing),
    "ENOTDIR": (SourceMissing, TargetNotEmpty),
    "ELOOP": (SourceMissing, TargetNotEmpty),
    "ENAMETOOLONG": (SourceMissing, TargetUnsupported),
    "ENXIO": (SourceMissing, TargetMissing),
    "ENODEV": (SourceMissing, TargetMissing),
    "EACCES": (SourceDenied, SourceDenied),
    "EPERM": (SourceDenied, SourceDenied),
    "EROFS": (SourceDenied, SourceDenied),
    "ENOSPC": (SourceUnsupported, TargetMissing),
    "EDQUOT": (SourceUnsupported, TargetMissing),
    "EISDIR": (SourceUnsupported, TargetNotEmpty),
    "EEXIST": (SourceUnsupported, TargetNotEmpty),
    "ENOTEMPTY": (SourceUnsupported, TargetNotEmpty),
    "EBUSY": (SourceBusy, SourceBusy),
    "ETXTBSY": (SourceBusy, SourceBusy),
    "EAGAIN": (SourceBusy, SourceBusy),
    "ENOLCK": (SourceBusy, SourceBusy),
    "EDEADLK": (SourceBusy, SourceBusy),
    "EMFILE": (SourceBusy, SourceBusy),
    "ENFILE": (SourceBusy, SourceBusy),
    "ENOMEM": (SourceBusy, SourceBusy),
    "EINTR": (SourceBusy, SourceBusy),
    "EIO": (SourceUnreachable, SourceUnreachable),
    "ESTALE": (SourceUnreachable, SourceUnreachable),
    "ETIMEDOUT": (SourceUnreachable, SourceUnreachable),
    "EHOSTDOWN": (SourceUnreachable, SourceUnreachable),
    "EHOSTUNREACH": (SourceUnreachable, SourceUnreachable),
    "ENOTCONN": (SourceUnreachable, SourceUnreachable),
    "ECONNRESET": (SourceUnreachable, SourceUnreachable),
    "EREMOTEIO": (SourceUnreachable, SourceUnreachable),
    "EFBIG": (SourceUnsupported, TargetUnsupported),
    "EOVERFLOW": (SourceUnsupported, TargetUnsupported),
    "EINVAL": (SourceUnsupported, TargetUnsupported),
    "EILSEQ": (SourceUnsupported, TargetUnsupported),
    "EOPNOTSUPP": (SourceUnsupported, TargetUnsupported),
    "EXDEV": (SourceUnsupported, TargetUnsupported),
}

#: Words of advice that fit one side only.
NOT_FOR_A_TARGET = ("format =", "integrity_check", "the source", "reading SQLite file")


def becomes(
    side: Callable[[str], AbstractContextManager[None]], error: Exception
) -> StepvaultError:
    with pytest.raises(StepvaultError) as caught, side("/data/{0}%s.db"):
        raise error
    assert caught.value.__cause__ is error
    assert "/data/{0}%s.db" in caught.value.message
    assert caught.value.fix
    return caught.value


def sqlite_error(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("as SQLite words it {1}")
    error.sqlite_errorcode = code
    return error


def test_every_result_code_of_sqlite_is_in_the_table() -> None:
    primary = {
        name
        for name in dir(sqlite3)
        if name.startswith("SQLITE_")
        and isinstance(code := getattr(sqlite3, name), int)
        and name.count("_") == 1
        and getattr(sqlite3, f"{name}_X", None) is None
        and code in range(102)
    }
    actions = {  # numbers of other things: the authorizer's actions and answers
        "SQLITE_DENY", "SQLITE_IGNORE", "SQLITE_READ", "SQLITE_SELECT", "SQLITE_TRANSACTION",
        "SQLITE_UPDATE", "SQLITE_ATTACH", "SQLITE_DETACH", "SQLITE_REINDEX", "SQLITE_ANALYZE",
        "SQLITE_FUNCTION", "SQLITE_SAVEPOINT", "SQLITE_RECURSIVE", "SQLITE_PRAGMA",
        "SQLITE_DELETE", "SQLITE_INSERT",
    }  # fmt: skip
    assert primary - actions <= BY_SQLITE.keys() | NO_ERRORS


@pytest.mark.parametrize("name", BY_SQLITE)
def test_errors_of_sqlite(name: str) -> None:
    at_source, at_target = BY_SQLITE[name]
    code = getattr(sqlite3, name)
    assert type(becomes(reading, sqlite_error(code))) is at_source
    error = becomes(writing, sqlite_error(code))
    assert type(error) is at_target
    assert not [words for words in NOT_FOR_A_TARGET if words in str(error)]


@pytest.mark.parametrize("name", BY_SQLITE)
def test_extended_codes_become_what_their_primary_code_does(name: str) -> None:
    if name.count("_") == 1:
        at_source, at_target = BY_SQLITE[name]
        code = getattr(sqlite3, name) | 99 << 8
        assert type(becomes(reading, sqlite_error(code))) is at_source
        assert type(becomes(writing, sqlite_error(code))) is at_target


def test_an_error_that_python_raised_itself_has_no_code() -> None:
    error = sqlite3.ProgrammingError("Cannot operate on a closed database.")
    assert type(becomes(reading, error)) is SourceUnsupported
    assert type(becomes(writing, error)) is TargetUnsupported
    assert type(becomes(reading, MemoryError())) is SourceUnsupported
    assert type(becomes(writing, MemoryError())) is TargetUnsupported


@pytest.mark.parametrize("name", BY_SYSTEM)
def test_errors_of_the_system(name: str) -> None:
    at_source, at_target = BY_SYSTEM[name]
    number = getattr(errno, name)
    assert type(becomes(reading, OSError(number, os.strerror(number)))) is at_source
    error = becomes(writing, OSError(number, os.strerror(number)))
    assert type(error) is at_target
    assert not [words for words in NOT_FOR_A_TARGET if words in str(error)]


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A folder with a database and a backup of it, which nobody but root can get to."""
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    (tmp_path / "closed" / "in").mkdir(parents=True)
    make_database(tmp_path / "closed" / "in" / "x.db", mode="DELETE")
    (tmp_path / "closed").chmod(0)
    return tmp_path / "closed" / "in"


@pytest.mark.parametrize("name", ["x.db", "*.db", "**/*.db"])
def test_a_source_in_a_closed_folder_is_denied(closed: Path, tmp_path: Path, name: str) -> None:
    with as_nobody(), pytest.raises(SourceDenied, match="closed"):
        back_up(engine, settings(closed / name), tmp_path / "vault")


@pytest.mark.parametrize("name", ["", "new.db", "x.db"])
def test_a_target_in_a_closed_folder_is_denied_and_not_compared(
    closed: Path, tmp_path: Path, name: str
) -> None:
    make_database(tmp_path / "x.db", mode="DELETE")
    source, vault = settings(tmp_path / "x.db"), tmp_path / "vault"
    job = restore_job(back_up(engine, source, vault), vault, source, path=closed / name)
    task = RestoreTask(stage="data", id="0000", objects=[o.name for o in job.objects])
    with as_nobody():
        for work in (
            lambda: engine.plan_restore(job),
            lambda: engine.restore(job, task),
            lambda: engine.differences(job),
        ):
            try:
                lines = work()
            except SourceDenied as error:
                lines = [error.message]
            assert "closed" in str(lines)
            assert "ermission denied" in str(lines)


def test_any_other_error_of_the_system_is_not_repeated() -> None:
    for number in errno.errorcode.keys() - {getattr(errno, name) for name in BY_SYSTEM}:
        error = OSError(number, os.strerror(number))
        assert type(becomes(reading, error)) is SourceUnsupported, error
        assert type(becomes(writing, error)) is TargetUnsupported, error
    assert "unknown" in str(becomes(reading, OSError("unknown")))
