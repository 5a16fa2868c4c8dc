"""docs/restore.md without Stepvault: its own commands, on a real vault's downloaded objects."""

import os
import re
import sqlite3
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from stepvault import keys
from stepvault.backup import back_up
from stepvault.catalog import Vault
from stepvault.plan import RunRequest
from stepvault.records import Execution
from stepvault.seal import SealRequest, seal
from stepvault.settings import Config
from tests.cli.conftest import units
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


def shell(script: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"VAULT": "a-vault"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


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


def test_the_hash_check_is_silent_or_names_what_is_damaged(
    vault: Vault, tree: Path, place: Path
) -> None:
    download(vault, "docs", run(vault, files_config(tree), "full", 3), place)
    check = commands("damaged:")
    assert shell(check, place) == ""
    pack = next((place / "data").glob("*.tar.zst"))
    pack.write_bytes(pack.read_bytes()[:-1] + b"x")
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
