"""Trees that change, refuse or surprise while they are read."""

import errno
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from stepvault.engines.base import WHOLE, Job
from stepvault.engines.files import engine
from stepvault.engines.files.tree.handles import Tree
from stepvault.engines.files.tree.walk import walk
from stepvault.engines.files.tree.warnings import Warnings
from stepvault.errors import SourceDenied, SourceMissing
from tests.engines.driver import Result, back_up, backup_to_folder, restore_job, run_restore
from tests.engines.files import trees

BIG = Random(5).randbytes(4 << 20)


def warnings(results: list[Result]) -> list[str]:
    return [w for r in results for w in r.warnings]


def changed_while_read(root: Path, vault: Path, change: Callable[[], None]) -> list[Result]:
    """Back up root; change is called once, when the first buffer has been read."""
    done: list[bool] = []

    def watch(name: str, raw_bytes: int) -> None:
        if raw_bytes > 1 << 20 and not done:
            done.append(True)
            change()

    results = back_up(engine, trees.source(root), vault, watch=watch)
    assert done
    return results


def check_packs(vault: Path) -> None:
    """GNU tar finds every pack whole."""
    for pack in vault.glob("*.tar.zst"):
        subprocess.run(["tar", "--zstd", "-tf", pack], check=True, capture_output=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "tree"
    made.mkdir()
    (made / "a-big").write_bytes(BIG)
    (made / "b-small").write_text("small")
    (made / "c-last").write_text("last")
    return made


def restored(root: Path, results: list[Result], vault: Path, target: Path) -> Path:
    job = restore_job(results, vault, trees.source(root), path=target)
    run_restore(engine, job)
    assert engine.differences(job) == []
    return target


def test_a_file_that_shrinks_is_filled_and_reported(root: Path, tmp_path: Path) -> None:
    vault = tmp_path / "vault"
    results = changed_while_read(root, vault, lambda: os.truncate(root / "a-big", 1000))
    assert warnings(results) == [
        "changed while it was read; what is stored may be mixed (1): a-big"
    ]
    check_packs(vault)
    found = restored(root, results, vault, tmp_path / "to")
    data = (found / "a-big").read_bytes()
    assert len(data) == len(BIG)
    assert data.startswith(BIG[: 1 << 20])
    assert data.endswith(bytes(1 << 20))
    assert (found / "c-last").read_text() == "last"


def test_a_file_that_grows_is_cut_and_reported(root: Path, tmp_path: Path) -> None:
    vault = tmp_path / "vault"

    def grow() -> None:
        with (root / "a-big").open("ab") as file:
            file.write(b"more")

    results = changed_while_read(root, vault, grow)
    assert warnings(results) == [
        "changed while it was read; what is stored may be mixed (1): a-big"
    ]
    check_packs(vault)
    assert (restored(root, results, vault, tmp_path / "to") / "a-big").read_bytes() == BIG


def test_a_file_rewritten_under_its_old_time_is_reported(root: Path, tmp_path: Path) -> None:
    """Size and time of modification are as before; the system's own time of change tells."""

    def rewrite() -> None:
        before = (root / "a-big").stat()
        with (root / "a-big").open("r+b") as file:
            file.write(BIG[::-1])
        os.utime(root / "a-big", ns=(before.st_atime_ns, before.st_mtime_ns))

    time.sleep(0.06)  # a change in the same tick of the clock cannot be told
    assert warnings(changed_while_read(root, tmp_path / "vault", rewrite)) == [
        "changed while it was read; what is stored may be mixed (1): a-big"
    ]


def test_files_that_vanish_or_turn_into_something_else_are_reported(
    root: Path, tmp_path: Path
) -> None:
    vault = tmp_path / "vault"
    for name in ("d-file", "e-file", "f-link", "g-file"):
        (root / name).write_text("x")
    (root / "f-link").unlink()
    (root / "f-link").symlink_to("c-last")

    def change() -> None:
        for name in ("b-small", "d-file", "e-file", "f-link", "g-file"):
            (root / name).unlink()
        (root / "d-file").mkdir()
        (root / "e-file").symlink_to("/etc/passwd")
        (root / "f-link").write_text("a file now")
        os.mkfifo(root / "g-file")

    # Small files are read ahead of the buffer that holds them, so all come after the big one.
    results = changed_while_read(root, vault, change)
    assert sorted(warnings(results)) == [
        "became a link before it was read, left out (1): e-file",
        "became something else before it was read, left out (3): d-file, f-link, g-file",
        "vanished before it was read, left out (1): b-small",
    ]
    check_packs(vault)
    found = restored(root, results, vault, tmp_path / "to")
    assert sorted(os.listdir(found)) == ["a-big", "c-last"]


def test_a_root_that_vanishes_fails_the_unit(root: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="vanished while it was read"):
        changed_while_read(root, tmp_path / "vault", lambda: shutil.rmtree(root))
    assert not [p for p in (tmp_path / "vault").rglob("*") if p.is_file()]


def walked(root: Path, warnings: Warnings) -> Iterator[bytes]:
    with Tree(root) as tree:
        for entry in walk(tree, trees.source(root), warnings):
            yield entry.path


@pytest.mark.usefixtures("file_system")
@pytest.mark.parametrize("call", ["stat", "scandir"])
def test_what_another_client_of_a_network_file_system_removed_has_vanished(
    root: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Its handle is stale then, which no local file system can be made to say."""
    (root / "gone").mkdir()
    gone, real = (root / "gone").stat().st_ino, getattr(os, call)

    def stale(path: Any, **options: Any) -> Any:
        directory = call == "scandir"
        if (path == b"gone" and options) or (directory and os.stat(path).st_ino == gone):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
        return real(path, **options)

    monkeypatch.setattr(os, call, stale)
    warnings = Warnings()
    found = list(walked(root, warnings))
    assert found[:4] == [b".", b"a-big", b"b-small", b"c-last"]
    assert warnings.lines() == ["vanished during the walk (1): gone"]


@pytest.mark.usefixtures("file_system")
def test_a_root_that_vanishes_during_the_walk_fails_the_source(root: Path) -> None:
    """What is left of the walk would look like a tree of little."""
    (root / "inside").mkdir()
    found = walked(root, Warnings())
    assert b"inside" in found
    shutil.rmtree(root)
    with pytest.raises(SourceMissing, match="vanished while it was read"):
        list(found)


def test_an_unreadable_file_fails_the_unit_and_says_what_helps(as_nobody: Path) -> None:
    root = as_nobody / "tree"
    root.mkdir()
    (root / "open").write_text("x")
    (root / "secret").write_text("x")
    (root / "secret").chmod(0)
    with pytest.raises(SourceDenied) as caught:
        back_up(engine, trees.source(root), as_nobody / "vault")
    assert "'secret'" in str(caught.value)
    assert "allow_unreadable" in caught.value.fix
    assert not [p for p in (as_nobody / "vault").rglob("*") if p.is_file()]


def test_an_unreadable_directory_fails_the_plan(as_nobody: Path) -> None:
    root = as_nobody / "tree"
    (root / "shut").mkdir(parents=True)
    (root / "shut" / "inside").write_text("x")
    (root / "shut").chmod(0)
    with pytest.raises(SourceDenied, match=r"'shut'.*allow_unreadable"):
        back_up(engine, trees.source(root), as_nobody / "vault")
    with pytest.raises(SourceDenied, match="'shut'"):
        backup_to_folder(engine, Job(source=trees.source(root)), as_nobody / "vault")


def test_what_is_unreadable_is_reported_when_allowed(as_nobody: Path) -> None:
    root = as_nobody / "tree"
    (root / "shut").mkdir(parents=True)
    (root / "open").write_text("x")
    (root / "secret").write_text("x")
    (root / "secret").chmod(0)
    (root / "shut").chmod(0)
    source = trees.source(root, allow_unreadable=True)
    results = back_up(engine, source, as_nobody / "vault")
    assert sorted(warnings(results)) == [
        "could not be read, left out (1): secret",
        "could not be read, left out with all within (1): shut",
    ]
    job = restore_job(results, as_nobody / "vault", source, path=as_nobody / "to")
    run_restore(engine, job)
    assert engine.differences(job) == []
    assert sorted(os.listdir(as_nobody / "to")) == ["open", "shut"]


def test_a_root_that_may_not_be_read_is_denied(as_nobody: Path) -> None:
    root = as_nobody / "tree"
    root.mkdir(mode=0)
    with pytest.raises(SourceDenied, match="tree"):
        back_up(engine, trees.source(root), as_nobody / "vault")


def test_without_privileges_owners_are_the_restoring_user(as_nobody: Path) -> None:
    root = as_nobody / "tree"
    trees.lifelike(root, files=20)
    (root / "shut").mkdir(mode=0o500)
    source = trees.source(root)
    job = restore_job(
        back_up(engine, source, as_nobody / "vault"), as_nobody / "vault", source,
        path=as_nobody / "to",
    )  # fmt: skip
    run_restore(engine, job)
    assert engine.differences(job) == []
    assert trees.rsync_difference(root, as_nobody / "to") == ""


def test_sockets_pipes_and_devices_are_counted_and_left_out(root: Path, tmp_path: Path) -> None:
    trees.specials(root)
    results = back_up(engine, trees.source(root), tmp_path / "vault")
    assert sorted(warnings(results)) == [
        "skipped a device (1): null",
        "skipped a named pipe (1): pipe",
        "skipped a socket (1): socket",
    ]
    found = restored_names(root, results, tmp_path)
    assert found == ["a-big", "b-small", "c-last"]


def restored_names(root: Path, results: list[Result], tmp_path: Path) -> list[str]:
    job = restore_job(results, tmp_path / "vault", trees.source(root), path=tmp_path / "to")
    run_restore(engine, job)
    return sorted(os.listdir(tmp_path / "to"))


def test_a_file_that_is_not_a_directory_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="is not a directory"):
        back_up(engine, trees.source(root / "b-small"), tmp_path / "vault")


def test_without_a_listing_the_whole_tree_is_stored(tmp_path: Path) -> None:
    """So is a source whose planning failed and that a redrive finds in order."""
    root, vault, target = tmp_path / "tree", tmp_path / "vault", tmp_path / "to"
    trees.nasty(root)
    result = backup_to_folder(engine, Job(source=trees.source(root), connections=3), vault)
    assert {o.name for o in result.objects} == {f"{WHOLE}.tar.zst", f"{WHOLE}.index.tsv.zst"}
    job = restore_job(result, vault, trees.source(root), path=target)
    run_restore(engine, job)
    assert trees.rsync_difference(root, target) == ""


def test_a_missing_root_without_a_listing_is_missing_too(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing):
        backup_to_folder(engine, Job(source=trees.source(tmp_path / "no")), tmp_path / "vault")


def live_database(path: Path, rows: int) -> sqlite3.Connection:
    """A database with a WAL that is not empty, as long as the connection lives."""
    writer = sqlite3.connect(path)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("CREATE TABLE note (text)")
    writer.executemany("INSERT INTO note VALUES (?)", [("x" * 900,)] * rows)
    writer.commit()
    return writer


@pytest.mark.usefixtures("file_system")
def test_a_live_database_within_the_files_is_told_with_the_way_out(tmp_path: Path) -> None:
    """Its two files are read one after the other, and belong to different moments."""
    root = tmp_path / "tree"
    root.mkdir()
    writers = [live_database(root / "small.db", 10), live_database(root / "large", 3000)]
    writers[1].execute("PRAGMA wal_checkpoint")  # the file is large now; its WAL still is there
    (root / "closed.db").write_bytes((root / "large").read_bytes())
    (root / "closed.db-wal").touch()
    sqlite3.connect(root / "rollback.db").execute("CREATE TABLE note (text)").connection.close()
    (root / "rollback.db-wal").write_text("not SQLite's")
    assert (root / "large").stat().st_size > 2 << 20
    results = back_up(engine, trees.source(root), tmp_path / "vault")
    for writer in writers:
        writer.close()
    (warning,) = warnings(results)
    assert warning.startswith("a SQLite database in use")
    assert "source of engine sqlite" in warning
    assert sorted(warning.rpartition(" (2): ")[2].split(", ")) == ["large", "small.db"]
