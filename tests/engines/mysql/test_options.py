"""Choosing what to back up and what to restore, and under which names."""

from pathlib import Path
from typing import Any

import pytest

from stepvault.engines.base import Connection
from stepvault.engines.mysql import inventory
from stepvault.engines.mysql.connection import connect
from stepvault.errors import ConfigInvalid, SourceMissing, TargetMissing, TargetNotEmpty
from stepvault.records import RestoreOptions
from tests.engines.driver import Result, back_up, restore_job, run_restore
from tests.engines.mysql import data
from tests.engines.mysql.test_contract import MariaDbRig


@pytest.fixture
def small(rig: MariaDbRig) -> str:
    """A small database with everything in it."""
    name = rig.new_database()
    rig.server.sql(
        "CREATE TABLE one (id INT PRIMARY KEY)",
        "INSERT INTO one VALUES (1), (2)",
        "CREATE TABLE two (id INT PRIMARY KEY)",
        "INSERT INTO two VALUES (3)",
        f"CREATE TRIGGER {name}.guard BEFORE INSERT ON {name}.one FOR EACH ROW SET NEW.id = NEW.id",
        "CREATE DEFINER=`someone`@`%` VIEW all_of_it AS SELECT one.id FROM one JOIN two",
        "CREATE FUNCTION four () RETURNS INT RETURN 4",
        "CREATE SEQUENCE counter",
        "CREATE TABLE counted (id INT DEFAULT NEXTVAL(counter))",
        database=name,
    )
    return name


def run(rig: MariaDbRig, folder: Path, source: Any) -> Result:
    return back_up(rig.engine, source, folder, **rig.job(source))[0]


def names(rig: MariaDbRig, database: str) -> set[str]:
    return {str(row[0]) for row in rig.server.sql("SHOW TABLES", database=database)}


def test_only_the_tables_that_match_are_backed_up(
    rig: MariaDbRig, small: str, tmp_path: Path
) -> None:
    source = rig.source(small, tables=["o*", f"{small}.two"], exclude_tables=["one"])
    result, target = run(rig, tmp_path, source), rig.target()
    run_restore(rig.engine, restore_job(result, tmp_path, source, **target))
    assert names(rig, target["connection"].database) == {"two"}


def test_patterns_that_match_nothing_are_an_error(
    rig: MariaDbRig, small: str, tmp_path: Path
) -> None:
    with pytest.raises(SourceMissing, match="nowhere"):
        run(rig, tmp_path, rig.source(small, tables=["nowhere"]))


def test_schema_only_and_then_data_only_make_a_whole(
    rig: MariaDbRig, small: str, tmp_path: Path
) -> None:
    schema, rows, target = tmp_path / "schema", tmp_path / "rows", rig.target()
    schema.mkdir()
    rows.mkdir()
    bones = rig.source(small, data=False)
    flesh = rig.source(small, schema=False, exclude_tables=["all_of_it", "counter"])
    bones_result, flesh_result = run(rig, schema, bones), run(rig, rows, flesh)
    with pytest.raises(TargetMissing, match="holds no definitions"):
        rig.engine.plan_restore(restore_job(flesh_result, rows, flesh, **target))
    run_restore(rig.engine, restore_job(bones_result, schema, bones, **target))
    database = target["connection"].database
    assert rig.server.sql("SELECT COUNT(*) FROM one", database=database) == [(0,)]
    job = restore_job(flesh_result, rows, flesh, **target)
    run_restore(rig.engine, job)
    assert rig.content(target) == data.contents(rig.server, small)
    with pytest.raises(TargetNotEmpty, match=f"{database}.one holds rows"):
        rig.engine.plan_restore(job)


def test_one_table_goes_back_into_a_database_with_others(
    rig: MariaDbRig, small: str, tmp_path: Path
) -> None:
    source = rig.source(small)
    result = run(rig, tmp_path, source)
    before = data.contents(rig.server, small)
    rig.server.sql("DROP TABLE one", "UPDATE two SET id = 33", database=small)
    options = RestoreOptions(only=["one"])
    job = restore_job(result, tmp_path, source, connection=rig.as_root(small), options=options)
    run_restore(rig.engine, job)
    assert rig.engine.differences(job) == []
    assert rig.server.sql("SELECT id FROM two", database=small) == [(33,)]
    rig.server.sql("UPDATE two SET id = 3", database=small)
    assert data.contents(rig.server, small) == before
    with pytest.raises(TargetNotEmpty, match="already holds one"):
        rig.engine.plan_restore(job)


