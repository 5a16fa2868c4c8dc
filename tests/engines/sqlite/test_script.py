"""``format = "sql"``: a script that any SQLite runs and that loses nothing of the content."""

import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zstandard

from stepvault.engines.sqlite import engine
from stepvault.errors import BackupTampered, SourceUnsupported
from tests.engines.driver import back_up, restore_job, run_restore
from tests.engines.sqlite.databases import round_trip, settings

EVERYTHING = """
CREATE TABLE parent (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE COLLATE NOCASE);
INSERT INTO parent (name) VALUES ('a'), ('gone'), ('it''s "quoted"; -- not a comment');
DELETE FROM parent WHERE name = 'gone';
CREATE TABLE child (parent_id INTEGER REFERENCES parent (id) ON DELETE CASCADE, n NUMERIC);
INSERT INTO child (rowid, parent_id, n) VALUES (-5, 1, '12.50'), (1000000, 3, 1e308), (7, 99, 'x');
CREATE TABLE keyless (a TEXT, b INT, PRIMARY KEY (a, b)) WITHOUT ROWID;
INSERT INTO keyless VALUES ('z', 1), ('a', 2), ('a', 1);
CREATE TABLE made (x INT, y INT AS (x * 2) STORED, z INT AS (x * 3) VIRTUAL);
INSERT INTO made (x) VALUES (1), (2);
CREATE TABLE exact (i INT, r REAL, t TEXT, b BLOB) STRICT;
INSERT INTO exact VALUES (9223372036854775807, 0.1, 'é', x'00ff'), (NULL, -1e999, '', x'');
CREATE TABLE "select ""from"" where" ("order" INT, "a b;c" TEXT, rowid TEXT);
INSERT INTO "select ""from"" where" (_rowid_, "order", rowid) VALUES (44, 1, 'not the row number');
CREATE TABLE text_key (id INT PRIMARY KEY, v);
INSERT INTO text_key (rowid, id, v) VALUES (9, 1, char(0)), (3, 2, 'a' || char(0) || 'ü');
CREATE TABLE odd_text (v TEXT);
INSERT INTO odd_text VALUES
    ('line' || char(10) || 'break' || char(13)), ('back\\slash n: \\n' || char(10)),
    (CAST(x'ff41' AS TEXT)), (CAST(x'c3' AS TEXT)), ('=''' || char(10) || ''');');
CREATE INDEX child_n ON child (n DESC) WHERE n > 0;
CREATE UNIQUE INDEX parent_lower ON parent (lower(name));
CREATE VIEW both AS SELECT p.name, c.n FROM parent p JOIN child c ON c.parent_id = p.id -- joined
;
CREATE TRIGGER stamp AFTER INSERT ON parent BEGIN
    INSERT INTO child VALUES (new.id, 'a;
b'); -- more
    DELETE FROM made WHERE x = 0;
END;
CREATE TRIGGER through INSTEAD OF INSERT ON both BEGIN SELECT 1; END;
CREATE VIRTUAL TABLE words USING fts5 (body, tokenize = 'unicode61');
INSERT INTO words VALUES ('find me here'), ('and not there');
CREATE VIRTUAL TABLE boxes USING rtree (id, x0, x1);
INSERT INTO boxes VALUES (1, 0.5, 2.5);
ANALYZE;
PRAGMA user_version = -7;
PRAGMA application_id = 305419896;
"""


