"""Modes, attributes and ACLs, where they stand in each other's way."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stepvault.engines.files import engine
from stepvault.records import RestoreOptions
from tests.engines.driver import back_up, restore_job, run_restore
from tests.engines.files import trees


def restored(root: Path, folder: Path, **settings: Any) -> Path:
    """What comes back of the tree, below a target that may be there already."""
    source = trees.source(root, **settings)
    results = back_up(engine, source, folder / "vault")
    job = restore_job(results, folder / "vault", source, path=folder / "restored")
    run_restore(engine, job)
    assert engine.differences(job) == []
    return folder / "restored"


def acl(path: Path) -> str:
    done = subprocess.run(["getfacl", "-cp", path], check=True, capture_output=True, text=True)
    return done.stdout


def test_attributes_of_what_is_read_only_come_back_without_privileges(as_nobody: Path) -> None:
    root = as_nobody / "tree"
    (root / "folder").mkdir(parents=True)
    (root / "file").write_text("content")
    for path, mode in ((root / "file", 0o444), (root / "folder", 0o555), (root, 0o555)):
        os.setxattr(path, "user.note", b"kept")
        subprocess.run(["setfacl", "-m", "u:1234:rw", path], check=True)
        path.chmod(mode)
    found = restored(root, as_nobody)
    for name in ("file", "folder", "."):
        assert os.getxattr(found / name, "user.note") == b"kept"
    assert trees.rsync_difference(root, found) == ""


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o777, 0o4771, 0o2710])
def test_an_acl_comes_back_whatever_its_mask(tmp_path: Path, mode: int) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "file").write_text("content")
    subprocess.run(["setfacl", "-m", "u:1234:rwx,g:4321:rw,g::r", root / "file"], check=True)
    (root / "file").chmod(mode)
    found = restored(root, tmp_path)
    assert acl(found / "file") == acl(root / "file")
    assert (found / "file").stat().st_mode == (root / "file").stat().st_mode
    assert trees.rsync_difference(root, found) == ""


@pytest.fixture
def giving(tmp_path: Path) -> Path:
    """A target that gives an ACL to all that is made in it."""
    made = tmp_path / "restored"
    made.mkdir()
    subprocess.run(["setfacl", "-m", "d:u:1234:rwx,u:1234:rwx", made], check=True)
    return made


def test_nothing_keeps_an_acl_that_only_the_target_has(tmp_path: Path, giving: Path) -> None:
    trees.nasty(tmp_path / "tree")
    assert restored(tmp_path / "tree", tmp_path) == giving
    assert trees.rsync_difference(tmp_path / "tree", giving) == ""


def test_without_metadata_files_get_what_the_target_gives(tmp_path: Path, giving: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("content")
    restored(tmp_path / "tree", tmp_path, preserve_metadata=False)
    assert "user:1234:rwx" in acl(giving / "file")


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6711])
def test_rights_of_an_owner_are_not_given_to_who_restores(tmp_path: Path, mode: int) -> None:
    """A program that ran as its owner must not come back as one that runs as root."""
    root = tmp_path / "tree"
    root.mkdir()
    for name in ("somebody-s", "my-own"):
        (root / name).write_text("#!/bin/true")
    (root / "folder").mkdir()
    os.chown(root / "somebody-s", 1234, 1234)
    os.chown(root / "folder", 1234, 1234)
    for name in ("somebody-s", "my-own"):
        (root / name).chmod(mode)
    (root / "folder").chmod(0o2770)
    source = trees.source(root)
    results = back_up(engine, source, tmp_path / "vault")
    options = RestoreOptions(owner="none")
    job = restore_job(results, tmp_path / "vault", source, path=tmp_path / "to", options=options)
    run_restore(engine, job)
    modes = {path.name: path.stat().st_mode & 0o7777 for path in (tmp_path / "to").iterdir()}
    assert modes == {"somebody-s": mode & 0o777, "my-own": mode, "folder": 0o770}
    unseen: list[str] = []
    assert engine.differences(replace(job, not_compared=unseen.append)) == []
    assert any("owners" in what for what in unseen)
    (tmp_path / "to" / "somebody-s").chmod(mode)
    assert engine.differences(job) == [f"somebody-s: mode {mode:o}, not {mode & 0o777:o}"]


def test_a_task_that_is_repeated_takes_no_acl_away(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    (root / "folder").mkdir(parents=True)
    subprocess.run(["setfacl", "-m", "u:1234:rwx", root / "folder"], check=True)
    source = trees.source(root)
    results = back_up(engine, source, tmp_path / "vault")
    job = restore_job(results, tmp_path / "vault", source, path=tmp_path / "to")
    run_restore(engine, job, times=2)
    assert acl(tmp_path / "to" / "folder") == acl(root / "folder")
