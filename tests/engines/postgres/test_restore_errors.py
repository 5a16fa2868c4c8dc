"""Restores that the server refuses half-way: they say why, soon, whatever is still in the pipes."""

import threading
from pathlib import Path

import psycopg

from devtools.servers.postgres import PostgresServer
from stepvault.engines.base import RestoreJob
from stepvault.engines.postgres import engine
from stepvault.errors import OutOfTime, SourceDenied, StepvaultError
from stepvault.records import RestoreOptions, RestoreTask
from tests.engines.driver import _do, back_up, restore_job
from tests.engines.postgres.rig import address, holds, new_database, source


def outcome(job: RestoreJob, tasks: list[RestoreTask] | None = None) -> StepvaultError | None:
    """What the restore raised; fails should it hang."""
    raised: list[StepvaultError] = []

    def restore() -> None:
        try:
            for task in tasks or engine.plan_restore(job):
                _do(engine, job, task)
        except StepvaultError as error:
            raised.append(error)

    thread = threading.Thread(target=restore, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "the restore hangs"
    return raised[0] if raised else None


def test_a_large_object_that_is_there_already_is_an_error_however_many_bytes_follow(
    pg18: PostgresServer, tmp_path: Path
) -> None:
    name = new_database(pg18)
    pg18.psql(
        "SELECT lo_from_bytea(50000 + i, decode(repeat(md5(i::text), 131072), 'hex'))"
        " FROM generate_series(1, 4) i; CREATE TABLE t (i int)",
        database=name,
    )
    results = back_up(
        engine, source(name, schema=False), tmp_path / "vault", connection=address(pg18, name)
    )
    where = address(pg18, new_database(pg18))
    pg18.psql("CREATE TABLE t (i int); SELECT lo_create(50001)", database=str(where.database))
    error = outcome(restore_job(results, tmp_path / "vault", source(name), connection=where))
    assert "50001" in str(error)
    assert "already exists" in str(error)


def test_a_user_who_may_not_make_a_schema_is_denied_however_long_the_script(
    pg18: PostgresServer, tmp_path: Path
) -> None:
    name = new_database(pg18)
    pg18.psql(
        "CREATE SCHEMA aaa; DO $$BEGIN FOR i IN 1..400 LOOP EXECUTE format('CREATE FUNCTION f%s()"
        " RETURNS text LANGUAGE sql AS %L', i, 'SELECT ''' || repeat('x', 10000) || '''::text');"
        " END LOOP; END$$",
        database=name,
    )
    results = back_up(engine, source(name), tmp_path / "vault", connection=address(pg18, name))
    pg18.psql(f"DROP ROLE IF EXISTS plain; CREATE ROLE plain LOGIN PASSWORD '{pg18.password}'")
    where = address(pg18, new_database(pg18), user="plain")
    options = RestoreOptions(owner="none")
    job = restore_job(results, tmp_path / "vault", source(name), connection=where, options=options)
    error = outcome(job)
    assert isinstance(error, SourceDenied)
    assert "permission denied for database" in str(error)


def test_hundreds_of_tables_to_overwrite_that_are_not_there_are_made(
    pg18: PostgresServer, tmp_path: Path
) -> None:
    """The server says of each that it does not exist."""
    name = new_database(pg18)
    pg18.psql(
        "DO $$BEGIN FOR i IN 1..600 LOOP EXECUTE format('CREATE TABLE %I (a int, b text)',"
        " 'a_name_long_enough_to_fill_the_pipe_that_nobody_reads_' || i); END LOOP; END$$",
        database=name,
    )
    results = back_up(engine, source(name), tmp_path / "vault", connection=address(pg18, name))
    where = address(pg18, new_database(pg18))
    options = RestoreOptions(only=["public.*"], overwrite=True)
    job = restore_job(results, tmp_path / "vault", source(name), connection=where, options=options)
    assert outcome(job) is None
    assert holds(pg18, str(where.database)) == holds(pg18, name)


def test_definitions_that_wait_for_a_lock_end_with_the_functions_time(
    pg18: PostgresServer, tmp_path: Path
) -> None:
    name = new_database(pg18)
    pg18.psql("CREATE TABLE t AS SELECT 1 AS i", database=name)
    results = back_up(engine, source(name), tmp_path / "vault", connection=address(pg18, name))
    where = address(pg18, new_database(pg18))
    job = restore_job(
        results,
        tmp_path / "vault",
        source(name),
        connection=where,
        options=RestoreOptions(only=["public.t"], overwrite=True),
        remaining=lambda: 6.0,
    )
    pg18.psql("CREATE TABLE t (mine text)", database=str(where.database))
    tasks = engine.plan_restore(job)
    with psycopg.connect(pg18.url(str(where.database))) as other:
        other.execute("LOCK TABLE t")
        error = outcome(job, tasks)
        assert isinstance(error, OutOfTime)
        assert "same restore again" in error.fix
    assert outcome(job, tasks) is None
    assert holds(pg18, str(where.database)) == holds(pg18, name)
