"""Triggers, routines and events: which of them exactly, and with which context."""

import re
from pathlib import Path

import pytest

from devtools.servers.mariadb import MariaDb
from stepvault.records import RestoreOptions, Unrestored
from tests.engines.driver import back_up, restore_job, run_restore
from tests.engines.mysql.helpers import there_and_back
from tests.engines.mysql.rig import MariaDbRig


def test_names_that_differ_in_case_or_accents_only_are_told_apart(
    rig: MariaDbRig, tmp_path: Path
) -> None:
    """The server's catalog compares the names of databases without case and accents."""
    names = ["cafe_shop", "CAFE_SHOP", "café_shop"]
    for number, name in enumerate(names):
        rig.server.sql(f"DROP DATABASE IF EXISTS `{name}`", f"CREATE DATABASE `{name}`")
        rig.server.sql(
            "CREATE TABLE t (id INT PRIMARY KEY)",
            f"CREATE TRIGGER tr{number} BEFORE INSERT ON t FOR EACH ROW SET NEW.id = NEW.id + {number}",
            f"CREATE PROCEDURE p{number} () SELECT {number}",
            f"CREATE EVENT e{number} ON SCHEDULE EVERY 1 DAY STARTS '2035-01-01' DO DELETE FROM t",
            f"INSERT INTO t VALUES ({number})",
            database=name,
        )
    try:
        source = rig.source("x").model_copy(update={"databases": names})
        before = [rig.content(rig.source(name)) for name in names]
        result = back_up(rig.engine, source, tmp_path, **rig.job(source))[0]
        rig.server.sql(*(f"DROP DATABASE `{name}`" for name in names))
        job = restore_job(result, tmp_path, source, connection=rig.as_root("mysql"))
        run_restore(rig.engine, job)
        assert rig.engine.differences(job) == []
        assert [rig.content(rig.source(name)) for name in names] == before
    finally:
        rig.server.sql(*(f"DROP DATABASE IF EXISTS `{name}`" for name in names))


@pytest.mark.parametrize(
    ("charset", "more"),
    [("latin1", "latin1_german1_ci"), ("cp1251", "cp1251_bin"), ("utf8mb3", "utf8mb3_swedish_ci"), ("utf8mb4", "utf8mb4_bin"), ("sjis", "sjis_bin")],
)  # fmt: skip
def test_character_set_and_collation_of_their_creation_come_back(
    rig: MariaDbRig, tmp_path: Path, charset: str, more: str
) -> None:
    """Texts are in the client's character set, as are literals with an introducer."""
    name, text = rig.new_database(), {"cp1251": "жук", "sjis": "ascii"}.get(charset, "äöü")
    connection = rig.server.connect(name)
    connection.query("CREATE TABLE t (id INT PRIMARY KEY, s VARCHAR(50))")
    connection.query(f"SET NAMES {charset} COLLATE {more}")
    encoding = {"utf8mb3": "utf-8", "utf8mb4": "utf-8", "sjis": "ascii"}.get(charset, charset)
    for statement in (
        f"CREATE VIEW v AS SELECT '{text}' AS s, HEX(_{charset}'{text}') AS same, 'a' = 'A' AS equal FROM t",
        f"CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW SET NEW.s = CONCAT('{text}', 'a' = 'A')",
        f"CREATE FUNCTION f () RETURNS VARCHAR(50) CHARSET utf8mb4 DETERMINISTIC RETURN CONCAT('{text}', 'a' = 'A')",
        f"CREATE EVENT e ON SCHEDULE EVERY 1 DAY STARTS '2035-01-01' DO INSERT INTO t VALUES (9, '{text}')",
    ):
        connection.query(statement.encode(encoding))
    connection.close()
    source, target = rig.source(name), rig.target()
    result = back_up(rig.engine, source, tmp_path, **rig.job(source))[0]
    job = restore_job(result, tmp_path, source, **target)
    run_restore(rig.engine, job)
    assert rig.engine.differences(job) == []
    there = target["connection"].database
    for query in (
        "SHOW CREATE VIEW v", "SHOW CREATE TRIGGER tr", "SHOW CREATE FUNCTION f", "SHOW CREATE EVENT e",
    ):  # fmt: skip
        original, restored = (rig.server.sql(query, database=d)[0] for d in (name, there))
        assert [str(c).replace(name, there) for c in original if isinstance(c, str)] == [
            c for c in restored if isinstance(c, str)
        ]
    for database in (name, there):
        rig.server.sql("INSERT INTO t VALUES (1, '')", database=database)
    assert rig.server.sql("SELECT HEX(s), HEX(f()) FROM t", database=name) == rig.server.sql(
        "SELECT HEX(s), HEX(f()) FROM t", database=there
    )
    assert rig.server.sql("SELECT * FROM v", database=name) == rig.server.sql(
        "SELECT * FROM v", database=there
    )
    rig.server.sql(
        "SET NAMES latin1",
        "CREATE OR REPLACE VIEW v AS SELECT s, id = 'A' AS same, 1 AS equal FROM t",
        database=there,
    )
    assert any("view" in line for line in rig.engine.differences(job))


