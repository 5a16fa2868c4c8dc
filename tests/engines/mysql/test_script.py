"""The backup outlives Stepvault: its own script and the plain client restore it."""

import os
import subprocess
from pathlib import Path

import pytest

from devtools.servers.mariadb import MariaDb
from tests.engines.driver import back_up
from tests.engines.mysql import data
from tests.engines.mysql.rig import MariaDbRig


def run_script(folder: Path, server: MariaDb) -> subprocess.CompletedProcess[str]:
    address = ["-h", server.host, "-P", str(server.port), "-u", server.user]
    return subprocess.run(
        ["sh", str(folder / "restore.sh"), *address],
        env=os.environ | {"MYSQL_PWD": server.password},
        capture_output=True,
        text=True,
    )


def test_the_script_restores_everything_with_the_plain_client(
    server: MariaDb, other: MariaDb, tmp_path: Path
) -> None:
    rig = MariaDbRig(server)
    back_up(rig.engine, rig.filled(), tmp_path, **rig.job(None))
    other.sql("DROP DATABASE IF EXISTS shop")
    done = run_script(tmp_path, other)
    assert (done.returncode, done.stderr) == (0, "")
    assert data.contents(other, "shop") == data.contents(server, "shop")


def test_the_script_restores_routines_that_end_with_a_comment(
    rig: MariaDbRig, other: MariaDb, tmp_path: Path
) -> None:
    name = rig.new_database()
    bodies = "BEGIN SELECT 1; END -- the end", "SELECT 2 # note", "SELECT 3;", "SELECT 4 /* four */"
    for number, body in enumerate(bodies):
        rig.server.sql(f"CREATE PROCEDURE p{number} () {body}", database=name)
    back_up(rig.engine, rig.source(name), tmp_path, **rig.job(None))
    done = run_script(tmp_path, other)
    found = other.sql(
        f"SELECT routine_name FROM information_schema.routines WHERE routine_schema = '{name}'"
    )
    other.sql(f"DROP DATABASE IF EXISTS {name}")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(found) == len(bodies)


def test_the_script_stops_at_a_damaged_file(
    server: MariaDb, other: MariaDb, tmp_path: Path
) -> None:
    rig = MariaDbRig(server)
    back_up(rig.engine, rig.filled(), tmp_path, **rig.job(None))
    file = tmp_path / "shop.orders.00000.sql.zst"
    file.write_bytes(file.read_bytes()[:-20])
    other.sql("DROP DATABASE IF EXISTS shop")
    done = run_script(tmp_path, other)
    assert done.returncode != 0
    assert "shop.orders.00000.sql.zst is damaged" in done.stderr
    assert other.sql("SELECT COUNT(*) FROM shop.orders") == [(0,)]


def test_the_script_keeps_what_looks_like_its_own_marks(
    rig: MariaDbRig, other: MariaDb, tmp_path: Path
) -> None:
    name = rig.new_database()
    bodies = [
        "BEGIN SELECT 'x\n/*end*/;\n'; /*end1*/;\nSELECT 2; END".replace(
            "/*end1*/;", "SELECT 1 /*end1*/;"
        ),
        "BEGIN\nSELECT 1;/**/\nSELECT ';/*end1*/\n;/*end2*/\n';\nEND",
        "BEGIN\n/* ;/**\n */ SELECT 1;\nEND",
    ]
    for number, body in enumerate(bodies):
        rig.server.sql(f"CREATE PROCEDURE p{number} () {body}", database=name)
    back_up(rig.engine, rig.source(name), tmp_path, **rig.job(None))
    done = run_script(tmp_path, other)
    found, expected = data.contents(other, name), data.contents(rig.server, name)
    other.sql(f"DROP DATABASE IF EXISTS {name}")
    assert (done.returncode, done.stderr) == (0, "")
    # The client adds a space after a comment.
    assert str(found).replace("*/ ;", "*/;") == str(expected)
    assert len(found) == len(bodies)


