"""Settings of a server or a database that must not show in what is read, nor end it."""

from pathlib import Path

from devtools.servers.postgres import PostgresServer
from stepvault.engines.postgres import engine
from tests.engines.driver import back_up, restore_job, run_restore
from tests.engines.postgres.rig import address, new_database, source


def test_rows_are_the_same_in_every_time_zone(pg18: PostgresServer, tmp_path: Path) -> None:
    """Loaded in the database's own, as a check rests on it here."""
    name, copy = new_database(pg18), new_database(pg18)
    pg18.psql(
        f"ALTER DATABASE {name} SET timezone = 'Asia/Tokyo';"
        f"ALTER DATABASE {name} SET bytea_output = 'escape';"
        f"ALTER DATABASE {copy} SET timezone = 'Asia/Seoul'"
    )
    pg18.psql(
        "CREATE TABLE t (at timestamptz, during tstzrange, day date CHECK (day = at::date), b bytea);"
        "INSERT INTO t SELECT at, tstzrange(at, NULL), at::date, '\\x00ff27' FROM generate_series("
        "  '2024-01-01'::timestamptz, '2024-02-01', '5 hours') at",
        database=name,
    )
    [result] = back_up(engine, source(name), tmp_path, connection=address(pg18, name))
    job = restore_job(result, tmp_path, source(name), connection=address(pg18, copy))
    run_restore(engine, job)
    assert [line for line in engine.differences(job) if line.startswith("table")] == []
    pg18.psql("UPDATE t SET at = at + '1 second' WHERE ctid = '(0,1)'", database=copy)
    assert any("other values" in line for line in engine.differences(job))


def test_a_server_that_ends_idle_sessions(pg18: PostgresServer, tmp_path: Path) -> None:
    """The one that watches idles while pg_dump works."""
    name = new_database(pg18)
    pg18.psql("CREATE TABLE t AS SELECT 1 AS i", database=name)
    pg18.psql(f"ALTER DATABASE {name} SET idle_session_timeout = '50ms'")
    [result] = back_up(engine, source(name), tmp_path, connection=address(pg18, name))
    assert [o.rows for o in result.objects if "table" in o.facts] == [1]
