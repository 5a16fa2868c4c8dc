"""Restores that were killed, refused or ran out of room midway, and tasks done more than once."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stepvault.engines.base import RestoreJob
from stepvault.engines.files import engine
from stepvault.errors import TargetNotEmpty
from stepvault.records import RestoreOptions, StoredObject
from tests.engines.driver import back_up, restore_job, run_restore
from tests.engines.files import trees


class KilledError(BaseException):
    """What ends a restore as a signal would: no handler for errors sees it."""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    trees.lifelike(root)
    os.link(root / "large.bin", root / "second-name")
    return root


@pytest.fixture
def vault(tmp_path: Path) -> Path:
    return tmp_path / "vault"


def job_of(root: Path, vault: Path, target: Path, **options: Any) -> RestoreJob:
    """Restore of a backup in several packs."""
    source = trees.source(root)
    results = back_up(engine, source, vault, plan={"batch_files": 60})
    return restore_job(results, vault, source, path=target, options=RestoreOptions(**options))


def killed_midway(job: RestoreJob) -> None:
    """One pack is put in place, another is half in the staging folder when the process ends."""
    packs_read: list[str] = []

    def read(stored: StoredObject) -> Iterator[bytes]:
        chunks = job.read(stored)
        if stored.name.endswith(".tar.zst"):
            packs_read.append(stored.name)
            if len(packs_read) == 2:
                yield next(iter(chunks))
                raise KilledError
        yield from chunks

    tasks = [t for t in engine.plan_restore(job) if t.stage == "data"]
    one_by_one = RestoreJob(**{**job.__dict__, "read": read})
    engine.restore(one_by_one, tasks[0])
    with pytest.raises(KilledError):
        engine.restore(one_by_one, tasks[1])
    assert job.path is not None
    assert [name for name in os.listdir(job.path) if name.startswith(".stepvault-restore-")]
    assert [name for name in os.listdir(job.path) if not name.startswith(".stepvault-restore-")]


def test_a_killed_restore_goes_on_where_it_was_and_leaves_nothing(
    tree: Path, vault: Path, tmp_path: Path
) -> None:
    job = job_of(tree, vault, tmp_path / "to")
    killed_midway(job)
    written = [0]
    again = RestoreJob(**{**job.__dict__, "progress": lambda _, size: written.append(size)})
    run_restore(engine, again)
    assert trees.rsync_difference(tree, tmp_path / "to") == ""
    assert engine.differences(job) == []
    everything = sum(p.stat().st_size for p in tree.rglob("*") if p.is_file())
    assert 0 < sum(written) < 0.8 * everything, "what is in place is not written again"


def test_what_is_in_place_but_not_as_it_was_stored_is_restored_again(
    tree: Path, vault: Path, tmp_path: Path
) -> None:
    """A machine that lost power may leave a file of the right name and no content."""
    job = job_of(tree, vault, tmp_path / "to")
    killed_midway(job)
    for path in (tmp_path / "to").rglob("*.txt"):
        if ".stepvault" not in str(path):
            path.write_bytes(b"")
    run_restore(engine, job)
    assert trees.rsync_difference(tree, tmp_path / "to") == ""


def test_another_backup_is_not_mixed_with_what_a_killed_restore_left(
    tree: Path, vault: Path, tmp_path: Path
) -> None:
    job = job_of(tree, vault, tmp_path / "to")
    killed_midway(job)
    (tree / "new").write_text("new")
    other = job_of(tree, tmp_path / "later", tmp_path / "to")
    with pytest.raises(TargetNotEmpty, match="unfinished restore of something else"):
        engine.plan_restore(other)


def test_overwriting_removes_what_another_restore_left(
    tree: Path, vault: Path, tmp_path: Path
) -> None:
    killed_midway(job_of(tree, vault, tmp_path / "to"))
    (tree / "new").write_text("new")
    run_restore(engine, job_of(tree, tmp_path / "later", tmp_path / "to", overwrite=True))
    assert trees.rsync_difference(tree, tmp_path / "to") == ""


def test_a_target_that_holds_nothing_but_our_leftovers_is_empty(
    tree: Path, vault: Path, tmp_path: Path
) -> None:
    leftover = tmp_path / "to" / ".stepvault-restore-0123456789abcdef" / "0001.tar.zst"
    leftover.mkdir(parents=True)
    (leftover / "0").write_text("half a file")
    run_restore(engine, job_of(tree, vault, tmp_path / "to"))
    assert trees.rsync_difference(tree, tmp_path / "to") == ""


def test_a_backup_leaves_out_what_an_unfinished_restore_left(
    tree: Path, vault: Path, tmp_path: Path
) -> None:
    """Wherever in the source the restore went to; a name that is only like it stays."""
    leftover = tree / "d0" / ".stepvault-restore-0123456789abcdef"
    leftover.mkdir()
    (leftover / "half").write_text("half a file")
    (tree / ".stepvault-restore-notes").mkdir()
    (tree / ".stepvault-restore-notes" / "mine").write_text("mine")
    source = trees.source(tree)
    results = back_up(engine, source, vault)
    run_restore(engine, restore_job(results, vault, source, path=tmp_path / "to"))
    assert not (tmp_path / "to" / "d0" / leftover.name).exists()
    assert (tmp_path / "to" / ".stepvault-restore-notes" / "mine").read_text() == "mine"
    assert [w for r in results for w in r.warnings] == [
        "left out, as an unfinished restore left it (1): d0/.stepvault-restore-0123456789abcdef"
    ]


def shut(root: Path) -> dict[str, int]:
    """A tree with directories that their owner may not write, enter or read; their modes."""
    root.mkdir()
    modes = {}
    for number, mode in enumerate((0o555, 0o300, 0o000, 0o500)):
        folder = root / f"{number}-{mode:o}"
        (folder / "inside").mkdir(parents=True)
        (folder / "file").write_text("content")
        (folder / "inside" / "deep").write_text("content")
        modes[folder.name] = mode
    return modes


def close_up(root: Path, modes: dict[str, int]) -> None:
    for name, mode in modes.items():
        (root / name).chmod(mode)


def shut_job(folder: Path, **options: Any) -> tuple[RestoreJob, dict[str, int]]:
    """A backup made by root, as only root reads such a tree, to be restored by a plain user."""
    root, user = folder / "tree", os.geteuid()
    modes = shut(root)
    close_up(root, modes)
    os.seteuid(0)
    try:
        root.chmod(0o555)
        source = trees.source(root)
        results = back_up(engine, source, folder / "vault", plan={"batch_files": 2})
    finally:
        os.seteuid(user)
    job = restore_job(
        results, folder / "vault", source, path=folder / "to", options=RestoreOptions(**options)
    )
    return job, modes


def modes_of(target: Path, names: dict[str, int]) -> dict[str, int]:
    return {name: (target / name).stat().st_mode & 0o7777 for name in names}


def test_every_task_may_be_repeated_without_privileges(as_nobody: Path) -> None:
    job, modes = shut_job(as_nobody)
    run_restore(engine, job, times=2)
    finish = engine.plan_restore(RestoreJob(**{**job.__dict__, "options": OVERWRITE}))[-1]
    engine.restore(job, finish)
    target = as_nobody / "to"
    assert modes_of(target, modes) == modes
    assert target.stat().st_mode & 0o7777 == 0o555
    close_up(target, dict.fromkeys(modes, 0o700))
    assert sorted(os.listdir(target)) == sorted(modes)
    assert (target / "2-0" / "inside" / "deep").read_text() == "content"


OVERWRITE = RestoreOptions(overwrite=True)


def test_a_second_restore_over_the_first_needs_no_privileges(as_nobody: Path) -> None:
    job, modes = shut_job(as_nobody, overwrite=True)
    run_restore(engine, job)
    run_restore(engine, job)
    assert modes_of(as_nobody / "to", modes) == modes


def test_directories_that_are_not_restored_keep_their_modes(as_nobody: Path) -> None:
    """One file within is: its directory is opened for that, and closed again."""
    job, modes = shut_job(as_nobody, overwrite=True)
    run_restore(engine, job)
    only = RestoreOptions(overwrite=True, only=["/0-555/file", "/1-300/inside/deep"])
    run_restore(engine, RestoreJob(**{**job.__dict__, "options": only}))
    target = as_nobody / "to"
    assert modes_of(target, modes) == modes
    assert target.stat().st_mode & 0o7777 == 0o555
    assert [n for n in os.listdir(target) if n.startswith(".stepvault")] == []
