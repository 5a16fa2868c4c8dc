"""A restore of many databases: one that cannot be put back costs no other, nor does a second try."""

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stepvault.engines.base import RestoreJob
from stepvault.engines.sqlite import engine
from stepvault.engines.sqlite.target import partial_of
from stepvault.errors import (
    BackupTampered,
    ConfigInvalid,
    StorageUnavailable,
    TargetMissing,
    TargetNotEmpty,
    TargetUnsupported,
    VaultDenied,
)
from stepvault.records import RestoreOptions, RestoreTask, StoredObject, Unrestored
from tests.engines.driver import back_up, restore_job, run_restore
from tests.engines.sqlite.databases import Form, content, make_database, settings

KEEP_GOING = RestoreOptions(keep_going=True)


class Restoring:
    """A restore of five databases into a folder, and what it reports."""

    def __init__(self, tmp_path: Path, form: Form = "file") -> None:
        self.apps, self.out, self.vault = (tmp_path / n for n in ("apps", "out", "vault"))
        for name in "abcde":
            (self.apps / name).mkdir(parents=True, exist_ok=True)
            make_database(self.apps / name / "x.db", mode="DELETE")
        self.reported: list[Unrestored] = []
        source = settings(self.apps / "**" / "*.db", form)
        results = back_up(engine, source, self.vault)
        self.job = restore_job(
            results, self.vault, source, path=self.out, unrestored=self.reported.append
        )
        self.out.mkdir()

    def with_options(self, options: RestoreOptions) -> RestoreJob:
        return replace(self.job, options=options)

    def names(self) -> list[str]:
        return sorted({u.name for u in self.reported if u.kind == "database"})

    def there(self) -> str:
        """The databases that are back, by the letters of their folders."""
        back = [p for p in self.out.rglob("x.db") if p.is_file()]
        assert all(content(p) == content(self.apps / p.relative_to(self.out)) for p in back)
        return "".join(sorted(p.parent.name for p in back))


@pytest.fixture
def restoring(tmp_path: Path) -> Restoring:
    return Restoring(tmp_path)


def test_a_tampered_object_costs_no_other(restoring: Restoring) -> None:
    (restoring.vault / "c" / "x.sqlite.zst").write_bytes(b"junk")
    with pytest.raises(BackupTampered):
        run_restore(engine, restoring.job)
    run_restore(engine, restoring.with_options(KEEP_GOING))
    assert restoring.there() == "abde"
    assert restoring.names() == ["c/x.db"]
    assert "c/x.sqlite.zst" in restoring.reported[-1].reason
    assert engine.differences(restoring.job) == [f"{restoring.out}/c/x.db: missing"]


def test_occupied_places_are_named_together_before_anything_is_written(
    restoring: Restoring,
) -> None:
    for name in "bd":
        (restoring.out / name).mkdir()
        (restoring.out / name / "x.db").write_text(name)
    with pytest.raises(TargetNotEmpty) as caught:
        engine.plan_restore(restoring.job)
    assert str(restoring.out / "b" / "x.db") in str(caught.value)
    assert str(restoring.out / "d" / "x.db") in str(caught.value)
    assert "--keep-going" in caught.value.fix
    assert restoring.reported == []
    run_restore(engine, restoring.with_options(KEEP_GOING))
    assert restoring.names() == ["b/x.db", "d/x.db"]
    assert (restoring.out / "b" / "x.db").read_text() == "b"
    assert len(list(restoring.out.rglob("x.db"))) == 5


def test_a_place_that_is_taken_after_the_plan_costs_no_other(restoring: Restoring) -> None:
    job = restoring.with_options(KEEP_GOING)
    tasks = engine.plan_restore(job)
    (restoring.out / "a" / "x.db").mkdir(parents=True)
    (restoring.out / "b").write_text("a file where a folder has to be")
    for task in tasks * 2:
        engine.restore(job, task)
    assert restoring.there() == "cde"
    assert restoring.names() == ["a/x.db", "b/x.db"]


