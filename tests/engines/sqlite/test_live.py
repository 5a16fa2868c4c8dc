"""A database that a program keeps writing is copied as it was at one commit."""

import os
import random
import sqlite3
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from stepvault.engines.base import EndFrame, Job
from stepvault.engines.sqlite import engine, snapshot
from stepvault.errors import SourceChanged
from tests.engines.sqlite import writer as writer_program
from tests.engines.sqlite.databases import make_database, only_facts, round_trip, settings, writer


def prefill(path: Path, megabytes: int = 12) -> None:
    """Room enough for the writer to commit many times while one copy is read."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    writer_program.prepare(connection)
    with connection:
        for _ in range(megabytes * 16):
            connection.execute(
                "INSERT INTO journal (note) VALUES (?)", (random.randbytes(1 << 16),)
            )
    connection.close()


def state(path: Path) -> tuple[int, int]:
    """The invariant sum and how far the journal is."""
    connection = sqlite3.connect(path)
    total = connection.execute(
        "SELECT (SELECT sum(cents) FROM checking) + (SELECT sum(cents) FROM savings)"
    ).fetchone()[0]
    last = connection.execute("SELECT coalesce(max(id), 0) FROM journal").fetchone()[0]
    connection.close()
    return total, last


@pytest.mark.parametrize("autocheckpoint", [0, 1, 20, 1000])
def test_every_copy_of_a_busy_database_is_one_commit(tmp_path: Path, autocheckpoint: int) -> None:
    path = tmp_path / "live.db"
    prefill(path)
    reached, methods = [], set()
    with writer(path, "WAL", autocheckpoint):
        for trial in range(8):
            folder = tmp_path / str(trial)
            result, place = round_trip(
                settings(path), folder, watch=lambda name, done: time.sleep(0.004)
            )
            total, last = state(place)
            assert total == writer_program.TOTAL
            reached.append(last)
            methods.add(only_facts(result)["method"])
            assert result.warnings == []
    assert reached == sorted(reached)
    assert reached[-1] > reached[0] + 8, "the writer stood still"
    assert methods <= {"overlay", "file"}
    if autocheckpoint != 1:
        assert "overlay" in methods


def test_a_program_that_ignores_the_log_would_have_failed_this(tmp_path: Path) -> None:
    """The control: the file alone, copied as fast as can be, is not the database."""
    path = tmp_path / "live.db"
    prefill(path)
    with writer(path, "WAL", 0):
        time.sleep(0.2)
        before = state(path)
        (tmp_path / "cp.db").write_bytes(path.read_bytes())
        assert state(tmp_path / "cp.db") != before


def test_a_rollback_journal_makes_writers_wait_and_is_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "live.db"
    with writer(path, "DELETE", 0):
        for trial in range(5):
            result, place = round_trip(settings(path), tmp_path / str(trial))
            assert state(place)[0] == writer_program.TOTAL
            assert "journal_mode=WAL" in result.warnings[0]
            assert only_facts(result)["journal_mode"] == "delete"


@pytest.mark.parametrize("method", ["overlay", "file"])
def test_a_lock_that_got_lost_is_noticed(tmp_path: Path, method: str) -> None:
    """Closing any descriptor of the -shm file drops the process's locks on it."""
    path = tmp_path / "live.db"
    prefill(path)
    with writer(path, "WAL", 30):
        for _ in range(100):  # until the copy begins by the method that is wanted
            time.sleep(0.02)
            with held(path, tmp_path) as view:
                if view.method != method:
                    continue
                os.close(os.open(f"{path}-shm", os.O_RDONLY))
                time.sleep(0.3)
                with pytest.raises(SourceChanged, match=r"live\.db"):
                    list(view.read())
                return
        pytest.fail(f"never began by {method}")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_commit_while_the_copy_begins_makes_it_begin_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    path = tmp_path / "shop.db"
    make_database(path)
    other = sqlite3.connect(path, isolation_level=None)
    begun = 0

    def commit() -> None:
        if begun <= 3:
            other.execute("INSERT INTO note VALUES ('in between')")

    def begin(connection: sqlite3.Connection) -> None:
        nonlocal begun
        begun += 1
        if when == "before":
            commit()
        begin_reading(connection)
        if when == "after":
            commit()

    begin_reading = snapshot._begin_reading
    monkeypatch.setattr(snapshot, "_begin_reading", begin)
    with held(path, tmp_path) as view:
        (tmp_path / "copy.db").write_bytes(b"".join(bytes(piece) for piece in view.read()))
        seen = view.connection.execute("SELECT count(*) FROM note").fetchone()
    other.close()
    assert begun == 4
    copy = sqlite3.connect(tmp_path / "copy.db")
    assert copy.execute("SELECT count(*) FROM note").fetchone() == seen
    copy.close()


def held(path: Path, scratch: Path) -> AbstractContextManager[snapshot.DatabaseSnapshot]:
    return snapshot.freeze(path, str(path), scratch, threading.Event(), [])


def test_a_database_is_frozen_when_it_is_opened_not_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    make_database(path)
    writing = sqlite3.connect(path)
    with engine.open(Job(source=settings(path), scratch=tmp_path)) as opened:
        with writing:
            writing.execute("DELETE FROM item")
        (stream,) = opened.streams()
        pieces = (bytes(piece) for piece in stream.read() if not isinstance(piece, EndFrame))
        (tmp_path / "copy.db").write_bytes(b"".join(pieces))
    writing.close()
    copy = sqlite3.connect(tmp_path / "copy.db")
    assert copy.execute("SELECT count(*) FROM item").fetchone()[0] > 0
    copy.close()
