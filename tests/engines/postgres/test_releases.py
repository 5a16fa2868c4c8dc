"""Servers of other minor releases than the client: the oldest and newest that can be had."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from devtools.servers.postgres import LOCKS, PostgresServer
from stepvault.engines.postgres import engine, facts, toc
from stepvault.engines.postgres.target import name_of
from stepvault.records import StoredObject
from tests.engines.driver import restore_job, run_restore
from tests.engines.postgres.rig import address, holds, make_odd, new_database, run, source

RELEASES = sorted((v for v in LOCKS if "." in v), key=lambda v: tuple(map(int, v.split("."))))
RELEASES += ["debian"] if shutil.which("apt-get") else []


@pytest.fixture(scope="module", params=RELEASES)
def server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    with PostgresServer(request.param) as server:
        yield server


def test_a_database_comes_back_on_the_same_server_and_on_the_newest(
    server: PostgresServer, pg18: PostgresServer, odd18: str, tmp_path: Path
) -> None:
    """``odd18`` is there for its roles."""
    name = make_odd(server, f"odd_{server.port}", rows=1000)
    result = run(server, name, tmp_path / "vault")
    version = server.psql("SHOW server_version")
    assert result.facts["server_version"] == version
    assert result.facts["pg_dump"] == pg18.psql("SHOW server_version")
    assert not [w for w in result.warnings if "newer" in w or "not tested" in w]
    for there in (server, pg18):
        where = address(there, new_database(there))
        job = restore_job(result, tmp_path / "vault", source(name), connection=where)
        run_restore(engine, job)
    assert holds(server, name) | {"definitions": ""} == holds(pg18, name_of(job)) | {
        "definitions": ""
    }


def test_options_that_are_the_servers_own_are_in_no_definition(
    server: PostgresServer, pg18: PostgresServer, tmp_path: Path
) -> None:
    """15.20 keeps ``pg_attver`` on each column, and our pg_dump writes it as if it were ours.
    Elsewhere it is written into the catalog, where pg_dump finds it in the same way."""
    name = new_database(server)
    server.psql(
        'CREATE TABLE t (a int, "b c" text); ALTER TABLE t ALTER a SET (n_distinct = 5);'
        "CREATE VIEW v AS SELECT a FROM t; CREATE MATERIALIZED VIEW m AS SELECT a FROM t;"
        "UPDATE pg_attribute SET attoptions = array_prepend('pg_attver=1', attoptions)"
        " WHERE attrelid IN ('t'::regclass, 'm'::regclass) AND attnum > 0"
        " AND attoptions::text !~ 'pg_attver' IS NOT FALSE",
        database=name,
    )
    result = run(server, name, tmp_path / "vault")
    archive = toc.read((tmp_path / "vault/toc.dat").read_bytes())
    assert not [e for e in archive.entries if b"pg_attver" in (e.definition or b"")]
    assert any(
        b"ALTER COLUMN a SET (n_distinct=5);" in (e.definition or b"") for e in archive.entries
    )
    for there in (server, pg18):
        where = address(there, new_database(there))
        job = restore_job(result, tmp_path / "vault", source(name), connection=where)
        run_restore(engine, job)
        options = (
            "SELECT attoptions FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'a'"
        )
        assert "n_distinct=5" in there.psql(options, database=name_of(job))


def test_a_server_newer_than_those_tested_is_warned_of(
    pg18: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "TESTED", {18: 1})
    result = run(pg18, new_database(pg18), tmp_path / "vault")
    [warning] = [w for w in result.warnings if "newer than 18.1" in w]
    assert "docs/operations.md" in warning
    monkeypatch.setattr(facts, "TESTED", {17: 1})
    result = run(pg18, new_database(pg18), tmp_path / "other")
    assert "Stepvault was not tested with PostgreSQL 18" in result.warnings


def test_an_archive_of_an_earlier_stepvault_is_restored_without_them(
    pg18: PostgresServer, tmp_path: Path
) -> None:
    name = new_database(pg18)
    pg18.psql("CREATE TABLE t (a int, b int); INSERT INTO t VALUES (1, 2)", database=name)
    result = run(pg18, name, tmp_path / "vault")
    archive = toc.read((tmp_path / "vault/toc.dat").read_bytes())
    [table] = [e for e in archive.entries if e.kind == b"TABLE"]
    table.definition = (table.definition or b"") + (
        b"ALTER TABLE ONLY public.t ALTER COLUMN a SET (pg_attver=7, n_distinct=5);\n"
        b"ALTER TABLE ONLY public.t ALTER COLUMN b SET (pg_attver=7);\n"
    )
    where = address(pg18, new_database(pg18))
    job = restore_job(result, tmp_path / "vault", source(name), connection=where)
    plain = job.read

    def changed(stored: StoredObject) -> Iterator[bytes]:
        return iter([toc.write(archive)]) if stored.name == "toc.dat" else plain(stored)

    job = replace(job, read=changed)
    run_restore(engine, job)
    assert engine.differences(job) == []
    options = (
        "SELECT attname, attoptions FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 0"
    )
    assert pg18.psql(options, database=name_of(job)).splitlines() == ["a|{n_distinct=5}", "b|"]
