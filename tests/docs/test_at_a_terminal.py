"""The stepvault commands of docs/restore.md, typed as they stand there, for files and SQLite."""

import sqlite3
from pathlib import Path

import pytest

from stepvault.catalog import Vault
from stepvault.settings import Config
from tests.cli.test_restore_by_hand import commands, contents, run
from tests.docs.terminal import Terminal


@pytest.fixture
def uploads(tmp_path: Path) -> Path:
    """A tree that has what the page names."""
    tree = tmp_path / "uploads"
    for name in ("invoices/17.pdf", "invoices/2026/18.pdf", "photos/a b\n.jpg", "invoices.txt"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(name)
    return tree


def back_up_files(vault: Vault, tree: Path) -> str:
    source = {"name": "uploads", "engine": "files", "path": str(tree)}
    return run(vault, Config.model_validate({"sources": [source]}), "nightly", 3)


def test_files_come_back_all_some_and_one(vault: Vault, terminal: Terminal, uploads: Path) -> None:
    back_up_files(vault, uploads)
    everything, some, one, _on_efs = commands("invoices/2026").splitlines()
    back = terminal.home / "uploads"
    for line, wanted in (
        (everything, contents(uploads)),
        (some, {"invoices/2026/18.pdf": b"invoices/2026/18.pdf"}),
        (one, {"invoices/17.pdf": b"invoices/17.pdf"}),
    ):
        terminal.type(line)
        assert contents(back) == wanted
        back.rename(terminal.home / f"seen-{len(list(terminal.home.iterdir()))}")


def test_a_sqlite_database_comes_back_and_is_compared(
    vault: Vault, terminal: Terminal, tmp_path: Path
) -> None:
    path = tmp_path / "tickets.sqlite"
    with sqlite3.connect(path) as writer:
        writer.execute("CREATE TABLE ticket AS SELECT 1 AS id")
    writer.close()
    source = {"name": "tickets", "engine": "sqlite", "path": str(path)}
    run(vault, Config.model_validate({"sources": [source]}), "nightly", 3)
    assert "equal" in terminal.type(commands("--to ./tickets.sqlite"))
    with sqlite3.connect(terminal.home / "tickets.sqlite") as reader:
        assert reader.execute("SELECT id FROM ticket").fetchall() == [(1,)]
    reader.close()


def test_runs_and_backups_are_found_as_the_page_says(
    vault: Vault, terminal: Terminal, uploads: Path
) -> None:
    run_id = back_up_files(vault, uploads)
    block = commands("stepvault runs").replace("shop", "uploads").replace("/RUN", f"/{run_id}")
    (terminal.home / ".aws").mkdir()
    (terminal.home / ".aws/config").write_text("[profile ops]\nregion = us-east-1\n")
    shown = terminal.type(block, AWS_PROFILE="ops")
    assert shown.count(run_id) >= 3