def make(path: Path, *settings: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for setting in settings:
        connection.execute(setting)
    connection.executescript(EVERYTHING)
    connection.close()


def content(path: Path) -> Any:
    """Every table's rows with their storage classes and row numbers, and the schema."""
    connection = sqlite3.connect(path)
    connection.text_factory = bytes
    found: dict[str, Any] = {}
    tables = connection.execute(
        "SELECT name, wr FROM pragma_table_list WHERE type IN ('table', 'shadow', 'virtual') "
        "AND schema = 'main' AND name NOT IN ('sqlite_schema', 'sqlite_stat4')"
    ).fetchall()
    for raw, without_rowid in tables:
        name = '"' + raw.decode().replace('"', '""') + '"'
        columns = [
            '"' + c.decode().replace('"', '""') + '"'
            for _, c, *_, hidden in connection.execute(f"PRAGMA table_xinfo({name})")
            if hidden != 1
        ]
        wanted = columns if without_rowid or raw.startswith(b"sqlite_") else ["_rowid_", *columns]
        listed = ", ".join(f"{c}, typeof({c}), hex({c})" for c in wanted)
        found[name] = sorted(
            connection.execute(f"SELECT {listed} FROM {name}").fetchall(), key=repr
        )
    for pragma in ("user_version", "application_id", "encoding", "page_size", "auto_vacuum"):
        found[pragma] = connection.execute(f"PRAGMA {pragma}").fetchall()
    found["schema"] = sorted(
        connection.execute(
            "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name <> 'sqlite_stat4'"
        ).fetchall(),
        key=repr,
    )
    found["sound"] = connection.execute("PRAGMA integrity_check").fetchall()
    found["matches"] = connection.execute(
        "SELECT body FROM words WHERE words MATCH 'find'"
    ).fetchall()
    connection.close()
    return found


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("PRAGMA encoding = 'UTF-16le'",),
        ("PRAGMA encoding = 'UTF-16be'", "PRAGMA page_size = 1024"),
        ("PRAGMA auto_vacuum = FULL", "PRAGMA page_size = 65536"),
    ],
)
def test_everything_sqlite_knows_comes_back(tmp_path: Path, options: tuple[str, ...]) -> None:
    path = tmp_path / "all.db"
    make(path, *options)
    result, place = round_trip(settings(path, "sql"), tmp_path)
    assert content(place) == content(path)
    assert result.warnings[1:] == []  # the first is that of the rollback journal
    assert result.objects[0].rows


def test_any_sqlite_runs_the_script(tmp_path: Path) -> None:
    """Another program, given the script alone."""
    path = tmp_path / "all.db"
    make(path)
    back_up(engine, settings(path, "sql"), tmp_path / "vault")
    stored = (tmp_path / "vault" / "all.sql.zst").read_bytes()
    script = zstandard.ZstdDecompressor().decompressobj().decompress(stored)
    program = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.executescript(sys.stdin.read())"
    )
    subprocess.run(
        [sys.executable, "-X", "utf8", "-c", program, tmp_path / "run.db"], input=script, check=True
    )
    assert content(tmp_path / "run.db") == content(path)


def test_row_numbers_that_no_name_reaches_are_warned_of(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "odd.db")
    connection.execute("CREATE TABLE t (rowid TEXT, oid TEXT, _rowid_ TEXT)")
    connection.close()
    (result,) = back_up(engine, settings(tmp_path / "odd.db", "sql"), tmp_path / "vault")
    assert any("row numbers of table t" in w for w in result.warnings)


def test_a_dropped_autoincrement_table_leaves_nothing_that_fails(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "odd.db", isolation_level=None)
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT)")
    connection.execute("INSERT INTO t DEFAULT VALUES")
    connection.execute("DROP TABLE t")
    connection.close()
    round_trip(settings(tmp_path / "odd.db", "sql"), tmp_path)


def test_a_schema_that_cannot_be_read_is_refused_as_script(tmp_path: Path) -> None:
    path = tmp_path / "odd.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute(
        "INSERT INTO sqlite_schema VALUES ('view', 'v', 'v', 0, 'CREATE VIEW v AS ?future?')"
    )
    connection.close()
    with pytest.raises(SourceUnsupported, match=r"odd\.db") as caught:
        back_up(engine, settings(path, "sql"), tmp_path / "vault")
    assert 'format = "file"' in caught.value.fix


def test_a_script_cut_within_a_statement_is_tampered_with_not_restored(tmp_path: Path) -> None:
    path = tmp_path / "all.db"
    make(path)
    source = settings(path, "sql")
    results = back_up(engine, source, tmp_path / "vault")
    stored = tmp_path / "vault" / "all.sql.zst"
    script = zstandard.ZstdDecompressor().decompressobj().decompress(stored.read_bytes())
    stored.write_bytes(zstandard.ZstdCompressor().compress(script[: len(script) // 2]))
    place = tmp_path / "new" / "restored.db"
    place.parent.mkdir()
    with pytest.raises(BackupTampered, match=r"all\.sql\.zst"):
        run_restore(engine, restore_job(results, tmp_path / "vault", source, path=place))
    assert not list(place.parent.iterdir())
