"""Incremental backups: little is read, everything comes back."""

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from stepvault.engines.base import RestoreJob
from stepvault.engines.files import engine
from stepvault.engines.files.format import index
from stepvault.records import RestoreOptions
from stepvault.settings import FilesSource
from tests.engines.driver import Result, Watch, back_up, previous_of, restore_job, run_restore
from tests.engines.files import trees


@dataclass
class Chain:
    """Backups of one tree, each leaning on the one before."""

    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    runs: list[tuple[str, list[Result]]] = field(default_factory=list)
    sources: list[FilesSource] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.folder / "tree"

    def vault(self, run: str) -> Path:
        return self.folder / "vault" / run

    def back_up(self, watch: Watch | None = None, **plan: Any) -> list[Result]:
        time.sleep(0.06)  # changes of the last tick are never taken for unchanged
        run = f"20261122T0000{len(self.runs):02d}Z-test"
        source = trees.source(self.root, **self.settings)
        if self.runs:
            last, results = self.runs[-1]
            plan["previous"] = previous_of(
                last, results, self.vault(last), self.sources[-1], self._vaults()
            )
        results = back_up(engine, source, self.vault(run), plan=plan, watch=watch)
        self.runs.append((run, results))
        self.sources.append(source)
        return results

    def _vaults(self) -> dict[str, Path]:
        return {name: self.vault(name) for name, _ in self.runs}

    def restore(self, number: int, target: Path, **job: Any) -> list[str]:
        """Restore a run from the folders that its references name, and compare."""
        run_restore(engine, self._job(number, target, **job))
        return self.differences(number, target, **job)

    def differences(self, number: int, target: Path, **job: Any) -> list[str]:
        return engine.differences(self._job(number, target, **job))

    def _job(self, number: int, target: Path, **job: Any) -> RestoreJob:
        run, results = self.runs[number]
        source = trees.source(self.root, **self.settings)
        vault, earlier = self.vault(run), self._vaults()
        return restore_job(results, vault, source, earlier=earlier, path=target, **job)


def packs(results: list[Result]) -> list[str]:
    return [o.name for r in results for o in r.objects if o.name.endswith(".tar.zst")]


def references(results: list[Result]) -> set[tuple[str | None, str]]:
    return {(o.run_id, o.name) for r in results for o in r.references}


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path)


def copies(chain: Chain) -> Iterator[Path]:
    for number in range(1000):
        yield chain.folder / f"copy-{number}"


def files(results: list[Result]) -> int:
    """As the manifest counts them."""
    return sum(o.files or 0 for r in results for o in [*r.objects, *r.references])


@pytest.mark.parametrize("batch_files", [50_000, 8])
def test_an_unchanged_tree_is_not_read_again(
    chain: Chain, tmp_path: Path, batch_files: int
) -> None:
    """Nor is anything stored: the objects of the first backup are those of the third, too."""
    trees.nasty(chain.root)
    first = chain.back_up(batch_files=batch_files)
    objects = {(chain.runs[0][0], o.name) for r in first for o in r.objects}
    assert packs(first)
    for _ in range(2):
        again = chain.back_up(batch_files=batch_files)
        assert [o for r in again for o in r.objects] == []
        assert references(again) == objects
        assert files(again) == files(first) > 0
    assert chain.restore(2, tmp_path / "restored") == []
    assert trees.rsync_difference(chain.root, tmp_path / "restored") == ""


def test_after_runs_without_a_change_one_is_stored_as_ever(chain: Chain, tmp_path: Path) -> None:
    trees.lifelike(chain.root)
    first = chain.back_up(batch_files=60)
    chain.back_up()
    chain.back_up()
    (chain.root / "d1" / "new").write_text("new")
    fourth = chain.back_up()
    assert {run for run, _ in references(fourth)} == {chain.runs[0][0]}
    assert files(fourth) == files(first) + 1
    assert chain.restore(3, tmp_path / "restored") == []
    assert trees.rsync_difference(chain.root, tmp_path / "restored") == ""


def test_what_only_lost_files_does_not_hold_them(chain: Chain, tmp_path: Path) -> None:
    chain.root.mkdir()
    for name in ("a", "b", "c"):
        (chain.root / name).write_text(name)
    chain.back_up()
    chain.settings["exclude"] = ["/c"]  # the very last line of the index: no other comes after it
    second = chain.back_up()
    assert files(second) == 2
    assert chain.restore(1, tmp_path / "restored") == []
    assert sorted(os.listdir(tmp_path / "restored")) == ["a", "b"]


