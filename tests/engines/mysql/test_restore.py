"""Restores that go on side by side, are interrupted, or run out of time."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stepvault.engines.base import RestoreJob
from stepvault.errors import OutOfTime
from stepvault.records import StoredObject
from tests.engines.driver import back_up, restore_job, run_restore
from tests.engines.mysql.rig import MariaDbRig


@pytest.fixture
def job(rig: MariaDbRig, tmp_path: Path) -> RestoreJob:
    """The restore of a table in several pieces, without a key that would tell rows apart."""
    name = rig.new_database()
    rig.server.sql(
        "CREATE TABLE many (id INT PRIMARY KEY, t VARCHAR(100))",
        "INSERT INTO many SELECT seq, REPEAT('x', 90) FROM seq_1_to_30000",
        "ANALYZE TABLE many",
        database=name,
    )
    source = rig.source(name, split_above_mb=1)
    results = back_up(rig.engine, source, tmp_path, **rig.job(source))
    return restore_job(results, tmp_path, source, **rig.target())


def rows(rig: MariaDbRig, job: RestoreJob) -> Any:
    assert job.connection
    return rig.server.sql("SELECT COUNT(*) FROM many", database=job.connection.database)[0][0]


def test_pieces_of_one_table_are_loaded_side_by_side(rig: MariaDbRig, job: RestoreJob) -> None:
    first = next(t for t in rig.engine.plan_restore(job) if t.stage == "data").objects
    assert len(first) >= 3
    meeting = threading.Barrier(2, timeout=20)
    together = first[:2]

    def read(stored: StoredObject) -> Iterator[bytes]:
        whole = b"".join(job.read(stored))
        yield whole  # all its rows are in, but not yet committed
        if stored.name in together:
            meeting.wait()

    run_restore(rig.engine, replace(job, read=read, connections=2))
    assert rig.engine.differences(job) == []


def test_a_restore_that_fails_halfway_is_continued_by_its_repetition(
    rig: MariaDbRig, job: RestoreJob
) -> None:
    broken = next(o.name for o in job.objects if o.facts.get("kind") == "data")

    def read(stored: StoredObject) -> Iterator[bytes]:
        for chunk in job.read(stored):
            yield chunk
            if stored.name == broken:
                raise ConnectionAbortedError("the function was killed")

    tasks = rig.engine.plan_restore(job)
    for task in (t for t in tasks if t.stage == "before"):
        rig.engine.restore(job, task)
    loads = [t for t in tasks if t.stage == "data"]
    for task in loads:
        with pytest.raises(ConnectionAbortedError):
            rig.engine.restore(replace(job, read=read), task)
    assert rows(rig, job) < 30000
    for task in loads:
        rig.engine.restore(job, task)
    for task in (t for t in tasks if t.stage == "after"):
        rig.engine.restore(job, task)
    assert rows(rig, job) == 30000
    assert rig.engine.differences(job) == []
    assert job.connection
    assert rig.server.sql("SHOW TABLES", database=job.connection.database) == [("many",)]


def test_a_load_without_time_left_says_so_and_leaves_no_part_of_an_object(
    rig: MariaDbRig, job: RestoreJob
) -> None:
    with pytest.raises(OutOfTime, match=r"many\.0000\d\.sql\.zst after 0 of"):
        run_restore(rig.engine, replace(job, remaining=lambda: 0.0))
    assert rows(rig, job) == 0


def test_progress_adds_up_to_what_was_stored_however_many_statements(
    rig: MariaDbRig, tmp_path: Path
) -> None:
    name = rig.new_database()
    rig.server.sql(
        "CREATE TABLE many (id INT PRIMARY KEY, t VARCHAR(100))",
        "INSERT INTO many SELECT seq, REPEAT('x', 90) FROM seq_1_to_40000",
        database=name,
    )
    source = rig.source(name)
    results = back_up(rig.engine, source, tmp_path, **rig.job(source))
    told: list[int] = []
    more = {**rig.target(), "progress": lambda _, size: told.append(size)}
    run_restore(rig.engine, restore_job(results, tmp_path, source, **more))
    stored = sum(o.raw_bytes for r in results for o in r.objects)
    assert len(told) > 4
    assert 0.99 * stored < sum(told) <= stored
