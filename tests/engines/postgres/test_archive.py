"""What is stored is a directory archive that PostgreSQL's own pg_restore takes."""

import subprocess
from pathlib import Path

import pytest

from devtools.servers.postgres import PostgresServer
from stepvault.engines.postgres import engine, toc
from stepvault.errors import BackupTampered
from tests.engines.driver import Result, back_up, restore_job, run_restore
from tests.engines.postgres.rig import address, holds, new_database, source


@pytest.fixture(params=["18", "15"])
def server(request: pytest.FixtureRequest) -> PostgresServer:
    found: PostgresServer = request.getfixturevalue(f"pg{request.param}")
    return found


@pytest.fixture
def odd(server: PostgresServer, request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"odd{server.version}"))


def stored(server: PostgresServer, database: str, vault: Path, **settings: object) -> Result:
    vault.mkdir()
    settings = {"split_above_mb": 1, **settings}
    connection = address(server, database)
    [result] = back_up(
        engine, source(database, **settings), vault, connection=connection, connections=3
    )
    return result


def test_stock_pg_restore_makes_an_equal_database(
    server: PostgresServer, pg18: PostgresServer, odd: str, tmp_path: Path
) -> None:
    """With tables in pieces, in parallel; a 15's archive needs pg_restore 17 or later."""
    result = stored(server, odd, tmp_path / "vault")
    pieces = [o for o in result.objects if o.facts.get("table") == "app.customers"]
    assert len(pieces) > 3
    assert sum(o.rows or 0 for o in pieces) == 20_000
    copy = new_database(pg18)
    pg18.run("pg_restore", "-j2", "--exit-on-error", "-d", copy, tmp_path / "vault")
    if server is pg18:
        assert holds(pg18, copy) == holds(server, odd)
    else:
        before, after = holds(server, odd), holds(pg18, copy)
        del before["definitions"], after["definitions"]
        assert after == before


def test_our_restore_makes_an_equal_database(
    server: PostgresServer, odd: str, tmp_path: Path
) -> None:
    result = stored(server, odd, tmp_path / "vault")
    where = address(server, new_database(server))
    job = restore_job(result, tmp_path / "vault", source(odd), connection=where, connections=2)
    run_restore(engine, job)
    assert holds(server, str(where.database)) == holds(server, odd)
    assert engine.differences(job) == []


def test_the_folder_holds_what_pg_dump_would_write(
    pg18: PostgresServer, odd18: str, tmp_path: Path
) -> None:
    """Beside globals.sql nothing but the files that the table of contents names."""
    stored(pg18, odd18, tmp_path / "vault", split_above_mb=1000)
    pg18.run("pg_dump", "-Fd", "-Zzstd", "-f", tmp_path / "stock", database=odd18)
    ours = toc.read((tmp_path / "vault/toc.dat").read_bytes())
    theirs = toc.read((tmp_path / "stock/toc.dat").read_bytes())
    assert {p.suffix for p in (tmp_path / "vault").iterdir()} == {".dat", ".zst", ".toc", ".sql"}
    assert (
        len(list((tmp_path / "vault").iterdir())) == len(list((tmp_path / "stock").iterdir())) + 1
    )
    assert sorted((e.label, e.definition, e.copy, e.owner) for e in ours.entries) == sorted(
        (e.label, e.definition, e.copy, e.owner) for e in theirs.entries
    )


def test_globals_hold_roles_and_no_passwords(
    pg18: PostgresServer, odd18: str, tmp_path: Path
) -> None:
    stored(pg18, odd18, tmp_path / "vault")
    script = (tmp_path / "vault/globals.sql").read_text()
    assert 'CREATE ROLE "Odd ""Owner""";' in script
    assert "ALTER ROLE odd_reader SET work_mem TO '8MB';" in script
    assert "PASSWORD" not in script


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd", "lz4"])
def test_a_table_of_contents_is_written_as_it_was_read(
    compression: str, pg18: PostgresServer, odd18: str, tmp_path: Path
) -> None:
    pg18.run("pg_dump", "-Fd", f"-Z{compression}", "-f", tmp_path / "stock", database=odd18)
    data = (tmp_path / "stock/toc.dat").read_bytes()
    assert toc.write(toc.read(data)) == data