def test_a_database_in_use_costs_no_other(restoring: Restoring) -> None:
    (restoring.out / "a").mkdir()
    make_database(restoring.out / "a" / "x.db", 0.2, mode="DELETE")
    user = sqlite3.connect(restoring.out / "a" / "x.db", isolation_level=None)
    user.execute("BEGIN IMMEDIATE")
    run_restore(engine, restoring.with_options(RestoreOptions(overwrite=True, keep_going=True)))
    user.close()
    assert restoring.names() == ["a/x.db"]
    assert "in use" in restoring.reported[0].reason


def test_a_name_that_the_file_system_cannot_take_costs_no_other(restoring: Restoring) -> None:
    """As keys of a bucket may be."""
    long = f"{'n' * 256}.db"
    first, *rest = restoring.job.objects
    changed = first.model_copy(update={"facts": first.facts | {"path": f"new/{long}"}})
    job = replace(restoring.job, objects=[changed, *rest])
    with pytest.raises(TargetUnsupported, match=r"259 bytes.* 255"):
        engine.plan_restore(job)
    assert not list(restoring.out.iterdir())
    run_restore(engine, replace(job, options=KEEP_GOING))
    assert restoring.names() == [f"new/{long}"]
    assert len(restoring.there()) == 4


@pytest.mark.parametrize("error", [VaultDenied, StorageUnavailable])
def test_what_is_wrong_with_the_vault_is_not_taken_for_one_databases_fault(
    restoring: Restoring, error: type[Exception]
) -> None:
    def read(stored: StoredObject) -> Any:
        raise error("the vault")

    job = replace(restoring.with_options(KEEP_GOING), read=read)
    with pytest.raises(error):
        run_restore(engine, job)
    assert restoring.reported == []


def test_a_second_attempt_goes_on_where_the_first_ended(restoring: Restoring) -> None:
    job = restoring.job
    read = []

    def killed_at_the_third(stored: StoredObject) -> Any:
        read.append(stored.name)
        if len(read) == 3:
            raise KeyboardInterrupt
        return job.read(stored)

    tasks = engine.plan_restore(job)
    with pytest.raises(KeyboardInterrupt):
        engine.restore(replace(job, read=killed_at_the_third), tasks[0])
    assert len(restoring.there()) == 2
    again = []

    def reading(stored: StoredObject) -> Any:
        again.append(stored.name)
        return job.read(stored)

    run_restore(engine, replace(job, read=reading))
    assert restoring.there() == "abcde"
    assert len(again) == 3
    assert sorted(p.name for p in restoring.out.rglob("*") if p.is_file()) == ["x.db"] * 5


def test_what_a_killed_attempt_left_is_neither_backed_up_nor_in_the_way(
    restoring: Restoring, tmp_path: Path
) -> None:
    run_restore(engine, restoring.job)
    for name in "ab":
        partial_of(restoring.out / name / "x.db").write_bytes(b"half")
    (result,) = back_up(engine, settings(restoring.out / "**"), tmp_path / "second")
    assert sorted(o.facts["path"] for o in result.objects) == [f"{n}/x.db" for n in "abcde"]
    run_restore(engine, restoring.job)
    assert not list(restoring.out.rglob(".*"))


def test_each_name_asked_for_has_to_match(restoring: Restoring) -> None:
    with pytest.raises(ConfigInvalid, match="west"):
        engine.plan_restore(restoring.with_options(RestoreOptions(only=["a/*", "west/*"])))


def test_two_databases_at_one_place_are_refused(restoring: Restoring) -> None:
    first, second, *_ = restoring.job.objects
    twin = second.model_copy(update={"facts": first.facts})
    with pytest.raises(BackupTampered, match="one place"):
        engine.plan_restore(replace(restoring.job, objects=[first, twin]))


