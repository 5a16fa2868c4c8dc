"""The SQLite engine keeps the engines' contract, as files, as scripts and by pattern."""

import os
import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from stepvault.engines.sqlite import engine
from stepvault.models import SqliteSource, StoredObject
from tests.engines.contract import EngineContract, Rig, Target


def make_database(path: Path, megabytes: float = 0.1, mode: str = "WAL") -> None:
    """A database with awkward values; in WAL mode half of it is in the log."""
    rows = random.Random(path.name)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute(f"PRAGMA journal_mode = {mode}")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.executescript(
        """
        CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, price REAL, picture BLOB);
        CREATE INDEX item_name ON item (name);
        CREATE TABLE note (text);
        INSERT INTO note (rowid, text) VALUES
            (7, 'a' || char(0) || 'b'), (9, 'two' || char(10) || 'lines; ''quoted'''),
            (11, 1e999), (12, -9223372036854775808), (13, 0.1), (14, X''), (15, NULL), (16, '');
        PRAGMA user_version = 42;
        """
    )
    for half in range(2):
        connection.execute("BEGIN")
        for _ in range(int(megabytes * 64)):
            connection.execute(
                "INSERT INTO item (name, price, picture) VALUES (?, ?, ?)",
                (f"Größe {rows.random()}", rows.uniform(-1e9, 1e9), rows.randbytes(8_000)),
            )
        connection.execute("UPDATE item SET price = -price WHERE id % 3 = 0")
        connection.execute("COMMIT")
        if half == 0:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def content(path: Path) -> Any:
    """All rows of all tables with their row numbers, and the settings; None if there is no file."""
    if not path.exists():
        return None
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    connection.text_factory = bytes
    try:
        tables = [
            name.decode()
            for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type='table'")
        ]
        return (
            connection.execute("PRAGMA integrity_check").fetchall(),
            connection.execute("PRAGMA user_version").fetchall(),
            sorted(connection.execute("SELECT type, name, sql FROM sqlite_schema").fetchall()),
            {
                t: connection.execute(f'SELECT rowid, * FROM "{t}" ORDER BY rowid').fetchall()
                for t in tables
            },
        )
    finally:
        connection.close()


class SqliteRig(Rig):
    engine = engine
    form = "file"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made = 0

    def new(self, name: str) -> Path:
        self.made += 1
        folder = self.folder / f"place-{self.made}"
        folder.mkdir()
        return folder / name

    def settings(self, path: Path) -> SqliteSource:
        return SqliteSource(name="shop", engine="sqlite", path=str(path), format=self.form)

    def filled(self) -> Any:
        path = self.new("shop.db")
        make_database(path, 10)
        return self.settings(path)

    def empty(self) -> Any:
        path = self.new("empty.db")
        path.touch()
        return self.settings(path)

    def missing(self) -> Any:
        return self.settings(self.folder / "nowhere" / "shop.db")

    def target(self) -> Target:
        return {"path": self.new("restored.db")}

    def occupied(self, source: Any) -> Target:
        path = self.new("restored.db")
        make_database(path)
        return {"path": path}

    def content(self, where: Any) -> Any:
        return content(where["path"] if isinstance(where, dict) else Path(where.path))

    def content_of(self, stored: StoredObject, target: Target) -> Any:
        return list(target["path"].parent.iterdir())

    def interrupt(self, source: Any) -> None:
        os.truncate(source.path, 4_096)

    def damage(self, target: Target) -> None:
        change_a_value(target["path"])


def change_a_value(path: Path) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE item SET price = price + 1 WHERE id = 1")
    connection.close()


class ScriptRig(SqliteRig):
    form = "sql"


class PatternRig(SqliteRig):
    """Many databases below one folder, with names that are no object names."""

    names = ("a b/ö.db", "a b/Ö.DB", "deep/er/-x.db", ".hidden.db", "c/new\nline.db")

    def job(self, source: Any) -> dict[str, Any]:
        return {"connections": 2}

    def filled(self) -> Any:
        root = self.new("root")
        for number, name in enumerate(self.names):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            make_database(root / name, 9 if number == 0 else 0.1)
        (root / "readme.txt").write_text("not a database, not matched")
        return self.settings(root / "**" / "*.[dD][bB]")

    def empty(self) -> Any:
        path = self.new("empty.db")
        path.touch()
        return self.settings(path.parent / "*.db")

    def missing(self) -> Any:
        return self.settings(self.new("x") / "*.db")

    def occupied(self, source: Any) -> Target:
        target = self.target()
        (target["path"] / "a b").mkdir(parents=True)
        make_database(target["path"] / "a b" / "ö.db")
        return target

    def root(self, where: Any) -> Path:
        if isinstance(where, dict):
            return where["path"]
        return Path(where.path.partition("/*")[0])

    def content(self, where: Any) -> Any:
        root = self.root(where)
        files = sorted(p for p in root.rglob("*") if p.suffix.lower() == ".db")
        return {str(p.relative_to(root)): content(p) for p in files}

    def content_of(self, stored: StoredObject, target: Target) -> Any:
        return [p for p in target["path"].rglob("*") if p.is_file() and "ö" in p.name]

    def interrupt(self, source: Any) -> None:
        os.truncate(self.root(source) / self.names[0], 4_096)

    def damage(self, target: Target) -> None:
        change_a_value(target["path"] / self.names[2])


class TestFile(EngineContract):
    @pytest.fixture
    def rig(self, tmp_path: Path) -> Rig:
        return SqliteRig(tmp_path)


class TestScript(EngineContract):
    @pytest.fixture
    def rig(self, tmp_path: Path) -> Rig:
        return ScriptRig(tmp_path)


class TestPattern(EngineContract):
    @pytest.fixture
    def rig(self, tmp_path: Path) -> Rig:
        return PatternRig(tmp_path)
