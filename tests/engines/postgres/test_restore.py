"""Restores that stop half-way, and go on."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from devtools.servers.postgres import PostgresServer, unpack
from stepvault.engines.postgres import engine
from stepvault.errors import (
    OutOfTime,
    SourceDenied,
    SourceUnreachable,
    SourceUnsupported,
    TargetMissing,
    TargetNotEmpty,
)
from stepvault.records import RestoreOptions
from tests.engines.driver import _do, back_up, restore_job, run_restore
from tests.engines.postgres.rig import address, holds, new_database, source

SLOW = (
    "CREATE FUNCTION slow(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS"
    " $$BEGIN PERFORM pg_catalog.pg_sleep(0.02); RETURN i; END$$;"
    "CREATE TABLE t AS SELECT i FROM generate_series(1, 100) i;"
    "CREATE INDEX one ON t (slow(i)); CREATE INDEX two ON t (i);"
)


def test_an_index_that_outlives_its_function_is_finished_by_the_server(
    pg18: PostgresServer, tmp_path: Path
) -> None:
    name, vault = new_database(pg18), tmp_path / "vault"
    vault.mkdir()
    pg18.psql(SLOW, database=name)
    results = back_up(engine, source(name), vault, connection=address(pg18, name))
    where = address(pg18, new_database(pg18))
    job = restore_job(results, vault, source(name), connection=where)
    end = time.monotonic() + 1e6
    hurried = restore_job(
        results, vault, source(name), connection=where, remaining=lambda: end - time.monotonic()
    )
    *before, last = engine.plan_restore(job)
    for task in before:
        _do(engine, job, task)
    end = time.monotonic() + 6
    with pytest.raises(OutOfTime, match=r"INDEX public\.one") as caught:
        _do(engine, hurried, last)
    assert "same restore again" in caught.value.fix
    assert pg18.psql("SELECT count(*) FROM pg_indexes WHERE indexname = 'one'") == "0"
    _do(engine, job, last)
    assert engine.differences(job) == []
    assert holds(pg18, str(where.database)) == holds(pg18, name)


def test_a_restore_goes_on_where_it_was_cut_off(
    pg18: PostgresServer, odd18: str, tmp_path: Path
) -> None:
    """The same plan again, after any number of its tasks have been done."""
    vault = tmp_path / "vault"
    vault.mkdir()
    results = back_up(engine, source(odd18), vault, connection=address(pg18, odd18))
    where = address(pg18, new_database(pg18))
    job = restore_job(results, vault, source(odd18), connection=where)
    tasks = engine.plan_restore(job)
    for task in tasks[: len(tasks) // 2]:
        _do(engine, job, task)
    for task in tasks:
        _do(engine, job, task)
    assert engine.differences(job) == []
    assert holds(pg18, str(where.database)) == holds(pg18, odd18)


def test_rows_without_their_definitions_are_not_loaded(
    pg18: PostgresServer, odd18: str, tmp_path: Path
) -> None:
    vault = tmp_path / "vault"
    vault.mkdir()
    results = back_up(engine, source(odd18), vault, connection=address(pg18, odd18))
    where = address(pg18, new_database(pg18))
    job = restore_job(results, vault, source(odd18), connection=where)
    task = next(t for t in engine.plan_restore(job) if t.stage == "data")
    with pytest.raises(TargetMissing, match="no definitions from this restore"):
        _do(engine, job, task)


def test_what_pg_restore_cannot_do_is_an_error_and_leaves_nothing(
    pg18: PostgresServer, pg15: PostgresServer, tmp_path: Path
) -> None:
    """A virtual column is unknown to a 15."""
    name, vault = new_database(pg18), tmp_path / "vault"
    vault.mkdir()
    pg18.psql("CREATE TABLE t (a int, b int GENERATED ALWAYS AS (a) VIRTUAL)", database=name)
    results = back_up(engine, source(name), vault, connection=address(pg18, name))
    where = address(pg15, new_database(pg15))
    job = restore_job(results, vault, source(name), connection=where)
    with pytest.raises(SourceUnsupported, match="syntax error"):
        run_restore(engine, job)
    assert holds(pg15, str(where.database))["large objects"] == []
    assert len(holds(pg15, str(where.database))) == 2


def test_a_user_who_may_not_create_is_denied(pg18: PostgresServer, tmp_path: Path) -> None:
    name, vault = new_database(pg18), tmp_path / "vault"
    vault.mkdir()
    results = back_up(engine, source(name), vault, connection=address(pg18, name))
    pg18.psql(f"DROP ROLE IF EXISTS weak; CREATE ROLE weak LOGIN PASSWORD '{pg18.password}'")
    where = address(pg18, "never-made", user="weak")
    job = restore_job(results, vault, source(name), connection=where)
    with pytest.raises(SourceDenied, match="cannot create database never-made"):
        engine.plan_restore(job)


def test_a_comparison_whose_readers_cannot_start_is_no_equality(
    pg18: PostgresServer, odd18: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [result] = back_up(
        engine, source(odd18), tmp_path / "vault", connection=address(pg18, odd18), connections=2
    )
    job = restore_job(result, tmp_path / "vault", source(odd18), connection=address(pg18, odd18))
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "pg_dump").symlink_to(unpack("18") / "bin" / "pg_dump")
    (programs / "psql").symlink_to(unpack("15") / "bin" / "psql")
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(SourceUnsupported, match="psql is of PostgreSQL 15"):
        engine.differences(job)


def test_a_backup_without_tables_is_a_whole_one(pg18: PostgresServer, tmp_path: Path) -> None:
    """An occupied target is refused, or dropped when told, as for any other."""
    name, vault = new_database(pg18), tmp_path / "vault"
    vault.mkdir()
    pg18.psql("CREATE FUNCTION f() RETURNS int LANGUAGE sql RETURN 1", database=name)
    results = back_up(engine, source(name), vault, connection=address(pg18, name))
    where = address(pg18, new_database(pg18))
    pg18.psql("CREATE TABLE mine (a int)", database=str(where.database))
    job = restore_job(results, vault, source(name), connection=where)
    with pytest.raises(TargetNotEmpty, match=r"holds table public\.mine"):
        engine.plan_restore(job)
    options = RestoreOptions(overwrite=True)
    job = restore_job(results, vault, source(name), connection=where, options=options)
    run_restore(engine, job)
    assert holds(pg18, str(where.database)) == holds(pg18, name)


def test_a_database_that_is_made_gets_the_settings_of_the_one_backed_up(
    pg18: PostgresServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be set is told and left; the quick time-out would end the restore itself."""
    name = f'DATABASE {new_database(pg18)} "odd"'
    quoted = name.replace('"', '""')
    pg18.psql(f'CREATE DATABASE "{quoted}"')
    pg18.psql(
        f"""CREATE TABLE t AS SELECT 1 AS i; CREATE ROLE ghost;
        ALTER ROLE ghost IN DATABASE "{quoted}" SET work_mem = '6MB';
        ALTER DATABASE "{quoted}" SET search_path TO 'a b', public;
        ALTER DATABASE "{quoted}" SET statement_timeout = '100ms';
        ALTER DATABASE "{quoted}" SET application_name TO E'two\nlines; ALTER DATABASE x';
        ALTER DATABASE "{quoted}" CONNECTION LIMIT 7;
        ALTER ROLE postgres IN DATABASE "{quoted}" SET work_mem = '5MB';
        COMMENT ON DATABASE "{quoted}" IS 'it''s "odd"';
        REVOKE CONNECT ON DATABASE "{quoted}" FROM PUBLIC""",
        database=name,
    )
    wanted = source("odd")
    [result] = back_up(engine, wanted, tmp_path / "vault", connection=address(pg18, name))
    pg18.psql("DROP ROLE ghost")
    new = f"{name} again"

    def described(database: str) -> list[str]:
        return pg18.psql(
            "SELECT setconfig, setrole FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase"
            f" WHERE datname = '{database}' ORDER BY setrole;"
            " SELECT datconnlimit, shobj_description(oid, 'pg_database'),"
            " (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(datacl) a)"
            f" FROM pg_database WHERE datname = '{database}'"
        ).splitlines()

    options = RestoreOptions(database=new, owner="keep")
    where = address(pg18, "postgres")
    job = restore_job(result, tmp_path / "vault", wanted, connection=where, options=options)
    run_restore(engine, job)
    assert described(new) == described(name)
    assert len(described(new)) >= 3
    assert engine.differences(job) == []
    assert [r.args[1] for r in caplog.records if isinstance(r.args, tuple) and r.args] == [
        'role "ghost" does not exist'
    ]

    bare = replace(job, options=RestoreOptions(database=f"{name} bare", owner="none"))
    run_restore(engine, bare)
    assert "work_mem" not in "".join(described(f"{name} bare"))
    assert "a b" in "".join(described(f"{name} bare"))