def test_a_format_that_is_not_known_is_refused(restoring: Restoring) -> None:
    first, *rest = restoring.job.objects
    newer = first.model_copy(update={"facts": first.facts | {"format": "delta"}})
    with pytest.raises(TargetUnsupported, match=r"delta.*newer Stepvault"):
        engine.plan_restore(replace(restoring.job, objects=[newer, *rest]))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root mounts file systems, and not in every container")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("form", ["file", "sql"])
def test_a_disk_that_fills_up_is_said_to_be_full_and_costs_no_smaller_database(
    tmp_path: Path, small_disk: Path, form: Form
) -> None:
    apps = tmp_path / "apps"
    for name, megabytes in {"big": 2.0, "small": 0.1}.items():
        (apps / name).mkdir(parents=True)
        make_database(apps / name / "x.db", megabytes, mode="DELETE")
    source, reported = settings(apps / "**" / "*.db", form), list[Unrestored]()
    job = restore_job(
        back_up(engine, source, tmp_path / "vault"), tmp_path / "vault", source,
        path=small_disk, unrestored=reported.append,
    )  # fmt: skip
    with pytest.raises(TargetMissing, match="1 MiB free"):
        engine.plan_restore(job)
    task = RestoreTask(stage="data", id="0000", objects=[o.name for o in job.objects])
    with pytest.raises(TargetMissing, match=r"no room.*big/x\.db") as caught:
        engine.restore(job, task)
    assert "make room" in caught.value.fix
    engine.restore(replace(job, options=KEEP_GOING), task)
    assert [u.name for u in reported] == ["big/x.db"]
    assert [p.parent.name for p in small_disk.rglob("*") if p.is_file()] == ["small"]


@pytest.mark.parametrize("form", ["file", "sql"])
@pytest.mark.parametrize("length", [236, 237, 247, 248, 255])
def test_a_name_of_any_length_comes_back(tmp_path: Path, form: Form, length: int) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "out").mkdir()
    make_database(tmp_path / "made.db", mode="DELETE")
    path = tmp_path / "app" / f"{'n' * (length - 3)}.db"
    (tmp_path / "made.db").rename(path)
    source = settings(path, form)
    results = back_up(engine, source, tmp_path / "vault")
    options = RestoreOptions(overwrite=True)
    job = restore_job(results, tmp_path / "vault", source, path=tmp_path / "out", options=options)
    for _ in range(2):
        run_restore(engine, job)
        assert engine.differences(job) == []
    assert [p.name for p in (tmp_path / "out").iterdir()] == [path.name]
    with sqlite3.connect(tmp_path / "out" / path.name) as changed:
        assert changed.execute("SELECT count(*) FROM item").fetchone()[0] > 0
    changed.close()


def test_ten_times_the_databases_cost_ten_times_the_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps are calls of functions: a number that no load on the machine changes."""
    monkeypatch.setattr("stepvault.engines.sqlite.restore._TASK_OBJECTS", 5)
    make_database(tmp_path / "made.db", mode="DELETE")
    data = (tmp_path / "made.db").read_bytes()

    def steps(databases: int) -> dict[str, int]:
        root = tmp_path / str(databases)
        root.mkdir()
        for number in range(databases):
            (root / f"{number}.db").write_bytes(data)
        source, vault, out = settings(root / "*.db"), root / "vault", root / "out"
        results: list[Any] = []
        counted = {"backup": _calls(lambda: results.extend(back_up(engine, source, vault)))}
        out.mkdir()
        job = restore_job(results, vault, source, path=out)
        tasks: list[Any] = []
        counted["plan"] = _calls(lambda: tasks.extend(engine.plan_restore(job)))
        counted["restore"] = _calls(lambda: [engine.restore(job, task) for task in tasks])
        counted["compare"] = _calls(lambda: engine.differences(job))
        return counted

    few, many = steps(15), steps(150)
    assert {what: many[what] / few[what] < 12 for what in few} == dict.fromkeys(few, True)


def _calls(work: Any) -> int:
    count = 0

    def tick(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += 1

    threading.setprofile(tick)
    sys.setprofile(tick)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return count
