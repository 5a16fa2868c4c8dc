"""Rare objects and servers: what is not a plain table in a plain database."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from devtools.servers.mariadb import MariaDb
from stepvault.engines.base import Connection
from stepvault.engines.mysql import dump
from stepvault.engines.mysql.snapshot import Moment
from stepvault.errors import ConfigInvalid, SourceUnreachable
from tests.engines.driver import Result, back_up, restore_job, run_restore
from tests.engines.mysql import data
from tests.engines.mysql.test_contract import MariaDbRig


def there_and_back(rig: MariaDbRig, folder: Path, statements: list[str]) -> tuple[Result, str, str]:
    """Make a database, back it up, restore it; returns the result and both databases' names."""
    name = rig.new_database()
    connection = rig.server.connect(name)
    for statement in statements:
        for one in rig.server.dialect(statement):
            connection.query(one)
    connection.close()
    source, target = rig.source(name), rig.target()
    result = back_up(rig.engine, source, folder, **rig.job(source))[0]
    job = restore_job(result, folder, source, **target)
    run_restore(rig.engine, job)
    assert rig.engine.differences(job) == []
    assert rig.content(target) == rig.content(source)
    return result, name, target["connection"].database


@pytest.mark.mariadb
def test_packages_of_oracle_mode(rig: MariaDbRig, tmp_path: Path) -> None:
    head = "CREATE PACKAGE tools AS FUNCTION twice(n INT) RETURN INT; END"
    body = "CREATE PACKAGE BODY tools AS FUNCTION twice(n INT) RETURN INT AS BEGIN RETURN n * 2; END; END"
    _, _, restored = there_and_back(rig, tmp_path, ["SET sql_mode=ORACLE", head, body])
    call = "SELECT tools.twice(21)"
    assert rig.server.sql("SET sql_mode=ORACLE", call, database=restored) == [(42,)]


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


def test_a_broken_view_is_kept_as_it_is_and_said(rig: MariaDbRig, tmp_path: Path) -> None:
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
def test_a_sequence_goes_on_above_the_rows_that_came_before_the_snapshot(
    rig: MariaDbRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = rig.new_database()
    rig.server.sql(
        "CREATE SEQUENCE numbers NOCACHE",
        "CREATE TABLE numbered (id INT PRIMARY KEY DEFAULT NEXTVAL(numbers), n INT)",
        "INSERT INTO numbered (n) VALUES (1), (2)",
        database=name,
    )
    freeze = dump.freeze

    def late(*args: Any) -> Moment:
        rig.server.sql("INSERT INTO numbered (n) VALUES (3), (4)", database=name)
        return freeze(*args)

    monkeypatch.setattr(dump, "freeze", late)
    source, target = rig.source(name), rig.target()
    result = back_up(rig.engine, source, tmp_path, **rig.job(source))[0]
    run_restore(rig.engine, restore_job(result, tmp_path, source, **target))
    restored = target["connection"].database
    rig.server.sql("INSERT INTO numbered (n) VALUES (5)", database=restored)
    assert rig.server.sql("SELECT n FROM numbered ORDER BY id", database=restored) == [
        *((n,) for n in range(1, 6))
    ]


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


def test_many_small_tables(rig: MariaDbRig, tmp_path: Path) -> None:
    tables = [f"CREATE TABLE t{n} (id INT PRIMARY KEY, n INT)" for n in range(60)]
    rows = [f"INSERT INTO t{n} VALUES ({n}, 1)" for n in range(60)]
    result, _, _ = there_and_back(rig, tmp_path, tables + rows)
    assert sum(o.rows or 0 for o in result.objects) == 60


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate authority and a server's certificate for the name localhost only."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    openssl("req", "-x509", *new, "-subj", "/CN=test CA", "-keyout", "ca.key", "-out", "ca.pem")
    openssl(
        "req", *new[:-2], "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr"
    )
    (folder / "names").write_text("subjectAltName=DNS:localhost\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "2",
            "-CAcreateserial", "-extfile", "names", "-out", "server.pem")  # fmt: skip
    for path in (folder, *folder.iterdir(), *folder.parents[:2]):
        path.chmod(0o755)
    return folder


def test_tls_is_spoken_and_the_certificate_checked(certificates: Path, tmp_path: Path) -> None:
    options = [f"--ssl-cert={certificates}/server.pem", f"--ssl-key={certificates}/server.key"]
    with MariaDb(options) as secure:
        secure.sql(
            "CREATE USER dumper@127.0.0.1 IDENTIFIED BY 'dump-me' REQUIRE SSL",
            "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON *.* TO dumper@127.0.0.1",
        )
        data.make(secure, "shop", data.WIDE)
        rig = MariaDbRig(secure)
        ca = str(certificates / "ca.pem")

        def back_up_with(host: str = "127.0.0.1", **tls: Any) -> None:
            folder = tmp_path / f"{host}-{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            connection = Connection(host, secure.port, "dumper", "dump-me", **tls)
            result = back_up(rig.engine, rig.filled(), folder, connection=connection, connections=2)
            assert sum(o.rows or 0 for o in result[0].objects) == 17

        back_up_with()  # prefer
        back_up_with(tls="require")
        back_up_with(tls="verify-ca", tls_ca=ca)
        back_up_with("localhost", tls="verify-full", tls_ca=ca)
        with pytest.raises(SourceUnreachable, match="certificate"):  # another name than its own
            back_up_with(tls="verify-full", tls_ca=ca)
        with pytest.raises(SourceUnreachable, match="certificate"):  # a CA nobody told us of
            back_up_with("localhost", tls="verify-full")
        with pytest.raises(ConfigInvalid, match="tls_ca"):
            back_up_with(tls="verify-ca", tls_ca="/nowhere/ca.pem")
