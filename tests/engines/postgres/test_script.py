"""Definitions in batches: many tables on a small server, restores cut off and run again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from devtools.servers.postgres import PostgresServer
from stepvault.engines.postgres import engine, script, target
from stepvault.engines.postgres.target import name_of
from stepvault.errors import SourceUnsupported, StepvaultError
from tests.engines.driver import _do, back_up, restore_job, run_restore
from tests.engines.postgres.rig import address, holds, new_database, run, source

#: Room for 10 * 44 locks.
SMALL = {
    "max_locks_per_transaction": "10",
    "max_connections": "40",
    "max_worker_processes": "1",
    "autovacuum_max_workers": "1",
    "autovacuum_worker_slots": "1",
}


@pytest.fixture(scope="module")
def small() -> Iterator[PostgresServer]:
    with PostgresServer("18", settings=SMALL) as server:
        yield server


def tables(server: PostgresServer, database: str, count: int) -> None:
    """Tables with a key and a sequence, each in a transaction of its own."""
    server.psql(
        f"CREATE PROCEDURE fill() LANGUAGE plpgsql AS $$BEGIN FOR i IN 1..{count} LOOP"
        " EXECUTE format('CREATE TABLE t%s (id serial PRIMARY KEY, v text)', i);"
        " EXECUTE format('INSERT INTO t%s (v) VALUES (%L)', i, i); COMMIT; END LOOP; END$$",
        database=database,
    )
    server.psql("CALL fill()", database=database)


def test_more_tables_than_one_transaction_may_lock_are_restored(
    small: PostgresServer, tmp_path: Path
) -> None:
    """Each takes four locks to make: one transaction would need four times what there is."""
    name = new_database(small)
    tables(small, name, 300)
    result = run(small, name, tmp_path / "vault")
    [warning] = [w for w in result.warnings if "max_locks_per_transaction" in w]
    assert "300 tables" in warning
    where = address(small, new_database(small))
    job = restore_job(result, tmp_path / "vault", source(name), connection=where)
    run_restore(engine, job)
    assert holds(small, name_of(job)) == holds(small, name)


def test_too_many_tables_to_back_up_are_refused_with_what_to_set(
    small: PostgresServer, tmp_path: Path
) -> None:
    """Before any lock is taken: the server's last room for locks is for others."""
    name = new_database(small)
    tables(small, name, 600)
    (tmp_path / "vault").mkdir()
    with pytest.raises(SourceUnsupported, match="600 tables") as caught:
        back_up(engine, source(name), tmp_path / "vault", connection=address(small, name))
    assert "max_locks_per_transaction" in caught.value.fix
    assert 30 < int(caught.value.fix.split()[3]) < 40


def test_definitions_cut_off_between_two_batches_are_carried_on(
    pg18: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = new_database(pg18)
    tables(pg18, name, 60)
    result = run(pg18, name, tmp_path / "vault")
    where = address(pg18, new_database(pg18))
    job = restore_job(result, tmp_path / "vault", source(name), connection=where)
    monkeypatch.setattr(script, "MOST", 50)
    tasks = engine.plan_restore(job)
    pg18.psql(
        "CREATE SCHEMA away; CREATE FUNCTION away.cut() RETURNS event_trigger LANGUAGE plpgsql AS"
        " $$BEGIN IF to_regclass('public.t40') IS NOT NULL THEN RAISE 'cut off'; END IF; END$$;"
        "CREATE EVENT TRIGGER cut ON ddl_command_end EXECUTE FUNCTION away.cut()",
        database=name_of(job),
    )
    with monkeypatch.context() as patched:
        patched.setattr(target, "require_empty", lambda opened: None)  # the trigger's function
        with pytest.raises(StepvaultError, match="cut off"):
            _do(engine, job, tasks[0])
    pg18.psql("DROP SCHEMA away CASCADE", database=name_of(job))
    count = "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname ~ '^t[0-9]'"
    begun = int(pg18.psql(count, database=name_of(job)))
    assert 0 < begun < 40
    run_restore(engine, job)  # planned again, as from a terminal
    assert holds(pg18, name_of(job)) == holds(pg18, name)