def test_a_materialized_view_that_rests_on_a_key_is_made_before_its_indexes(
    pg18: PostgresServer, tmp_path: Path
) -> None:
    """pg_dump puts a view grouped by a primary key behind that key."""
    name = new_database(pg18)
    pg18.psql(
        "CREATE TABLE c (id int PRIMARY KEY, name text); CREATE TABLE o (c int);"
        "INSERT INTO c VALUES (1, 'a'), (2, 'b'); INSERT INTO o VALUES (1), (1), (2);"
        "CREATE MATERIALIZED VIEW m AS SELECT c.id, c.name, count(*) AS n"
        " FROM c JOIN o ON o.c = c.id GROUP BY c.id;"
        "CREATE UNIQUE INDEX m_id ON m (id); ALTER MATERIALIZED VIEW m CLUSTER ON m_id;"
        "CREATE MATERIALIZED VIEW above AS SELECT id FROM m; CREATE INDEX ON above (id)",
        database=name,
    )
    results = back_up(engine, source(name), tmp_path / "vault", connection=address(pg18, name))
    where = address(pg18, new_database(pg18))
    job = restore_job(results, tmp_path / "vault", source(name), connection=where)
    run_restore(engine, job, times=2)
    assert engine.differences(job) == []
    assert holds(pg18, str(where.database)) == holds(pg18, name)


