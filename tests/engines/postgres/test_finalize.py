"""The end of a restore: event triggers see nothing of it, and owners are whom the options name."""

from pathlib import Path

import pytest

from devtools.servers.postgres import PostgresServer
from stepvault.engines.postgres import engine
from stepvault.engines.postgres.target import name_of
from stepvault.errors import TargetUnsupported
from stepvault.records import RestoreOptions
from tests.engines.driver import restore_job, run_restore
from tests.engines.postgres.rig import address, holds, new_database, run, source

WATCHED = """
CREATE TABLE dropped (what text);
CREATE TABLE t (id serial PRIMARY KEY); INSERT INTO t DEFAULT VALUES;
CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS
  $$BEGIN RAISE 'nothing is dropped here'; END$$;
CREATE FUNCTION log() RETURNS event_trigger LANGUAGE plpgsql AS
  $$BEGIN INSERT INTO public.dropped SELECT object_identity FROM pg_event_trigger_dropped_objects(); END$$;
"""
FORBIDS = "CREATE EVENT TRIGGER watch ON sql_drop EXECUTE FUNCTION forbid();"
LOGS = "CREATE EVENT TRIGGER watch ON sql_drop EXECUTE FUNCTION log();"
MORE = "ALTER EVENT TRIGGER watch ENABLE ALWAYS; COMMENT ON EVENT TRIGGER watch IS 'x';"


@pytest.fixture(params=["18", "15"])
def server(request: pytest.FixtureRequest) -> PostgresServer:
    found: PostgresServer = request.getfixturevalue(f"pg{request.param}")
    return found


@pytest.mark.parametrize("trigger", [FORBIDS, LOGS, LOGS + MORE], ids=["forbids", "logs", "always"])
def test_an_event_trigger_sees_nothing_of_our_own_records(
    trigger: str, server: PostgresServer, tmp_path: Path
) -> None:
    name = new_database(server)
    server.psql(WATCHED + trigger, database=name)
    result = run(server, name, tmp_path / "vault")
    where = address(server, new_database(server))
    job = restore_job(result, tmp_path / "vault", source(name), connection=where)
    run_restore(engine, job, times=2)
    assert engine.differences(job) == []
    assert holds(server, name_of(job)) == holds(server, name)


def test_an_event_trigger_of_the_target_sees_the_tables_and_not_our_records(
    server: PostgresServer, tmp_path: Path
) -> None:
    """Some tables into a database that people use."""
    name, there = new_database(server), new_database(server)
    server.psql("CREATE TABLE wanted AS SELECT 1 AS i", database=name)
    server.psql(WATCHED + FORBIDS, database=there)
    result = run(server, name, tmp_path / "vault")
    options = RestoreOptions(only=["wanted"])
    where = address(server, there)
    job = restore_job(result, tmp_path / "vault", source(name), connection=where, options=options)
    run_restore(engine, job)
    assert server.psql("SELECT count(*) FROM wanted", database=there) == "1"


OWNED = """
CREATE SCHEMA app; CREATE EXTENSION citext; CREATE EXTENSION pg_stat_statements;
CREATE TABLE app.t (id serial PRIMARY KEY, name citext);
CREATE TABLE u (id int PRIMARY KEY, t int REFERENCES app.t);
INSERT INTO app.t (name) SELECT 'x' FROM generate_series(1, 10);
INSERT INTO u SELECT i, i FROM generate_series(1, 10) i;
CREATE MATERIALIZED VIEW m AS SELECT count(*) AS n FROM u; CREATE INDEX ON m (n);
CREATE VIEW v AS SELECT id FROM u; CREATE FUNCTION f() RETURNS int LANGUAGE sql RETURN 1;
SELECT lo_from_bytea(4711, 'abc');
"""
OWNERS = """
SELECT DISTINCT relowner::regrole FROM pg_class
  WHERE relnamespace IN ('app'::regnamespace, 'public'::regnamespace) AND NOT EXISTS
    (SELECT FROM pg_depend d WHERE d.objid = pg_class.oid AND deptype = 'e')
UNION SELECT nspowner::regrole FROM pg_namespace WHERE nspname = 'app'
UNION SELECT proowner::regrole FROM pg_proc WHERE proname = 'f'
UNION SELECT lomowner::regrole FROM pg_largeobject_metadata
UNION SELECT datdba::regrole FROM pg_database WHERE datname = current_database()
"""


def plain_role(server: PostgresServer, name: str) -> str:
    """A role that may do nothing but own things."""
    role = f"app_{name}"
    server.psql(f"CREATE ROLE {role} NOLOGIN")
    return role


def test_a_database_that_is_made_belongs_to_the_role_that_is_to_own_all(
    server: PostgresServer, tmp_path: Path
) -> None:
    name = new_database(server)
    server.psql(OWNED, database=name)
    result = run(server, name, tmp_path / "vault")
    role = plain_role(server, name)
    options = RestoreOptions(owner=role)
    where = address(server, f"{name}_made")
    job = restore_job(result, tmp_path / "vault", source(name), connection=where, options=options)
    run_restore(engine, job, times=2)
    assert server.psql(OWNERS, database=name_of(job)) == role
    assert engine.differences(job) == []


def test_a_plain_user_may_restore_for_a_role_that_it_is_a_member_of(
    server: PostgresServer, tmp_path: Path
) -> None:
    name = new_database(server)
    server.psql(OWNED.replace("CREATE EXTENSION pg_stat_statements;", ""), database=name)
    result = run(server, name, tmp_path / "vault")
    role, user = plain_role(server, name), f"user_{name}"
    server.psql(f"CREATE ROLE {user} LOGIN CREATEDB PASSWORD '{server.password}' IN ROLE {role}")
    options = RestoreOptions(owner=role)
    where = address(server, f"{name}_made", user=user)
    job = restore_job(result, tmp_path / "vault", source(name), connection=where, options=options)
    run_restore(engine, job)
    assert server.psql(OWNERS, database=name_of(job)) == role
    assert server.psql("SELECT n FROM m", database=name_of(job)) == "10"


def test_a_role_that_may_not_create_in_the_database_that_is_there_is_named(
    pg18: PostgresServer, tmp_path: Path
) -> None:
    name = new_database(pg18)
    pg18.psql(OWNED, database=name)
    result = run(pg18, name, tmp_path / "vault")
    role = plain_role(pg18, name)
    where = address(pg18, new_database(pg18))
    options = RestoreOptions(owner=role, keep_going=True)
    job = restore_job(result, tmp_path / "vault", source(name), connection=where, options=options)
    with pytest.raises(TargetUnsupported, match="may not create in schema public") as caught:
        engine.plan_restore(job)
    assert "may not create schemas in database" in caught.value.message