def test_a_15s_table_of_contents_is_written_as_it_was_read(
    pg15: PostgresServer, odd15: str, tmp_path: Path
) -> None:
    pg15.run("pg_dump", "-Fd", "-f", tmp_path / "stock", database=odd15)
    data = (tmp_path / "stock/toc.dat").read_bytes()
    assert toc.write(toc.read(data)) == data


@pytest.mark.parametrize("data", [b"", b"PGDMP", b"PGDMP\x01\x63\x00\x04\x08\x03", b"x" * 100])
def test_what_is_no_table_of_contents_is_refused(data: bytes) -> None:
    with pytest.raises(BackupTampered, match=r"toc\.dat"):
        toc.read(data)


@pytest.mark.parametrize(
    ("encoding", "script"),
    [
        ("LATIN1", 'CREATE SCHEMA "é"; CREATE TABLE "é"."tü" AS SELECT \'ä\' || i AS "cö" FROM i'),
        ("EUC_JP", 'CREATE TABLE "日" AS SELECT \'本\' || i AS "語" FROM i'),
        ("SQL_ASCII", "CREATE TABLE \"t\xe9\" AS SELECT E'\\xe9\\xff' || i AS c FROM i"),
    ],
)
def test_databases_in_other_encodings_come_back(
    encoding: str, script: str, pg18: PostgresServer, tmp_path: Path
) -> None:
    name, ours, stock = (f"{p}_{encoding.lower()}" for p in ("in", "ours", "stock"))
    for database in (name, stock):
        pg18.psql(f"CREATE DATABASE {database} TEMPLATE template0 ENCODING '{encoding}'")
    if encoding != "SQL_ASCII":
        script = "SET client_encoding = UTF8;" + script
    (tmp_path / "script").write_text(script.replace("FROM i", "FROM generate_series(1, 99) i"))
    pg18.psql(tmp_path / "script", database=name)
    result = stored(pg18, name, tmp_path / "vault")
    pg18.run("pg_restore", "-d", stock, tmp_path / "vault")
    job = restore_job(result, tmp_path / "vault", source(name), connection=address(pg18, ours))
    run_restore(engine, job)
    assert pg18.psql("SHOW server_encoding", database=ours) == encoding
    assert engine.differences(job) == []
    assert plain_dump(pg18, ours) == plain_dump(pg18, stock) == plain_dump(pg18, name)


def test_a_database_comes_back_with_its_locale(pg18: PostgresServer, tmp_path: Path) -> None:
    pg18.psql(
        "CREATE DATABASE builtin TEMPLATE template0 LOCALE_PROVIDER builtin"
        " BUILTIN_LOCALE 'C.UTF-8'"
    )
    result = stored(pg18, "builtin", tmp_path / "vault")
    where = address(pg18, "builtin_again")
    run_restore(
        engine, restore_job(result, tmp_path / "vault", source("builtin"), connection=where)
    )
    query = "SELECT DISTINCT datlocprovider, datlocale FROM pg_database WHERE datname ~ '^builtin'"
    assert pg18.psql(query) == "b|C.UTF-8"


def plain_dump(server: PostgresServer, database: str) -> list[bytes]:
    """pg_dump's script, in the database's own encoding."""
    script = subprocess.check_output(
        [server.home / "bin/pg_dump"], env=server.environment(database)
    )
    assert b"COPY" in script
    return [x for x in script.splitlines() if b"restrict" not in x]


def test_foreign_keys_wait_until_all_indexes_are_attached(
    pg18: PostgresServer, odd18: str, tmp_path: Path
) -> None:
    """Side by side with an attachment below a partitioned table, pg_restore -j deadlocks."""
    stored(pg18, odd18, tmp_path / "vault")
    archive = toc.read((tmp_path / "vault" / "toc.dat").read_bytes())
    attached = {e.dump_id for e in archive.entries if e.kind == b"INDEX ATTACH"}
    keys = [e for e in archive.entries if e.kind == b"FK CONSTRAINT"]
    assert attached
    assert keys
    assert all(attached <= set(key.dependencies) for key in keys)
