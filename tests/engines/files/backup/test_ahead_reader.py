"""Reading ahead on file systems that make one wait for every file."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from stepvault.engines.base import Job, PlanJob
from stepvault.engines.files import engine
from stepvault.engines.files.backup import snapshot
from stepvault.engines.files.backup.open_file import OpenFile
from stepvault.engines.files.tree import walk
from stepvault.engines.files.tree.handles import Tree
from stepvault.engines.files.tree.warnings import Warnings
from stepvault.errors import SourceMissing
from tests.engines.driver import back_up, backup_to_folder, restore_job, run_restore
from tests.engines.files import trees


def test_several_small_files_are_waited_for_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order all the same, large ones and hard links among them."""
    root, meeting = tmp_path / "tree", threading.Barrier(4, timeout=20)
    root.mkdir()
    for number in range(64):
        (root / f"{number:02}").write_bytes(b"%d" % number * 100)
    (root / "30-large").write_bytes(bytes(range(256)) * 8192)
    (root / "31-link").hardlink_to(root / "31")
    read = OpenFile.whole

    def together(file: OpenFile, memory: memoryview) -> bytes | memoryview:
        if file.path < b"16":
            meeting.wait()
        return read(file, memory)

    monkeypatch.setattr(snapshot, "is_network", lambda _: True)
    monkeypatch.setattr(OpenFile, "whole", together)
    source = trees.source(root)
    results = back_up(engine, source, tmp_path / "vault")
    job = restore_job(results, tmp_path / "vault", source, path=tmp_path / "to")
    run_restore(engine, job)
    assert engine.differences(job) == []
    assert trees.rsync_difference(root, tmp_path / "to") == ""


def test_several_statuses_are_waited_for_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And come in order all the same."""
    for number in range(300):
        (tmp_path / f"{number:03}").touch()
    meeting, ask = threading.Barrier(4, timeout=20), os.stat

    def together(name: bytes, **options: Any) -> os.stat_result:
        if name in (b"000", b"016", b"032", b"048"):  # sixteen in a row are one thread's
            meeting.wait()
        return ask(name, **options)

    monkeypatch.setattr(walk, "is_network", lambda _: True)
    monkeypatch.setattr(os, "stat", together)
    with Tree(tmp_path) as tree:
        found = [e.path for e in walk.walk(tree, trees.source(tmp_path), Warnings())]
    assert found == [b".", *(b"%03d" % number for number in range(300))]


def test_what_is_gone_or_changed_kind_since_the_plan_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "is_network", lambda _: True)
    root = tmp_path / "tree"
    root.mkdir()
    for name in ("a", "b", "c", "d"):
        (root / name).write_text(name)
    source = trees.source(root)
    (draft,) = engine.plan(PlanJob(source=source))
    listing = b"".join(draft.listing or ())
    (root / "b").unlink()
    (root / "c").unlink()
    (root / "c").symlink_to("a")
    result = backup_to_folder(engine, Job(source=source, listing=iter([listing])), tmp_path / "v")
    assert sorted(result.warnings) == [
        "became a link before it was read, left out (1): c",
        "vanished before it was read, left out (1): b",
    ]
    root.rename(tmp_path / "elsewhere")
    with pytest.raises(SourceMissing, match="no directory"):
        backup_to_folder(engine, Job(source=source, listing=iter([listing])), tmp_path / "w")