@pytest.mark.mariadb
def test_the_script_restores_rows_older_than_a_check(
    rig: MariaDbRig, other: MariaDb, tmp_path: Path
) -> None:
    name = rig.new_database()
    rig.server.sql(
        "CREATE TABLE t (n INT PRIMARY KEY, CHECK (n > 0))",
        "SET check_constraint_checks = 0",
        "INSERT INTO t VALUES (-1)",
        database=name,
    )
    back_up(rig.engine, rig.source(name), tmp_path, **rig.job(None))
    done = run_script(tmp_path, other)
    rows = other.sql(f"SELECT n FROM {name}.t")
    other.sql(f"DROP DATABASE IF EXISTS {name}")
    assert (done.returncode, done.stderr, rows) == (0, "", [(-1,)])


def test_the_script_goes_on_where_something_did_not_work_any_more(
    rig: MariaDbRig, other: MariaDb, tmp_path: Path
) -> None:
    name = rig.new_database()
    rig.server.sql(
        "CREATE TABLE t (id INT PRIMARY KEY, gone INT)",
        "CREATE TRIGGER a BEFORE INSERT ON t FOR EACH ROW SET NEW.gone = 1",
        "CREATE TRIGGER b BEFORE UPDATE ON t FOR EACH ROW SET NEW.id = 1",
        "CREATE VIEW v AS SELECT gone FROM t",
        "CREATE VIEW w AS SELECT id FROM t",
        "ALTER TABLE t DROP COLUMN gone",
        database=name,
    )
    back_up(rig.engine, rig.source(name), tmp_path, **rig.job(None))
    done = run_script(tmp_path, other)
    triggers = [row[0] for row in other.sql(f"SHOW TRIGGERS FROM {name}")]
    tables = other.sql(f"SHOW TABLES FROM {name}")
    other.sql(f"DROP DATABASE {name}")
    assert done.returncode == 0
    assert done.stderr.count("broken when it was backed up") == 2
    assert (triggers, tables) == (["b"], [("t",), ("w",)])


@pytest.mark.mariadb
def test_myloader_of_debian_restores_the_tables(
    server: MariaDb, other: MariaDb, tmp_path: Path
) -> None:
    """It is version 0.10, which knows gzip but not zstd, and no sequences or view order."""
    rig = MariaDbRig(server)
    never = ["numbered", "numbers", "above", "mid", "zz_base"]
    source = rig.source("shop", exclude_tables=never)
    back_up(rig.engine, source, tmp_path, **rig.job(source))
    old = tmp_path / "gz"
    old.mkdir()
    for file in tmp_path.glob("*.zst"):
        plain = subprocess.run(["zstd", "-dcq", str(file)], stdout=subprocess.PIPE, check=True)
        packed = subprocess.run(
            ["gzip", "-1"], input=plain.stdout, stdout=subprocess.PIPE, check=True
        )
        (old / f"{file.stem}.gz").write_bytes(packed.stdout)
    (old / "metadata").write_bytes((tmp_path / "metadata").read_bytes())
    other.sql("DROP DATABASE IF EXISTS shop", "CREATE DATABASE shop")
    done = subprocess.run(
        [
            "myloader",
            "-d",
            str(old),
            "-h",
            other.host,
            "-P",
            str(other.port),
            "-u",
            other.user,
            "-p",
            other.password,
            "-v",
            "2",
        ],
        capture_output=True,
        text=True,
    )
    assert "CRITICAL" not in done.stderr
    found, expected = data.contents(other, "shop"), data.contents(server, "shop")
    # It takes file names for table names, so those under an alias come under the alias.
    tables = {k for k in expected if k.startswith(("BASE TABLE", "rows of"))}
    tables -= {
        f"{kind} {name}"
        for name in ("numbered", "Cased", "odd `name; ü")
        for kind in ("BASE TABLE", "rows of")
    }
    assert {k: found.get(k) for k in tables} == {k: expected[k] for k in tables}
    assert len(tables) >= 20