def test_what_did_not_work_when_it_was_backed_up_costs_nothing_else(
    brand: str, rig: MariaDbRig, tmp_path: Path
) -> None:
    name = rig.new_database()
    rig.server.sql(
        "CREATE OR REPLACE USER ghost@127.0.0.1",
        f"GRANT ALL ON {name}.* TO ghost@127.0.0.1",
        "CREATE TABLE t (id INT PRIMARY KEY, gone INT, `odd ``col` VARCHAR(9))",
        "CREATE DEFINER=ghost@127.0.0.1 VIEW a_view AS SELECT gone FROM t",
        "CREATE VIEW b_view AS SELECT gone FROM a_view",
        "CREATE DEFINER=ghost@127.0.0.1 VIEW c_view AS SELECT id FROM t",
        "CREATE VIEW d_view AS SELECT id FROM c_view",
        "CREATE TRIGGER a_trigger BEFORE INSERT ON t FOR EACH ROW SET NEW.gone = 1",
        "CREATE TRIGGER b_trigger BEFORE INSERT ON t FOR EACH ROW SET NEW.`odd ``col` = 'NEW.none' -- NEW.other",
        "INSERT INTO t VALUES (1, 2, 3)",
        "ALTER TABLE t DROP COLUMN gone",
        "DROP USER ghost@127.0.0.1",
        database=name,
    )
    source, target = rig.source(name), rig.target()
    result = back_up(rig.engine, source, tmp_path, **rig.job(source))[0]
    warned = {w.split(" does not work")[0] for w in result.warnings if "does not work" in w}
    assert warned == {
        f"view {name}.a_view",
        f"view {name}.b_view",
        f"view {name}.d_view",
        f"trigger {name}.a_trigger",
    }
    reported: list[Unrestored] = []
    job = restore_job(result, tmp_path, source, unrestored=reported.append, **target)
    run_restore(rig.engine, job)
    there = target["connection"].database
    assert {(u.kind, u.name) for u in reported} == {
        ("view", f"{there}.a_view"), ("view", f"{there}.b_view"), ("view", f"{there}.d_view"), ("trigger", f"{there}.a_trigger"),
    }  # fmt: skip
    assert all("did not work when it was backed up" in u.reason and not u.asked for u in reported)
    assert all(any(n in u.reason for n in ("1054", "1146", "1449")) for u in reported)
    objects = {str(row[0]) for row in rig.server.sql("SHOW TABLES", database=there)}
    assert objects == {"t", "c_view"}
    assert [row[0] for row in rig.server.sql("SHOW TRIGGERS", database=there)] == ["b_trigger"]
    told: list[str] = []
    again = restore_job(result, tmp_path, source, not_compared=told.append, **target)
    assert rig.engine.differences(again) == []
    assert sum("did not work" in line for line in told) == 4