@pytest.mark.mariadb
def test_another_name_is_made_with_the_original_character_set(
    rig: MariaDbRig, small: str, tmp_path: Path
) -> None:
    rig.server.sql(f"ALTER DATABASE {small} CHARACTER SET latin1")
    source, new = rig.source(small), f"{small}_again"
    result = run(rig, tmp_path, source)
    options = RestoreOptions(database=new)
    connection = rig.as_root("mysql")
    job = restore_job(result, tmp_path, source, connection=connection, options=options)
    run_restore(rig.engine, job)
    rig.made.append(new)
    assert data.contents(rig.server, new) == data.contents(rig.server, small)
    assert "latin1" in str(rig.server.sql(f"SHOW CREATE DATABASE {new}"))
    # The sequence in the default is the new database's own.
    rig.server.sql("INSERT INTO counted VALUES ()", database=new)
    assert rig.server.sql(f"SELECT next_not_cached_value FROM {small}.counter") == [(1,)]


def test_several_databases_go_back_under_their_own_names(
    rig: MariaDbRig, small: str, tmp_path: Path
) -> None:
    second = rig.new_database()
    rig.server.sql("CREATE TABLE t (id INT)", "INSERT INTO t VALUES (9)", database=second)
    source = rig.source(small).model_copy(update={"databases": [small, second]})
    result = run(rig, tmp_path, source)
    before = data.contents(rig.server, small), data.contents(rig.server, second)
    options, root = RestoreOptions(database="x"), rig.as_root("mysql")
    renamed = restore_job(result, tmp_path, source, connection=root, options=options)
    with pytest.raises(ConfigInvalid, match="holds"):
        rig.engine.plan_restore(renamed)
    rig.server.sql(f"DROP DATABASE {small}", f"DROP DATABASE {second}")
    job = restore_job(result, tmp_path, source, connection=rig.as_root("mysql"))
    run_restore(rig.engine, job)
    assert (data.contents(rig.server, small), data.contents(rig.server, second)) == before


def test_what_matches_nothing_in_the_backup_is_an_error(
    rig: MariaDbRig, small: str, tmp_path: Path
) -> None:
    source = rig.source(small)
    options = RestoreOptions(only=["nowhere"])
    job = restore_job(run(rig, tmp_path, source), tmp_path, source, options=options, **rig.target())
    with pytest.raises(ConfigInvalid, match="nowhere"):
        rig.engine.plan_restore(job)


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
    job = restore_job(run(rig, tmp_path, source), tmp_path, source, options=options, **target)
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
    job = restore_job(run(rig, tmp_path, source), tmp_path, source, **target)
    run_restore(rig.engine, job)
    who = f"SELECT definer FROM information_schema.routines WHERE routine_schema = '{target['connection'].database}'"
    assert str(rig.server.sql(who)[0][0]).startswith("root@")


def test_a_pattern_for_databases_means_the_users(rig: MariaDbRig) -> None:
    """The server's own can be named in full."""
    name = rig.new_database()
    session = connect(rig.as_root(name))
    found = [inventory.databases(session, patterns, None) for patterns in (["*"], ["mysql", "m*"])]
    session.close()
    assert all(name in some for some in found)
    assert not {"mysql", "sys", "information_schema", "performance_schema"} & set(found[0])
    assert "mysql" in found[1]


def test_a_database_with_a_space_in_its_name_is_granted_like_others(
    rig: MariaDbRig, tmp_path: Path
) -> None:
    rig.server.sql(
        "CREATE DATABASE `two words`",
        "CREATE TABLE `two words`.t (id INT PRIMARY KEY)",
        "CREATE OR REPLACE USER half@127.0.0.1 IDENTIFIED BY 'half'",
        "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON `two words`.* TO half@127.0.0.1",
    )
    try:
        at = Connection("127.0.0.1", rig.server.port, "half", "half")
        [result] = back_up(rig.engine, rig.source("two words"), tmp_path, connection=at)
    finally:
        rig.server.sql("DROP DATABASE `two words`", "DROP USER half@127.0.0.1")
    assert "table" in {o.facts["kind"] for o in result.objects}


def test_differences_name_every_kind_of_object(rig: MariaDbRig, small: str, tmp_path: Path) -> None:
    source, target = rig.source(small), rig.target()
    job = restore_job(run(rig, tmp_path, source), tmp_path, source, **target)
    run_restore(rig.engine, job)
    rig.server.sql(
        "DROP TRIGGER guard",
        "DELETE FROM one WHERE id = 1",
        "UPDATE two SET id = 4",
        "CREATE OR REPLACE VIEW all_of_it AS SELECT 1",
        "DROP FUNCTION four",
        "CREATE FUNCTION four () RETURNS INT RETURN 5",
        "DROP TABLE counted",
        "ALTER TABLE two ADD COLUMN n INT INVISIBLE",
        database=target["connection"].database,
    )
    found = "\n".join(rig.engine.differences(job))
    for what in (
        "guard",
        "one holds 1 rows instead of 2",
        "table made",
        "all_of_it",
        "four",
        "counted",
    ):
        assert what in found
    assert "two is defined differently" in found
