"""A source that changes while it is read, and many tables."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from stepvault.engines.mysql import consistency, definitions, snapshot
from stepvault.engines.mysql.consistency import Moment
from stepvault.engines.mysql.inventory import Table
from stepvault.engines.mysql.session import Session
from stepvault.errors import (
    SourceChanged,
)
from tests.engines.driver import back_up, restore_job, run_restore
from tests.engines.mysql.helpers import at_first_row, fails, there_and_back
from tests.engines.mysql.rig import MariaDbRig

pytestmark = pytest.mark.usefixtures("pair")


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE smaller ADD COLUMN more INT DEFAULT 5",  # instant: the rows stay as they are
        "ALTER TABLE smaller MODIFY t VARCHAR(10)",
        "ALTER TABLE smaller FORCE",
        "TRUNCATE TABLE smaller",
        "DROP TABLE smaller",
        "RENAME TABLE smaller TO somewhere_else",
    ],
)
def test_a_table_changed_in_mid_dump_is_named(
    rig: MariaDbRig, tmp_path: Path, statement: str
) -> None:
    change = at_first_row(lambda: rig.server.sql(statement, database="pair"))
    message = fails(rig, tmp_path, SourceChanged, watch=change)
    assert "pair.smaller" in message


def test_a_column_that_comes_while_definitions_are_read_is_not_lost(
    rig: MariaDbRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The columns are known by then, the definition is not."""
    read, altered = definitions.create_table, threading.Event()

    def late(session: Session, table: Table) -> str:
        if not altered.is_set():
            altered.set()
            rig.server.sql(
                "ALTER TABLE smaller ADD COLUMN n INT", "UPDATE smaller SET n = 7", database="pair"
            )
        return read(session, table)

    monkeypatch.setattr(definitions, "create_table", late)
    results = back_up(rig.engine, rig.source("pair"), tmp_path, **rig.job(None))
    target = rig.target()
    run_restore(rig.engine, restore_job(results, tmp_path, rig.source("pair"), **target))
    restored = rig.server.sql("SELECT n FROM smaller", database=target["connection"].database)
    assert restored == [(7,)]


def test_a_table_swapped_in_by_an_online_migration_is_named(
    rig: MariaDbRig, tmp_path: Path
) -> None:
    """It looks the same, but the snapshot sees only the rows that it held by then."""
    time.sleep(1.1)  # the server knows seconds
    rig.server.sql("CREATE TABLE pair._new LIKE pair.smaller")

    def swap() -> None:
        rig.server.sql(
            "INSERT INTO _new SELECT * FROM smaller",
            "RENAME TABLE smaller TO _old, _new TO smaller",
            database="pair",
        )

    hidden = {"exclude_tables": ["_*"]}
    message = fails(rig, tmp_path, SourceChanged, watch=at_first_row(swap), settings=hidden)
    assert "pair.smaller" in message


@pytest.mark.mariadb
def test_a_sequence_goes_on_above_the_rows_that_came_before_the_snapshot(
    rig: MariaDbRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = rig.new_database()
    rig.server.sql(
        "CREATE SEQUENCE numbers NOCACHE",
        "CREATE TABLE numbered (id INT PRIMARY KEY DEFAULT NEXTVAL(numbers), n INT)",
        "INSERT INTO numbered (n) VALUES (1), (2)",
        database=name,
    )
    freeze = consistency.freeze

    def late(*args: Any) -> Moment:
        rig.server.sql("INSERT INTO numbered (n) VALUES (3), (4)", database=name)
        return freeze(*args)

    monkeypatch.setattr(snapshot, "freeze", late)
    source, target = rig.source(name), rig.target()
    result = back_up(rig.engine, source, tmp_path, **rig.job(source))[0]
    run_restore(rig.engine, restore_job(result, tmp_path, source, **target))
    restored = target["connection"].database
    rig.server.sql("INSERT INTO numbered (n) VALUES (5)", database=restored)
    assert rig.server.sql("SELECT n FROM numbered ORDER BY id", database=restored) == [
        *((n,) for n in range(1, 6))
    ]


def test_many_small_tables(rig: MariaDbRig, tmp_path: Path) -> None:
    tables = [f"CREATE TABLE t{n} (id INT PRIMARY KEY, n INT)" for n in range(60)]
    rows = [f"INSERT INTO t{n} VALUES ({n}, 1)" for n in range(60)]
    result, _, _ = there_and_back(rig, tmp_path, tables + rows)
    assert sum(o.rows or 0 for o in result.objects) == 60