def test_only_what_changed_is_stored(chain: Chain, tmp_path: Path) -> None:
    trees.lifelike(chain.root)
    chain.back_up()
    (chain.root / "d1" / "new").write_text("new")
    second = chain.back_up()
    stored = [o for r in second for o in r.objects if o.name.endswith(".tar.zst")]
    assert sum(o.files or 0 for o in stored) == 1
    assert chain.restore(1, tmp_path / "restored") == []
    assert trees.rsync_difference(chain.root, tmp_path / "restored") == ""


def test_a_change_of_metadata_alone_is_stored(chain: Chain, tmp_path: Path) -> None:
    trees.lifelike(chain.root, files=20)
    chain.back_up()
    os.setxattr(chain.root / "large.bin", "user.note", b"changed")
    (chain.root / "empty").chmod(0o711)
    chain.back_up()
    assert chain.restore(1, tmp_path / "restored") == []
    assert trees.rsync_difference(chain.root, tmp_path / "restored") == ""


def test_a_change_that_keeps_size_and_mtime_is_stored(chain: Chain, tmp_path: Path) -> None:
    trees.lifelike(chain.root, files=20)
    chain.back_up()
    path = chain.root / "large.bin"
    status = path.stat()
    with path.open("r+b") as file:
        file.write(b"CHANGED")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    chain.back_up()
    assert chain.restore(1, tmp_path / "restored") == []
    assert trees.rsync_difference(chain.root, tmp_path / "restored") == ""


