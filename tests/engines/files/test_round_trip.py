"""What goes in comes out: by Stepvault and by GNU tar, proved by rsync."""

from collections.abc import Callable
from pathlib import Path

import pytest

from stepvault.engines.files import engine
from tests.engines.driver import back_up, restore_job, run_restore
from tests.engines.files import trees

pytestmark = pytest.mark.usefixtures("file_system")


@pytest.mark.parametrize("make", [trees.lifelike, trees.nasty])
@pytest.mark.parametrize("batch_files", [50_000, 8])
def test_a_tree_comes_back_equal(
    make: Callable[[Path], None], batch_files: int, tmp_path: Path
) -> None:
    root, vault, target = tmp_path / "tree", tmp_path / "vault", tmp_path / "restored"
    make(root)
    source = trees.source(root)
    plan = {"batch_files": batch_files}
    results = back_up(engine, source, vault, plan=plan, connections=2)
    assert [w for r in results for w in r.warnings] == []

    job = restore_job(results, vault, source, path=target)
    run_restore(engine, job)
    assert trees.rsync_difference(root, target) == ""
    assert engine.differences(job) == []

    by_tar = tmp_path / "by-tar"
    trees.unpack_with_tar(list(vault.glob("*.tar.zst")), by_tar)
    assert trees.rsync_difference(root, by_tar) == ""
