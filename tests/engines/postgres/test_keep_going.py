"""Restores into targets that cannot take all: what can be restored is, the rest is listed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from devtools.servers.postgres import PostgresServer
from stepvault.engines.base import RestoreJob
from stepvault.engines.postgres import engine
from stepvault.engines.postgres.target import name_of
from stepvault.errors import ConfigInvalid, StepvaultError, TargetUnsupported
from stepvault.records import RestoreOptions, Unrestored
from tests.engines.driver import restore_job, run_restore
from tests.engines.postgres.rig import address, holds, new_database, run, source

#: Things that dump and do not restore, beside things that do. (17 and later refuse most of them
#: at once.)
BROKEN = """
CREATE FUNCTION helper(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION leaning(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT helper($1)';
CREATE TABLE parents (id int PRIMARY KEY, name text);
CREATE TABLE children (id int PRIMARY KEY, parent int REFERENCES parents);
CREATE TABLE checked (i int CHECK (leaning(i) > 0));
INSERT INTO parents SELECT i, 'p' || i FROM generate_series(1, 50) i;
INSERT INTO children SELECT i, i FROM generate_series(1, 50) i;
INSERT INTO checked VALUES (1);
CREATE INDEX bad_index ON parents (leaning(id));
CREATE INDEX good_index ON parents (name);
CREATE MATERIALIZED VIEW bad_view AS SELECT leaning(id) AS x FROM parents;
CREATE MATERIALIZED VIEW good_view AS SELECT count(*) AS n FROM parents;
CREATE PUBLICATION everything FOR ALL TABLES;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER touched BEFORE INSERT ON children FOR EACH ROW EXECUTE FUNCTION touch();
"""
COUNT = "SELECT (SELECT count(*) FROM parents), (SELECT count(*) FROM children)"
KEYS = "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND convalidated"


def job_of(
    server: PostgresServer, database: str, vault: Path, where: Any = None, **options: Any
) -> tuple[RestoreJob, list[Unrestored]]:
    """A restore into a new database, and what it will report."""
    result = run(server, database, vault)
    left: list[Unrestored] = []
    job = restore_job(
        result,
        vault,
        source(database),
        connection=where or address(server, new_database(server)),
        options=RestoreOptions(**options),
        unrestored=left.append,
    )
    return job, left


def names(left: list[Unrestored]) -> set[tuple[str, str]]:
    return {(u.kind, u.name) for u in left}


def test_all_but_what_fails_is_restored_and_each_failure_named(
    pg15: PostgresServer, tmp_path: Path
) -> None:
    name = new_database(pg15)
    pg15.psql(BROKEN, database=name)
    job, left = job_of(pg15, name, tmp_path / "vault", keep_going=True)
    run_restore(engine, job, times=2)
    assert names(left) == {
        ("rows", "public.checked"),
        ("index", "public.bad_index"),
        ("materialized view data", "public.bad_view"),
    }
    assert all("helper(integer) does not exist" in u.reason for u in left)
    assert any(u.statement.startswith("CREATE INDEX bad_index") for u in left)
    assert any(u.statement.startswith("REFRESH MATERIALIZED VIEW") for u in left)
    there = name_of(job)
    assert pg15.psql(COUNT, database=there) == "50|50"
    assert pg15.psql(KEYS, database=there) == "1"
    assert pg15.psql("SELECT n FROM good_view", database=there) == "50"
    made = (
        "SELECT string_agg(relname, ',' ORDER BY relname) FROM pg_class"
        " WHERE relname ~ '^(bad|good)_'"
    )
    assert pg15.psql(made, database=there) == "bad_view,good_index,good_view"
    assert (
        pg15.psql("SELECT count(*) FROM pg_trigger WHERE tgname = 'touched'", database=there) == "1"
    )
    assert (
        pg15.psql("SELECT count(*) FROM pg_namespace WHERE nspname ~ '^stepvault'", database=there)
        == "0"
    )


def test_a_definition_that_fails_costs_no_other(pg15: PostgresServer, tmp_path: Path) -> None:
    """Only a table that cannot be made, here for a function in C that the target lacks."""
    name = new_database(pg15)
    pg15.psql(
        "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1';"
        "DO $$BEGIN FOR i IN 1..40 LOOP EXECUTE format('CREATE TABLE t%s (id serial)', i);"
        " END LOOP; END$$; CREATE TABLE late (i int DEFAULT mine()); INSERT INTO late VALUES (1);"
        "COMMENT ON TABLE late IS 'x'; CREATE INDEX ON late (i)",
        database=name,
    )
    pg15.psql(
        "SET allow_system_table_mods = on; UPDATE pg_proc SET prolang = (SELECT oid FROM pg_language"
        " WHERE lanname = 'c'), probin = '/nowhere/lib.so', prosrc = 'mine' WHERE proname = 'mine'",
        database=name,
    )
    job, left = job_of(pg15, name, tmp_path / "vault", keep_going=True)
    run_restore(engine, job)
    assert ("function", "public.mine()") in names(left)
    assert ("table", "public.late") in names(left)
    assert ("rows", "public.late") in names(left)
    tables = "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname ~ '^t[0-9]'"
    assert pg15.psql(tables, database=name_of(job)) == "40"
    assert "nowhere" in next(u.reason for u in left if u.kind == "function")


def test_without_keep_going_the_first_failure_stops_and_costs_no_rows_or_keys(
    pg15: PostgresServer, tmp_path: Path
) -> None:
    """A materialized view comes last; the same restore goes on once its function is mended."""
    name = new_database(pg15)
    pg15.psql(BROKEN + "DROP TABLE checked; DROP INDEX bad_index", database=name)
    job, left = job_of(pg15, name, tmp_path / "vault")
    with pytest.raises(StepvaultError, match="helper"):
        run_restore(engine, job)
    there = name_of(job)
    assert pg15.psql(COUNT, database=there) == "50|50"
    assert pg15.psql(KEYS, database=there) == "1"
    mended = (
        "CREATE OR REPLACE FUNCTION leaning(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1'"
    )
    pg15.psql(mended, database=there)
    run_restore(engine, job)
    assert left == []
    pg15.psql(mended, database=name)
    assert holds(pg15, there) == holds(pg15, name)


def test_a_failed_restore_is_carried_on_by_one_that_keeps_going(
    pg15: PostgresServer, tmp_path: Path
) -> None:
    name = new_database(pg15)
    pg15.psql(BROKEN, database=name)
    job, left = job_of(pg15, name, tmp_path / "vault")
    with pytest.raises(StepvaultError, match="helper"):
        run_restore(engine, job)
    run_restore(engine, replace(job, options=RestoreOptions(keep_going=True)))
    assert len(names(left)) == 3
    assert pg15.psql(COUNT, database=name_of(job)) == "50|50"


def test_another_backups_unfinished_restore_is_refused_and_told(
    pg15: PostgresServer, tmp_path: Path
) -> None:
    name, other = new_database(pg15), new_database(pg15)
    pg15.psql(BROKEN, database=name)
    pg15.psql("CREATE TABLE t AS SELECT 1 AS i", database=other)
    job, _ = job_of(pg15, name, tmp_path / "vault")
    with pytest.raises(StepvaultError, match="helper"):
        run_restore(engine, job)
    second, _ = job_of(pg15, other, tmp_path / "second", where=job.connection)
    with pytest.raises(StepvaultError, match="restore of another backup") as caught:
        engine.plan_restore(second)
    assert "DROP SCHEMA stepvault_restore" in caught.value.fix
    run_restore(engine, replace(second, options=RestoreOptions(overwrite=True)))
    assert holds(pg15, name_of(job)) == holds(pg15, other)


def test_what_a_person_names_is_left_out_with_all_that_needs_it(
    pg18: PostgresServer, tmp_path: Path
) -> None:
    name = new_database(pg18)
    pg18.psql(
        "CREATE EXTENSION citext; CREATE EXTENSION hstore; CREATE TABLE words (w citext);"
        "INSERT INTO words VALUES ('A'); CREATE VIEW v AS SELECT w FROM words;"
        "CREATE TABLE plain (h hstore); INSERT INTO plain VALUES ('a=>1');"
        "ALTER TABLE plain ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON plain USING (true);"
        "CREATE PUBLICATION everything FOR ALL TABLES; CREATE PUBLICATION one FOR TABLE plain;"
        "CREATE FUNCTION e() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';"
        "CREATE EVENT TRIGGER ev ON sql_drop EXECUTE FUNCTION e();"
        "COMMENT ON EVENT TRIGGER ev IS 'x'",
        database=name,
    )
    without = ["extension:citext", "publications", "event-triggers", "policies"]
    without.append("comments-on-extensions")
    job, left = job_of(pg18, name, tmp_path / "vault", without=without)
    run_restore(engine, job)
    assert all(u.asked for u in left)
    assert names(left) == {
        ("extension", "citext"),
        ("table", "public.words"),
        ("rows", "public.words"),
        ("view", "public.v"),
        ("publication", "everything"),
        ("publication", "one"),
        ("publication table", "public.one plain"),
        ("event trigger", "ev"),
        ("policy", "public.plain p"),
        ("comment", "EXTENSION hstore"),
    }
    there = name_of(job)
    assert pg18.psql("SELECT h FROM plain", database=there) == '"a"=>"1"'
    assert pg18.psql("SELECT count(*) FROM pg_publication", database=there) == "0"
    assert pg18.psql("SELECT count(*) FROM pg_event_trigger", database=there) == "0"


def test_an_unknown_kind_to_go_without_is_named(pg18: PostgresServer, tmp_path: Path) -> None:
    job, _ = job_of(pg18, new_database(pg18), tmp_path / "vault", without=["tabelspaces"])
    with pytest.raises(ConfigInvalid, match="tabelspaces") as caught:
        engine.plan_restore(job)
    assert "tablespaces" in caught.value.fix
    assert "extension:NAME" in caught.value.fix


#: A database as on a managed server: extensions, policies, publications, a tablespace, roles.
MANAGED = """
CREATE EXTENSION hstore; CREATE EXTENSION pg_stat_statements; CREATE EXTENSION citext;
CREATE SCHEMA app;
CREATE TABLE app.customers (id int PRIMARY KEY, name citext, more hstore);
CREATE TABLE app.orders (id serial PRIMARY KEY, customer int REFERENCES app.customers);
CREATE TABLE app.archive (id int) TABLESPACE faraway_NAME;
INSERT INTO app.customers SELECT i, 'c' || i, 'a=>1' FROM generate_series(1, 100) i;
INSERT INTO app.orders (customer) SELECT i FROM generate_series(1, 100) i;
INSERT INTO app.archive SELECT generate_series(1, 10);
ALTER TABLE app.orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY theirs ON app.orders FOR SELECT TO auditor_NAME USING (true);
CREATE POLICY everybody ON app.orders FOR SELECT USING (true);
CREATE PUBLICATION everything FOR ALL TABLES;
CREATE FUNCTION app.watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION app.watch();
GRANT SELECT ON app.customers TO auditor_NAME;
"""


@pytest.fixture
def managed(pg18: PostgresServer, tmp_path: Path) -> str:
    name = new_database(pg18)
    space = pg18.folder / f"space-{name}"
    space.mkdir()
    pg18.give_away()
    pg18.psql(f"CREATE ROLE auditor_{name}")
    pg18.psql(f"CREATE TABLESPACE faraway_{name} LOCATION '{space}'")
    pg18.psql(MANAGED.replace("NAME", name), database=name)
    return name


def managed_target(server: PostgresServer) -> Any:
    """A server's master user who is no superuser, and a database of its own with extensions that
    an administrator has put there; the source's role and tablespace are gone."""
    server.psql("DROP DATABASE IF EXISTS rds")
    server.psql("DROP ROLE IF EXISTS master")
    server.psql(f"CREATE ROLE master LOGIN CREATEDB CREATEROLE PASSWORD '{server.password}'")
    server.psql("CREATE DATABASE rds OWNER master")
    server.psql("CREATE EXTENSION hstore; CREATE EXTENSION citext", database="rds")
    return address(server, "rds", user="master")


def leave(server: PostgresServer, name: str) -> None:
    """What the backup's server had and the target lacks."""
    server.psql(f"DROP DATABASE {name} WITH (FORCE)")
    server.psql(f"DROP TABLESPACE faraway_{name}")
    server.psql(f"DROP ROLE auditor_{name}")


def test_all_that_is_in_the_way_is_listed_before_anything_is_written(
    pg18: PostgresServer, managed: str, tmp_path: Path
) -> None:
    where = managed_target(pg18)
    job, left = job_of(pg18, managed, tmp_path / "vault", where=where, owner="none")
    leave(pg18, managed)
    before = holds(pg18, "rds")
    with pytest.raises(TargetUnsupported) as caught:
        engine.plan_restore(job)
    for part in (
        f"tablespace faraway_{managed}: the server has none",
        "extension pg_stat_statements: permission denied",
        "(the backup has version",
        f"policy app.orders theirs: the server has no role auditor_{managed}",
        "publication everything: must be superuser",
        "event trigger watch: permission denied",
    ):
        assert part in caught.value.message
    for option in (
        "--without extension:pg_stat_statements",
        "--without tablespaces",
        "--without policies",
        "--without publications",
        "--without event-triggers",
        "--keep-going",
    ):
        assert option in caught.value.fix
    assert "hstore" not in caught.value.message
    assert holds(pg18, "rds") == before
    assert names(left) == {("comment", "EXTENSION hstore"), ("comment", "EXTENSION citext")}
    assert all(u.asked for u in left)


def test_a_master_user_who_is_no_superuser_gets_all_rows_and_a_list_of_the_rest(
    pg18: PostgresServer, managed: str, tmp_path: Path
) -> None:
    where = managed_target(pg18)
    job, left = job_of(
        pg18, managed, tmp_path / "vault", where=where, owner="none", keep_going=True
    )
    leave(pg18, managed)
    run_restore(engine, job)
    assert {(u.kind, u.name) for u in left if not u.asked} == {
        ("tablespace", f"faraway_{managed}"),
        ("extension", "pg_stat_statements"),
        ("policy", "app.orders theirs"),
        ("publication", "everything"),
        ("event trigger", "watch"),
    }
    rows = "SELECT (SELECT count(*) FROM app.customers), (SELECT count(*) FROM app.orders),"
    rows += " (SELECT count(*) FROM app.archive), (SELECT max(id) FROM app.orders)"
    assert pg18.psql(rows, database="rds") == "100|100|10|100"
    assert pg18.psql(KEYS, database="rds") == "1"
    policies = "SELECT string_agg(polname, ',') FROM pg_policy"
    assert pg18.psql(policies, database="rds") == "everybody"
    owners = (
        "SELECT DISTINCT relowner::regrole FROM pg_class WHERE relnamespace = 'app'::regnamespace"
    )
    assert pg18.psql(owners, database="rds") == "master"


def test_the_same_restore_with_what_the_refusal_names_is_whole(
    pg18: PostgresServer, managed: str, tmp_path: Path
) -> None:
    where = managed_target(pg18)
    without = ["extension:pg_stat_statements", "tablespaces", "policies", "publications"]
    job, left = job_of(
        *(pg18, managed, tmp_path / "vault"),
        where=where,
        owner="none",
        without=[*without, "event-triggers"],
    )
    leave(pg18, managed)
    run_restore(engine, job)
    assert left
    assert all(u.asked for u in left)
    assert pg18.psql("SELECT count(*) FROM app.orders", database="rds") == "100"


def test_roles_that_are_missing_cost_no_table(pg18: PostgresServer, tmp_path: Path) -> None:
    """Owners and grantees of the backup; what was theirs belongs to the user."""
    name = new_database(pg18)
    pg18.psql(
        'CREATE ROLE "gone away"; CREATE ROLE stays; CREATE TABLE t AS SELECT 1 AS i;'
        'ALTER TABLE t OWNER TO "gone away"; GRANT SELECT ON t TO stays;'
        'CREATE TABLE u AS SELECT 1 AS i; GRANT SELECT ON u TO "gone away"; GRANT SELECT ON u TO stays;'
        'ALTER DEFAULT PRIVILEGES FOR ROLE "gone away" GRANT SELECT ON TABLES TO stays',
        database=name,
    )
    job, left = job_of(pg18, name, tmp_path / "vault", keep_going=True)
    pg18.psql(f"DROP DATABASE {name}")
    pg18.psql('DROP ROLE "gone away"')
    run_restore(engine, job)
    assert names(left) == {("role", "gone away")}
    there = name_of(job)
    owners = "SELECT relname, relowner::regrole, relacl::text ~ 'stays=r' FROM pg_class WHERE relname IN ('t', 'u')"
    assert pg18.psql(owners, database=there).splitlines() == ["t|postgres|t", "u|postgres|t"]
    pg18.psql(f"DROP DATABASE {there}")
    pg18.psql("DROP ROLE stays")


def test_owners_that_the_user_may_not_give_to_cost_no_table(
    pg18: PostgresServer, tmp_path: Path
) -> None:
    """The roles are there; grants to them need no membership."""
    name = new_database(pg18)
    role, user = f"owner_{name}", f"master_{name}"
    pg18.psql(
        f"CREATE ROLE {role}; CREATE ROLE {user} LOGIN CREATEDB PASSWORD '{pg18.password}';"
        f"CREATE TABLE t AS SELECT 1 AS i; ALTER TABLE t OWNER TO {role};"
        f"CREATE TABLE u AS SELECT 2 AS i; ALTER TABLE u OWNER TO {user}; GRANT SELECT ON u TO {role}",
        database=name,
    )
    where = address(pg18, f"{name}_made", user=user)
    job, left = job_of(pg18, name, tmp_path / "vault", where=where)
    with pytest.raises(TargetUnsupported, match=f"owner {role}: user {user} is not a member"):
        engine.plan_restore(job)
    run_restore(engine, replace(job, options=RestoreOptions(keep_going=True)))
    assert names(left) == {("owner", role)}
    owners = "SELECT relname, relowner::regrole, relacl::text ~ 'owner_' FROM pg_class WHERE relname IN ('t', 'u') ORDER BY 1"
    there = pg18.psql(owners, database=name_of(job)).splitlines()
    assert there == [f"t|{user}|", f"u|{user}|t"]
