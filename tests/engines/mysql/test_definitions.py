"""Definitions of tables, views, triggers, routines and events."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepvault.engines.mysql import definitions, programs
from stepvault.engines.mysql.inventory import Column, Table
from stepvault.engines.mysql.programs import Program
from stepvault.errors import BackupTampered
from stepvault.records import RestoreOptions
from tests.engines.driver import back_up, restore_job, run_restore
from tests.engines.mysql.helpers import back_up_once, there_and_back
from tests.engines.mysql.rig import MariaDbRig


@pytest.mark.parametrize(
    ("definer", "owner", "expected"),
    [
        ("keep", "keep", "DEFINER=`someone`@`%`"),
        ("strip", "keep", "DEFINER=`root`@"),
        ("me@10.%", "keep", "DEFINER=`me`@`10.%`"),
        ("keep", "none", "DEFINER=`root`@"),
        ("keep", "you@localhost", "DEFINER=`you`@`localhost`"),
    ],
)
def test_definers_are_kept_stripped_or_mapped(
    rig: MariaDbRig, small: str, tmp_path: Path, definer: str, owner: str, expected: str
) -> None:
    source, target = rig.source(small, definer=definer), rig.target()
    options = RestoreOptions(owner=owner)
    job = restore_job(
        back_up_once(rig, tmp_path, source), tmp_path, source, options=options, **target
    )
    run_restore(rig.engine, job)
    database = target["connection"].database
    assert expected in str(rig.server.sql("SHOW CREATE VIEW all_of_it", database=database))
    assert rig.engine.differences(job) == []


def test_definers_written_in_double_quotes_are_stripped_too(
    rig: MariaDbRig, tmp_path: Path
) -> None:
    """The server quotes as the mode says in which the object was made."""
    name = rig.new_database()
    rig.server.sql(
        "SET sql_mode = 'ANSI_QUOTES'",
        "CREATE DEFINER = `some``one`@`%` PROCEDURE p () SELECT 1",
        database=name,
    )
    source, target = rig.source(name, definer="strip"), rig.target()
    job = restore_job(back_up_once(rig, tmp_path, source), tmp_path, source, **target)
    run_restore(rig.engine, job)
    who = f"SELECT definer FROM information_schema.routines WHERE routine_schema = '{target['connection'].database}'"
    assert str(rig.server.sql(who)[0][0]).startswith("root@")


@pytest.mark.mariadb
def test_packages_of_oracle_mode(rig: MariaDbRig, tmp_path: Path) -> None:
    head = "CREATE PACKAGE tools AS FUNCTION twice(n INT) RETURN INT; END"
    body = "CREATE PACKAGE BODY tools AS FUNCTION twice(n INT) RETURN INT AS BEGIN RETURN n * 2; END; END"
    _, _, restored = there_and_back(rig, tmp_path, ["SET sql_mode=ORACLE", head, body])
    call = "SELECT tools.twice(21)"
    assert rig.server.sql("SET sql_mode=ORACLE", call, database=restored) == [(42,)]


def test_a_broken_view_is_kept_as_it_is_and_reported(rig: MariaDbRig, tmp_path: Path) -> None:
    name = rig.new_database()
    rig.server.sql(
        "CREATE TABLE t (id INT)",
        "CREATE VIEW broken AS SELECT id FROM t",
        "DROP TABLE t",
        "CREATE TABLE other (id INT)",
        database=name,
    )
    source, target = rig.source(name), rig.target()
    result = back_up(rig.engine, source, tmp_path, **rig.job(source))[0]
    assert [w for w in result.warnings if f"view {name}.broken does not work" in w]
    job = restore_job(result, tmp_path, source, **target)
    run_restore(rig.engine, job)
    assert rig.engine.differences(job) == []
    plain = subprocess.run(
        ["zstd", "-dcq", str(tmp_path / f"{name}.broken-schema-view.sql.zst")],
        capture_output=True,
        check=True,
    )
    assert b"VIEW `broken`" in plain.stdout


def test_views_are_made_after_those_they_use_and_strings_stay(
    rig: MariaDbRig, tmp_path: Path
) -> None:
    name = rig.new_database()
    there_and_back(
        rig,
        tmp_path,
        [
            "CREATE TABLE t (id INT, s VARCHAR(99))",
            f"INSERT INTO t VALUES (1, '`{name}`.`t`.`id`')",
            "CREATE VIEW c AS SELECT id, s FROM t",
            "CREATE VIEW b AS SELECT x.id FROM c x, t y WHERE x.id = y.id",
            "CREATE VIEW a AS SELECT b.id, c.s, 'it''s `x`.`y`(' AS text FROM b JOIN c USING (id)",
        ],
    )


def test_defaults_constraints_and_indexes_of_all_kinds(rig: MariaDbRig, tmp_path: Path) -> None:
    there_and_back(
        rig,
        tmp_path,
        [
            "CREATE TABLE d (id INT PRIMARY KEY, b BINARY(3) DEFAULT x'00FF27', v VARBINARY(9) DEFAULT x'FFFE',"
            " u CHAR(36) DEFAULT (UUID()), n INT DEFAULT (1 + 2), t TIMESTAMP DEFAULT '2024-06-01 12:00:00',"
            " s VARCHAR(20) DEFAULT 'it''s;\n\\\\' COMMENT 'c;\n', CONSTRAINT positive CHECK (n > 0 OR s = ';\n'))",
            "INSERT INTO d (id) VALUES (1)",
            "CREATE TABLE g (id INT PRIMARY KEY, p POINT NOT NULL, SPATIAL INDEX (p)) ENGINE=Aria",
            "CREATE TABLE f (id INT PRIMARY KEY, t TEXT, FULLTEXT (t), KEY prefix (t(10)))",
            "CREATE TABLE z (id INT PRIMARY KEY, t TEXT COMPRESSED) ROW_FORMAT=COMPRESSED",
            "INSERT INTO z VALUES (1, REPEAT('z', 9999))",
            "CREATE TABLE h (a INT, b INT, PRIMARY KEY (a, b)) PARTITION BY HASH (a) PARTITIONS 3",
            "INSERT INTO h SELECT seq, seq FROM seq_1_to_50",
        ],
    )


def test_triggers_and_events_written_in_other_modes_and_zones(
    rig: MariaDbRig, tmp_path: Path
) -> None:
    there_and_back(
        rig,
        tmp_path,
        [
            "CREATE TABLE t (id INT PRIMARY KEY, s VARCHAR(50))",
            "SET sql_mode='ANSI_QUOTES,PIPES_AS_CONCAT', time_zone='+03:00', collation_connection=latin1_german1_ci",
            """CREATE TRIGGER "a;b" BEFORE UPDATE ON "t" FOR EACH ROW SET NEW."s" = OLD.s || ';' || NEW.s""",
            "CREATE EVENT later ON SCHEDULE AT '2035-01-01 00:00:00' ON COMPLETION PRESERVE DO DELETE FROM t",
        ],
    )


@pytest.mark.mariadb
def test_rows_that_break_a_check_of_later_come_back(rig: MariaDbRig, tmp_path: Path) -> None:
    there_and_back(
        rig,
        tmp_path,
        [
            "CREATE TABLE t (n INT PRIMARY KEY, CHECK (n > 0))",
            "SET check_constraint_checks = 0",
            "INSERT INTO t VALUES (-1)",
        ],
    )


_LINES = st.text(st.sampled_from("ab;\n/*en d1'\udcff"), max_size=40)


@given(st.lists(_LINES.filter(lambda s: not s.endswith("\n")), max_size=5))
def test_statements_come_out_of_a_file_as_they_went_in(statements: list[str]) -> None:
    content = definitions.file(statements)
    assert definitions.split(content) == statements
    text = content.decode("utf-8", "surrogateescape")
    word = text.rsplit("/*", 1)[1].removesuffix("*/;\n")
    assert not any(word in s for s in statements)
    # What myloader cuts at is the end of a statement only.
    assert text.count(";\n") == len(statements) + len(definitions.SETTINGS)


def test_files_of_older_backups_are_read_as_they_were_written() -> None:
    statements = ["CREATE TABLE t (id INT)", "BEGIN\nSELECT 1;\nEND"]
    lines = (
        f"{s}\n".replace(";\n", ";/**/\n") + "/*end*/;\n"
        for s in (*definitions.SETTINGS, *statements)
    )
    assert definitions.split("".join(lines).encode()) == statements


def test_a_file_without_its_end_is_tampered() -> None:
    with pytest.raises(BackupTampered):
        definitions.split(definitions.file(["CREATE TABLE t (id INT)"])[:-3])


def test_views_are_numbered_after_those_they_read_whatever_their_columns_are_called() -> None:
    texts = {
        "d.a": "select `b`.`c` AS `c` from `b`",
        "d.b": "select `t`.`x` AS `a` from (`t` join `d`.`c` on(1))",
        "d.c": "select 1 AS `b`",
        "d.t": "select `q` AS `a` from `q`",
    }
    numbers = definitions.in_order({label: label[2:] for label in texts}, texts)
    assert numbers["d.c"] < numbers["d.b"] < numbers["d.a"]
    assert numbers["d.t"] < numbers["d.b"]
    loop = {"d.a": "select 1 from `b`", "d.b": "select 1 from `a`"}
    assert sorted(definitions.in_order({"d.a": "a", "d.b": "b"}, loop).values()) == [0, 1]
    chain = {f"d.v{n}": f"select 1 from `v{n + 1}`" for n in range(5000)}
    assert definitions.in_order({label: label[2:] for label in chain}, chain)["d.v4999"] == 0


@pytest.mark.parametrize(
    ("body", "lacks"),
    [
        ("SET NEW.a = OLD.b", ""),
        ("SET NEW.`a` = 1, new . B = 2", ""),
        ("SET NEW.a = 'NEW.x' -- NEW.y\n", ""),
        ("SET NEW.a = 1 /* OLD.z */ # NEW.w\n", ""),
        ("SET NEW.a = OLD.gone", "gone"),
        ("SET NEW.`it``s` = 1", "it`s"),
    ],
)
def test_a_trigger_that_names_a_column_its_table_lacks_is_known(body: str, lacks: str) -> None:
    columns = [Column(name, "int", None, True) for name in ("a", "b")]
    trigger = Program(
        "trigger",
        "t",
        f"CREATE TRIGGER t BEFORE UPDATE ON x FOR EACH ROW {body}",
        "",
        "utf8mb4",
        "utf8mb4_bin",
    )
    why = programs.broken(trigger, Table("d", "x", "table", columns=columns))
    assert (lacks in why) if lacks else not why
