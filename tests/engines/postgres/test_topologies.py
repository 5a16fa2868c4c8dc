"""Poolers and standbys between us and the rows."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from devtools.servers.postgres import PostgresServer
from stepvault.engines.postgres import engine
from stepvault.errors import SourceUnsupported
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
    settings = {"wal_level": "replica", "max_wal_senders": "4"}
    with PostgresServer("18", settings=settings) as primary:
        make_odd(primary, rows=1000)
        with PostgresServer("18", settings=settings, standby_of=primary) as standby:
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
