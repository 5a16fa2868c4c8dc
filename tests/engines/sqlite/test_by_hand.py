"""docs/restore.md for SQLite without Stepvault: its own commands, as root and as a user."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stepvault.engines.sqlite import engine
from stepvault.settings import SqliteSource
from tests.engines.driver import back_up
from tests.engines.sqlite.databases import Form, content, make_database
from tests.engines.sqlite.test_script import EVERYTHING
from tests.engines.sqlite.test_sources import Folder

PAGE = (Path(__file__).parents[3] / "docs" / "restore.md").read_text()
NAMES = [
    "plain.db", "a b/ö.db", "c/new\nline.db", "Icon\r.db", "50% #1?.db", ".hidden.db",
    os.fsdecode(b"c/not text \xff.db"), f"{'n' * 252}.db",
]  # fmt: skip


def commands(holding: str) -> str:
    """The one block of the page that holds that text."""
    blocks = re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)
    (found,) = [block for block in blocks if holding in block]
    return str(found)


@pytest.fixture(params=["root", "user"])
def person(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Who restores: what ``subprocess.run`` has to be given for that."""
    if os.geteuid() != 0:
        return {}
    return {} if request.param == "root" else {"user": 65534, "group": 65534, "extra_groups": []}


@pytest.fixture
def place() -> Iterator[Path]:
    """Where the downloads go: a folder that any user can get to."""
    folder = Path(tempfile.mkdtemp(prefix="stepvault-by-hand-"))
    yield folder
    shutil.rmtree(folder)


def download(source: SqliteSource, place: Path, person: dict[str, Any], **job: Any) -> None:
    (result,) = back_up(engine, source, place / "data", **job)
    objects = [stored.model_dump(mode="json") for stored in result.objects]
    (place / "manifest.json").write_text(json.dumps({"objects": objects}))
    for path in (place, *place.rglob("*")) if person else ():
        os.chown(path, person["user"], person["group"])


def shell(script: str, place: Path, person: dict[str, Any]) -> "subprocess.CompletedProcess[str]":
    command = ["bash", "-euo", "pipefail", "-c", script]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, **person)


def rights(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_mode & 0o777, status.st_uid, status.st_gid


@pytest.mark.parametrize("form", ["file", "sql"])
def test_many_databases_come_back_with_names_modes_and_owners(
    tmp_path: Path, place: Path, person: dict[str, Any], form: Form
) -> None:
    root = tmp_path / "apps"
    for number, name in enumerate(NAMES):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        make_database(tmp_path / "made.db", mode="DELETE")
        (tmp_path / "made.db").rename(root / name)
        (root / name).chmod([0o600, 0o640, 0o444][number % 3])
        if os.geteuid() == 0:
            os.chown(root / name, 1000 + number, 2000)
    source = SqliteSource(name="apps", engine="sqlite", path=f"{root}/**/*.db", format=form)
    download(source, place, person)
    done = shell(commands("unquote_to_bytes"), place, person)
    assert done.returncode == 0, done.stderr
    restored = place / "restored"
    assert sorted(str(p.relative_to(restored)) for p in restored.rglob("*") if p.is_file()) == (
        sorted(NAMES)
    )
    for name in NAMES:
        assert content(restored / name) == content(root / name)
        if form == "file":
            assert (restored / name).read_bytes() == (root / name).read_bytes()
        mode, uid, gid = rights(root / name)
        assert rights(restored / name) == (
            (mode, person["user"], person["group"]) if person else (mode, uid, gid)
        )


def test_a_script_with_everything_runs(tmp_path: Path, place: Path, person: dict[str, Any]) -> None:
    from tests.engines.sqlite.test_script import content as all_of

    path = tmp_path / "all.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA encoding = 'UTF-16le'")
    connection.executescript(EVERYTHING)
    connection.execute("INSERT INTO odd_text VALUES (CAST(X'00d8' AS TEXT))")
    connection.execute("INSERT INTO child (n) VALUES (0.1 + 0.2)")
    connection.close()
    download(SqliteSource(name="all", engine="sqlite", path=str(path), format="sql"), place, person)
    done = shell(commands("unquote_to_bytes"), place, person)
    assert done.returncode == 0, done.stderr
    assert all_of(place / "restored" / "all.db") == all_of(path)


@pytest.mark.parametrize("form", ["file", "sql"])
def test_an_object_that_is_cut_short_is_told(
    tmp_path: Path, place: Path, person: dict[str, Any], form: Form
) -> None:
    make_database(tmp_path / "x.db", mode="DELETE")
    source = SqliteSource(name="x", engine="sqlite", path=str(tmp_path / "x.db"), format=form)
    download(source, place, person)
    (stored,) = (place / "data").iterdir()
    os.truncate(stored, stored.stat().st_size // 2)
    done = shell(commands("unquote_to_bytes"), place, person)
    assert done.returncode != 0
    assert stored.name in done.stderr


def test_objects_of_a_bucket_come_back_without_a_mode(
    tmp_path: Path, place: Path, person: dict[str, Any]
) -> None:
    (tmp_path / "bucket").mkdir()
    make_database(tmp_path / "bucket" / "x.db", mode="DELETE")
    source = SqliteSource(name="x", engine="sqlite", path="s3://bucket/*.db")
    download(source, place, person, buckets=Folder(tmp_path))
    assert shell(commands("unquote_to_bytes"), place, person).returncode == 0
    assert content(place / "restored" / "x.db") == content(tmp_path / "bucket" / "x.db")


def test_one_file_needs_zstd_only(tmp_path: Path, place: Path, person: dict[str, Any]) -> None:
    make_database(tmp_path / "tickets.sqlite")
    source = SqliteSource(name="tickets", engine="sqlite", path=f"{tmp_path}/tickets.sqlite")
    download(source, place, person)
    unpack, check, *_ = commands("zstd -d data/tickets.sqlite.zst").splitlines()
    assert shell(unpack, place, person).returncode == 0
    assert content(place / "tickets.sqlite") == content(tmp_path / "tickets.sqlite")
    if shutil.which("sqlite3"):
        assert shell(check, place, person).stdout == "ok\n"
