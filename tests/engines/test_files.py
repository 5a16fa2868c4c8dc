"""The engine contract, for directory trees."""

import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from stepvault.engines.files import engine
from stepvault.records import StoredObject
from stepvault.settings import FilesSource
from tests.engines.contract import EngineContract, Rig
from tests.engines.files import trees


class FilesRig(Rig):
    engine = engine

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made = 0

    def new(self, name: str) -> Path:
        self.made += 1
        return self.folder / f"{name}-{self.made}"

    def filled(self) -> FilesSource:
        root = self.new("source")
        trees.lifelike(root)
        return trees.source(root)

    def empty(self) -> FilesSource:
        root = self.new("source")
        root.mkdir()
        return trees.source(root)

    def missing(self) -> FilesSource:
        return trees.source(self.new("missing"))

    def target(self) -> dict[str, Any]:
        return {"path": self.new("target")}

    def occupied(self, source: FilesSource) -> dict[str, Any]:
        target = self.new("occupied")
        (target / "d0").mkdir(parents=True)
        (target / "large.bin").write_text("older")
        (target / "d0" / "own").write_text("somebody's own")
        return {"path": target}

    def content(self, where: Any) -> Any:
        root = Path(where["path"] if isinstance(where, dict) else where.path)
        return {str(p.relative_to(root)): _facts(p) for p in [root, *root.rglob("*")] if _is(p)}

    def content_of(self, stored: StoredObject, target: dict[str, Any]) -> Any:
        visible = [p for p in target["path"].rglob("*") if ".stepvault" not in str(p)]
        return [p for p in visible if p.is_file()]

    def interrupt(self, source: FilesSource) -> None:
        shutil.rmtree(source.path)

    def damage(self, target: dict[str, Any]) -> None:
        path = target["path"] / "large.bin"
        status = path.stat()
        with path.open("r+b") as file:
            file.seek(1000)
            file.write(b"!")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _is(path: Path) -> bool:
    return path.is_symlink() or path.exists()


def _facts(path: Path) -> tuple[Any, ...]:
    status = path.lstat()
    content: Any = None
    if stat.S_ISLNK(status.st_mode):
        content = path.readlink()
    elif stat.S_ISREG(status.st_mode):
        content = path.read_bytes()
    return stat.filemode(status.st_mode), status.st_uid, status.st_mtime_ns, content


class TestContract(EngineContract):
    @pytest.fixture
    def rig(self, tmp_path: Path) -> FilesRig:
        return FilesRig(tmp_path)
