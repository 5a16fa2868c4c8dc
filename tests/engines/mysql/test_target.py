"""Choosing what to restore, and under which names."""

from pathlib import Path

import pytest

from stepvault.errors import (
    ConfigInvalid,
    TargetMissing,
    TargetNotEmpty,
)
from stepvault.records import RestoreOptions
from tests.engines.driver import restore_job, run_restore
from tests.engines.mysql import data
from tests.engines.mysql.helpers import back_up_once
from tests.engines.mysql.rig import MariaDbRig


def test_schema_only_and_then_data_only_make_a_whole(
    rig: MariaDbRig, small: str, tmp_path: Path
) -> None:
    schema, rows, target = tmp_path / "schema", tmp_path / "rows", rig.target()
    schema.mkdir()
    rows.mkdir()
    bones = rig.source(small, data=False)
    flesh = rig.source(small, schema=False, exclude_tables=["all_of_it", "counter"])
    bones_result, flesh_result = back_up_once(rig, schema, bones), back_up_once(rig, rows, flesh)
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
    result = back_up_once(rig, tmp_path, source)
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
    result = back_up_once(rig, tmp_path, source)
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
    result = back_up_once(rig, tmp_path, source)
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
    job = restore_job(
        back_up_once(rig, tmp_path, source), tmp_path, source, options=options, **rig.target()
    )
    with pytest.raises(ConfigInvalid, match="nowhere"):
        rig.engine.plan_restore(job)
