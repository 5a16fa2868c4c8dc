"""What goes wrong, said so that a person can act on it, and said without the password."""

import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from devtools.servers.postgres import PostgresServer, unpack
from stepvault.engines.base import Connection, Job, PlanJob
from stepvault.engines.postgres import dump, engine, programs
from stepvault.errors import (
    SourceBusy,
    SourceDenied,
    SourceMissing,
    SourceUnreachable,
    SourceUnsupported,
    StepvaultError,
)
from tests.engines.driver import Result, back_up
from tests.engines.postgres.rig import address, new_database, source


def fails(
    kind: type[StepvaultError], connection: Connection, folder: Path, **settings: Any
) -> StepvaultError:
    """The error of a backup that must fail, and must name no password."""
    folder.mkdir(exist_ok=True)
    with pytest.raises(kind) as caught:
        back_up(engine, source("s", **settings), folder, connection=connection)
    link: BaseException | None = caught.value
    while link is not None:
        assert str(connection.password) not in f"{link} {link!r}"
        link = link.__cause__ or link.__context__
    assert caught.value.fix
    assert not list(folder.glob("*"))
    return caught.value


def test_a_dropped_database(pg18: PostgresServer, tmp_path: Path) -> None:
    name = new_database(pg18)
    list(engine.plan(_planned(name)))
    pg18.psql(f"DROP DATABASE {name}")
    error = fails(SourceMissing, address(pg18, name), tmp_path / "vault")
    assert f"database {name} at 127.0.0.1:{pg18.port}" in error.message


def _planned(name: str) -> Any:
    return PlanJob(source=source(name))