def test_a_change_right_after_the_backup_read_the_file_is_seen(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second write within the same clock tick leaves size, mtime and ctime as they were."""
    monkeypatch.setattr(index, "_TICK_NS", 60 * 10**9)  # a busy machine may not get there in time
    chain.root.mkdir()
    (chain.root / "busy").write_text("one")
    source = trees.source(chain.root)
    results = back_up(engine, source, chain.vault("one"))  # no pause: the file is a tick old
    previous = previous_of("one", results, chain.vault("one"), source)
    second = back_up(engine, source, chain.vault("two"), plan={"previous": previous})
    assert packs(second)


def test_ten_runs_with_changes_each_restore_exactly(chain: Chain, tmp_path: Path) -> None:
    """Also after all but what the last three need has been pruned."""
    random = Random(3)
    trees.lifelike(chain.root, files=120)
    copy = copies(chain)
    then: list[Path] = []
    for run in range(10):
        if run:
            _change(chain.root, random, run)
        chain.back_up(batch_files=60)
        then.append(next(copy))
        shutil.copytree(chain.root, then[-1], symlinks=True)
        _copy_times(chain.root, then[-1])
    needed = {name for _, results in chain.runs[-3:] for name, _ in references(results)}
    assert needed - {name for name, _ in chain.runs[-3:]}, "the chain leans on pruned runs"
    for name, results in chain.runs[:-3]:
        kept = {n for _, r in chain.runs[-3:] for run, n in references(r) if run == name}
        for stored in (o for r in results for o in r.objects):
            if stored.name not in kept:
                (chain.vault(name) / stored.name).unlink()
    for number in (7, 8, 9):
        target = tmp_path / f"restored-{number}"
        assert chain.restore(number, target) == []
        assert trees.rsync_difference(then[number], target) == ""


def test_references_never_lead_to_another_reference(chain: Chain) -> None:
    """One hop: every pack named is listed by the run that stored it."""
    trees.lifelike(chain.root, files=60)
    for run in range(4):
        _change(chain.root, Random(run), run)
        chain.back_up()
    own = {(run, o.name) for run, results in chain.runs for r in results for o in r.objects}
    for _, results in chain.runs:
        assert references(results) <= own


def test_tiny_files_stay_where_they_are_run_after_run(chain: Chain, tmp_path: Path) -> None:
    """Of their packs most is headers."""
    chain.root.mkdir()
    for number in range(300):
        (chain.root / f"tiny-{number}").write_text(str(number))
    chain.back_up(batch_files=100)
    for number in range(3):
        (chain.root / f"more-{number}").write_text("more")
        (index,) = [r for r in chain.back_up(batch_files=100) if packs([r])]
        assert files([index]) <= 2  # the new file, and the directory's own entry
    assert chain.restore(-1, tmp_path / "to") == []


def test_a_mostly_dead_pack_is_given_up(chain: Chain, tmp_path: Path) -> None:
    chain.root.mkdir()
    for n in range(20):
        (chain.root / f"f{n:02d}").write_bytes(Random(n).randbytes(100_000))
    first = chain.back_up()
    for n in range(17):
        (chain.root / f"f{n:02d}").unlink()
    chain.back_up()
    assert references(chain.runs[1][1]), "three of twenty still lean on the first pack"
    third = chain.back_up()
    assert (chain.runs[0][0], packs(first)[0]) not in references(third)
    assert chain.restore(2, tmp_path / "restored") == []
    assert trees.rsync_difference(chain.root, tmp_path / "restored") == ""


def test_another_path_or_setting_starts_anew(chain: Chain) -> None:
    trees.lifelike(chain.root, files=20)
    first = chain.back_up()
    chain.settings["preserve_metadata"] = False
    again = chain.back_up()
    assert references(again) == set()
    assert len(packs(again)) == len(packs(first))


def test_excluding_the_first_name_of_a_linked_file_keeps_the_others(
    chain: Chain, tmp_path: Path
) -> None:
    chain.root.mkdir()
    (chain.root / "a").write_text("content")
    os.link(chain.root / "a", chain.root / "b")
    os.link(chain.root / "a", chain.root / "c")
    chain.back_up()
    chain.settings["exclude"] = ["/a"]
    second = chain.back_up()
    assert packs(second) == []
    target = tmp_path / "restored"
    assert chain.restore(1, target) == []
    assert sorted(os.listdir(target)) == ["b", "c"]
    assert (target / "b").read_text() == "content"
    assert (target / "b").samefile(target / "c")


def test_two_files_whose_first_names_were_the_same_stay_apart(chain: Chain, tmp_path: Path) -> None:
    """In two packs, at the same offset: of one only a later name is left."""
    for name in ("one", "two"):
        (chain.root / name).mkdir(parents=True)
    (chain.root / "one" / "a").write_text("old content")
    os.link(chain.root / "one" / "a", chain.root / "two" / "b")
    chain.back_up()
    (chain.root / "one").rename(chain.root / "out-of-sight")
    chain.settings["exclude"] = ["/out-of-sight"]
    (chain.root / "one").mkdir()
    (chain.root / "one" / "a").write_text("new content")
    os.link(chain.root / "one" / "a", chain.root / "zoo")
    chain.back_up()
    assert references(chain.runs[1][1])
    target = tmp_path / "restored"
    assert chain.restore(1, target) == []
    assert (target / "two" / "b").read_text() == "old content"
    assert (target / "zoo").read_text() == "new content"
    assert (target / "zoo").samefile(target / "one" / "a")


def test_a_linked_file_that_changes_between_its_names_is_stored_again(
    chain: Chain, tmp_path: Path
) -> None:
    """Until then all its names are what the first one was when it was read."""
    chain.root.mkdir()
    (chain.root / "a").write_text("old")
    (chain.root / "big").write_bytes(Random(1).randbytes(8 << 20))
    os.link(chain.root / "a", chain.root / "z")

    def change(_: str, raw_bytes: int) -> None:
        if raw_bytes > 2 << 20 and (chain.root / "a").read_text() == "old":
            (chain.root / "a").write_text("new content")
            os.setxattr(chain.root / "a", "user.note", b"new")

    chain.back_up(watch=change)
    assert (chain.root / "z").read_text() == "new content"
    assert chain.restore(0, tmp_path / "first") == []
    assert (tmp_path / "first" / "z").read_text() == "old"
    later = RestoreOptions(only=["/z"])
    assert chain.restore(0, tmp_path / "later-name", options=later) == []
    chain.back_up()
    assert chain.restore(1, tmp_path / "second") == []
    assert trees.rsync_difference(chain.root, tmp_path / "second") == ""


def test_names_of_a_file_stay_together_when_a_directory_is_renamed(
    chain: Chain, tmp_path: Path
) -> None:
    """Which leaves the ctimes of the files in it alone."""
    for name in ("a", "b"):
        (chain.root / name).mkdir(parents=True)
    (chain.root / "a" / "one").write_text("content")
    os.link(chain.root / "a" / "one", chain.root / "b" / "other")
    chain.back_up()
    (chain.root / "a").rename(chain.root / "c")
    second = chain.back_up()
    assert files(second) == 2
    assert chain.restore(1, tmp_path / "restored") == []
    assert trees.rsync_difference(chain.root, tmp_path / "restored") == ""


@pytest.mark.parametrize("compare", ["metadata", "content"])
def test_names_of_a_file_stay_together_whatever_is_excluded(
    chain: Chain, tmp_path: Path, compare: str
) -> None:
    chain.settings["compare"] = compare
    trees.nasty(chain.root)
    (chain.root / "excluded").mkdir()
    for name in ("another-name", "large", "new\nline", "tab\there"):
        os.link(chain.root / name, chain.root / "excluded" / name)
    chain.settings["exclude"] = ["/excluded"]
    chain.back_up(batch_files=8)
    chain.settings["exclude"] = ["/new*", "/large", "/another-name"]
    chain.back_up(batch_files=8)
    chain.settings["exclude"] = []
    third = chain.back_up(batch_files=8)
    assert references(third)
    assert chain.restore(2, tmp_path / "restored") == []
    assert trees.rsync_difference(chain.root, tmp_path / "restored") == ""


def test_what_is_stored_again_for_its_other_name_is_not_leant_on(chain: Chain) -> None:
    chain.root.mkdir()
    (chain.root / "a").write_text("content")
    os.link(chain.root / "a", chain.root / "b")
    chain.settings["exclude"] = ["/a"]
    chain.back_up()
    chain.settings["exclude"] = []
    (chain.root / "new").write_text("so that the directory has changed, too")
    second = chain.back_up()
    assert references(second) == set()
    assert files(second) == 3


def test_by_content_a_copied_tree_is_unchanged(chain: Chain, tmp_path: Path) -> None:
    chain.settings["compare"] = "content"
    trees.lifelike(chain.root, files=40)
    chain.back_up()
    moved = tmp_path / "moved"
    shutil.copytree(chain.root, moved, symlinks=True)  # other inodes, other ctimes
    shutil.rmtree(chain.root)
    moved.rename(chain.root)
    (chain.root / "d0" / "e0" / "file-0.txt").write_text("other")
    second = chain.back_up()
    stored = [o for r in second for o in r.objects if o.name.endswith(".tar.zst")]
    assert sum(o.files or 0 for o in stored) == 2  # the changed file and the link
    assert chain.restore(1, tmp_path / "restored") == []
    assert trees.rsync_difference(chain.root, tmp_path / "restored") == ""


def test_by_content_names_that_became_files_of_their_own_stay_apart(
    chain: Chain, tmp_path: Path
) -> None:
    chain.settings["compare"] = "content"
    chain.root.mkdir()
    (chain.root / "a").write_text("content")
    os.link(chain.root / "a", chain.root / "b")
    chain.back_up()
    shutil.copy2(chain.root / "a", chain.root / "copy")
    (chain.root / "copy").rename(chain.root / "b")
    chain.back_up()
    assert chain.restore(1, tmp_path / "restored") == []
    assert trees.rsync_difference(chain.root, tmp_path / "restored") == ""
    assert not (tmp_path / "restored" / "a").samefile(tmp_path / "restored" / "b")


def test_by_content_a_change_under_the_same_times_is_seen(chain: Chain, tmp_path: Path) -> None:
    chain.settings["compare"] = "content"
    trees.lifelike(chain.root, files=20)
    chain.back_up()
    path = chain.root / "large.bin"
    status = path.stat()
    with path.open("r+b") as file:
        file.write(b"CHANGED")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    chain.back_up()
    assert chain.restore(1, tmp_path / "restored") == []
    assert trees.rsync_difference(chain.root, tmp_path / "restored") == ""


def _change(root: Path, random: Random, run: int) -> None:
    """Add, alter, delete, rename, link; folders too."""
    files = sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink())
    for path in random.sample(files, 5):
        path.write_bytes(random.randbytes(random.randint(0, 3000)))
    for path in random.sample(files, 4):
        path.unlink()
    files = [p for p in files if p.exists()]
    for path in random.sample(files, 3):
        path.rename(path.with_name(f"renamed-{run}-{path.name}"))
    files = [p for p in files if p.exists()]
    os.link(files[0], root / f"linked-{run}")
    folders = sorted(p for p in root.rglob("*") if p.is_dir() and not p.is_symlink())
    folders[-1].rename(folders[-1].with_name(f"folder-{run}"))
    (root / f"new-{run}").mkdir()
    (root / f"new-{run}" / "file").write_bytes(random.randbytes(100))


def _copy_times(one: Path, two: Path) -> None:
    """copytree gives directories their times only on the way out, and breaks hard links."""
    names: dict[int, Path] = {}
    for path in sorted(p for p in one.rglob("*") if p.is_file() and not p.is_symlink()):
        status = path.stat()
        twin = two / path.relative_to(one)
        if status.st_nlink > 1:
            if first := names.get(status.st_ino):
                twin.unlink()
                os.link(first, twin)
            names.setdefault(status.st_ino, twin)
    for path in sorted([one, *(p for p in one.rglob("*") if p.is_dir())], reverse=True):
        if not path.is_symlink():
            status = path.stat()
            os.utime(two / path.relative_to(one), ns=(status.st_atime_ns, status.st_mtime_ns))
