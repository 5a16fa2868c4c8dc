"""What goes wrong says so, by name, and leaves nothing that looks whole."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from devtools.servers.mariadb import MariaDb
from stepvault.engines.base import Connection
from stepvault.engines.mysql import connection as connection_module
from stepvault.engines.mysql import definitions
from stepvault.engines.mysql import snapshot as snapshot_module
from stepvault.engines.mysql.connection import Session
from stepvault.engines.mysql.inventory import Table
from stepvault.errors import (
    SourceBusy,
    SourceChanged,
    SourceCorrupt,
    SourceDenied,
    SourceUnreachable,
    SourceUnsupported,
    StepvaultError,
)
from tests.engines.driver import back_up, restore_job, run_restore
from tests.engines.mysql import data
from tests.engines.mysql.test_contract import MariaDbRig


@pytest.fixture
def rig(server: MariaDb) -> Iterator[MariaDbRig]:
    """With a database ``pair`` of two tables, ``larger`` being read first."""
    server.sql("CREATE OR REPLACE DATABASE pair")
    server.sql(
        "CREATE TABLE larger (id INT PRIMARY KEY, t VARCHAR(200))",
        "INSERT INTO larger SELECT seq, REPEAT('x', 150) FROM seq_1_to_20000",
        "CREATE TABLE smaller (id INT PRIMARY KEY, t VARCHAR(50))",
        "INSERT INTO smaller VALUES (1, 'one')",
        "ANALYZE TABLE larger, smaller",
        database="pair",
    )
    yield MariaDbRig(server)
    server.sql("DROP DATABASE pair")


def fails(rig: MariaDbRig, folder: Path, kind: type[StepvaultError], **more: Any) -> str:
    """Back up ``pair``, expect that error and no object; returns its text."""
    source = rig.source("pair", **more.pop("settings", {}))
    job = {"connection": rig.as_dumper(), "connections": 1} | more
    with pytest.raises(kind) as caught:
        back_up(rig.engine, source, folder, **job)
    assert type(caught.value) is kind
    assert not [p for p in folder.rglob("*") if p.is_file()]
    return str(caught.value)


@contextmanager
def globally(server: MariaDb, variable: str, value: int) -> Iterator[None]:
    """Give the server another setting while the block lasts."""
    before = server.sql(f"SELECT @@GLOBAL.{variable}")[0][0]
    server.sql(f"SET GLOBAL {variable} = {value}")
    try:
        yield
    finally:
        server.sql(f"SET GLOBAL {variable} = {before}")


def at_first_row(action: Any) -> Any:
    """A watch that acts once, when the first rows have been read."""
    done = threading.Event()

    def watch(name: str, raw_bytes: int) -> None:
        if "larger.0" in name and raw_bytes > 1000 and not done.is_set():
            done.set()
            action()

    return watch


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
    said = fails(rig, tmp_path, SourceChanged, watch=change)
    assert "pair.smaller" in said


def test_a_lock_held_by_another_is_waited_for_briefly_and_its_holder_named(
    rig: MariaDbRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "LOCK_WAIT", 1)
    monkeypatch.setattr(snapshot_module, "_PATIENCE", 0.5)
    holder = rig.server.connect("pair")
    holder.query("LOCK TABLES smaller WRITE")
    running = threading.Thread(target=lambda: holder.query("SELECT SLEEP(4) AS holding_the_lock"))
    running.start()
    try:
        said = fails(rig, tmp_path, SourceBusy)
    finally:
        running.join()
        holder.close()
    assert "pair.smaller" in said
    assert "holding_the_lock" in said
    assert "root@" in said


@pytest.mark.parametrize(
    ("grant", "lacks"),
    [
        ("SELECT ON pair.larger", "EVENT, SELECT, SHOW VIEW, TRIGGER"),
        ("SELECT ON pair.*", "EVENT, SHOW VIEW, TRIGGER"),
        ("SELECT, SHOW VIEW, EVENT ON `p_ir`.*", "TRIGGER"),
    ],
)
def test_what_the_user_may_not_see_is_not_left_out_in_silence(
    rig: MariaDbRig, tmp_path: Path, grant: str, lacks: str
) -> None:
    rig.server.sql(
        "CREATE OR REPLACE USER half@127.0.0.1 IDENTIFIED BY 'half'",
        f"GRANT {grant} TO half@127.0.0.1",
    )
    connection = Connection("127.0.0.1", rig.server.port, "half", "half")
    said = fails(rig, tmp_path, SourceDenied, connection=connection)
    assert f"lacks {lacks} on database pair" in said
    assert f"GRANT {lacks} ON `pair`.* TO 'half'@'127.0.0.1'" in said


def test_triggers_of_tables_named_one_by_one_are_not_left_out_in_silence(
    rig: MariaDbRig, tmp_path: Path
) -> None:
    rig.server.sql(
        "CREATE OR REPLACE USER half@127.0.0.1 IDENTIFIED BY 'half'",
        "GRANT SELECT ON pair.* TO half@127.0.0.1",
    )
    connection = Connection("127.0.0.1", rig.server.port, "half", "half")
    named: dict[str, Any] = {"tables": ["larger"]}
    said = fails(rig, tmp_path, SourceDenied, connection=connection, settings=named)
    assert "lacks TRIGGER on table pair.larger" in said
    rig.server.sql("GRANT TRIGGER ON pair.larger TO half@127.0.0.1")
    back_up(rig.engine, rig.source("pair", **named), tmp_path, connection=connection)
    fails(rig, tmp_path / "rows", SourceDenied, connection=connection, settings={"tables": ["*"]})


#: Grants that show less than they seem to.
_SEEMING = {
    "a role that is not active": [
        "CREATE ROLE seer",
        "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON pair.* TO seer",
        "GRANT SELECT, SHOW VIEW, EVENT ON pair.* TO half@127.0.0.1",
        "GRANT seer TO half@127.0.0.1",
    ],
    "a closer grant takes the place of a wider one": [
        "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON `p%`.* TO half@127.0.0.1",
        "GRANT SELECT, SHOW VIEW, EVENT ON pair.* TO half@127.0.0.1",
    ],
    "a part is taken back": [
        "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON *.* TO half@127.0.0.1",
        "REVOKE TRIGGER ON pair.* FROM half@127.0.0.1",
    ],
}


@pytest.mark.parametrize("seeming", _SEEMING)
def test_a_trigger_is_stored_or_its_absence_an_error(
    brand: str, rig: MariaDbRig, tmp_path: Path, seeming: str
) -> None:
    rig.server.sql(
        "CREATE TRIGGER pair.guard BEFORE INSERT ON pair.smaller FOR EACH ROW SET NEW.t = 'new'",
        "DROP ROLE IF EXISTS seer",
        "CREATE OR REPLACE USER half@127.0.0.1 IDENTIFIED BY 'half'",
        "SET GLOBAL partial_revokes = ON" if brand == "mysql" else "DO 0",
    )
    statements = _SEEMING[seeming]
    if brand == "mariadb" and "REVOKE" in statements[-1]:
        statements = statements[:-1]  # there is no such thing
    if brand == "mysql" and "%" in statements[0]:
        rig.server.sql("SET GLOBAL partial_revokes = OFF")  # with it, wildcards are plain letters
    try:
        rig.server.sql(*statements)
        connection = Connection("127.0.0.1", rig.server.port, "half", "half")
        stored = said = None
        try:
            results = back_up(rig.engine, rig.source("pair"), tmp_path, connection=connection)
            stored = [o for r in results for o in r.objects if o.facts["kind"] == "triggers"]
        except SourceDenied as error:
            said = error.message
    finally:
        rig.server.sql("DROP USER half@127.0.0.1", "DROP ROLE IF EXISTS seer")
        if brand == "mysql":
            rig.server.sql("SET GLOBAL partial_revokes = OFF")
    # MySQL's roles are put in force, MariaDB has nothing to take a part back.
    if (seeming, brand) in {
        ("a role that is not active", "mysql"),
        ("a part is taken back", "mariadb"),
    }:
        assert stored
    else:
        assert said
        assert "lacks TRIGGER on database pair" in said


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
    said = fails(rig, tmp_path, SourceChanged, watch=at_first_row(swap), settings=hidden)
    assert "pair.smaller" in said


@pytest.mark.mariadb  # MySQL would change the text on its way in
def test_a_value_that_is_no_text_is_an_error_whatever_warnings_the_server_keeps(
    rig: MariaDbRig, tmp_path: Path
) -> None:
    rig.server.sql(
        "SET sql_mode = ''",
        "CREATE TABLE odd (id INT PRIMARY KEY, a VARCHAR(9) CHARACTER SET ascii)",
        "INSERT INTO odd VALUES (1, _ascii x'FF41')",
        database="pair",
    )
    with globally(rig.server, "max_error_count", 0):
        said = fails(rig, tmp_path, SourceCorrupt)
    assert "pair.odd" in said


def test_a_server_that_says_nothing_is_given_up_in_time(rig: MariaDbRig, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        connection = Connection("127.0.0.1", port, "dumper", "dump-me", connect_timeout=1)
        fails(rig, tmp_path, SourceUnreachable, connection=connection)


def test_a_killed_server_is_unreachable(tmp_path: Path) -> None:
    with MariaDb() as mortal:
        mortal.sql(
            "CREATE USER dumper@127.0.0.1 IDENTIFIED BY 'dump-me'",
            "GRANT ALL ON *.* TO dumper@127.0.0.1",
            "CREATE DATABASE pair",
            "CREATE TABLE pair.larger (id INT PRIMARY KEY, t LONGTEXT)",
        )
        mortal.sql(
            "INSERT INTO larger SELECT seq, REPEAT('x', 100000) FROM seq_1_to_200", database="pair"
        )
        kill = at_first_row(lambda: mortal.stop(signal.SIGKILL))
        said = fails(MariaDbRig(mortal), tmp_path, SourceUnreachable, watch=kill)
    assert f"127.0.0.1:{mortal.port}" in said


@pytest.mark.mariadb  # MySQL makes itself a certificate
def test_tls_that_the_server_does_not_speak_is_an_error(rig: MariaDbRig, tmp_path: Path) -> None:
    connection = rig.as_dumper(tls="require")
    assert "tls" in fails(rig, tmp_path, SourceUnreachable, connection=connection)


def test_tables_without_transactions_are_refused_when_told(rig: MariaDbRig, tmp_path: Path) -> None:
    rig.server.sql("ALTER TABLE pair.smaller ENGINE=MyISAM")
    said = fails(rig, tmp_path, SourceUnsupported, settings={"non_transactional": "refuse"})
    assert "pair.smaller (myisam)" in said


def test_rows_beyond_max_allowed_packet_are_read_whole(
    rig: MariaDbRig, other: MariaDb, tmp_path: Path
) -> None:
    """The server could not put these into a text: they come raw. Only putting them back needs
    the room."""
    rig.server.sql(
        "CREATE TABLE huge (id INT PRIMARY KEY, b LONGBLOB, t LONGTEXT)",
        "INSERT INTO huge VALUES (1, REPEAT(x'00FF5C27', 5000000), NULL), (2, NULL, REPEAT('ü\\'', 3000000))",
        database="pair",
    )
    with globally(rig.server, "max_allowed_packet", 1048576):
        results = back_up(rig.engine, rig.source("pair"), tmp_path, connection=rig.as_dumper())
    target = rig.target()
    job = restore_job(results, tmp_path, rig.source("pair"), **target)
    run_restore(rig.engine, job)
    assert rig.content(target) == data.contents(rig.server, "pair")

    other.sql("CREATE OR REPLACE DATABASE small_packets")
    there = Connection("127.0.0.1", other.port, "root", other.password, "small_packets")
    job = restore_job(results, tmp_path, rig.source("pair"), connection=there)
    with pytest.raises(SourceUnsupported, match="max_allowed_packet is 4,194,304"):
        run_restore(rig.engine, job)
    assert other.sql("SELECT COUNT(*) FROM small_packets.huge") == [(0,)]


def test_a_row_too_large_for_the_server_to_build_is_an_error_not_a_gap(
    rig: MariaDbRig, tmp_path: Path
) -> None:
    rig.server.sql(
        "CREATE TABLE quotes (id INT PRIMARY KEY, a VARBINARY(60000))",
        "INSERT INTO quotes VALUES (1, 'fine'), (2, REPEAT('x', 60000))",
        database="pair",
    )
    with globally(rig.server, "max_allowed_packet", 65536):
        said = fails(rig, tmp_path, SourceUnsupported)
    assert "pair.quotes" in said
    assert "max_allowed_packet" in said


def test_a_hostile_configuration_of_the_server_changes_nothing(tmp_path: Path) -> None:
    """Limits and modes that would end a result early or change its text."""
    options = [
        "--sql-mode=NO_BACKSLASH_ESCAPES,ANSI_QUOTES,PAD_CHAR_TO_FULL_LENGTH,STRICT_ALL_TABLES,NO_ZERO_DATE",
        "--default-time-zone=+05:30",
        "--net-write-timeout=1",
        "--character-set-server=latin1",
    ]
    with MariaDb(options) as hostile:
        hostile.sql(
            "SET GLOBAL log_bin_trust_function_creators=1",
            "CREATE USER dumper@127.0.0.1 IDENTIFIED BY 'dump-me'",
            "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON *.* TO dumper@127.0.0.1",
        )
        rig = MariaDbRig(hostile)
        data.make(hostile, "shop", data.SHOP + data.WIDE)
        hostile.sql("SET GLOBAL sql_select_limit=3", "SET GLOBAL max_statement_time=0.5")
        paused = threading.Event()

        def pause_once(name: str, raw_bytes: int) -> None:
            if "orders.0" in name and not paused.is_set():
                paused.set()
                threading.Event().wait(2.5)

        results = back_up(rig.engine, rig.filled(), tmp_path, watch=pause_once, **rig.job(None))
        target = rig.target()
        job = restore_job(results, tmp_path, rig.filled(), **target)
        run_restore(rig.engine, job)
        assert rig.engine.differences(job) == []
        hostile.sql("SET GLOBAL sql_select_limit=DEFAULT", "SET GLOBAL max_statement_time=0")
        assert rig.content(target) == data.contents(hostile, "shop")
        assert paused.is_set()


def test_no_server_process_is_left_behind() -> None:
    with MariaDb() as server:
        pid = server.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not server.folder.exists()
