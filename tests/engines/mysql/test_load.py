"""Loading rows: tampered objects, engines without transactions, values that the target changes."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stepvault.engines.base import RestoreJob
from stepvault.errors import BackupTampered, OutOfTime, TargetUnsupported
from stepvault.records import RestoreOptions, StoredObject, Unrestored
from tests.engines.driver import back_up, restore_job, run_restore
from tests.engines.mysql.helpers import there_and_back
from tests.engines.mysql.rig import MariaDbRig


def prepared(rig: MariaDbRig, folder: Path, *statements: str, **more: Any) -> RestoreJob:
    """Make a database of these statements and back it up; returns the restore to another one."""
    name = rig.new_database()
    rig.server.sql("SELECT 1", *statements, database=name)
    source, target = rig.source(name), rig.target()
    result = back_up(rig.engine, source, folder, **rig.job(source))[0]
    return restore_job(result, folder, source, **target, **more)


def flipped(job: RestoreJob, kind: str, old: bytes, new: bytes) -> RestoreJob:
    """The job, reading one kind of object with other bytes, which its hash tells at the end."""
    assert len(old) == len(new)

    def read(stored: StoredObject) -> Iterator[bytes]:
        content = b"".join(job.read(stored))
        if stored.facts.get("kind") != kind or old not in content:
            yield content
            return
        damaged = content.replace(old, new, 1)
        for start in range(0, len(damaged), 1000):
            yield damaged[start : start + 1000]
        raise BackupTampered(f"{stored.name} is not what was stored")

    return replace(job, read=read)


_TABLE = "CREATE TABLE t (id INT PRIMARY KEY, s VARCHAR(30)) ENGINE="
_ROWS = "INSERT INTO t SELECT seq, CONCAT('value ', seq) FROM seq_1_to_300"


@pytest.mark.parametrize("table_engine", ["InnoDB", "MyISAM"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"INSERT INTO `t`", b"INSERT INTO `u`"),  # another table: 1146
        (b"(`id`,`s`)", b"(`id`,`z`)"),  # an unknown column: 1054
        (b"VALUES\n", b"VALUEZ\n"),  # no SQL: 1064
        (b"(1,'value 1')", b"(1,'value 9')"),  # good SQL, other rows
        (b"(2,'value 2')", b"(1,'value 2')"),  # a key twice: 1062
        (b"(3,'value 3'),", b"(3,'value 3');"),  # ends in the middle
        (b"(4,'value 4')", b"(4,sleep(0) )"),
    ],
)
def test_a_tampered_object_is_called_so_whatever_the_server_says_and_leaves_no_row(
    rig: MariaDbRig, tmp_path: Path, table_engine: str, old: bytes, new: bytes
) -> None:
    job = prepared(rig, tmp_path, _TABLE + table_engine, _ROWS)
    assert job.connection
    with pytest.raises(BackupTampered, match=r"is not what was stored|statement"):
        run_restore(rig.engine, flipped(job, "data", old, new))
    there = job.connection.database
    assert rig.server.sql("SELECT COUNT(*) FROM t", database=there) == [(0,)]
    run_restore(rig.engine, job)
    assert rig.engine.differences(job) == []


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [("table", b"varchar(30)", b"varchar(31)"), ("triggers", b"FOR EACH", b"FOR EVRY"), ("view", b"`t`.`id`", b"`u`.`id`")],
)  # fmt: skip
def test_a_tampered_definition_runs_no_statement_and_drops_nothing(
    rig: MariaDbRig, tmp_path: Path, kind: str, old: bytes, new: bytes
) -> None:
    job = prepared(
        rig,
        tmp_path,
        _TABLE + "InnoDB",
        "CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW SET NEW.id = NEW.id",
        "CREATE VIEW v AS SELECT id FROM t",
        options=RestoreOptions(overwrite=True, keep_going=True),
    )
    assert job.connection
    there = job.connection.database
    rig.server.sql("CREATE TABLE t (mine INT)", "INSERT INTO t VALUES (7)", database=there)
    damaged = flipped(job, kind, old, new)
    with pytest.raises(BackupTampered):
        run_restore(rig.engine, damaged)
    if kind == "table":
        assert rig.server.sql("SELECT * FROM t", database=there) == [(7,)]
    else:
        assert not rig.server.sql("SHOW TRIGGERS", database=there) or kind == "view"


#: Engines whose rows no rollback takes back, and what TRUNCATE does to them.
_ENGINES = [
    pytest.param("ENGINE=MyISAM", id="myisam"),
    pytest.param("ENGINE=MEMORY", id="memory"),
    pytest.param("ENGINE=ARCHIVE", id="archive"),
    pytest.param("ENGINE=Aria WITH SYSTEM VERSIONING", id="versioned", marks=pytest.mark.mariadb),
]


@pytest.mark.parametrize("how", _ENGINES)
def test_tables_without_transactions_keep_their_counter_and_are_loaded_once(
    brand: str, rig: MariaDbRig, tmp_path: Path, how: str
) -> None:
    if "ARCHIVE" in how and brand == "mariadb":
        rig.server.sql("INSTALL SONAME 'ha_archive'")
    rows = "INSERT INTO t (id, s) VALUES (7, 'seven')"
    create = f"CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, s VARCHAR(20)) {how}"
    more = [] if "ARCHIVE" in how else ["ALTER TABLE t AUTO_INCREMENT = 500"]
    job = prepared(rig, tmp_path, create, rows, *more)
    assert job.connection

    def killed(stored: StoredObject) -> Iterator[bytes]:
        yield from job.read(stored)
        if stored.facts.get("kind") == "data":
            raise OutOfTime("the function was stopped")

    there = job.connection.database
    with pytest.raises(OutOfTime):
        run_restore(rig.engine, replace(job, read=killed))
    assert rig.server.sql("SELECT COUNT(*) FROM t", database=there) == [(0,)]
    run_restore(rig.engine, job)
    assert rig.engine.differences(job) == []
    assert rig.server.sql("SELECT * FROM t", database=there) == [(7, "seven")]
    rig.server.sql("INSERT INTO t (s) VALUES ('next')", database=there)
    expected = 8 if "ARCHIVE" in how else 500
    assert rig.server.sql("SELECT id FROM t WHERE s = 'next'", database=there) == [(expected,)]


@pytest.mark.parametrize("table_engine", ["InnoDB", "MyISAM"])
def test_a_counter_that_would_give_ids_again_is_a_difference(
    rig: MariaDbRig, tmp_path: Path, table_engine: str
) -> None:
    job = prepared(
        rig,
        tmp_path,
        f"CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY) ENGINE={table_engine}",
        "INSERT INTO t VALUES (1), (999)",
        "DELETE FROM t WHERE id = 999",
    )
    run_restore(rig.engine, job)
    assert rig.engine.differences(job) == []
    assert job.connection
    rig.server.sql("ALTER TABLE t AUTO_INCREMENT = 2", database=job.connection.database)
    assert "AUTO_INCREMENT 2 instead of 1,000" in str(rig.engine.differences(job))


def test_a_value_that_the_target_changes_is_named(rig: MariaDbRig, tmp_path: Path) -> None:
    """The definition lost a digit: the number no longer fits."""
    job = prepared(
        rig,
        tmp_path,
        "CREATE TABLE a_good (id INT PRIMARY KEY)",
        "INSERT INTO a_good VALUES (1)",
        "CREATE TABLE t (id INT PRIMARY KEY, d DOUBLE(8,2))",
        "INSERT INTO t VALUES (1, 123456.78)",
    )
    narrow = flipped(job, "table", b"double(8,2)", b"double(5,2)")

    def read(stored: StoredObject) -> Iterator[bytes]:
        try:
            yield from narrow.read(stored)
        except BackupTampered:
            return

    with pytest.raises(TargetUnsupported, match="stores another value: 1264"):
        run_restore(rig.engine, replace(job, read=read))
    reported: list[Unrestored] = []
    going = replace(
        job, read=read, options=RestoreOptions(keep_going=True), unrestored=reported.append
    )
    run_restore(rig.engine, going)
    assert job.connection
    there = job.connection.database
    assert [(u.kind, u.name) for u in reported] == [("rows", f"{there}.t")]
    assert "column 'd'" in reported[0].reason
    assert rig.server.sql("SELECT COUNT(*) FROM t", database=there) == [(0,)]
    assert rig.server.sql("SELECT COUNT(*) FROM a_good", database=there) == [(1,)]


def test_nothing_of_ours_is_left_in_the_target(rig: MariaDbRig, tmp_path: Path) -> None:
    there_and_back(rig, tmp_path, [_TABLE + "InnoDB", _ROWS, "CREATE VIEW v AS SELECT id FROM t"])
    target = rig.made[-1]
    names = rig.server.sql("SHOW TABLES", database=target)
    assert {str(row[0]) for row in names} == {"t", "v"}
