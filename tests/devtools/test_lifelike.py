"""Traffic that cannot write says why; it does not leave its test waiting, or passing without it."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from devtools import lifelike


def test_traffic_that_cannot_begin_raises_its_own_error() -> None:
    nobody_there = "postgresql://nobody@127.0.0.1:1/nothing"
    with (
        pytest.raises(RuntimeError, match=r"traffic's process failed(.|\n)*connection failed"),
        lifelike.Traffic(nobody_there, None),
    ):
        pytest.fail("the block must not begin")


def test_traffic_that_dies_under_way_fails_the_block(tmp_path: Path) -> None:
    path = tmp_path / "tickets.sqlite"
    lifelike.make_tickets(path, rows=1)
    with pytest.raises(RuntimeError, match=r"traffic's process failed(.|\n)*no such table"):
        write_until_the_table_is_gone(path)


def write_until_the_table_is_gone(path: Path) -> None:
    with (
        lifelike.Traffic(None, path) as traffic,
        closing(sqlite3.connect(path, timeout=30)) as connection,
    ):
        connection.execute("DROP TABLE wallet")
        traffic.process.wait(30)


def test_traffic_counts_its_commits_and_keeps_the_sum(tmp_path: Path) -> None:
    path = tmp_path / "tickets.sqlite"
    lifelike.make_tickets(path, rows=1)
    with lifelike.Traffic(None, path) as traffic:
        pass
    assert traffic.commits >= 10
    with closing(sqlite3.connect(path)) as connection:
        total = connection.execute(
            "SELECT (SELECT sum(cents) FROM account) + (SELECT sum(cents) FROM wallet)"
        )
        assert total.fetchone() == (lifelike.TOTAL,)
