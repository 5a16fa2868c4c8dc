"""Poolers and standbys between us and the rows."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from devtools.servers.postgres import PostgresServer
from stepvault.engines.base import Job
from stepvault.engines.postgres import engine, session
from stepvault.errors import SourceBusy, SourceChanged, SourceUnsupported
from tests.engines.driver import back_up, restore_job, run_restore
from tests.engines.postgres.pooler import pooled
from tests.engines.postgres.rig import address, holds, make_odd, new_database, source


def test_a_pooler_in_transaction_mode_is_refused(
    pg18: PostgresServer, odd18: str, tmp_path: Path
) -> None:
    with pooled(pg18, odd18, "transaction", tmp_path) as port:
        connection = address(pg18, odd18, port=port)
        with pytest.raises(SourceUnsupported, match="pooler in transaction mode") as caught:
            back_up(engine, source(odd18), tmp_path / "vault", connection=connection)
    assert "session mode" in caught.value.fix


def test_a_pooler_in_session_mode_serves(pg18: PostgresServer, odd18: str, tmp_path: Path) -> None:
    with pooled(pg18, odd18, "session", tmp_path) as port:
        connection = address(pg18, odd18, port=port)
        [result] = back_up(
            engine, source(odd18), tmp_path / "vault", connection=connection, connections=2
        )
    stored = [o for o in result.objects if o.facts.get("table") == "app.customers"]
    assert sum(o.rows or 0 for o in stored) == 20_000


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """A primary and its standby."""
    settings = {"wal_level": "replica", "max_wal_senders": "4", "max_prepared_transactions": "2"}
    with PostgresServer("18", settings=settings) as primary:
        make_odd(primary, rows=1000)
        with PostgresServer("18", settings=settings, standby_of=primary) as standby:
            # What pg_basebackup has written may be too new for the server's libpq.
            standby.psql(
                f"ALTER SYSTEM SET primary_conninfo = 'host={primary.host} port={primary.port}"
                f" user={primary.user} password={primary.password}'"
            )
            standby.psql("SELECT pg_reload_conf()")
            yield primary, standby


def test_a_standby_is_backed_up_whole(
    pair: tuple[PostgresServer, PostgresServer], pg18: PostgresServer, odd18: str, tmp_path: Path
) -> None:
    """But for unlogged tables, which no standby has."""
    primary, standby = pair
    [result] = back_up(
        engine, source("odd"), tmp_path / "vault", connection=address(standby, "odd")
    )
    assert result.facts["standby"] is True
    assert any("app.unlogged" in w for w in result.warnings)
    where = address(pg18, new_database(pg18))
    run_restore(engine, restore_job(result, tmp_path / "vault", source("odd"), connection=where))
    before, after = holds(primary, "odd"), holds(pg18, str(where.database))
    assert before.pop("app.unlogged")[0] == 100
    assert after.pop("app.unlogged")[0] == 0
    assert after == before


def test_a_standby_that_ends_our_sessions_gets_advice(
    pair: tuple[PostgresServer, PostgresServer], tmp_path: Path
) -> None:
    """The conflict arrives as FATAL where the session waits for our next statement."""
    primary, standby = pair
    name = new_database(primary)
    primary.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i", database=name)
    _wait_for(standby, name)
    standby.psql("ALTER SYSTEM SET max_standby_streaming_delay = 0")
    standby.psql("SELECT pg_reload_conf()")
    (tmp_path / "scratch").mkdir()
    job = Job(source=source(name), connection=address(standby, name), scratch=tmp_path / "scratch")
    try:
        with engine.open(job) as snapshot:
            primary.psql("DELETE FROM t WHERE i < 900", database=name)
            primary.psql("VACUUM t", database=name)
            ended = (
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'stepvault'"
                f" AND datname = '{name}' AND state = 'idle in transaction'"
            )
            deadline = time.monotonic() + 30
            while standby.psql(ended) != "0":
                assert time.monotonic() < deadline
                time.sleep(0.1)
            stream = next(s for s in snapshot.streams() if s.encoding == "zstd")
            with pytest.raises(SourceChanged, match="conflict with recovery") as caught:
                list(stream.read())
            assert "hot_standby_feedback" in caught.value.fix
            with pytest.raises(SourceChanged, match="conflict with recovery") as caught:
                list(snapshot.closing([]))
            assert "hot_standby_feedback" in caught.value.fix
    finally:
        standby.psql("ALTER SYSTEM RESET max_standby_streaming_delay")
        standby.psql("SELECT pg_reload_conf()")


def test_a_prepared_transaction_that_holds_a_lock_is_named(
    pair: tuple[PostgresServer, PostgresServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "LOCK_TIMEOUT", 0.5)
    primary, _ = pair
    name = new_database(primary)
    primary.psql("CREATE TABLE t (i int)", database=name)
    primary.psql("BEGIN; ALTER TABLE t ADD j int; PREPARE TRANSACTION 'it''s mine'", database=name)
    try:
        with pytest.raises(SourceBusy, match="prepared transaction 'it''s mine' of post") as caught:
            back_up(engine, source(name), tmp_path / "vault", connection=address(primary, name))
        assert "ROLLBACK PREPARED 'it''s mine'" in caught.value.fix
    finally:
        primary.psql("ROLLBACK PREPARED 'it''s mine'", database=name)


def _wait_for(standby: PostgresServer, database: str) -> None:
    """Wait until the standby has all that the test has made on the primary."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            standby.psql("SELECT count(*) FROM t", database=database)
        except RuntimeError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"the standby has no table in {database}")
