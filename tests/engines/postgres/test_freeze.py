"""Databases that are written to, altered and cut off while they are backed up."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from devtools.servers.postgres import PostgresServer
from stepvault.engines.base import Job
from stepvault.engines.postgres import engine, session, tables
from stepvault.errors import SourceBusy, SourceChanged, SourceUnreachable, StepvaultError
from tests.engines.driver import Result, back_up
from tests.engines.postgres.rig import address, new_database, source


@pytest.fixture
def bank(pg18: PostgresServer) -> str:
    """Two tables whose sum every transaction keeps, a small one, and a log."""
    name = new_database(pg18)
    pg18.psql(
        "CREATE TABLE left_side AS SELECT i AS id, 100 AS money, repeat('x', 100) AS fill"
        "  FROM generate_series(1, 40000) i;"
        "CREATE TABLE right_side AS TABLE left_side;"
        "ALTER TABLE left_side ADD PRIMARY KEY (id); ALTER TABLE right_side ADD PRIMARY KEY (id);"
        "CREATE TABLE small AS SELECT i FROM generate_series(1, 100) i;"
        "CREATE TABLE log (at timestamptz DEFAULT clock_timestamp())",
        database=name,
    )
    return name


def run(
    server: PostgresServer,
    database: str,
    vault: Path,
    split_above_mb: int = 1,
    exclude_tables: Sequence[str] = (),
    **more: Any,
) -> Result:
    vault.mkdir(exist_ok=True)
    [result] = back_up(
        engine,
        source(database, split_above_mb=split_above_mb, exclude_tables=list(exclude_tables)),
        vault,
        connection=address(server, database),
        connections=3,
        **more,
    )
    return result


def rows(result: Result, table: str) -> int:
    return sum(o.rows or 0 for o in result.objects if o.facts.get("table") == table)


@contextmanager
def meanwhile(server: PostgresServer, database: str, work: Callable[[Any], None]) -> Iterator[None]:
    """Repeat work(session) in a thread until the block ends; its errors are raised here."""
    done = threading.Event()
    errors: list[BaseException] = []

    def repeat() -> None:
        try:
            with closing(psycopg.connect(server.url(database), autocommit=True)) as opened:
                while not done.is_set():
                    work(opened)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(60)
    assert not errors


def test_writers_are_seen_at_one_moment(pg18: PostgresServer, bank: str, tmp_path: Path) -> None:
    def move(opened: Any) -> None:
        with opened.transaction():
            one, other = random.sample(range(1, 40_001), 2)
            opened.execute("UPDATE left_side SET money = money - 1 WHERE id = %s", [one])
            opened.execute("UPDATE right_side SET money = money + 1 WHERE id = %s", [other])
            opened.execute("INSERT INTO log DEFAULT VALUES")

    with meanwhile(pg18, bank, move):
        time.sleep(0.2)
        result = run(pg18, bank, tmp_path / "vault")
        time.sleep(0.2)
    copy = new_database(pg18)
    pg18.run("pg_restore", "-j2", "--exit-on-error", "-d", copy, tmp_path / "vault")
    total = (
        "SELECT (SELECT sum(money) FROM left_side) + (SELECT sum(money) FROM right_side),"
        " (SELECT 4000000 - sum(money) FROM left_side) = (SELECT count(*) FROM log)"
    )
    assert pg18.psql(total, database=copy) == "8000000|t"
    moved = int(pg18.psql("SELECT count(*) FROM log", database=copy))
    assert 0 < moved < int(pg18.psql("SELECT count(*) FROM log", database=bank))
    assert rows(result, "public.log") == moved


@pytest.mark.parametrize(
    "statement",
    [
        "TRUNCATE small, left_side, right_side",
        "ALTER TABLE small ALTER i TYPE text; ALTER TABLE left_side DROP COLUMN fill",
        "DROP TABLE small, left_side, right_side",
        "VACUUM FULL",
        "CLUSTER left_side USING left_side_pkey",
    ],
)
def test_statements_that_come_later_wait_for_the_backup(
    statement: str, pg18: PostgresServer, bank: str, tmp_path: Path
) -> None:
    """They arrive at the first byte and must take no row away."""
    started = threading.Event()
    late = threading.Thread(target=lambda: pg18.psql(statement, database=bank))

    def watch(name: str, raw_bytes: int) -> None:
        if not started.is_set():
            started.set()
            late.start()
            while not int(
                pg18.psql(
                    "SELECT count(*) FROM pg_locks WHERE NOT granted AND database ="
                    f" (SELECT oid FROM pg_database WHERE datname = '{bank}')"
                )
            ):
                time.sleep(0.01)

    result = run(pg18, bank, tmp_path / "vault", watch=watch)
    late.join(60)
    assert not late.is_alive()
    assert rows(result, "public.small") == 100
    assert rows(result, "public.left_side") == rows(result, "public.right_side") == 40_000
    copy = new_database(pg18)
    pg18.run("pg_restore", "--exit-on-error", "-d", copy, tmp_path / "vault")
    assert pg18.psql("SELECT sum(money) FROM right_side", database=copy) == "4000000"


def test_a_table_that_is_emptied_and_refilled_again_and_again_is_never_seen_empty(
    pg18: PostgresServer, bank: str, tmp_path: Path
) -> None:
    def refill(opened: Any) -> None:
        with opened.transaction():
            opened.execute("TRUNCATE small")
            opened.execute("INSERT INTO small SELECT generate_series(1, 100)")
        time.sleep(0.5)

    whole = 0
    with meanwhile(pg18, bank, refill):
        for number in range(3):
            try:
                result = run(pg18, bank, tmp_path / f"vault{number}")
            except SourceBusy:  # each attempt met a TRUNCATE between two locks
                continue
            whole += 1
            assert rows(result, "public.small") == 100
    assert whole


def test_tables_that_come_and_go_end_in_a_whole_backup_or_a_clear_error(
    pg18: PostgresServer, bank: str, tmp_path: Path
) -> None:
    def churn(opened: Any) -> None:
        opened.execute("CREATE TABLE passing AS SELECT generate_series(1, 10) AS i")
        opened.execute("ALTER TABLE passing ADD j int DEFAULT random(1, 10)")
        opened.execute("DROP TABLE passing")
        time.sleep(0.02)

    whole = 0
    with meanwhile(pg18, bank, churn):
        for number in range(4):
            vault = tmp_path / f"vault{number}"
            try:
                result = run(pg18, bank, vault)
            except SourceBusy:
                assert not list(vault.iterdir())
                continue
            whole += 1
            assert rows(result, "public.passing") in (0, 10)
            copy = new_database(pg18)
            pg18.run("pg_restore", "--exit-on-error", "-d", copy, vault)
    assert whole


def test_a_table_dropped_between_two_looks_is_not_called_unreadable(
    pg18: PostgresServer, bank: str
) -> None:
    with closing(psycopg.connect(pg18.url(bank))) as opened:
        session.set_up(opened)
        opened.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        opened.execute("SELECT FROM pg_class")
        pg18.psql("DROP TABLE small", database=bank)
        seen = tables.listed(opened)
    assert "public.small" in {t.label for t in seen}
    tables.check_readable(seen)


def test_who_holds_a_lock_is_named(
    pg18: PostgresServer, bank: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "LOCK_TIMEOUT", 0.3)
    with closing(psycopg.connect(pg18.url(bank))) as other:
        other.execute("ALTER TABLE small ADD COLUMN j int")
        with pytest.raises(SourceBusy) as caught:
            run(pg18, bank, tmp_path / "vault")
        assert "ALTER TABLE small ADD COLUMN j int" in caught.value.message
        assert f"process {other.info.backend_pid} of postgres" in caught.value.message
        assert "pg_terminate_backend" in caught.value.fix


@pytest.mark.parametrize("whom", ["idle in transaction", "active"])
def test_a_session_killed_on_the_server_fails_the_backup(
    whom: str, pg18: PostgresServer, bank: str, tmp_path: Path
) -> None:
    """The one that holds the locks, or one that reads: neither may end in a short backup."""
    killed: list[int] = []
    once = threading.Lock()
    # More than sockets and pipes hold, so that the server is still sending when it is killed.
    pg18.psql(
        "CREATE TABLE large AS SELECT repeat(md5(i::text), 40) FROM generate_series(1, 60000) i",
        database=bank,
    )

    def watch(name: str, raw_bytes: int) -> None:
        with once:
            if killed:
                return
            ended = pg18.psql(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                f" WHERE datname = '{bank}' AND state = '{whom}'"
            )
            if int(ended):  # the first to read may have been through with a small table
                killed.append(int(ended))

    with pytest.raises(StepvaultError) as caught:
        run(pg18, bank, tmp_path / "vault", split_above_mb=1000, watch=watch)
    assert killed
    assert isinstance(caught.value, SourceUnreachable)
    assert not [p for p in (tmp_path / "vault").rglob("*") if p.is_file()]


@pytest.mark.parametrize(
    "statements",
    [
        "ALTER SCHEMA app RENAME TO app_old; ALTER SCHEMA app_next RENAME TO app",
        "ALTER SCHEMA app RENAME TO app_old",
        "ALTER TYPE mood RENAME VALUE 'sad' TO 'unhappy'",
    ],
)
def test_names_that_change_while_rows_are_read_fail_the_backup(
    statements: str, pg18: PostgresServer, bank: str, tmp_path: Path
) -> None:
    """No lock on a table holds off these; the rows would be another table's, or of no value."""
    pg18.psql(
        "CREATE SCHEMA app; CREATE SCHEMA app_next; CREATE TYPE mood AS ENUM ('sad', 'ok');"
        "CREATE TABLE app.t AS SELECT 'live' AS w, 'sad'::mood AS m;"
        "CREATE TABLE app_next.t AS SELECT 'staging' AS w, 'ok'::mood AS m",
        database=bank,
    )
    once = threading.Lock()

    def watch(name: str, raw_bytes: int) -> None:
        if once.acquire(blocking=False):
            pg18.psql(f"BEGIN; {statements}; COMMIT", database=bank)

    with pytest.raises(SourceChanged, match=r"app\.t was renamed|enum value sad was") as caught:
        run(pg18, bank, tmp_path / "vault", watch=watch, exclude_tables=["app_next.*"])
    assert once.locked()
    assert caught.value.fix == "Try again"
    assert not (tmp_path / "vault" / "toc.dat").exists()


def test_names_that_come_while_rows_are_read_do_no_harm(
    pg18: PostgresServer, bank: str, tmp_path: Path
) -> None:
    pg18.psql("CREATE TYPE mood AS ENUM ('sad', 'ok')", database=bank)
    once = threading.Lock()

    def watch(name: str, raw_bytes: int) -> None:
        if once.acquire(blocking=False):
            pg18.psql(
                "ALTER TYPE mood ADD VALUE 'glad' BEFORE 'ok'; CREATE TABLE more (); CREATE SCHEMA s",
                database=bank,
            )

    result = run(pg18, bank, tmp_path / "vault", watch=watch)
    assert once.locked()
    assert rows(result, "public.small") == 100


def test_nothing_is_left_behind_on_the_server(
    pg18: PostgresServer, bank: str, tmp_path: Path
) -> None:
    (tmp_path / "scratch").mkdir()
    job = Job(source=source(bank), connection=address(pg18, bank), scratch=tmp_path / "scratch")
    with engine.open(job) as snapshot:
        next(next(snapshot.streams()).read())
    count = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{bank}'"
    deadline = time.monotonic() + 5
    while pg18.psql(count) != "0" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert pg18.psql(count) == "0"
    assert not list((tmp_path / "scratch").iterdir())
