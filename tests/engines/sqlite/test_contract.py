"""The SQLite engine keeps the engines' contract, as files, as scripts and by pattern."""

import os
from pathlib import Path
from typing import Any

import pytest

from stepvault.engines.sqlite import engine
from stepvault.records import StoredObject
from stepvault.settings import SqliteSource
from tests.engines.contract import EngineContract, Rig, Target
from tests.engines.sqlite.databases import Form, change_a_value, content, make_database


class SqliteRig(Rig):
    engine = engine
    form: Form = "file"

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


class ScriptRig(SqliteRig):
    form = "sql"


class PatternRig(SqliteRig):
    """Many databases below one folder, with names that are no object names."""

    names = (
        "a b/ö.db", "a b/Ö.DB", "deep/er/-x.db", ".hidden.db", "c/new\nline.db", "50% #1?.db",
        os.fsdecode(b"c/not text \xff.db"),
    )  # fmt: skip

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
        path = where["path"] if isinstance(where, dict) else where.path.partition("/*")[0]
        return Path(path)

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
