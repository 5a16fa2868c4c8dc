"""What a backup holds: filters, engines, file names."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepvault.engines.mysql.contents import Names
from stepvault.errors import (
    SourceMissing,
    SourceUnsupported,
)
from tests.engines.driver import restore_job, run_restore
from tests.engines.mysql.helpers import back_up_once, fails, there_and_back
from tests.engines.mysql.rig import MariaDbRig


def names(rig: MariaDbRig, database: str) -> set[str]:
    return {str(row[0]) for row in rig.server.sql("SHOW TABLES", database=database)}


def test_only_the_tables_that_match_are_backed_up(
    rig: MariaDbRig, small: str, tmp_path: Path
) -> None:
    source = rig.source(small, tables=["o*", f"{small}.two"], exclude_tables=["one"])
    result, target = back_up_once(rig, tmp_path, source), rig.target()
    run_restore(rig.engine, restore_job(result, tmp_path, source, **target))
    assert names(rig, target["connection"].database) == {"two"}


def test_patterns_that_match_nothing_are_an_error(
    rig: MariaDbRig, small: str, tmp_path: Path
) -> None:
    with pytest.raises(SourceMissing, match="nowhere"):
        back_up_once(rig, tmp_path, rig.source(small, tables=["nowhere"]))


@pytest.mark.usefixtures("pair")
def test_tables_without_transactions_are_refused_when_told(rig: MariaDbRig, tmp_path: Path) -> None:
    rig.server.sql("ALTER TABLE pair.smaller ENGINE=MyISAM")
    message = fails(rig, tmp_path, SourceUnsupported, settings={"non_transactional": "refuse"})
    assert "pair.smaller (myisam)" in message


@pytest.mark.mariadb
def test_the_history_of_a_versioned_table_is_left_out_and_said(
    rig: MariaDbRig, tmp_path: Path
) -> None:
    result, _, restored = there_and_back(
        rig,
        tmp_path,
        [
            "CREATE TABLE quiet (id INT PRIMARY KEY, n INT) WITH SYSTEM VERSIONING",
            "CREATE TABLE loud (id INT PRIMARY KEY, n INT, a TIMESTAMP(6) GENERATED ALWAYS AS ROW START,"
            " b TIMESTAMP(6) GENERATED ALWAYS AS ROW END, PERIOD FOR SYSTEM_TIME (a, b)) WITH SYSTEM VERSIONING",
            "INSERT INTO quiet VALUES (1, 1), (2, 2)",
            "UPDATE quiet SET n = 3 WHERE id = 1",
        ],
    )
    assert [w for w in result.warnings if "quiet is system-versioned" in w]
    assert rig.server.sql("SELECT id, n FROM quiet ORDER BY id", database=restored) == [
        (1, 3),
        (2, 2),
    ]


@given(st.lists(st.text(min_size=1, max_size=12), unique=True, max_size=30))
def test_file_names_are_safe_and_unique_whatever_the_tables_are_called(tables: list[str]) -> None:
    names = Names()
    found = [names.of(table, "shop") for table in tables]
    assert len({name.casefold() for name in found}) == len(tables)
    for name in found:
        assert name.isascii()
        assert not set(name) & set("./\\ `'\"*?")
        assert "-schema" not in name
