"""Directories of very many entries, and very deep ones."""

import os
import subprocess
from pathlib import Path

import pytest

from stepvault.engines.base import PlanJob
from stepvault.engines.files import engine
from stepvault.engines.files.format import listing
from stepvault.engines.files.paths import walk_key
from stepvault.engines.files.tree import walk
from stepvault.engines.files.tree.handles import Tree
from stepvault.engines.files.tree.warnings import Warnings
from tests.engines.driver import back_up, previous_of, restore_job, run_restore
from tests.engines.files import trees

pytestmark = pytest.mark.usefixtures("file_system")


def test_a_directory_larger_than_memory_likes_is_walked_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "_NAMES", 300)
    for n in range(1000):
        (tmp_path / f"{n * 7919 % 1000:03d}\n").touch()
    with Tree(str(tmp_path)) as tree:
        found = [e.path for e in walk.walk(tree, trees.source(tmp_path), Warnings())]
    assert found == sorted(found, key=walk_key)
    assert len(found) == 1001


def test_a_tree_deeper_than_paths_may_be_long_comes_back(tmp_path: Path) -> None:
    """700 levels, 14 KB of path: more than the system takes, more than descriptors kept open."""
    root, target = tmp_path / "tree", tmp_path / "to"
    root.mkdir()
    descriptor = os.open(root, os.O_RDONLY)
    for n in range(700):
        name = f"level-{n:04d}-{'x' * 9}"
        os.mkdir(name, dir_fd=descriptor)
        below = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=below))
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    source = trees.source(root)
    try:
        job = restore_job(
            back_up(engine, source, tmp_path / "vault"), tmp_path / "vault", source, path=target
        )
        run_restore(engine, job)
        assert engine.differences(job) == []
        assert sum(1 for line in _find(target) if line.endswith(b"/file")) == 700
    finally:
        subprocess.run(["rm", "-rf", root, target], check=True)


def _find(root: Path) -> list[bytes]:
    return subprocess.run(["find", root], capture_output=True, check=True).stdout.split(b"\n")


def test_names_of_one_file_are_never_dealt_to_two_packs(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    for n in range(40):
        (root / f"d{n}").mkdir(parents=True)
        (root / f"d{n}" / "file").write_text("x" * n)
        (root / f"d{n}" / "own").write_text("y" * n)
    for n in range(40):
        os.link(root / f"d{n}" / "file", root / f"d{(n * 7) % 40}" / f"link-{n}")
    source = trees.source(root)
    units = {u.id: b"".join(u.listing or ()) for u in engine.plan(PlanJob(source, batch_files=10))}
    assert len(units) > 8
    homes: dict[int, set[str]] = {}
    for unit, data in units.items():
        for record in listing.records(listing.open_listing([data])[1]):
            status = (root / os.fsdecode(record[1:])).lstat()
            if record[:1] == listing.LINKED:
                homes.setdefault(status.st_ino, set()).add(unit)
    assert len(homes) == 40
    assert all(len(units) == 1 for units in homes.values())


def test_the_plan_holds_every_entry_once_and_keeps_the_caps(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    trees.lifelike(root)
    source = trees.source(root)
    planned: list[bytes] = []
    for unit in engine.plan(PlanJob(source, batch_bytes=1 << 20, batch_files=50)):
        head, chunks = listing.open_listing(unit.listing or ())
        records = list(listing.records(chunks))
        assert head.unit == unit.id
        assert unit.id == "directories" or len(records) <= 50
        assert unit.estimated_bytes <= 1 << 20 or len(records) == 1
        planned += [record[1:] for record in records]
    there = [os.fsencode(p.relative_to(root)) for p in [root, *root.rglob("*")]]
    assert sorted(planned) == sorted(there)


def test_an_unreadable_earlier_index_means_a_full_backup_and_a_word(tmp_path: Path) -> None:
    root, vault = tmp_path / "tree", tmp_path / "one"
    trees.lifelike(root, files=20)
    source = trees.source(root)
    first = back_up(engine, source, vault)
    index = vault / "0000.index.tsv.zst"
    data = bytearray(index.read_bytes())
    data[len(data) // 2] ^= 1
    index.write_bytes(data)
    previous = previous_of("one", first, vault, source)
    second = back_up(engine, source, tmp_path / "two", plan={"previous": previous})
    assert [r.references for r in second] == [[]]
    assert "is damaged, all is stored anew" in second[0].warnings[0]