def settings_of(server: PostgresServer, database: str) -> str:
    return server.psql(
        "SELECT setconfig FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase"
        f" WHERE datname = '{database}'"
    )


def test_a_restore_cut_off_before_the_databases_settings_says_so_and_sets_them_when_run_again(
    pg18: PostgresServer, tmp_path: Path
) -> None:
    """An event trigger ends the restore's other session while its last script runs."""
    name = new_database(pg18)
    pg18.psql(
        "CREATE TABLE t AS SELECT 1 AS i; CREATE VIEW v AS SELECT i FROM t;"
        "CREATE RULE r AS ON INSERT TO v DO INSTEAD INSERT INTO t VALUES (NEW.i);"
        f"ALTER DATABASE {name} SET work_mem = '7MB'",
        database=name,
    )
    results = back_up(engine, source(name), tmp_path / "vault", connection=address(pg18, name))
    made = f"{name}_made"
    job = restore_job(results, tmp_path / "vault", source(name), connection=address(pg18, made))
    *before, last = engine.plan_restore(job)
    for task in before:
        _do(engine, job, task)
    pg18.psql(
        "CREATE FUNCTION cut() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN"
        " PERFORM pg_catalog.pg_terminate_backend(pid, 10000) FROM pg_catalog.pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_catalog.pg_backend_pid()"
        " AND application_name = 'stepvault'; END$$;"
        "CREATE EVENT TRIGGER cut ON ddl_command_start WHEN TAG IN ('CREATE RULE')"
        " EXECUTE FUNCTION cut()",
        database=made,
    )
    with pytest.raises(SourceUnreachable):
        _do(engine, job, last)
    _do(engine, job, last)
    assert settings_of(pg18, made) == settings_of(pg18, name) != ""
    pg18.psql("DROP EVENT TRIGGER cut; DROP FUNCTION cut()", database=made)
    assert holds(pg18, made) == holds(pg18, name)


def test_a_target_that_ends_idle_sessions_does_not_end_the_restores(
    pg18: PostgresServer, tmp_path: Path
) -> None:
    """The index takes longer than a session may idle there."""
    name = new_database(pg18)
    pg18.psql(SLOW + f"ALTER DATABASE {name} SET work_mem = '7MB'", database=name)
    results = back_up(engine, source(name), tmp_path / "vault", connection=address(pg18, name))
    made = f"{name}_made"
    job = restore_job(results, tmp_path / "vault", source(name), connection=address(pg18, made))
    tasks = engine.plan_restore(job)
    pg18.psql(f"ALTER DATABASE {made} SET idle_session_timeout = '1s'")
    for task in tasks:
        _do(engine, job, task)
    assert "work_mem=7MB" in settings_of(pg18, made)


def test_a_plan_that_fails_for_a_role_makes_no_database(
    pg18: PostgresServer, tmp_path: Path
) -> None:
    name = new_database(pg18)
    pg18.psql(
        "CREATE ROLE left_us; CREATE TABLE t (i int); ALTER TABLE t OWNER TO left_us", database=name
    )
    results = back_up(engine, source(name), tmp_path / "vault", connection=address(pg18, name))
    pg18.psql("ALTER ROLE left_us RENAME TO not_here")
    made = f"{name}_made"
    options = RestoreOptions(owner="keep")
    where = address(pg18, made)
    job = restore_job(results, tmp_path / "vault", source(name), connection=where, options=options)
    with pytest.raises(TargetMissing, match="no role left_us"):
        engine.plan_restore(job)
    assert pg18.psql(f"SELECT count(*) FROM pg_database WHERE datname = '{made}'") == "0"


@pytest.mark.parametrize("said", ["NULL", "'mine'"])
def test_a_database_that_a_plan_made_gets_its_settings_whichever_plan_is_carried_out(
    pg18: PostgresServer, tmp_path: Path, said: str
) -> None:
    """The first plan is lost after it has made the database, as when its function dies there."""
    name = new_database(pg18)
    pg18.psql(
        f"CREATE TABLE t AS SELECT 1 AS i; ALTER DATABASE {name} SET work_mem = '7MB';"
        f"COMMENT ON DATABASE {name} IS {said}",
        database=name,
    )
    results = back_up(engine, source(name), tmp_path / "vault", connection=address(pg18, name))
    made = f"{name}_made"
    job = restore_job(results, tmp_path / "vault", source(name), connection=address(pg18, made))
    engine.plan_restore(job)
    run_restore(engine, job)
    assert settings_of(pg18, made) == settings_of(pg18, name) != ""
    comment = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = "
    assert pg18.psql(f"{comment}'{made}'") == pg18.psql(f"{comment}'{name}'")
