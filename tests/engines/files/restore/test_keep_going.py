"""One entry that cannot be put back costs no other."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stepvault.engines.base import RestoreJob
from stepvault.engines.files import engine
from stepvault.errors import BackupTampered, SourceDenied, StepvaultError, TargetUnsupported
from stepvault.records import RestoreOptions, Unrestored
from tests.engines.driver import back_up, restore_job, run_restore
from tests.engines.files import trees


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    trees.lifelike(root, files=40)
    os.link(root / "large.bin", root / "second-name")
    return root


def job_of(root: Path, folder: Path, **options: Any) -> tuple[RestoreJob, list[Unrestored]]:
    source = trees.source(root)
    results = back_up(engine, source, folder / "vault", plan={"batch_files": 30})
    reported: list[Unrestored] = []
    job = restore_job(
        results,
        folder / "vault",
        source,
        path=folder / "to",
        options=RestoreOptions(**options),
        unrestored=reported.append,
    )
    return job, reported


@pytest.fixture
def immutable(tmp_path: Path) -> Iterator[Path]:
    """A file in the target that not even root may replace."""
    path = tmp_path / "to" / "large.bin"
    path.parent.mkdir()
    path.write_text("not to be touched")
    subprocess.run(["chattr", "+i", path], check=True)
    yield path
    subprocess.run(["chattr", "-i", path], check=True)


def test_a_file_that_cannot_be_replaced_is_named_and_the_rest_comes_back(
    tree: Path, tmp_path: Path, immutable: Path
) -> None:
    job, reported = job_of(tree, tmp_path, overwrite=True, keep_going=True)
    run_restore(engine, job)
    assert [(one.kind, one.name) for one in reported] == [("file", "large.bin")]
    assert "Operation not permitted" in reported[0].reason
    assert immutable.read_text() == "not to be touched"
    # Its other name is restored: from what was to take its place, not from what is there.
    assert (tmp_path / "to" / "second-name").read_bytes() == (tree / "large.bin").read_bytes()
    different = {line.split(":")[0] for line in engine.differences(job)}
    assert different == {"large.bin", "second-name"}
    assert [n for n in os.listdir(tmp_path / "to") if n.startswith(".stepvault")] == []


def test_without_keep_going_the_first_such_file_stops_the_restore(
    tree: Path, tmp_path: Path, immutable: Path
) -> None:
    job, reported = job_of(tree, tmp_path, overwrite=True)
    with pytest.raises(SourceDenied, match=r"large.bin.*--keep-going"):
        run_restore(engine, job)
    assert reported == []


def test_what_is_of_another_kind_in_the_target_costs_no_other(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "to" / "large.bin").mkdir(parents=True)
    (tmp_path / "to" / "d1").write_text("a file where the backup has a directory")
    job, reported = job_of(tree, tmp_path, overwrite=True, keep_going=True)
    run_restore(engine, job)
    assert ("directory", "d1") in {(one.kind, one.name) for one in reported}
    below = [one.name for one in reported if one.name.startswith("d1/")]
    assert sorted(below) == sorted(str(p.relative_to(tree)) for p in (tree / "d1").rglob("*"))
    different = {line.split(":")[0] for line in engine.differences(job)}
    assert different == {one.name for one in reported}


def files(root: Path) -> set[str]:
    return {str(p.relative_to(root)) for p in root.rglob("*") if p.is_symlink() or p.is_file()}


def test_a_damaged_pack_costs_only_its_own_files(tree: Path, tmp_path: Path) -> None:
    job, reported = job_of(tree, tmp_path, keep_going=True)
    pack = tmp_path / "vault" / "0001.tar.zst"
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.write_bytes(data)
    run_restore(engine, job)
    assert [one.name for one in reported if one.kind == "pack"] == ["0001.tar.zst"]
    missing = {line.split(":")[0] for line in engine.differences(job)}
    there, everything = files(tmp_path / "to"), files(tree)
    assert 0 < len(there) < len(everything)
    assert everything - there == missing


def test_without_keep_going_a_damaged_pack_stops_the_restore(tree: Path, tmp_path: Path) -> None:
    job, _ = job_of(tree, tmp_path)
    pack = tmp_path / "vault" / "0001.tar.zst"
    pack.write_bytes(pack.read_bytes()[:-9])
    with pytest.raises(BackupTampered):
        run_restore(engine, job)


@pytest.mark.parametrize("error", ["no room", "read only"])
def test_what_stops_everything_is_not_taken_for_one_file(
    tree: Path, tmp_path: Path, error: str
) -> None:
    """A full or read-only file system is no reason to go through a million files."""
    target = tmp_path / "to"
    target.mkdir()
    size = "1m" if error == "no room" else "64m"
    job, reported = job_of(tree, tmp_path, keep_going=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", target], check=True)
    try:
        if error == "read only":
            subprocess.run(["mount", "-o", "remount,ro", target], check=True)
        with pytest.raises(StepvaultError, match=r"no room|Read-only"):
            run_restore(engine, job)
    finally:
        subprocess.run(["umount", target], check=True)
    assert reported == []


_AS_NAMESPACE_ROOT = """
import sys
from pathlib import Path
from stepvault.engines.files import engine
from stepvault.errors import TargetUnsupported
from stepvault.records import RestoreOptions
from tests.engines.files.restore.test_keep_going import namespaced

namespaced(Path(sys.argv[1]), sys.argv[2])
"""


def namespaced(folder: Path, how: str) -> None:
    """Restore within a user namespace, which knows but one user."""
    all_options: dict[str, dict[str, Any]] = {
        "keep": {},
        "keep going": {"keep_going": True},
        "none": {"owner": "none"},
    }
    options = all_options[how]
    job, reported = job_of(folder / "tree", folder, **options)
    try:
        run_restore(engine, job)
    except TargetUnsupported as error:
        print(
            f"refused: {error}; holds {os.listdir(folder / 'to') if job.path and job.path.exists() else []}"
        )
        return
    print(sorted({(one.kind, one.name) for one in reported}), engine.differences(job))


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("keep", r"refused: .*65534:65534.*; holds \[\]"),
        ("keep going", r"\[\('owner', '65534:65534'\)\] \['a: mode.*'a: owner 0:0.*'\]"),
        ("none", r"\[\] \[\]"),
    ],
)
def test_owners_that_a_user_namespace_does_not_know_cost_no_file(
    tmp_path: Path, how: str, expected: str
) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    for name in ("a", "b"):
        (root / name).write_text(name)
    os.chown(root / "a", 1234, 1234)  # shown as 65534 within
    (root / "a").chmod(0o4755)
    done = subprocess.run(
        ["unshare", "-Ur", sys.executable, "-c", _AS_NAMESPACE_ROOT, tmp_path, how],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[4],
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(expected, done.stdout), done.stdout
    if how != "keep":
        assert (tmp_path / "to" / "a").read_text() == "a"
        assert (tmp_path / "to" / "a").stat().st_mode & 0o7777 == 0o755
