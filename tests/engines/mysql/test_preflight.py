"""What a target cannot take is listed before anything is written; plain users; names in lower case."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devtools.servers.mariadb import MariaDb
from stepvault.engines.base import Connection, RestoreJob
from stepvault.errors import TargetUnsupported
from stepvault.records import RestoreOptions, Unrestored
from tests.engines.driver import Result, back_up, restore_job, run_restore
from tests.engines.mysql.conftest import BRANDS
from tests.engines.mysql.rig import MariaDbRig


def backed_up(rig: MariaDbRig, folder: Path, *statements: str) -> tuple[Any, Result]:
    name = rig.new_database()
    rig.server.sql("SELECT 1", *statements, database=name)
    source = rig.source(name)
    return source, back_up(rig.engine, source, folder, **rig.job(source))[0]


def to(server: MariaDb, database: str, user: str = "root", password: str = "") -> Connection:
    password = password or server.password
    return Connection("127.0.0.1", server.port, user, password, database)


@pytest.fixture(scope="module")
def strict(brand: str) -> Iterator[MariaDb]:
    """A server whose rules backups break: primary keys required, names in lower case."""
    rule = {"mariadb": "--innodb-force-primary-key=ON", "mysql": "--sql-require-primary-key=ON"}
    with BRANDS[brand]([rule[brand], "--lower-case-table-names=1"]) as server:
        server.sql("SET GLOBAL log_bin_trust_function_creators=1")
        yield server


def test_views_come_to_a_server_that_requires_primary_keys(
    rig: MariaDbRig, strict: MariaDb, tmp_path: Path
) -> None:
    columns = ", ".join(f"id AS c{n}" for n in range(1100))
    source, result = backed_up(
        rig,
        tmp_path,
        "CREATE TABLE t (id INT PRIMARY KEY)",
        "INSERT INTO t VALUES (1)",
        "CREATE VIEW narrow AS SELECT id FROM t",
        f"CREATE VIEW wide_view AS SELECT {columns} FROM t",
    )
    strict.sql("CREATE OR REPLACE DATABASE strict_one")
    job = restore_job(result, tmp_path, source, connection=to(strict, "strict_one"))
    run_restore(rig.engine, job)
    assert rig.engine.differences(job) == []
    assert strict.sql("SELECT c1099 FROM strict_one.wide_view") == [(1,)]


def test_what_breaks_the_targets_rules_is_listed_at_once_and_left_out_when_told(
    brand: str, rig: MariaDbRig, strict: MariaDb, tmp_path: Path
) -> None:
    source, result = backed_up(
        rig,
        tmp_path,
        "CREATE TABLE fine (id INT PRIMARY KEY)",
        "INSERT INTO fine VALUES (5)",
        "CREATE TABLE no_key (id INT)",
        "INSERT INTO no_key VALUES (6)",
        "CREATE TABLE Twice (id INT PRIMARY KEY)",
        "CREATE TABLE twice (id INT PRIMARY KEY, n INT)",
        "CREATE VIEW v AS SELECT id FROM fine",
    )
    strict.sql("CREATE OR REPLACE DATABASE strict_two")
    job = restore_job(result, tmp_path, source, connection=to(strict, "strict_two"))
    with pytest.raises(TargetUnsupported) as caught:
        rig.engine.plan_restore(job)
    message = str(caught.value)
    assert "table no_key: it has no primary key" in message
    assert "--without table:no_key" in message
    assert (
        "table twice: the target writes names in lower case, and Twice has the same one" in message
    )
    assert strict.sql("SHOW TABLES FROM strict_two") == []
    reported: list[Unrestored] = []
    options = RestoreOptions(keep_going=True)
    going = restore_job(
        result, tmp_path, source, connection=to(strict, "strict_two"), options=options,
        unrestored=reported.append,
    )  # fmt: skip
    run_restore(rig.engine, going)
    assert {(u.kind, u.name.rpartition(".")[2]) for u in reported} == {
        ("table", "no_key"), ("table", "twice"),
    }  # fmt: skip
    assert strict.sql("SHOW TABLES FROM strict_two") == [("fine",), ("twice",), ("v",)]
    assert strict.sql("SELECT id FROM strict_two.v") == [(5,)]


def test_a_target_that_writes_names_in_lower_case_is_compared_and_overwritten(
    rig: MariaDbRig, strict: MariaDb, tmp_path: Path
) -> None:
    source, result = backed_up(
        rig,
        tmp_path,
        "CREATE TABLE Parent (Id INT AUTO_INCREMENT PRIMARY KEY, S VARCHAR(20))",
        "CREATE TABLE `Child` (Id INT PRIMARY KEY, P INT, CONSTRAINT Fk FOREIGN KEY (P) REFERENCES Parent (Id))",
        "INSERT INTO Parent VALUES (1, 'One'), (8, 'Eight')",
        "INSERT INTO `Child` VALUES (1, 8)",
        "CREATE VIEW TheView AS SELECT c.Id, p.S FROM `Child` c JOIN Parent p ON p.Id = c.P",
        "CREATE TRIGGER Guard BEFORE INSERT ON `Child` FOR EACH ROW SET NEW.P = NEW.P",
    )
    strict.sql("CREATE OR REPLACE DATABASE lower_one")
    for overwrite in (False, True, True):
        options = RestoreOptions(overwrite=overwrite)
        job = restore_job(
            result, tmp_path, source, connection=to(strict, "Lower_One"), options=options
        )
        run_restore(rig.engine, job)
        assert rig.engine.differences(job) == []
    assert strict.sql("SELECT s FROM lower_one.theview") == [("Eight",)]
    strict.sql("ALTER TABLE lower_one.parent MODIFY S VARCHAR(21)")
    assert len(rig.engine.differences(job)) == 1


@pytest.fixture
def plain_user(brand: str, rig: MariaDbRig, other: MariaDb) -> Iterator[MariaDb]:
    """The other server with a user who may do everything in one database, and nothing else."""
    other.sql(
        "CREATE OR REPLACE DATABASE plain",
        "CREATE OR REPLACE USER owner@127.0.0.1 IDENTIFIED BY 'own-it'",
        "GRANT ALL ON plain.* TO owner@127.0.0.1",
    )
    yield other
    other.sql("DROP DATABASE plain", "DROP USER owner@127.0.0.1")


def test_a_user_without_super_restores_all_rows_and_a_list_of_what_was_left_out(
    brand: str, rig: MariaDbRig, plain_user: MariaDb, tmp_path: Path
) -> None:
    source, result = backed_up(
        rig,
        tmp_path,
        "CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, n INT) AUTO_INCREMENT = 10",
        "INSERT INTO t (n) SELECT seq FROM seq_1_to_500",
        "CREATE TABLE no_key (id INT)",
        "CREATE DEFINER=someone@10.1.1.1 VIEW v AS SELECT id FROM t",
        "CREATE DEFINER=someone@10.1.1.1 SQL SECURITY INVOKER VIEW w AS SELECT id FROM t",
        "CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW SET NEW.n = NEW.n",
        "CREATE FUNCTION f () RETURNS INT DETERMINISTIC RETURN 1",
        "CREATE PROCEDURE p () SELECT 1",
        "CREATE EVENT e ON SCHEDULE EVERY 1 DAY STARTS '2035-01-01' DO DELETE FROM t",
    )
    at = to(plain_user, "plain", "owner", "own-it")

    def job(reported: list[Unrestored], **options: Any) -> RestoreJob:
        return restore_job(
            result, tmp_path, source, connection=at, options=RestoreOptions(**options),
            unrestored=reported.append,
        )  # fmt: skip

    reported: list[Unrestored] = []
    with pytest.raises(TargetUnsupported) as caught:
        rig.engine.plan_restore(job(reported))
    things = ["view v", "view w", "trigger tr", "function f", "procedure p", "event e"]
    assert all(f"{thing}: this user may not create what" in str(caught.value) for thing in things)
    assert "--owner none" in str(caught.value)
    assert plain_user.sql("SHOW TABLES FROM plain") == []
    run_restore(rig.engine, job(reported, keep_going=True))
    assert {f"{u.kind} {u.name.rpartition('.')[2]}" for u in reported} == set(things)
    assert plain_user.sql("SELECT COUNT(*) FROM plain.t") == [(500,)]
    assert plain_user.sql("SHOW TABLES FROM plain") == [("no_key",), ("t",)]
    plain_user.sql("CREATE OR REPLACE DATABASE plain")
    reported.clear()
    whole = job(reported, owner="none")
    run_restore(rig.engine, whole)
    assert not reported
    assert rig.engine.differences(whole) == []


def test_triggers_and_functions_that_the_binary_log_forbids_are_listed(
    brand: str, rig: MariaDbRig, tmp_path: Path
) -> None:
    source, result = backed_up(
        rig,
        tmp_path,
        "CREATE TABLE t (id INT PRIMARY KEY)",
        "INSERT INTO t VALUES (1)",
        "CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW SET NEW.id = NEW.id",
        "CREATE FUNCTION f () RETURNS INT DETERMINISTIC RETURN 1",
    )
    database = rig.new_database()
    rig.server.sql(
        "CREATE OR REPLACE USER owner@127.0.0.1 IDENTIFIED BY 'own-it'",
        f"GRANT ALL ON {database}.* TO owner@127.0.0.1",
        "SET GLOBAL log_bin_trust_function_creators=0",
    )
    reported: list[Unrestored] = []
    try:
        job = restore_job(
            result, tmp_path, source, connection=to(rig.server, database, "owner", "own-it"),
            options=RestoreOptions(owner="none", keep_going=True), unrestored=reported.append,
        )  # fmt: skip
        run_restore(rig.engine, job)
    finally:
        rig.server.sql("SET GLOBAL log_bin_trust_function_creators=1", "DROP USER owner@127.0.0.1")
    assert {(u.kind, u.name.rpartition(".")[2]) for u in reported} == {
        ("trigger", "tr"),
        ("function", "f"),
    }
    assert all("log_bin_trust_function_creators=1" in u.reason for u in reported)
    assert rig.server.sql("SELECT * FROM t", database=database) == [(1,)]


def test_engines_and_collations_that_the_target_lacks_are_listed(
    brand: str, rig: MariaDbRig, tmp_path: Path
) -> None:
    """Between the two brands: what one has, the other has not."""
    theirs = {"mysql": "utf8mb4_0900_as_cs", "mariadb": "utf8mb4_nopad_bin"}[brand]
    engine = {"mysql": "ARCHIVE", "mariadb": "Aria"}[brand]
    source, result = backed_up(
        rig,
        tmp_path,
        "CREATE TABLE fine (id INT PRIMARY KEY) DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci",
        "INSERT INTO fine VALUES (5)",
        f"CREATE TABLE a (id INT PRIMARY KEY, s VARCHAR(9) CHARACTER SET utf8mb4 COLLATE {theirs})",
        f"SET NAMES utf8mb4 COLLATE {theirs}",
        "CREATE VIEW v AS SELECT id FROM fine",
        "SET NAMES utf8mb4 COLLATE utf8mb4_general_ci",
        "CREATE VIEW w AS SELECT id FROM fine",
    )
    if brand == "mysql":
        archive, archived = backed_up(
            rig, tmp_path / "more", "CREATE TABLE z (id INT) ENGINE=ARCHIVE"
        )
    with BRANDS["mysql" if brand == "mariadb" else "mariadb"]() as foreign:
        foreign.sql("CREATE DATABASE there")
        reported: list[Unrestored] = []
        options = RestoreOptions(keep_going=True)
        job = restore_job(
            result, tmp_path, source, connection=to(foreign, "there"), options=options,
            unrestored=reported.append,
        )  # fmt: skip
        run_restore(rig.engine, job)
        assert {(u.kind, u.name) for u in reported} == {("table", "a"), ("view", "v")}
        assert all(theirs[:12] in u.reason for u in reported)
        assert foreign.sql("SELECT id FROM there.w") == [(5,)]
        if brand == "mysql":
            job = restore_job(archived, tmp_path / "more", archive, connection=to(foreign, "there"))
            with pytest.raises(
                TargetUnsupported, match=f"the target has no engine {engine.lower()}"
            ):
                rig.engine.plan_restore(job)
