"""Restoring parts, over existing data, and against a target or a backup that means harm."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from stepvault.engines.base import RestoreJob
from stepvault.engines.files import engine
from stepvault.engines.files.backup import batches
from stepvault.errors import BackupTampered, ConfigInvalid, TargetNotEmpty
from stepvault.records import RestoreOptions, StoredObject
from tests.engines.driver import Result, back_up, restore_job, run_restore
from tests.engines.files import trees


class Read:
    """Counts what a restore reads of the vault."""

    def __init__(self, job: RestoreJob) -> None:
        self.whole: list[str] = []
        self.ranges: dict[str, int] = {}
        self._job = job

    def read(self, stored: StoredObject) -> Any:
        self.whole.append(stored.name)
        return self._job.read(stored)

    def read_range(self, stored: StoredObject, start: int, end: int) -> bytes:
        self.ranges[stored.name] = self.ranges.get(stored.name, 0) + end - start
        return self._job.read_range(stored, start, end)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    trees.lifelike(root)
    return root


@pytest.fixture
def vault(tmp_path: Path) -> Path:
    return tmp_path / "vault"


def job_of(root: Path, vault: Path, target: Path, **options: Any) -> RestoreJob:
    source = trees.source(root)
    results = back_up(engine, source, vault, plan={"batch_files": 400})
    return restore_job(results, vault, source, path=target, options=RestoreOptions(**options))


def test_one_file_comes_back_without_its_pack(tmp_path: Path, vault: Path) -> None:
    root, target = tmp_path / "tree", tmp_path / "to"
    root.mkdir()
    random = Random(2)
    for n in range(300):
        (root / f"file-{n:03d}").write_bytes(random.randbytes(100_000))
    job = job_of(root, vault, target, only=["/file-123"])
    read = Read(job)
    job = RestoreJob(**{**job.__dict__, "read": read.read, "read_range": read.read_range})
    run_restore(engine, job)
    assert os.listdir(target) == ["file-123"]
    assert (target / "file-123").read_bytes() == (root / "file-123").read_bytes()
    assert (target / "file-123").stat().st_mtime_ns == (root / "file-123").stat().st_mtime_ns
    assert all(name.endswith(".index.tsv.zst") for name in read.whole)
    assert sum(read.ranges.values()) < 9 << 20
    assert sum(o.stored_bytes for o in job.objects) > 28 << 20
    assert engine.differences(job) == []


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        (["d0/e0"], lambda p: p.startswith("d0/e0/")),
        (["file-1?.txt"], lambda p: len(Path(p).name) == 11 and Path(p).name.startswith("file-1")),
        (["*.txt", "!file-1*"], lambda p: p.endswith(".txt") and "file-1" not in p),
        (["large.bin"], lambda p: p == "large.bin"),
    ],
)
def test_only_what_matches_comes_back(
    tree: Path, vault: Path, tmp_path: Path, only: list[str], expected: Callable[[str], bool]
) -> None:
    target = tmp_path / "to"
    job = job_of(tree, vault, target, only=only)
    run_restore(engine, job)
    there = {str(p.relative_to(tree)) for p in tree.rglob("*") if p.is_file()}
    found = {str(p.relative_to(target)) for p in target.rglob("*") if p.is_file()}
    assert found == {p for p in there if expected(p)}
    assert found
    assert engine.differences(job) == []


def test_nothing_that_matches_is_said(tree: Path, vault: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="matches 'no-such-file'"):
        engine.plan_restore(job_of(tree, vault, tmp_path / "to", only=["no-such-file"]))


def test_later_names_of_a_file_come_back_without_the_first(tmp_path: Path, vault: Path) -> None:
    root, target = tmp_path / "tree", tmp_path / "to"
    (root / "x").mkdir(parents=True)
    (root / "a").write_text("content")
    os.link(root / "a", root / "x" / "b")
    os.link(root / "a", root / "x" / "c")
    job = job_of(root, vault, target, only=["x/"])
    run_restore(engine, job)
    assert (target / "x" / "b").read_text() == "content"
    assert (target / "x" / "b").samefile(target / "x" / "c")
    assert not (target / "a").exists()
    assert engine.differences(job) == []


def test_a_copy_in_a_links_place_is_a_difference(tmp_path: Path, vault: Path) -> None:
    root, target = tmp_path / "tree", tmp_path / "to"
    root.mkdir()
    (root / "a").write_text("content")
    os.link(root / "a", root / "b")
    job = job_of(root, vault, target)
    run_restore(engine, job)
    assert engine.differences(job) == []
    shutil.copy2(target / "a", target / "copy")
    (target / "copy").rename(target / "a")
    os.utime(target, ns=(0, root.stat().st_mtime_ns))
    assert engine.differences(job) == ["b: not the same file as a"]


def test_overwrite_replaces_and_keeps_what_the_backup_does_not_name(
    tree: Path, vault: Path, tmp_path: Path
) -> None:
    target = tmp_path / "to"
    target.mkdir()
    (target / "large.bin").write_text("old")
    (target / "own").write_text("own")
    job = job_of(tree, vault, target, overwrite=True)
    run_restore(engine, job)
    assert (target / "large.bin").read_bytes() == (tree / "large.bin").read_bytes()
    assert (target / "own").read_text() == "own"
    assert engine.differences(job) == []


@pytest.mark.parametrize("name", ["d0", "large.bin"])
def test_what_is_of_another_kind_in_the_target_is_not_replaced(
    tree: Path, vault: Path, tmp_path: Path, name: str
) -> None:
    target = tmp_path / "to"
    target.mkdir()
    if name == "d0":
        (target / name).write_text("a file where the backup has a directory")
    else:
        (target / name / "sub").mkdir(parents=True)
    with pytest.raises(TargetNotEmpty, match=f"'{name}' is of another kind"):
        run_restore(engine, job_of(tree, vault, target, overwrite=True))


def test_links_in_the_target_are_never_followed(tree: Path, vault: Path, tmp_path: Path) -> None:
    target, outside = tmp_path / "to", tmp_path / "outside"
    target.mkdir()
    outside.mkdir()
    (target / "d0").symlink_to(outside)
    with pytest.raises(TargetNotEmpty, match="'d0' is of another kind"):
        run_restore(engine, job_of(tree, vault, target, overwrite=True))
    assert os.listdir(outside) == []


def test_a_file_link_in_the_target_is_replaced_not_written_through(
    tree: Path, vault: Path, tmp_path: Path
) -> None:
    target, outside = tmp_path / "to", tmp_path / "outside"
    target.mkdir()
    outside.write_text("mine")
    (target / "large.bin").symlink_to(outside)
    run_restore(engine, job_of(tree, vault, target, overwrite=True))
    assert outside.read_text() == "mine"
    assert not (target / "large.bin").is_symlink()


@pytest.mark.parametrize("evil", [b"../escaped", b"/tmp/stepvault-escaped", b"d0/../../escaped"])
def test_a_path_that_leads_out_of_the_target_is_refused(
    tree: Path, vault: Path, tmp_path: Path, evil: bytes
) -> None:
    """The index and its hashes as a malicious writer of the vault could make them."""
    target = tmp_path / "deep" / "to"
    job = job_of(tree, vault, target)
    job = _with_index(job, lambda text: text.replace(b"\nlarge.bin\t", b"\n" + evil + b"\t"))
    with pytest.raises(BackupTampered, match="leads out of the target"):
        run_restore(engine, job)
    assert not (tmp_path / "escaped").exists()
    assert not (tmp_path / "deep" / "escaped").exists()
    assert not Path("/tmp/stepvault-escaped").exists()


def test_a_member_that_does_not_match_its_hash_is_refused(
    tree: Path, vault: Path, tmp_path: Path
) -> None:
    job = job_of(tree, vault, tmp_path / "to")
    digest = next(
        line.split(b"\t")[10]
        for line in _index_text(job).split(b"\n")
        if line.startswith(b"large.bin\t")
    )
    job = _with_index(job, lambda text: text.replace(digest, digest[::-1]))
    with pytest.raises(BackupTampered, match=r"'large.bin' in .*tar.zst is not what"):
        run_restore(engine, job)
    assert not (tmp_path / "to" / "large.bin").exists()


def test_nothing_of_the_restore_itself_stays_behind(
    tree: Path, vault: Path, tmp_path: Path
) -> None:
    target = tmp_path / "to"
    run_restore(engine, job_of(tree, vault, target))
    assert sorted(os.listdir(target)) == sorted(os.listdir(tree))


def test_a_file_too_large_for_one_unit_comes_back_from_its_pieces(
    tmp_path: Path, vault: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "SPLIT_ABOVE", 4 << 20)
    monkeypatch.setattr(batches, "SPLIT_INTO", 3 << 20)
    root, target = tmp_path / "tree", tmp_path / "to"
    root.mkdir()
    data = Random(3).randbytes(5 << 20)
    (root / "huge").write_bytes(data)
    with (root / "huge-holes").open("wb") as file:
        file.write(data)
        file.seek(20 << 20)
        file.write(b"end")
    os.setxattr(root / "huge", "user.note", b"kept")
    (root / "small").write_text("small")
    source = trees.source(root)
    results: list[Result] = back_up(engine, source, vault, plan={"batch_bytes": 3 << 20})
    packs = sorted(vault.glob("*.tar.zst"))
    assert len(packs) > 9
    job = restore_job(results, vault, source, path=target)
    run_restore(engine, job)
    assert engine.differences(job) == []
    assert trees.rsync_difference(root, target) == ""
    assert (target / "huge-holes").stat().st_blocks == (root / "huge-holes").stat().st_blocks

    by_tar = tmp_path / "by-tar"
    trees.unpack_with_tar(packs, by_tar)
    parts = sorted(by_tar.glob("huge.part-*"))
    assert b"".join(p.read_bytes() for p in parts) == data
    assert parts[0].name == "huge.part-0001-of-0002"


def test_a_file_of_101_gigabytes_is_read_by_several_units(tmp_path: Path) -> None:
    """Nothing but a hole and a little data: quick, though the size is real."""
    root, vault, target = tmp_path / "tree", tmp_path / "vault", tmp_path / "to"
    root.mkdir()
    with (root / "disk.img").open("wb") as file:
        file.truncate(101 * 10**9)
        file.seek(60 * 10**9)
        file.write(b"in the middle")
    source = trees.source(root)
    job = restore_job(back_up(engine, source, vault), vault, source, path=target)
    run_restore(engine, job)
    assert engine.differences(job) == []
    with (target / "disk.img").open("rb") as file:
        file.seek(60 * 10**9)
        assert file.read(13) == b"in the middle"
    assert (target / "disk.img").stat().st_blocks == (root / "disk.img").stat().st_blocks
    subprocess.run(["rm", "-r", root, target], check=True)


def _index_text(job: RestoreJob) -> bytes:
    indexes = [o for o in job.objects if o.name.endswith(".index.tsv.zst")]
    return b"".join(data for index in indexes for data in job.read(index))


def _with_index(job: RestoreJob, change: Callable[[bytes], bytes]) -> RestoreJob:
    """The job with every index changed; the hashes of the objects match what is read."""

    def read(stored: StoredObject) -> Any:
        data = b"".join(job.read(stored))
        if stored.name.endswith(".index.tsv.zst"):
            data = change(data)
        return iter([data])

    return RestoreJob(**{**job.__dict__, "read": read})


def test_a_pack_of_zeros_restores_in_little_memory(tmp_path: Path, vault: Path) -> None:
    """A frame of a few kilobytes may hold gigabytes."""
    root, target = tmp_path / "tree", tmp_path / "to"
    root.mkdir()
    (root / "zeros").write_bytes(bytes(64 << 20))
    (root / "noise").write_bytes(Random(1).randbytes(1 << 20))
    job = job_of(root, vault, target, only=["zeros"])
    run_restore(engine, job)
    assert (target / "zeros").read_bytes() == bytes(64 << 20)
