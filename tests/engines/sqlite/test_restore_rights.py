"""Mode and owner of a restored database are those of the one replaced, or of the one backed up."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepvault.engines.sqlite import engine
from stepvault.engines.sqlite.target import partial_of
from stepvault.errors import BackupTampered, TargetUnsupported
from stepvault.records import RestoreOptions, Unrestored
from tests.engines.driver import back_up, restore_job, run_restore
from tests.engines.sqlite.databases import Form, as_nobody, make_database, settings

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


def rights(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_mode & 0o7777, status.st_uid, status.st_gid


def restored(path: Path, place: Path, form: Form = "file", **job: Any) -> Path:
    vault = path.parent / f"vault-{form}-{place.name}"
    source = settings(path, form)
    results = back_up(engine, source, vault)
    run_restore(engine, restore_job(results, vault, source, path=place, **job))
    return place


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    make_database(path, mode="DELETE")
    return path


@pytest.mark.parametrize("form", ["file", "sql"])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o444])
def test_the_mode_is_that_of_the_backup(path: Path, tmp_path: Path, form: Form, mode: int) -> None:
    path.chmod(mode)
    assert rights(restored(path, tmp_path / "new.db", form))[0] == mode


@as_root
def test_the_owner_is_that_of_the_backup(path: Path, tmp_path: Path) -> None:
    path.chmod(0o600)
    os.chown(path, 1000, 1001)
    assert rights(restored(path, tmp_path / "new.db")) == (0o600, 1000, 1001)


@as_root
def test_setuid_does_not_come_back(path: Path, tmp_path: Path) -> None:
    os.chown(path, 1000, 1001)
    path.chmod(0o4755)
    assert rights(restored(path, tmp_path / "new.db"))[0] == 0o755


@as_root
def test_no_owner_is_kept_when_none_is_asked_for(path: Path, tmp_path: Path) -> None:
    path.chmod(0o600)
    os.chown(path, 1000, 1001)
    place = restored(path, tmp_path / "new.db", options=RestoreOptions(owner="none"))
    assert rights(place) == (0o600, os.getuid(), os.getgid())


@as_root
@pytest.mark.parametrize("form", ["file", "sql"])
def test_what_is_replaced_hands_on_its_mode_and_owner(
    path: Path, tmp_path: Path, form: Form
) -> None:
    path.chmod(0o644)
    place = tmp_path / "old.db"
    make_database(place, mode="DELETE")
    place.chmod(0o600)
    os.chown(place, 1000, 1001)
    restored(path, place, form, options=RestoreOptions(overwrite=True))
    assert rights(place) == (0o600, 1000, 1001)


def test_a_database_is_private_while_it_is_written(path: Path, tmp_path: Path) -> None:
    """A file that others may not read is never one that they may, not for a moment."""
    path.chmod(0o600)
    seen = []

    def progress(name: str, size: int) -> None:
        seen.append(rights(partial_of(tmp_path / "new.db"))[0])

    restored(path, tmp_path / "new.db", progress=progress)
    assert set(seen) == {0o600}


@as_root
def test_a_plain_user_gets_the_mode_and_owns_the_file(path: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    os.chown(tmp_path / "out", 65_534, 65_534)
    path.chmod(0o640)
    vault, source = tmp_path / "vault", settings(path)
    results = back_up(engine, source, vault)
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent, vault):
        folder.chmod(0o755)
    with as_nobody():
        run_restore(engine, restore_job(results, vault, source, path=tmp_path / "out" / "new.db"))
    mode, uid, _ = rights(tmp_path / "out" / "new.db")
    assert (mode, uid) == (0o640, 65_534)


def job_with_facts(
    path: Path, place: Path, change: Callable[[dict[str, Any]], object], **job: Any
) -> Any:
    vault, source = path.parent / "vault", settings(path)
    (result,) = back_up(engine, source, vault)
    (stored,) = result.objects
    change(stored.facts)
    return restore_job(result, vault, source, path=place, **job)


@as_root
def test_an_owner_that_cannot_be_set_is_refused_or_reported(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chown(file: Path, uid: int, gid: int) -> None:
        """As in a user namespace that does not know the user; none can be made here."""
        raise OSError(22, "Invalid argument")

    path.chmod(0o600)
    os.chown(path, 1000, 1001)
    monkeypatch.setattr(os, "chown", chown)
    place = tmp_path / "new.db"
    with pytest.raises(TargetUnsupported, match="user 1000, group 1001") as caught:
        restored(path, place)
    assert "--owner none" in caught.value.fix
    assert not place.exists()
    reported: list[Unrestored] = []
    (tmp_path / "again").mkdir()
    options = RestoreOptions(keep_going=True)
    restored(path, tmp_path / "again" / "n.db", options=options, unrestored=reported.append)
    assert rights(tmp_path / "again" / "n.db") == (0o600, os.getuid(), os.getgid())
    assert [(u.kind, u.name) for u in reported] == [("owner", "shop.db")]


@pytest.mark.parametrize(
    "facts",
    [
        {"mode": "9"}, {"mode": 420}, {"mode": "4755"}, {"uid": -1}, {"uid": "root"},
        {"gid": 2**32}, {"gid": None}, {"mode": "-0600"},
        {"uid": float("inf")}, {"gid": float("nan")},
    ],
)  # fmt: skip
def test_rights_that_cannot_be_are_refused(
    path: Path, tmp_path: Path, facts: dict[str, Any]
) -> None:
    job = job_with_facts(path, tmp_path / "new.db", lambda kept: kept.update(facts))
    with pytest.raises(BackupTampered, match="mode and owner"):
        run_restore(engine, job)
    assert not (tmp_path / "new.db").exists()
    assert not partial_of(tmp_path / "new.db").exists()


def test_a_backup_of_an_earlier_version_has_no_rights_to_give(path: Path, tmp_path: Path) -> None:
    def forget(facts: dict[str, Any]) -> None:
        for key in ("mode", "uid", "gid"):
            facts.pop(key)

    run_restore(engine, job_with_facts(path, tmp_path / "new.db", forget))
    umask = os.umask(0)
    os.umask(umask)
    assert rights(tmp_path / "new.db")[0] == 0o666 & ~umask


def test_a_database_of_the_wrong_owner_is_no_difference_but_is_said_not_to_be_compared(
    path: Path, tmp_path: Path
) -> None:
    not_compared: list[str] = []
    vault, source = tmp_path / "vault", settings(path)
    job = restore_job(
        back_up(engine, source, vault), vault, source,
        path=tmp_path / "new.db", not_compared=not_compared.append,
    )  # fmt: skip
    run_restore(engine, job)
    (tmp_path / "new.db").chmod(0o400)
    assert engine.differences(job) == []
    assert any("mode and owner" in line for line in not_compared)
