"""Security labels. No provider comes with PostgreSQL's binaries, so the labels are written into
the catalog, where pg_dump reads them; no server here can run the statements that set them."""

from pathlib import Path

import pytest

from devtools.servers.postgres import PostgresServer
from stepvault.engines.postgres import engine, toc
from stepvault.errors import TargetUnsupported
from tests.engines.driver import Result, back_up, restore_job, run_restore
from tests.engines.postgres.rig import address, definitions, new_database, source

THINGS = """
CREATE SCHEMA app;
CREATE TABLE app.t AS SELECT i AS a FROM generate_series(1, 9) i;
CREATE VIEW app.v AS SELECT a FROM app.t;
CREATE FUNCTION app.f(int) RETURNS int LANGUAGE sql RETURN 1;
SELECT lo_from_bytea(77777, 'abc');
"""
LABELS = """
INSERT INTO pg_seclabel (classoid, objoid, objsubid, provider, label) VALUES
  ('pg_class'::regclass, 'app.t'::regclass, 0, 'nobody', 'secret'),
  ('pg_class'::regclass, 'app.t'::regclass, 1, 'nobody', 'it''s a column'),
  ('pg_class'::regclass, 'app.v'::regclass, 0, 'nobody', 'view'),
  ('pg_proc'::regclass, 'app.f'::regproc, 0, 'nobody', 'function'),
  ('pg_namespace'::regclass, 'app'::regnamespace, 0, 'nobody', 'schema'),
  ('pg_largeobject'::regclass, 77777, 0, 'nobody', 'large');
"""
SHARED = """
DO $$BEGIN CREATE ROLE labelled; EXCEPTION WHEN OTHERS THEN END$$;
DELETE FROM pg_shseclabel WHERE provider = 'nobody';
INSERT INTO pg_shseclabel (classoid, objoid, provider, label)
  SELECT 'pg_authid'::regclass, 'labelled'::regrole, 'nobody', 'role';
INSERT INTO pg_shseclabel (classoid, objoid, provider, label)
  SELECT 'pg_database'::regclass, oid, 'nobody', 'database' FROM pg_database
  WHERE datname = current_database();
"""


@pytest.fixture(params=["18", "15"])
def server(request: pytest.FixtureRequest) -> PostgresServer:
    found: PostgresServer = request.getfixturevalue(f"pg{request.param}")
    return found


@pytest.fixture
def labelled(server: PostgresServer) -> str:
    name = new_database(server)
    server.psql(THINGS + LABELS + SHARED, database=name)
    server.psql(f"COMMENT ON DATABASE {name} IS 'x'")
    return name


def run(server: PostgresServer, database: str, vault: Path) -> Result:
    [result] = back_up(engine, source(database), vault, connection=address(server, database))
    return result


def test_labels_are_stored_as_pg_dump_stores_them(
    server: PostgresServer, labelled: str, pg18: PostgresServer, tmp_path: Path
) -> None:
    vault, stock = tmp_path / "vault", tmp_path / "stock"
    run(server, labelled, vault)
    dump = [server.url(labelled), "-Fd", "-Zzstd", "-f", stock]
    pg18.run("pg_dump", *dump)
    ours, theirs = (toc.read((f / "toc.dat").read_bytes()).entries for f in (vault, stock))
    assert sum(e.kind == b"SECURITY LABEL" for e in ours) == 6
    assert sorted((e.label, e.definition, e.owner) for e in ours) == sorted(
        (e.label, e.definition, e.owner) for e in theirs
    )
    script, expected = (
        [x for x in pg18.run("pg_restore", "-C", "-f-", f).splitlines() if x[:1] != "\\"]
        for f in (vault, stock)
    )
    assert script == expected
    assert "SECURITY LABEL FOR nobody ON COLUMN app.t.a IS 'it''s a column';" in script
    assert f"SECURITY LABEL FOR nobody ON DATABASE {labelled} IS 'database';" in script
    assert (
        "SECURITY LABEL FOR nobody ON ROLE labelled IS 'role';"
        in (vault / "globals.sql").read_text()
    )


def test_a_server_without_the_provider_refuses_the_restore(
    server: PostgresServer, labelled: str, tmp_path: Path
) -> None:
    """Stock pg_restore counts the error and goes on, and what was labelled would stand there
    without protection; ours stops, leaves nothing, and says how to do without labels."""
    result = run(server, labelled, tmp_path / "vault")
    where = address(server, new_database(server))
    empty = definitions(server, str(where.database))
    job = restore_job(result, tmp_path / "vault", source(labelled), connection=where)
    with pytest.raises(TargetUnsupported, match='provider "nobody" is not loaded') as caught:
        run_restore(engine, job)
    assert "--without security-labels" in caught.value.fix
    assert definitions(server, str(where.database)) == empty


def test_a_comparison_names_labels_that_are_missing(pg18: PostgresServer, tmp_path: Path) -> None:
    """Those of the database itself come back with neither: the target is another database."""
    name, copy = new_database(pg18), new_database(pg18)
    pg18.psql(THINGS + LABELS + SHARED, database=name)
    pg18.psql(f"COMMENT ON DATABASE {name} IS 'x'; COMMENT ON DATABASE {copy} IS 'y'")
    result = run(pg18, name, tmp_path / "vault")
    restore = ["--exit-on-error", "--no-security-labels", "-d", copy, tmp_path / "vault"]
    pg18.run("pg_restore", *restore)
    job = restore_job(result, tmp_path / "vault", source(name), connection=address(pg18, copy))
    assert engine.differences(job) == [
        f"SECURITY LABEL {what} is missing"
        for what in ("SCHEMA app", "app.FUNCTION f(integer)", "app.TABLE t", "app.VIEW v")
    ]
    pg18.psql(LABELS, database=copy)
    assert engine.differences(job) == []
