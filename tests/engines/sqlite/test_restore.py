"""Where restored databases go, and what is refused there."""

import sqlite3
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
    SourceDenied,
    TargetMissing,
    TargetNotEmpty,
)
from stepvault.records import RestoreOptions
from tests.engines.driver import back_up, restore_job, run_restore
from tests.engines.sqlite.databases import as_nobody, content, make_database, settings

OVERWRITE = RestoreOptions(overwrite=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    make_database(path)
    return path


def restoring(database: Path, **job: Any) -> RestoreJob:
    """A restore job for a fresh backup of the database or of the pattern."""
    vault = Path(str(database).partition("*")[0]).parent / "vault"
    source = settings(database)
    return restore_job(back_up(engine, source, vault), vault, source, **job)


def test_into_a_folder_under_its_own_name(path: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    run_restore(engine, restoring(path, path=tmp_path / "out"))
    assert content(tmp_path / "out" / "shop.db") == content(path)


def test_the_folder_has_to_exist(path: Path, tmp_path: Path) -> None:
    job = restoring(path, path=tmp_path / "nowhere" / "shop.db")
    with pytest.raises(TargetMissing, match="nowhere"):
        engine.plan_restore(job)
    with pytest.raises(ConfigInvalid, match="path"):
        engine.plan_restore(replace(job, path=None))


def test_a_folder_that_may_not_be_written_is_denied(path: Path, tmp_path: Path) -> None:
    for above in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        above.chmod(0o755)
    (tmp_path / "out").mkdir(mode=0o555)
    job = restoring(path, path=tmp_path / "out" / "new.db")
    with as_nobody(), pytest.raises(SourceDenied, match=str(tmp_path)):
        engine.plan_restore(job)


@pytest.mark.parametrize("end", ["-wal", "-shm", "-journal"])
def test_leftovers_of_another_database_are_refused_and_removed_when_told(
    path: Path, tmp_path: Path, end: str
) -> None:
    """SQLite would lay a leftover log over the restored pages."""
    place = tmp_path / "new.db"
    leftover = tmp_path / f"new.db{end}"
    source = tmp_path / "shop.db-wal"
    leftover.write_bytes(source.read_bytes())
    job = restoring(path, path=place)
    with pytest.raises(TargetNotEmpty, match=f"new.db{end}"):
        engine.plan_restore(job)
    run_restore(engine, replace(job, options=OVERWRITE))
    assert not leftover.exists()
    assert content(place) == content(path)


def test_a_database_in_use_is_not_overwritten(path: Path, tmp_path: Path) -> None:
    place = tmp_path / "used.db"
    make_database(place)
    user = sqlite3.connect(place)
    user.execute("SELECT * FROM note").fetchone()
    with pytest.raises(TargetNotEmpty, match="in use"):
        run_restore(engine, restoring(path, path=place, options=OVERWRITE))
    assert user.execute("SELECT count(*) FROM item").fetchone()[0] > 0
    user.close()


def test_what_is_no_database_is_overwritten_when_told(path: Path, tmp_path: Path) -> None:
    place = tmp_path / "new.db"
    place.write_text("something else")
    run_restore(engine, restoring(path, path=place, options=OVERWRITE))
    assert content(place) == content(path)


def test_what_a_killed_attempt_left_is_cleared_away(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    partial_of(out / "shop.db").write_bytes(b"half")
    run_restore(engine, restoring(path, path=out))
    assert [p.name for p in out.iterdir()] == ["shop.db"]


def test_a_target_that_fills_up_between_plan_and_task_is_kept(path: Path, tmp_path: Path) -> None:
    place = tmp_path / "new.db"
    job = restoring(path, path=place)
    (task,) = engine.plan_restore(job)
    place.write_text("came later")
    with pytest.raises(TargetNotEmpty):
        engine.restore(job, task)
    assert place.read_text() == "came later"


@pytest.mark.parametrize("where", ["../out.db", "/etc/out.db", "a/../../out.db", "a//b", "", "%00"])
def test_a_manifest_that_points_out_of_the_folder_is_refused(
    path: Path, tmp_path: Path, where: str
) -> None:
    (tmp_path / "out").mkdir()
    job = restoring(path, path=tmp_path / "out")
    stored = job.objects[0].model_copy(update={"facts": {"path": where, "format": "file"}})
    with pytest.raises(BackupTampered, match="outside of its folder"):
        engine.plan_restore(replace(job, objects=[stored]))


class TestPattern:
    @pytest.fixture
    def pattern(self, tmp_path: Path) -> Path:
        for name in ("a.db", "north/b.db", "south/c.db"):
            (tmp_path / "apps" / name).parent.mkdir(parents=True, exist_ok=True)
            make_database(tmp_path / "apps" / name)
        return tmp_path / "apps" / "**" / "*.db"

    def test_some_come_back_by_name(self, pattern: Path, tmp_path: Path) -> None:
        options = RestoreOptions(only=["north/*", "a.db"])
        run_restore(engine, restoring(pattern, path=tmp_path / "out", options=options))
        found = sorted(str(p.relative_to(tmp_path / "out")) for p in tmp_path.rglob("out/**/*.db"))
        assert found == ["a.db", "north/b.db"]

    def test_a_name_that_matches_nothing_is_said(self, pattern: Path, tmp_path: Path) -> None:
        options = RestoreOptions(only=["west/*"])
        with pytest.raises(ConfigInvalid, match="west"):
            engine.plan_restore(restoring(pattern, path=tmp_path / "out", options=options))

    def test_a_link_out_of_the_target_is_refused(self, pattern: Path, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "out" / "north").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(TargetNotEmpty, match="link"):
            run_restore(engine, restoring(pattern, path=tmp_path / "out"))
        assert not list((tmp_path / "elsewhere").iterdir())

    def test_many_databases_are_several_tasks(
        self, pattern: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("stepvault.engines.sqlite.restore._TASK_OBJECTS", 2)
        job = restoring(pattern, path=tmp_path / "out")
        assert [len(task.objects) for task in engine.plan_restore(job)] == [2, 1]
        run_restore(engine, job)
        assert engine.differences(job) == []


def test_differences_says_what_is_missing_changed_or_in_use(path: Path, tmp_path: Path) -> None:
    place = tmp_path / "new.db"
    job = restoring(path, path=place)
    assert engine.differences(job) == [f"{place}: missing"]
    run_restore(engine, job)
    user = sqlite3.connect(place, isolation_level=None)
    user.execute("DELETE FROM note")
    assert "in use since the restore" in engine.differences(job)[0]
    user.close()
    assert engine.differences(job) == [f"{place}: its content is not that of shop.sqlite.zst"]
    place.write_bytes(b"junk" * 1_000)
    assert "not a database" in engine.differences(job)[0]