def test_a_server_that_accepts_and_says_nothing(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        connection = Connection(
            host="127.0.0.1", port=silent.getsockname()[1], password="secret1", connect_timeout=2
        )
        started = time.monotonic()
        error = fails(SourceUnreachable, connection, tmp_path / "vault")
        assert time.monotonic() - started < 8
    assert "within 2 s" in error.message
    assert "security group" in error.fix


def test_a_host_name_that_does_not_exist(tmp_path: Path) -> None:
    connection = Connection(host="db.nowhere.invalid", password="secret1", connect_timeout=5)
    error = fails(SourceUnreachable, connection, tmp_path / "vault")
    assert "db.nowhere.invalid:5432" in error.message


def test_a_missing_privilege_is_named(pg18: PostgresServer, tmp_path: Path) -> None:
    name = new_database(pg18)
    pg18.psql(
        f"DROP ROLE IF EXISTS weak; CREATE ROLE weak LOGIN PASSWORD '{pg18.password}';"
        "CREATE TABLE open_to_all (); GRANT SELECT ON open_to_all TO PUBLIC;"
        "CREATE TABLE kept_secret ();",
        database=name,
    )
    weak = address(pg18, name, user="weak")
    error = fails(SourceDenied, weak, tmp_path / "vault")
    assert "may not read public.kept_secret" in error.message
    assert "pg_read_all_data" in error.fix
    [result] = _stored(weak, tmp_path, exclude_tables=["kept_secret"])
    assert {o.facts.get("table") for o in result.objects} >= {"public.open_to_all"}


def test_rows_hidden_by_a_policy_are_an_error(pg18: PostgresServer, tmp_path: Path) -> None:
    name = new_database(pg18)
    pg18.psql(
        f"DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN PASSWORD '{pg18.password}';"
        "GRANT pg_read_all_data TO reader; CREATE TABLE t AS SELECT 1 AS i;"
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        database=name,
    )
    error = fails(SourceDenied, address(pg18, name, user="reader"), tmp_path / "vault")
    assert 'row-level security policy for table "t"' in error.message
    assert "BYPASSRLS" in error.fix


def test_no_connection_left(pg18: PostgresServer, tmp_path: Path) -> None:
    name = new_database(pg18)
    pg18.psql(
        f"DROP ROLE IF EXISTS two; CREATE ROLE two LOGIN PASSWORD '{pg18.password}'"
        " CONNECTION LIMIT 2; GRANT pg_read_all_data TO two",
        database=name,
    )
    error = fails(SourceBusy, address(pg18, name, user="two"), tmp_path / "vault")
    assert 'too many connections for role "two"' in error.message


def test_time_outs_of_role_and_database_do_not_cut_the_backup(
    pg18: PostgresServer, tmp_path: Path
) -> None:
    name = new_database(pg18)
    pg18.psql("CREATE TABLE t AS SELECT generate_series(1, 300000) i", database=name)
    pg18.psql(
        f"ALTER DATABASE {name} SET statement_timeout = '20ms';"
        f"ALTER DATABASE {name} SET idle_in_transaction_session_timeout = '20ms';"
        f"ALTER DATABASE {name} SET transaction_timeout = '20ms';"
        f"ALTER DATABASE {name} SET default_transaction_read_only = on;"
        f"ALTER DATABASE {name} SET row_security = on"
    )
    [result] = _stored(address(pg18, name), tmp_path)
    assert [o.rows for o in result.objects if o.rows] == [300_000]


def test_pg_dumpall_waits_whatever_the_database_says(pg18: PostgresServer, tmp_path: Path) -> None:
    """It keeps the time-outs that it is given, so it is given none."""
    name = new_database(pg18)
    with closing(psycopg.connect(pg18.url(name), autocommit=True)) as opened:
        assert dump.without_time_outs(opened) == ""
    pg18.psql(
        f"ALTER DATABASE {name} SET statement_timeout = '9h';"
        f"ALTER DATABASE {name} SET lock_timeout = '9h'"
    )
    with closing(psycopg.connect(pg18.url(name), autocommit=True)) as opened:
        options = dump.without_time_outs(opened)
    dsn = programs.dsn(address(pg18, name), tmp_path) + options
    for setting in ("statement_timeout", "lock_timeout"):
        query = ["psql", "-X", "-w", "-A", "-t", "-d", dsn, "-c", f"SHOW {setting}"]
        assert programs.run(programs.Children(), address(pg18, name), query) == b"0\n"
    [result] = _stored(address(pg18, name), tmp_path)
    assert result.warnings == []
    assert "CREATE ROLE" in (tmp_path / "stored/globals.sql").read_text()


def test_a_user_who_may_read_all_but_large_objects_is_told_of_them(
    pg18: PostgresServer, tmp_path: Path
) -> None:
    name = new_database(pg18)
    pg18.psql(
        "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'all_reader') THEN"
        f" CREATE ROLE all_reader LOGIN PASSWORD '{pg18.password}'; END IF; END $$;"
        "GRANT pg_read_all_data TO all_reader; SELECT lo_from_bytea(77, 'a')",
        database=name,
    )
    reader = address(pg18, name, user="all_reader")
    error = fails(SourceDenied, reader, tmp_path / "vault")
    assert "permission denied for large object 77" in error.message
    assert "GRANT SELECT ON LARGE OBJECT" in error.fix.upper()
    assert "large_objects = false" in error.fix
    _stored(reader, tmp_path, large_objects=False)


def test_a_subscription_that_is_not_written_is_not_called_restored(
    pg18: PostgresServer, tmp_path: Path
) -> None:
    name = new_database(pg18)
    pg18.psql(
        "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'all_reader') THEN"
        f" CREATE ROLE all_reader LOGIN PASSWORD '{pg18.password}'; END IF; END $$;"
        "GRANT pg_read_all_data TO all_reader;"
        "CREATE SUBSCRIPTION nobody CONNECTION 'host=nowhere.invalid' PUBLICATION p"
        " WITH (connect = false, slot_name = NONE)",
        database=name,
    )
    switched_off = "1 subscriptions will be restored switched off"
    try:
        [by_reader] = _stored(address(pg18, name, user="all_reader"), tmp_path)
        assert [w for w in by_reader.warnings if "subscriptions not dumped" in w]
        assert switched_off not in by_reader.warnings
        (tmp_path / "stored").rename(tmp_path / "by_reader")
        [by_superuser] = _stored(address(pg18, name), tmp_path)
        assert switched_off in by_superuser.warnings
    finally:
        pg18.psql("DROP SUBSCRIPTION nobody", database=name)


def test_programs_that_are_too_old(
    pg18: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{unpack('15') / 'bin'}:/usr/bin:/bin")
    error = fails(SourceUnsupported, address(pg18, "postgres"), tmp_path / "vault")
    assert "pg_dump is of PostgreSQL 15, which is too old" in error.message


def test_programs_that_are_not_installed(
    pg18: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    error = fails(SourceUnsupported, address(pg18, "postgres"), tmp_path / "vault")
    assert "pg_dump is not on PATH" in error.message
    assert "postgres_client layer" in error.fix


def test_scratch_space_too_small_for_the_large_objects(
    pg18: PostgresServer, odd18: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: (1 << 30, 1 << 30, 4096))
    error = fails(SourceUnsupported, address(pg18, odd18), tmp_path / "vault")
    assert "large objects" in error.message
    assert "ephemeral storage" in error.fix


@pytest.fixture(scope="module")
def tls_server() -> Iterator[PostgresServer]:
    with PostgresServer("18", tls=True) as server:
        yield server


def test_verify_full_with_the_right_authority(tls_server: PostgresServer, tmp_path: Path) -> None:
    connection = address(tls_server, "postgres", tls="verify-full", tls_ca=str(tls_server.ca))
    with engine.open(_job(connection, tmp_path)) as snapshot:
        with closing(psycopg.connect(tls_server.url())) as other:
            rows = other.execute(
                "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
                " WHERE application_name = 'stepvault'"
            ).fetchone()
        assert snapshot.facts["server_version"]
    assert rows == (True,)


def test_another_authority_is_refused(
    tls_server: PostgresServer, layer: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text(Path(tls_server.folder / "server.pem").read_text())
    connection = address(tls_server, "postgres", tls="verify-full", tls_ca=str(wrong))
    error = fails(SourceDenied, connection, tmp_path / "vault")
    assert "mode verify-full" in error.message
    assert "certificate" in error.message


def test_a_missing_authority_file_is_named(tls_server: PostgresServer, tmp_path: Path) -> None:
    connection = address(tls_server, "postgres", tls="verify-ca", tls_ca="/nowhere/ca.pem")
    assert "/nowhere/ca.pem" in fails(SourceDenied, connection, tmp_path / "vault").message


def test_a_server_without_tls(pg18: PostgresServer, tmp_path: Path) -> None:
    connection = address(pg18, "postgres", tls="require")
    error = fails(SourceDenied, connection, tmp_path / "vault")
    assert "server does not support SSL" in error.message


def _job(connection: Connection, folder: Path) -> Job:
    scratch = folder / "scratch"
    scratch.mkdir()
    return Job(source=source("s"), connection=connection, scratch=scratch)


def _stored(connection: Connection, folder: Path, **settings: Any) -> list[Result]:
    stored = folder / "stored"
    stored.mkdir()
    return back_up(engine, source("s", **settings), stored, connection=connection)
