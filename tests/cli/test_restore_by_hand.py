"""docs/restore.md without Stepvault: its own commands, on a real vault's downloaded objects."""

import os
import re
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from stepvault import keys
from stepvault.backup import back_up
from stepvault.catalog import Vault
from stepvault.engines.files.backup import batches
from stepvault.plan import RunRequest
from stepvault.records import Execution
from stepvault.seal import SealRequest, seal
from stepvault.settings import Config
from tests.cli.conftest import units
from tests.engines.files import trees
from tests.planning import whole_plan

PAGE = (Path(__file__).parents[2] / "docs" / "restore.md").read_text()


def commands(holding: str) -> str:
    """The one block of the page that holds that text."""
    blocks = re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)
    (found,) = [block for block in blocks if holding in block]
    return str(found)


def run(vault: Vault, config: Config, name: str, hour: int) -> str:
    started = datetime(2026, 11, 22, hour, tzinfo=UTC)
    request = RunRequest(execution=Execution(name=name, started=started))
    for unit in units(vault, whole_plan(config, vault, request)):
        back_up(unit, vault)
    seal(vault, SealRequest(run_id=request.run_id))
    return request.run_id


def download(vault: Vault, source: str, run_id: str, to: Path) -> None:
    """What ``aws s3 sync`` and ``aws s3 cp`` of the page fetch."""
    for name in (keys.manifest(source, run_id), *_data(vault, source, run_id)):
        path = to / name.removeprefix(keys.backup_prefix(source, run_id))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(vault.get(name) or b"")


def _data(vault: Vault, source: str, run_id: str) -> list[str]:
    return [entry.key for entry in vault.entries(keys.data_prefix(source, run_id))]


def shell(script: str, folder: Path, **person: Any) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"VAULT": "a-vault"},
        **person,
    )
    assert done.returncode == 0, done.stderr
    output: str = done.stdout
    return output


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the downloads go."""
    folder = tmp_path / "download"
    folder.mkdir()
    return folder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree, with a name that needs care."""
    folder = tmp_path / "tree"
    (folder / "a").mkdir(parents=True)
    for n in range(60):
        (folder / "a" / f"{n}.txt").write_text(f"file {n}\n" * 100)
        os.utime(folder / "a" / f"{n}.txt", (1_700_000_000, 1_700_000_000))
    (folder / "a" / "tab\tand%.txt").write_text("odd")
    (folder / "big.bin").write_bytes(os.urandom(2_000_000))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def files_config(tree: Path) -> Config:
    source = {"name": "docs", "engine": "files", "path": str(tree)}
    return Config.model_validate({"sources": [source]})


def test_tar_unpacks_the_packs(vault: Vault, tree: Path, place: Path) -> None:
    download(vault, "docs", run(vault, files_config(tree), "full", 3), place)
    shell(commands("for pack in"), place)
    assert contents(place / "out") == contents(tree)


@pytest.mark.parametrize("unchanged_since", [False, True])
def test_an_incremental_backup_is_put_together_from_its_indexes(
    vault: Vault, tree: Path, place: Path, *, unchanged_since: bool
) -> None:
    """Or, where nothing has changed since, from those of the backup before."""
    time.sleep(0.06)  # what was written in the last tick is never taken for unchanged
    run(vault, files_config(tree), "first", 3)
    (tree / "a" / "1.txt").write_text("changed")
    (tree / "a" / "2.txt").unlink()
    (tree / "new.txt").write_text("new")
    time.sleep(0.06)  # what was written in the last tick is never taken for unchanged
    latest = run(vault, files_config(tree), "second", 4)
    if unchanged_since:
        latest = run(vault, files_config(tree), "third", 5)
        assert vault.manifest("docs", latest).stored_bytes == 0
        assert vault.manifest("docs", latest).files == 62
    download(vault, "docs", latest, place)
    listing = commands("xargs -r -n 2 aws s3 cp").replace(" | xargs -r -n 2 aws s3 cp", "")
    fetched = shell(listing, place)
    for line in fetched.splitlines():
        url, path = line.split()
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(vault.get(url.removeprefix("s3://a-vault/")) or b"")
    shell(commands("--no-recursion"), place)
    assert contents(place / "out") == contents(tree)


