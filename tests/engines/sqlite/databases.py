"""SQLite databases for tests: how they are made, read, written by others and run through the engine."""

import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

from stepvault.engines.sqlite import engine
from stepvault.settings import SqliteSource
from tests.engines.driver import Result, back_up, restore_job, run_restore
from tests.engines.sqlite import writer as writer_program

type Form = Literal["file", "sql"]


def make_database(path: Path, megabytes: float = 0.1, mode: str = "WAL") -> None:
    """A database with awkward values; in WAL mode half of it is in the log."""
    rows = random.Random(os.fsencode(path.name))
    connection = sqlite3.connect(path, isolation_level=None)
    connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute(f"PRAGMA journal_mode = {mode}")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.executescript(
        """
        CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, price REAL, picture BLOB);
        CREATE INDEX item_name ON item (name);
        CREATE TABLE note (text);
        INSERT INTO note (rowid, text) VALUES
            (7, 'a' || char(0) || 'b'), (9, 'two' || char(10) || 'lines; ''quoted'''),
            (11, 1e999), (12, -9223372036854775808), (13, 0.1), (14, X''), (15, NULL), (16, '');
        PRAGMA user_version = 42;
        """
    )
    for half in range(2):
        connection.execute("BEGIN")
        for _ in range(int(megabytes * 64)):
            connection.execute(
                "INSERT INTO item (name, price, picture) VALUES (?, ?, ?)",
                (f"Größe {rows.random()}", rows.uniform(-1e9, 1e9), rows.randbytes(8_000)),
            )
        connection.execute("UPDATE item SET price = -price WHERE id % 3 = 0")
        connection.execute("COMMIT")
        if half == 0:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def content(path: Path) -> Any:
    """All rows of all tables with their row numbers, and the settings; None if there is no file."""
    if not path.exists():
        return None
    connection = sqlite3.connect(path)
    connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)
    connection.text_factory = bytes
    try:
        tables = [
            name.decode()
            for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type='table'")
        ]
        return (
            connection.execute("PRAGMA integrity_check").fetchall(),
            connection.execute("PRAGMA user_version").fetchall(),
            sorted(connection.execute("SELECT type, name, sql FROM sqlite_schema").fetchall()),
            {
                t: connection.execute(f'SELECT rowid, * FROM "{t}" ORDER BY rowid').fetchall()
                for t in tables
            },
        )
    finally:
        connection.close()


def change_a_value(path: Path) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE item SET price = price + 1 WHERE id = 1")
    connection.close()


@contextmanager
def writer(path: Path, mode: str, autocheckpoint: int) -> Iterator["subprocess.Popen[str]"]:
    """The writer program at work; its pipes end it, so that none is left behind."""
    command = [sys.executable, writer_program.__file__, str(path), mode, str(autocheckpoint)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert line(process.stdout) == "ready"
        yield process
        assert process.poll() is None, "the writer failed"
        process.stdin and process.stdin.close()
        commits, *_ = line(process.stdout).split()
        assert int(commits) > 0


def line(pipe: IO[str] | None) -> str:
    assert pipe
    return pipe.readline().strip()


def settings(path: Path | str, form: Form = "file") -> SqliteSource:
    return SqliteSource(name="live", engine="sqlite", path=str(path), format=form)


def round_trip(source: SqliteSource, folder: Path, **job: Any) -> tuple[Result, Path]:
    """Back up and restore below folder; the result, and the file or folder restored."""
    vault, place = folder / "vault", folder / "restored"
    (result,) = back_up(engine, source, vault, **job)
    restoring = restore_job(result, vault, source, path=place)
    run_restore(engine, restoring)
    assert engine.differences(restoring) == []
    return result, place


def only_facts(result: Result) -> dict[str, Any]:
    (stored,) = result.objects
    return stored.facts


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's right to read and write everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)