def test_one_that_fails_stops_the_restore_or_is_reported_and_the_next_attempt_goes_on(
    rig: MariaDbRig, tmp_path: Path
) -> None:
    """The view needs another database, which the target lacks."""
    name, other = rig.new_database(), rig.new_database()
    rig.server.sql(f"CREATE TABLE {other}.elsewhere (id INT PRIMARY KEY)")
    rig.server.sql(
        "CREATE TABLE t (id INT PRIMARY KEY)",
        "INSERT INTO t VALUES (1), (2)",
        f"CREATE VIEW a_view AS SELECT id FROM {other}.elsewhere",
        "CREATE VIEW b_view AS SELECT id FROM t",
        database=name,
    )
    source, target = rig.source(name), rig.target()
    result = back_up(rig.engine, source, tmp_path, **rig.job(source))[0]
    rig.server.sql(f"DROP TABLE {other}.elsewhere")
    job = restore_job(result, tmp_path, source, **target)
    with pytest.raises(Exception, match="--keep-going"):
        run_restore(rig.engine, job)
    reported: list[Unrestored] = []
    options = RestoreOptions(keep_going=True)
    job = restore_job(
        result, tmp_path, source, options=options, unrestored=reported.append, **target
    )
    run_restore(rig.engine, job)  # not refused as not empty
    there = target["connection"].database
    assert [(u.kind, u.name) for u in reported] == [("view", f"{there}.a_view")]
    assert "CREATE" in reported[0].statement
    assert rig.server.sql("SHOW TABLES", database=there) == [("b_view",), ("t",)]
    assert rig.server.sql("SELECT COUNT(*) FROM t", database=there) == [(2,)]
    rig.server.sql(f"DROP DATABASE {there}", f"CREATE DATABASE {there}")
    options = RestoreOptions(without=["view:a_*"])
    reported.clear()
    job = restore_job(
        result, tmp_path, source, options=options, unrestored=reported.append, **target
    )
    run_restore(rig.engine, job)
    assert {(u.kind, u.name, u.asked) for u in reported} == {("view", f"{there}.a_view", True)}
    assert rig.engine.differences(job) == []


def test_kinds_left_out_are_reported_as_asked_for(
    rig: MariaDbRig, small: str, tmp_path: Path
) -> None:
    source, target = rig.source(small), rig.target()
    result = back_up(rig.engine, source, tmp_path, **rig.job(source))[0]
    reported: list[Unrestored] = []
    options = RestoreOptions(without=["triggers", "routines", "table:two"])
    job = restore_job(
        result, tmp_path, source, options=options, unrestored=reported.append, **target
    )
    with pytest.raises(Exception, match="all_of_it"):  # the view needs the table left out
        run_restore(rig.engine, job)
    options = RestoreOptions(without=["triggers", "routines", "table:two", "views"])
    job = restore_job(
        result, tmp_path, source, options=options, unrestored=reported.append, **target
    )
    run_restore(rig.engine, job)
    assert {u.kind for u in reported} == {"trigger", "function", "table", "view"}
    assert all(u.asked for u in reported)
    assert rig.engine.differences(job) == []
    there = target["connection"].database
    assert "two" not in str(rig.server.sql("SHOW TABLES", database=there))
    with pytest.raises(Exception, match=re.escape("without 'tablespaces'")):
        rig.engine.plan_restore(
            restore_job(
                result, tmp_path, source, options=RestoreOptions(without=["tablespaces"]), **target
            )
        )


def test_a_view_named_like_a_column_of_another_is_created_in_order(
    rig: MariaDbRig, server: MariaDb, tmp_path: Path
) -> None:
    there_and_back(
        rig,
        tmp_path,
        [
            "CREATE TABLE t (id INT)",
            "CREATE VIEW b AS SELECT id AS a FROM t",
            "CREATE VIEW a AS SELECT a AS b FROM b",
            *(f"CREATE VIEW v{n:03d} AS SELECT * FROM {'t' if n == 40 else f'v{n + 1:03d}'}" for n in range(40, 0, -1)),
        ],
    )  # fmt: skip