@pytest.fixture(params=["root", "user"])
def person(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Who restores: what ``subprocess.run`` has to be given for that."""
    return {} if request.param == "root" else {"user": 65534, "group": 65534, "extra_groups": []}


@pytest.fixture
def open_place() -> Iterator[Path]:
    """Where the downloads go, of a user without privileges."""
    folder = Path(tempfile.mkdtemp(prefix="stepvault-by-hand-"))
    yield folder
    shutil.rmtree(folder)


def belongs_to(person: dict[str, Any], folder: Path) -> None:
    if person:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, person["user"], person["group"])


def difference(person: dict[str, Any], one: Path, two: Path, *, attributes: str = "AX") -> str:
    """What rsync would change: for a user, of all but the owners."""
    kept = "-rlptHn" if person else "-aHn"
    done = subprocess.run(
        [
            "rsync",
            f"{kept}{attributes}",
            "--checksum",
            "--delete",
            "--itemize-changes",
            f"{one}/",
            f"{two}/",
        ],
        check=True,
        capture_output=True,
    )
    return done.stdout.decode(errors="backslashreplace")


def nasty(folder: Path) -> Path:
    """The tree with all that has ever broken an archiver, and what broke this page's script."""
    trees.nasty(folder)
    (folder / "read-only" / "inside").mkdir(parents=True)
    (folder / "read-only" / "inside" / "file").write_text("content")
    (folder / "huge").write_bytes(os.urandom(5 << 20))
    with (folder / "huge-holes").open("wb") as file:
        file.truncate(6 << 20)
        file.seek(5 << 20)
        file.write(os.urandom(1 << 20))
        file.seek(0)
        file.write(os.urandom(4 << 20))
    (folder / "huge").chmod(0o444)
    os.setxattr(folder / "huge", "user.note", b"kept")
    os.symlink("nowhere", folder / "a-link")
    os.link(folder / "a-link", folder / "b-link", follow_symlinks=False)
    for path in (folder / "read-only" / "inside", folder / "read-only"):
        os.utime(path, ns=(0, 1_333_333_333_333_333_333))
        path.chmod(0o555)
    return folder


@pytest.fixture
def in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SPLIT_ABOVE", 4 << 20)
    monkeypatch.setattr(batches, "SPLIT_INTO", 2 << 20)


def small_units(tree: Path, **settings: Any) -> Config:
    """Many packs, so that directories, links and files are in different ones."""
    source = {"name": "docs", "engine": "files", "path": str(tree), **settings}
    return Config.model_validate({"sources": [source], "limits": {"batch_files": 15}})


def fetch_older(vault: Vault, place: Path) -> None:
    listing = commands("xargs -r -n 2 aws s3 cp").replace(" | xargs -r -n 2 aws s3 cp", "")
    for line in shell(listing, place).splitlines():
        url, path = line.split()
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(vault.get(url.removeprefix("s3://a-vault/")) or b"")


def test_tar_unpacks_any_full_backup(
    vault: Vault, tmp_path: Path, open_place: Path, person: dict[str, Any]
) -> None:
    tree = nasty(tmp_path / "tree")
    download(vault, "docs", run(vault, small_units(tree), "full", 3), open_place)
    belongs_to(person, open_place)
    shell(commands("for pack in"), open_place, **person)
    assert difference(person, tree, open_place / "out", attributes="") == ""


@pytest.mark.usefixtures("in_pieces")
def test_the_script_puts_any_full_backup_together(
    vault: Vault, tmp_path: Path, open_place: Path, person: dict[str, Any]
) -> None:
    tree = nasty(tmp_path / "tree")
    download(vault, "docs", run(vault, small_units(tree), "full", 3), open_place)
    belongs_to(person, open_place)
    shell(commands("--no-recursion"), open_place, **person)
    assert difference(person, tree, open_place / "out") == ""


@pytest.mark.usefixtures("in_pieces")
def test_the_script_puts_any_chain_of_backups_together(
    vault: Vault, tmp_path: Path, open_place: Path, person: dict[str, Any]
) -> None:
    """Of files with several names the first is excluded since; times of directories are as now."""
    tree = nasty(tmp_path / "tree")
    time.sleep(0.06)  # what was written in the last tick is never taken for unchanged
    run(vault, small_units(tree), "first", 3)
    (tree / "read-only" / "inside" / "file").write_text("changed")
    (tree / "sub" / "new").write_text("new")
    (tree / "empty").unlink()
    os.utime(tree / "sub", ns=(0, 1_444_444_444_444_444_444))
    time.sleep(0.06)
    run(vault, small_units(tree), "second", 4)
    excluded = ["/another-name", "/a-link"]
    latest = run(vault, small_units(tree, exclude=excluded), "third", 5)
    download(vault, "docs", latest, open_place)
    fetch_older(vault, open_place)
    belongs_to(person, open_place)
    shell(commands("--no-recursion"), open_place, **person)
    before = tree.stat()
    for name in excluded:
        (tree / name[1:]).unlink()
    os.utime(tree, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert difference(person, tree, open_place / "out") == ""


def test_the_hash_check_is_silent_or_names_what_is_damaged(
    vault: Vault, tree: Path, place: Path
) -> None:
    download(vault, "docs", run(vault, files_config(tree), "full", 3), place)
    check = commands("damaged:")
    assert shell(check, place) == ""
    pack = next((place / "data").glob("*.tar.zst"))
    data = pack.read_bytes()
    pack.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert shell(check, place) == f"damaged: data/{pack.name}\n"


def test_zstd_gives_a_sqlite_database_that_is_whole(
    vault: Vault, tmp_path: Path, place: Path
) -> None:
    path = tmp_path / "tickets.sqlite"
    writer = sqlite3.connect(path)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("CREATE TABLE ticket (id INTEGER PRIMARY KEY)")
    writer.executemany("INSERT INTO ticket VALUES (?)", ((n,) for n in range(1000)))
    writer.commit()
    source = {"name": "tickets", "engine": "sqlite", "path": str(path)}
    run_id = run(vault, Config.model_validate({"sources": [source]}), "full", 3)
    writer.close()
    download(vault, "tickets", run_id, place)
    shell(commands("zstd -d data/tickets.sqlite.zst").splitlines()[0], place)
    reader = sqlite3.connect(place / "tickets.sqlite")
    assert reader.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert reader.execute("SELECT count(*) FROM ticket").fetchone() == (1000,)
    reader.close()
