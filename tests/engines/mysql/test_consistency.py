"""All connections see the same data, in each of the four ways."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pymysql
import pytest

from devtools.servers.mariadb import MariaDb
from stepvault.engines.base import Connection
from stepvault.engines.mysql import consistency as consistency_module
from stepvault.engines.mysql.session import connect
from stepvault.settings import ConnectionSettings, MySqlSource
from tests.engines.driver import Result, back_up, restore_job, run_restore
from tests.engines.mysql.rig import MariaDbRig

_TABLES = 5


@contextmanager
def bank(server: MariaDb) -> Iterator[threading.Event]:
    """Accounts in several tables, money moving among them all the time; the sum never changes."""
    server.sql("DROP DATABASE IF EXISTS bank", "CREATE DATABASE bank")
    for number in range(_TABLES):
        server.sql(
            f"CREATE TABLE t{number} (id INT PRIMARY KEY, money BIGINT, filler CHAR(100) DEFAULT 'x')",
            f"INSERT INTO t{number} (id, money) SELECT seq, 1000 FROM seq_1_to_500",
            database="bank",
        )
    stop, moved = threading.Event(), threading.Event()

    def move(start: int) -> None:
        connection = server.connect("bank")
        connection.autocommit(False)
        step = start
        while not stop.is_set():
            step += 7
            one, two = step % _TABLES, (step + 3) % _TABLES
            try:
                with connection.cursor() as cursor:
                    cursor.execute(f"UPDATE t{one} SET money=money-5 WHERE id={1 + step % 500}")
                    cursor.execute(f"UPDATE t{two} SET money=money+5 WHERE id={1 + step * 3 % 500}")
                connection.commit()
            except pymysql.Error:  # deadlocks among ourselves
                connection.rollback()
            moved.set()
        connection.close()

    writers = [threading.Thread(target=move, args=(n,)) for n in range(2)]
    for writer in writers:
        writer.start()
    try:
        assert moved.wait(10)
        yield moved
    finally:
        stop.set()
        for writer in writers:
            writer.join()
        server.sql("DROP DATABASE bank")


def user_with(server: MariaDb, grants: str) -> Connection:
    server.sql(
        "CREATE OR REPLACE USER reader@127.0.0.1 IDENTIFIED BY 'read-me'",
        f"GRANT SELECT, SHOW VIEW, TRIGGER, EVENT {grants} ON *.* TO reader@127.0.0.1",
    )
    return Connection("127.0.0.1", server.port, "reader", "read-me")


def back_up_bank(connection: Connection, folder: Path) -> Result:
    at = ConnectionSettings(url_env="MYSQL_URL")
    source = MySqlSource(name="bank", engine="mysql", connection=at, databases=["bank"])
    engine = MariaDbRig.engine
    return back_up(engine, source, folder, connection=connection, connections=3)[0]


def restored_sum(server: MariaDb, result: Result, folder: Path) -> Any:
    at = ConnectionSettings(url_env="MYSQL_URL")
    source = MySqlSource(name="bank", engine="mysql", connection=at, databases=["bank"])
    server.sql("CREATE OR REPLACE DATABASE bank_again")
    target = Connection("127.0.0.1", server.port, "root", server.password, "bank_again")
    job = restore_job(result, folder, source, connection=target, connections=2)
    run_restore(MariaDbRig.engine, job)
    assert MariaDbRig.engine.differences(job) == []
    sums = " + ".join(f"(SELECT SUM(money) FROM t{n})" for n in range(_TABLES))
    (total,) = server.sql(f"SELECT {sums}", database="bank_again")[0]
    server.sql("DROP DATABASE bank_again")
    return total


@pytest.mark.parametrize(
    ("way", "binlog", "grants"),
    [
        pytest.param("snapshot position", True, "", marks=pytest.mark.mariadb),
        ("global lock", False, ", RELOAD"),
        ("table locks", False, ", LOCK TABLES"),
        ("one connection", False, ""),
    ],
)
def test_money_in_transit_is_never_lost_or_doubled(
    server: MariaDb, other: MariaDb, tmp_path: Path, way: str, binlog: bool, grants: str
) -> None:
    source = server if binlog else other
    connection = user_with(source, grants)
    with bank(source):
        for attempt in range(2):
            folder = tmp_path / str(attempt)
            folder.mkdir()
            result = back_up_bank(connection, folder)
            assert result.facts["consistency"] == way
            assert restored_sum(source, result, folder) == _TABLES * 500 * 1000
    assert result.facts["connections"] == (1 if way == "one connection" else 3)
    assert bool(result.warnings) == (way == "one connection")
    assert bool(result.facts["position"]) == binlog


def test_the_recorded_position_is_where_the_snapshot_stands(
    server: MariaDb, tmp_path: Path
) -> None:
    """Replaying the binary log from there on a restored copy leads to the source's present."""
    connection = user_with(server, ", RELOAD, BINLOG MONITOR")
    with bank(server):
        result = back_up_bank(connection, tmp_path)
    position = result.facts["position"]
    assert position["gtid"]
    events = server.sql(
        f"SHOW BINLOG EVENTS IN '{position['file']}' FROM {position['position']} LIMIT 1"
    )
    assert events[0][2] in {"Gtid", "Rotate", "Stop"}  # a transaction's border, not its middle


