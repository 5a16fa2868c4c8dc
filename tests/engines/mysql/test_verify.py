"""Comparing a restored database with its backup."""

from pathlib import Path

from tests.engines.driver import restore_job, run_restore
from tests.engines.mysql.helpers import back_up_once
from tests.engines.mysql.rig import MariaDbRig


def test_differences_name_every_kind_of_object(rig: MariaDbRig, small: str, tmp_path: Path) -> None:
    source, target = rig.source(small), rig.target()
    job = restore_job(back_up_once(rig, tmp_path, source), tmp_path, source, **target)
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
