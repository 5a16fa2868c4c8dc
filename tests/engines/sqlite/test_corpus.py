"""Many kinds of SQLite file: each comes back equal in both formats, and is told equal."""

import ctypes
import itertools
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from stepvault.engines.sqlite import engine
from tests.engines.driver import back_up, restore_job, run_restore
from tests.engines.sqlite.databases import Form, settings
from tests.engines.sqlite.test_script import EVERYTHING

FORMS: list[Form] = ["file", "sql"]
PAGE_SIZES = [1 << power for power in range(9, 17)]
ENCODINGS = ["UTF-8", "UTF-16le", "UTF-16be"]
MODES = ["DELETE", "PERSIST", "TRUNCATE", "WAL"]
VACUUM = ["NONE", "FULL", "INCREMENTAL"]
KINDS = [
    (page_size, ENCODINGS[(number + number // 4) % 3], mode, VACUUM[number // 3 % 3])
    for number, (page_size, mode) in enumerate(itertools.product(PAGE_SIZES, MODES))
]


def opened(path: Path) -> sqlite3.Connection:
    """A connection that leaves a log as it is."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)
    return connection


def content(path: Path) -> dict[str, Any]:
    """All values bit by bit with their storage classes and row numbers, the schema, the settings."""
    with closing(opened(path)) as connection:
        connection.text_factory = bytes
        tables = connection.execute(
            "SELECT name, type, wr FROM pragma_table_list WHERE schema = 'main' "
            "AND type IN ('table', 'shadow') AND name NOT IN ('sqlite_schema', 'sqlite_stat4')"
        ).fetchall()
        return {
            "rows": {name: rows_of(connection, name.decode(), bool(wr)) for name, _, wr in tables},
            "schema": sorted(
                connection.execute(
                    "SELECT type, name, tbl_name, sql FROM sqlite_schema "
                    "WHERE name <> 'sqlite_stat4'"
                ).fetchall(),
                key=repr,
            ),
            "settings": [
                connection.execute(f"PRAGMA {name}").fetchone()
                for name in ("encoding", "user_version", "application_id", "auto_vacuum")
            ],
            "sound": connection.execute("PRAGMA integrity_check").fetchall(),
        }


def rows_of(connection: sqlite3.Connection, table: str, without_rowid: bool) -> list[Any]:
    quoted = '"' + table.replace('"', '""') + '"'
    columns = [
        '"' + name.decode().replace('"', '""') + '"'
        for _, name, *_, hidden in connection.execute(f"PRAGMA table_xinfo({quoted})")
        if hidden != 1
    ]
    numbered = not without_rowid and not table.startswith("sqlite_")
    names = {c.lower() for c in columns}
    rowid = next(n for n in ("rowid", "_rowid_", "oid", "") if f'"{n}"' not in names)
    wanted = [rowid, *columns] if numbered and rowid else columns
    rows = []
    for name in range(0, len(wanted), 500):
        part = wanted[name : name + 500]
        listed = ", ".join(f"typeof({c}), CAST({c} AS BLOB), {c}" for c in part)
        rows += [repr(row) for row in connection.execute(f"SELECT {listed} FROM {quoted}")]
    return sorted(rows)


def check(path: Path, form: Form) -> None:
    """Back up, restore, and compare: by the engine and by what a reader sees."""
    before = content(path)
    vault, place = path.parent / f"vault-{form}", path.parent / f"restored-{form}.db"
    source = settings(path, form)
    (result,) = back_up(engine, source, vault)
    job = restore_job(result, vault, source, path=place)
    run_restore(engine, job)
    assert engine.differences(job) == []
    run_restore(engine, job)  # recognised as what it is, not refused
    assert content(place) == before
    assert content(path) == before


@pytest.mark.parametrize(
    ("page_size", "encoding", "mode", "vacuum"), KINDS, ids=["-".join(map(str, k)) for k in KINDS]
)
def test_every_kind_of_file_comes_back(
    tmp_path: Path, page_size: int, encoding: str, mode: str, vacuum: str
) -> None:
    path = tmp_path / "all.db"
    with closing(opened(path)) as connection:
        connection.execute(f"PRAGMA page_size = {page_size}")
        connection.execute(f"PRAGMA encoding = '{encoding}'")
        connection.execute(f"PRAGMA auto_vacuum = {vacuum}")
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.executescript(EVERYTHING)
        connection.execute("CREATE TABLE big (b)")
        connection.execute("INSERT INTO big VALUES (zeroblob(300000)), (randomblob(70000))")
        connection.execute("DELETE FROM big WHERE rowid = 1")
    for form in FORMS:
        check(path, form)


SPECIAL = {
    "nothing": "",
    "settings only": "PRAGMA user_version = 5; PRAGMA application_id = -2",
    "an empty table": "CREATE TABLE t (a)",
    "the ends of row numbers": "CREATE TABLE t (a); INSERT INTO t (rowid, a) VALUES "
    "(9223372036854775807, 1), (-9223372036854775808, 2), (0, 3)",
    "the ends of integers": "CREATE TABLE t (i INTEGER, n NUMERIC, a); INSERT INTO t VALUES "
    "(9223372036854775807, 9223372036854775807, -9223372036854775808), "
    "(-9223372036854775808, -9223372036854775808, 9223372036854775807), (0, -1, 1)",
    "every affinity": "CREATE TABLE t (i INT, t TEXT, b BLOB, r REAL, n NUMERIC, x, d DECIMAL(9,2),"
    " v VARCHAR(3), f FLOATING POINT); INSERT INTO t VALUES ('12', 12, 12, 12, '12', 12, '1.50', 5,"
    " 7), ('x', 1.5, 'x', 'x', '1e3', '1', 'x', x'01', 'x'), (1.5, x'02', 1.5, x'03', 1e30, 2.0, "
    "1e400, 'long text', -0.0), (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
    "odd names": 'CREATE TABLE "a\nb" ("c\nd" INT, "" TEXT, "x""y" INT, "--" INT, "/*" INT, "q;" INT);'
    ' INSERT INTO "a\nb" VALUES (1, 2, 3, 4, 5, 6); CREATE INDEX "i;\nj" ON "a\nb" ("c\nd", "");'
    ' CREATE TABLE "" (a); INSERT INTO "" VALUES (1); CREATE TABLE [br[a] (a); INSERT INTO [br[a] '
    "VALUES (2); CREATE TABLE `back``tick` (a); CREATE TABLE 'str' (a)",
    "names that hide the row number": "CREATE TABLE t (rowid TEXT, oid INT); INSERT INTO t "
    "(_rowid_, rowid, oid) VALUES (5, 'a', 1), (3, 'b', 2); CREATE TABLE u (ROWID INTEGER PRIMARY KEY,"
    " a); INSERT INTO u VALUES (7, 1)",
    "comments in definitions": "CREATE TABLE t (a /* ; */, b -- ;\n, c) -- end;\n; INSERT INTO t VALUES "
    "(1, 2, 3); CREATE VIEW v AS SELECT a FROM t /* last */; CREATE INDEX i ON t (a) -- last;\n",
    "triggers that would fire": "CREATE TABLE t (a); CREATE TABLE log (a); INSERT INTO t VALUES (1); "
    "CREATE TRIGGER r BEFORE INSERT ON t BEGIN SELECT RAISE(ABORT, 'no'); END; CREATE TRIGGER s AFTER "
    "INSERT ON log BEGIN DELETE FROM t; END; INSERT INTO log SELECT 2 WHERE 0",
    "keys that point at each other": "CREATE TABLE a (id INTEGER PRIMARY KEY, b REFERENCES b (id)); "
    "CREATE TABLE b (id INTEGER PRIMARY KEY, a REFERENCES a (id) DEFERRABLE INITIALLY DEFERRED); "
    "INSERT INTO a VALUES (1, 2); INSERT INTO b VALUES (2, 1), (3, 99)",
    "conflict clauses": "CREATE TABLE t (a UNIQUE ON CONFLICT REPLACE, b NOT NULL ON CONFLICT IGNORE "
    "DEFAULT 5, c CHECK (c > 0) DEFAULT (1 + 1)); INSERT INTO t VALUES (1, 2, 3), (NULL, 1, 1), "
    "(NULL, 2, 2)",
    "unique nulls and collations": "CREATE TABLE t (a TEXT COLLATE NOCASE UNIQUE, b TEXT COLLATE RTRIM"
    " PRIMARY KEY); INSERT INTO t VALUES (NULL, 'x '), (NULL, 'y'), ('A', NULL), ('b', NULL)",
    "descending keys": "CREATE TABLE t (id INTEGER PRIMARY KEY DESC, a); INSERT INTO t VALUES (3, 1), "
    "(1, 2); CREATE TABLE u (a INT, PRIMARY KEY (a DESC)) WITHOUT ROWID; INSERT INTO u VALUES (1), (2);"
    " CREATE INDEX d ON t (a DESC, id)",
    "keys of two columns without rows' numbers": "CREATE TABLE t (a, b, c, PRIMARY KEY (b COLLATE NOCASE,"
    " a)) WITHOUT ROWID; INSERT INTO t VALUES (1, 'x', 1.5), (2, 'X ', NULL), (x'00', 'x', '')",
    "generated columns": "CREATE TABLE t (a INT, b INT GENERATED ALWAYS AS (a + 1) VIRTUAL, c TEXT AS "
    "(a || 'x') STORED NOT NULL, d); INSERT INTO t (a, d) VALUES (1, 2), (3, NULL); CREATE INDEX i ON t"
    " (b); CREATE UNIQUE INDEX u ON t (c)",
    "strict tables": "CREATE TABLE t (i INT, j INTEGER, r REAL, t TEXT, b BLOB, a ANY) STRICT; INSERT "
    "INTO t VALUES (1, 2, 3, '4', x'05', 6.0), (NULL, NULL, 1e300, '', x'', '07'); CREATE TABLE u "
    "(a ANY PRIMARY KEY) STRICT, WITHOUT ROWID; INSERT INTO u VALUES (1), ('1'), (x'01'), (1.5)",
    "columns added later": "CREATE TABLE t (a); INSERT INTO t VALUES (1); ALTER TABLE t ADD COLUMN b "
    "DEFAULT 'x'; ALTER TABLE t ADD COLUMN c INT NOT NULL DEFAULT 7; INSERT INTO t (a) VALUES (2); "
    "ALTER TABLE t DROP COLUMN a; ALTER TABLE t RENAME COLUMN b TO z; ALTER TABLE t RENAME TO s",
    "autoincrement": "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO t VALUES (50);"
    " DELETE FROM t; CREATE TABLE u (id INTEGER PRIMARY KEY AUTOINCREMENT, a); INSERT INTO u (a) VALUES "
    "(1); CREATE TABLE never (id INTEGER PRIMARY KEY AUTOINCREMENT)",
    "statistics": "CREATE TABLE t (a, b); CREATE INDEX i ON t (a, b); CREATE INDEX j ON t (b); INSERT "
    "INTO t SELECT value, value % 7 FROM generate_series_of_ours; ANALYZE",
    "full text 3": "CREATE VIRTUAL TABLE f USING fts3 (a, b); INSERT INTO f VALUES ('one two', 'three');"
    " INSERT INTO f VALUES ('x', NULL); DELETE FROM f WHERE docid = 1",
    "full text 4": "CREATE VIRTUAL TABLE f USING fts4 (a, tokenize=porter, prefix='2'); INSERT INTO f "
    "VALUES ('running'), ('ran'); CREATE TABLE d (id INTEGER PRIMARY KEY, a); CREATE VIRTUAL TABLE e "
    "USING fts4 (content='d', a); INSERT INTO d VALUES (1, 'word'); INSERT INTO e (docid, a) "
    "SELECT id, a FROM d",
    "full text 5": "CREATE TABLE d (id INTEGER PRIMARY KEY, a); CREATE VIRTUAL TABLE e USING fts5 (a, "
    "content='d', content_rowid='id'); INSERT INTO d VALUES (1, 'word'), (2, 'other'); INSERT INTO e "
    "(e) VALUES ('rebuild'); CREATE VIRTUAL TABLE n USING fts5 (x, content=''); INSERT INTO n (rowid, x)"
    " VALUES (4, 'gone'); CREATE VIRTUAL TABLE w USING fts5vocab (e, row); CREATE TRIGGER r AFTER INSERT"
    " ON d BEGIN INSERT INTO e (rowid, a) VALUES (new.id, new.a); END",
    "trees of rectangles": "CREATE VIRTUAL TABLE r USING rtree_i32 (id, x0, x1, y0, y1, +note); INSERT "
    "INTO r VALUES (1, 0, 5, -5, 7, 'a'), (2, 1, 1, 1, 1, NULL)",
    "views of what is not there": "CREATE TABLE t (a); CREATE VIEW v AS SELECT * FROM t; CREATE VIEW w (x)"
    " AS SELECT a FROM v; CREATE TEMP TABLE gone (a); DROP TABLE t; INSERT INTO gone VALUES (1)",
    "text that is no text": "CREATE TABLE t (a TEXT, b); INSERT INTO t VALUES (CAST(x'ff00fe' AS TEXT), "
    "CAST(x'00' AS TEXT)), (CAST(x'eda080' AS TEXT), CAST(x'c080' AS TEXT)), (char(65533), char(0, 65))",
    "lines in values": "CREATE TABLE t (a); INSERT INTO t VALUES (char(10)), (char(13, 10)), "
    "('x;' || char(10)), ('\\n' || char(10)), ('end' || char(10) || 'COMMIT;' || char(10)), "
    "(char(8232, 133, 12))",
    "many columns": f"CREATE TABLE t ({', '.join(f'c{n}' for n in range(1_900))}); "
    f"INSERT INTO t VALUES ({', '.join(str(n / 7) for n in range(1_900))})",
    "a long row": "CREATE TABLE t (a); INSERT INTO t VALUES (zeroblob(3000000)), "
    "(hex(zeroblob(1000000)))",
    "a definition of a table from a query": "CREATE TABLE t AS SELECT 1 AS a, 'x' AS b, 2.5 AS \"c d\"",
    "double quotes for strings": 'CREATE TABLE t (a DEFAULT "text", b CHECK (b <> "none")); '
    "INSERT INTO t (b) VALUES ('x')",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("statements", SPECIAL.values(), ids=SPECIAL)
def test_special_content_comes_back(tmp_path: Path, statements: str, form: Form) -> None:
    path = tmp_path / "x.db"
    with closing(opened(path)) as connection:
        numbers = (
            "(WITH RECURSIVE n (value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n LIMIT 500)"
        )
        connection.executescript(
            statements.replace("generate_series_of_ours", f"{numbers} SELECT value FROM n)")
        )
    check(path, form)


def never_written(path: Path) -> None:
    path.touch()


def reserved_bytes(path: Path) -> None:
    with closing(apsw.Connection(str(path))) as connection:
        size = ctypes.c_int(32)
        reserve = apsw.SQLITE_FCNTL_RESERVE_BYTES
        connection.file_control("main", reserve, ctypes.addressof(size))
        connection.execute("CREATE TABLE t (a); INSERT INTO t VALUES (randomblob(20000)); VACUUM")
    assert path.read_bytes()[20] == 32


def legacy_format(path: Path) -> None:
    with closing(opened(path)) as connection:
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_LEGACY_FILE_FORMAT, True)
        connection.execute("CREATE TABLE t (a)")
        connection.execute("CREATE INDEX i ON t (a DESC)")
        connection.execute("INSERT INTO t VALUES (1), (2)")
    assert path.read_bytes()[47] == 1


def a_log_of_two_checkpoints(path: Path) -> None:
    with closing(opened(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("CREATE TABLE t (a)")
        for number in range(3):
            connection.execute("INSERT INTO t VALUES (randomblob(9000))")
            if number < 2:
                connection.execute("PRAGMA wal_checkpoint").fetchall()


def shrunk_in_the_log(path: Path) -> None:
    a_log_of_two_checkpoints(path)
    with closing(opened(path)) as connection:
        connection.execute("DELETE FROM t WHERE rowid < 3")
        connection.execute("VACUUM")


def a_journal_left_persisting(path: Path) -> None:
    with closing(opened(path)) as connection:
        connection.execute("PRAGMA journal_mode = PERSIST")
        connection.executescript("CREATE TABLE t (a); INSERT INTO t VALUES (1)")
    assert Path(f"{path}-journal").exists()


def written_by_the_newest(path: Path) -> None:
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("CREATE TABLE t (a); INSERT INTO t VALUES (0.1 + 0.2), (1e-320)")


def longer_than_it_says(path: Path) -> None:
    written_by_the_newest(path)
    with path.open("ab") as file:
        file.write(bytes(8_192))


MADE: list[Callable[[Path], None]] = [
    never_written, reserved_bytes, legacy_format, a_log_of_two_checkpoints, shrunk_in_the_log,
    a_journal_left_persisting, written_by_the_newest, longer_than_it_says,
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", MADE, ids=[make.__name__ for make in MADE])
def test_special_files_come_back(tmp_path: Path, make: Callable[[Path], None], form: Form) -> None:
    path = tmp_path / "x.db"
    make(path)
    check(path, form)


@pytest.mark.parametrize("form", FORMS)
def test_a_last_bit_of_a_number_is_a_difference(tmp_path: Path, form: Form) -> None:
    """Not so in a comparison by decimals of fifteen digits."""
    path = tmp_path / "x.db"
    with closing(opened(path)) as connection:
        connection.executescript("CREATE TABLE t (a); INSERT INTO t VALUES (0.1 + 0.2)")
    source = settings(path, form)
    job = restore_job(
        back_up(engine, source, tmp_path / "vault"),
        tmp_path / "vault",
        source,
        path=tmp_path / "new.db",
    )
    run_restore(engine, job)
    with closing(opened(tmp_path / "new.db")) as connection:
        connection.execute("UPDATE t SET a = 0.3")
    assert engine.differences(job)