def test_a_long_statement_in_the_way_of_the_global_lock_is_named_and_got_round(
    other: MariaDb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consistency_module, "_PATIENCE", 0.5)
    other.sql("CREATE OR REPLACE DATABASE bank")
    other.sql("CREATE TABLE a (id INT PRIMARY KEY)", "INSERT INTO a VALUES (1)", database="bank")
    other.sql("CREATE TABLE b (id INT PRIMARY KEY)", "INSERT INTO b VALUES (1)", database="bank")
    connection = user_with(other, ", RELOAD, PROCESS")
    slow = other.connect("bank")
    waiting = threading.Thread(target=lambda: slow.query("UPDATE a SET id = 2 + SLEEP(6)"))
    waiting.start()
    try:
        result = back_up_bank(connection, tmp_path)
    finally:
        waiting.join()
        slow.close()
        other.sql("DROP DATABASE bank")
    assert result.facts["consistency"] == "one connection"
    assert "UPDATE a SET id = 2 + SLEEP(6)" in result.warnings[0]


@pytest.mark.mariadb
def test_a_commit_that_no_log_records_between_two_connections_is_noticed(
    server: MariaDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writers may keep out of the binary log, so its position alone does not tell."""
    server.sql("CREATE OR REPLACE DATABASE bank")
    server.sql("CREATE TABLE t (money INT)", "INSERT INTO t VALUES (1)", database="bank")
    at = user_with(server, "")
    one, two, control = (connect(at) for _ in range(3))
    run, commits = two.run, 0

    def late(sql: str | bytes, what: str = "") -> int:
        nonlocal commits
        if str(sql).startswith("START") and commits < 2:
            commits += 1
            server.sql("SET sql_log_bin = 0", "UPDATE t SET money = money + 1", database="bank")
        return run(sql, what)

    monkeypatch.setattr(two, "run", late)
    moment = consistency_module.freeze([one, two], control, [], lambda: "")
    seen = [session.one("SELECT money FROM bank.t") for session in (one, two)]
    for session in (one, two, control):
        session.close()
    server.sql("DROP DATABASE bank")
    assert moment.way == "snapshot position"
    assert seen == [(3,), (3,)]


@pytest.mark.mariadb
def test_a_replica_that_does_not_log_what_it_replicates_is_frozen_by_a_lock(
    server: MariaDb, tmp_path: Path
) -> None:
    server.sql(
        "CREATE OR REPLACE USER follower@127.0.0.1 IDENTIFIED BY 'follow'",
        "GRANT REPLICATION SLAVE ON *.* TO follower@127.0.0.1",
    )
    file, position = server.sql("SHOW MASTER STATUS")[0][:2]
    with MariaDb(["--log-bin=binlog", "--server-id=2", "--binlog-format=ROW"]) as replica:
        replica.sql(
            f"CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={server.port},"
            " MASTER_USER='follower', MASTER_PASSWORD='follow',"
            f" MASTER_LOG_FILE='{file}', MASTER_LOG_POS={position}",
            "START SLAVE",
        )
        connection = user_with(replica, ", RELOAD")
        with bank(server):
            there = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'bank'"
            while replica.sql(there) != [(_TABLES,)]:
                time.sleep(0.05)
            result = back_up_bank(connection, tmp_path)
            assert restored_sum(replica, result, tmp_path) == _TABLES * 500 * 1000
    assert (result.facts["consistency"], result.facts["connections"]) == ("global lock", 3)


@pytest.mark.parametrize("lock_tables", [", LOCK TABLES", ""])
def test_a_long_read_is_waited_for_by_nobody(
    brand: str, other: MariaDb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock_tables: str
) -> None:
    """MySQL's global lock, once asked for, stalls those who come to the table after that reader."""
    monkeypatch.setattr(consistency_module, "_PATIENCE", 0.5)
    other.sql("CREATE OR REPLACE DATABASE bank")
    for name in ("a", "b"):
        create = f"CREATE TABLE {name} (id INT PRIMARY KEY)"
        other.sql(create, f"INSERT INTO {name} VALUES (1)", database="bank")
    connection = user_with(other, f", RELOAD, PROCESS{lock_tables}")
    slow = other.connect("bank")
    reading = threading.Thread(target=lambda: slow.query("SELECT SLEEP(9) FROM a"))
    reading.start()
    long = (
        "SELECT COUNT(*) FROM information_schema.processlist"
        " WHERE info LIKE 'SELECT SLEEP%' AND time > 0"
    )
    while other.sql(long) != [(1,)]:
        time.sleep(0.05)
    try:
        result = back_up_bank(connection, tmp_path)
        assert other.sql("SELECT * FROM bank.a") == [(1,)]
        assert reading.is_alive()
    finally:
        reading.join()
        slow.close()
        other.sql("DROP DATABASE bank")
    on_mysql = "table locks" if lock_tables else "one connection"
    assert result.facts["consistency"] == (on_mysql if brand == "mysql" else "global lock")
