"""Patterns for databases and tables."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from stepvault.engines.mysql import inventory
from stepvault.engines.mysql.inventory import matches
from stepvault.engines.mysql.session import Session, connect
from stepvault.errors import SourceMissing
from stepvault.records import RestoreOptions
from tests.engines.driver import back_up, restore_job, run_restore
from tests.engines.mysql.rig import MariaDbRig


def test_patterns_name_tables_with_or_without_their_database() -> None:
    assert matches("shop", "orders", ["ord*"])
    assert matches("shop", "orders", ["shop.order?"])
    assert not matches("shop", "orders", ["other.orders"])
    assert not matches("shop", "orders", ["order"])
    assert matches("shop", "a[1]", ["a[1]"])


def test_a_pattern_for_databases_means_the_users(rig: MariaDbRig) -> None:
    """The server's own can be named in full."""
    name = rig.new_database()
    session = connect(rig.as_root(name))
    found = [
        inventory.databases(session, patterns, None)[0] for patterns in (["*"], ["mysql", "m*"])
    ]
    session.close()
    assert all(name in some for some in found)
    assert not {"mysql", "sys", "information_schema", "performance_schema"} & set(found[0])
    assert "mysql" in found[1]


@pytest.mark.mariadb
def test_folders_that_are_no_databases_are_skipped_with_a_warning(
    rig: MariaDbRig, tmp_path: Path
) -> None:
    """MariaDB shows every folder of its data directory as a database."""
    folders = [rig.server.data / name for name in ("lost+found", "old.bak")]
    for folder in folders:
        folder.mkdir()
        (folder / "t.frm").write_bytes(b"nonsense")
    rig.server.sql("CREATE OR REPLACE DATABASE real_one", "CREATE TABLE real_one.t (id INT)")
    try:
        source = rig.source("x").model_copy(update={"databases": []})
        at = rig.as_dumper()
        session = connect(at)
        names, warnings = inventory.databases(session, [], None)
        named, none = inventory.databases(session, ["real_one"], None)
        with pytest.raises(SourceMissing, match="lost"):
            inventory.databases(session, ["lost+found"], None)
        session.close()
        result = back_up(rig.engine, source, tmp_path, **rig.job(source))[0]
    finally:
        for folder in folders:
            shutil.rmtree(folder)
        rig.server.sql("DROP DATABASE real_one")
    assert "real_one" in names
    assert not [n for n in names if "#mysql50#" in n]
    assert (named, none) == (["real_one"], [])
    for folder in folders:
        assert len([w for w in warnings if folder.name in w]) == 1
        assert [w for w in result.warnings if folder.name in w]


@pytest.mark.mariadb  # MySQL's dictionary needs no answer of the other server
def test_a_federated_table_whose_server_is_gone_costs_nothing_else(
    rig: MariaDbRig, tmp_path: Path
) -> None:
    name = rig.new_database()
    rig.server.sql("INSTALL SONAME 'ha_federatedx'")
    try:
        rig.server.sql(
            "CREATE TABLE here (id INT AUTO_INCREMENT PRIMARY KEY)",
            "INSERT INTO here VALUES (1), (40)",
            "CREATE TABLE remote (id INT PRIMARY KEY)",
            f"CREATE TABLE far (id INT PRIMARY KEY) ENGINE=FEDERATED CONNECTION='mysql://root:{rig.server.password}@127.0.0.1:{rig.server.port}/{name}/remote'",
            "DROP TABLE remote",
            database=name,
        )
        source, target = rig.source(name), rig.target()
        result = back_up(rig.engine, source, tmp_path, **rig.job(source))[0]
        assert [w for w in result.warnings if f"{name}.far" in w]
        counted = [o.facts["counter"] for o in result.objects if o.facts.get("kind") == "table"]
        assert sorted(counted) == [0, 41]
        options = RestoreOptions(without=["table:far"])
        job = restore_job(result, tmp_path, source, options=options, **target)
        run_restore(rig.engine, job)
        assert rig.engine.differences(job) == []
        excluded = rig.source(name, exclude_tables=["far"])
        (tmp_path / "again").mkdir()
        assert back_up(rig.engine, excluded, tmp_path / "again", **rig.job(source))[0].objects
    finally:
        rig.server.sql(f"DROP TABLE IF EXISTS {name}.far", "UNINSTALL SONAME 'ha_federatedx'")


def test_the_catalogs_queries_do_not_grow_with_the_tables(
    rig: MariaDbRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Per table only what locks it and reads its definition, never the catalog."""
    queries: list[str] = []
    rows = Session.rows

    def counted(session: Session, sql: str, what: str = "") -> list[tuple[Any, ...]]:
        queries.append(sql)
        return rows(session, sql, what)

    def catalog(count: int) -> tuple[int, int]:
        name = rig.new_database()
        rig.server.sql(
            "SELECT 1",
            *(f"CREATE TABLE t{n} (id INT PRIMARY KEY)" for n in range(count)),
            *(f"CREATE TRIGGER r{n} BEFORE INSERT ON t{n} FOR EACH ROW SET NEW.id = 1" for n in range(count)),
            database=name,
        )  # fmt: skip
        folder = tmp_path / str(count)
        folder.mkdir()
        source = rig.source(name, accounts="none")
        queries.clear()
        result = back_up(rig.engine, source, folder, connection=rig.as_root(name), connections=1)[0]
        backup = sum("information_schema" in q for q in queries)
        job = restore_job(result, folder, source, **rig.target())
        queries.clear()
        run_restore(rig.engine, job)
        assert rig.engine.differences(job) == []
        return backup, sum("information_schema" in q for q in queries)

    monkeypatch.setattr(Session, "rows", counted)
    few, many = catalog(3), catalog(30)
    assert many == few
