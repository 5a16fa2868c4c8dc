"""Many large objects are few objects of a backup, which stock pg_restore reads all the same."""

import re
from pathlib import Path

import pytest

from devtools.servers.postgres import PostgresServer
from stepvault.engines.base import RestoreJob
from stepvault.engines.postgres import engine, toc
from tests.engines.driver import restore_job, run_restore
from tests.engines.postgres.rig import address, holds, new_database, run, source

MANY = """
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'librarian') THEN
  CREATE ROLE librarian; END IF; END $$;
SELECT count(lo_from_bytea(10000 + i, convert_to(repeat('page ' || i || E'\\\\;''', i % 50), 'UTF8')))
  FROM generate_series(1, 2300) i;
SELECT lo_from_bytea(20001, decode(repeat('00ff0a5c27', 1 << 20), 'hex'));
SELECT lo_from_bytea(20002, decode(repeat('ab', 1 << 20), 'hex'));
SELECT lo_create(4000000001);
SELECT lo_put(20003, 3000000, 'far out') FROM lo_create(20003);
COMMENT ON LARGE OBJECT 10007 IS 'seven';
ALTER LARGE OBJECT 10008 OWNER TO librarian;
GRANT SELECT ON LARGE OBJECT 10009 TO PUBLIC;
"""


@pytest.fixture(params=["18", "15"])
def server(request: pytest.FixtureRequest) -> PostgresServer:
    found: PostgresServer = request.getfixturevalue(f"pg{request.param}")
    return found


def filled(server: PostgresServer) -> str:
    name = new_database(server)
    server.psql(MANY, database=name)
    return name


def test_they_come_back_by_ours_and_by_stock_pg_restore(
    server: PostgresServer, pg18: PostgresServer, tmp_path: Path
) -> None:
    name, vault = filled(server), tmp_path / "vault"
    result = run(server, name, vault)
    counts = [o.facts["large_objects"] for o in result.objects if "large_objects" in o.facts]
    assert (sum(counts), len(counts)) == (2304, 4)
    assert [p.name for p in vault.iterdir() if p.name.startswith("blob")] == []
    whole = holds(server, name)
    assert len(whole["large objects"]) == 2304

    where = address(server, new_database(server))
    job = restore_job([result], vault, source(name), connection=where, connections=2)
    run_restore(engine, job, times=2)
    assert holds(server, str(where.database)) == whole
    assert engine.differences(job) == []

    pg18.psql("DO $$ BEGIN CREATE ROLE librarian; EXCEPTION WHEN duplicate_object THEN END $$")
    for options in (["-j2"], ["-1"], []):
        stock = new_database(pg18)
        pg18.run("pg_restore", "--exit-on-error", *options, "-d", stock, vault)
        assert holds(pg18, stock)["large objects"] == whole["large objects"]
    pg18.run("pg_restore", "-f", tmp_path / "script", vault)
    stock = new_database(pg18)
    pg18.run("psql", "-q", "-v", "ON_ERROR_STOP=1", "-f", tmp_path / "script", database=stock)
    assert holds(pg18, stock)["large objects"] == whole["large objects"]


def test_whatever_is_changed_then_is_told(pg18: PostgresServer, tmp_path: Path) -> None:
    job = _copy(pg18, filled(pg18), tmp_path / "vault")
    assert job.connection
    pg18.psql(
        "SELECT lo_put(10044, 3, 'X'); SELECT lo_put(20001, 5242880, '!'); SELECT lo_put(20002, 1048576, '!');"
        "SELECT lo_put(4000000001, 0, '!'); SELECT lo_unlink(10045); SELECT lo_create(9);"
        "SELECT lo_truncate(lo_open(10046, 131072), 7)",
        database=str(job.connection.database),
    )
    assert engine.differences(job) == [
        "large object 9 is not in the backup",
        "large object 10044 holds other bytes",
        "large object 10045 is missing",
        "large object 10046 holds other bytes",
        "large object 20001 holds other bytes",
        "large object 20002 holds other bytes",
        "large object 4000000001 holds other bytes",
    ]


def test_a_few_stay_the_files_that_pg_dump_wrote(pg18: PostgresServer, tmp_path: Path) -> None:
    name, vault = new_database(pg18), tmp_path / "vault"
    pg18.psql("SELECT lo_from_bytea(77, 'a'), lo_from_bytea(78, 'b')", database=name)
    job = _copy(pg18, name, vault)
    assert {p.name for p in vault.iterdir()} >= {"blob_77.dat.zst", "blob_78.dat.zst"}
    assert job.connection
    pg18.psql("SELECT lo_put(77, 1, 'a'), lo_unlink(78)", database=str(job.connection.database))
    assert engine.differences(job) == [
        "large object 77 holds other bytes",
        "large object 78 is missing",
    ]


def test_a_source_may_leave_them_out(pg18: PostgresServer, tmp_path: Path) -> None:
    name, vault = new_database(pg18), tmp_path / "vault"
    pg18.psql("CREATE TABLE t AS SELECT 1 AS i; SELECT lo_from_bytea(77, 'a')", database=name)
    result = run(pg18, name, vault, large_objects=False)
    assert any(re.search("large objects are left out", w) for w in result.warnings)
    archive = toc.read((vault / "toc.dat").read_bytes())
    assert [e.label for e in archive.entries if e.kind.startswith(b"BLOB")] == []
    where = address(pg18, new_database(pg18))
    job = restore_job([result], vault, source(name, large_objects=False), connection=where)
    run_restore(engine, job)
    assert engine.differences(job) == []


def _copy(server: PostgresServer, name: str, vault: Path) -> RestoreJob:
    where = address(server, new_database(server))
    job = restore_job([run(server, name, vault)], vault, source(name), connection=where)
    run_restore(engine, job)
    return job
