"""Names of any kind through packs, index and GNU tar."""

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepvault.engines.files import engine
from stepvault.engines.files.format import index
from stepvault.engines.files.paths import walk_key
from tests.engines.driver import back_up, restore_job, run_restore
from tests.engines.files import trees
from tests.engines.files.names import names

contents = st.one_of(st.binary(max_size=30), st.integers(500, 1030).map(bytes))
times = st.integers(-(2**31) * 10**9, 2**33 * 10**9)


@given(st.dictionaries(names, st.tuples(contents, times), min_size=1, max_size=8), names, names)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_name_comes_back(
    files: dict[bytes, tuple[bytes, int]], folder: bytes, link: bytes
) -> None:
    work = Path(tempfile.mkdtemp(prefix="stepvault-names-"))
    try:
        root = work / "tree"
        inside = os.fsencode(root) + b"/" + folder
        os.makedirs(inside)
        for name, (data, mtime) in files.items():
            with open(inside + b"/" + name, "wb") as file:
                file.write(data)
            os.utime(inside + b"/" + name, ns=(0, mtime))
        if link not in files:
            os.symlink(b"to/" + link, inside + b"/" + link)
        source = trees.source(root)
        job = restore_job(back_up(engine, source, work), work, source, path=work / "to")
        run_restore(engine, job)
        assert trees.rsync_difference(root, work / "to") == ""
        assert engine.differences(job) == []
        trees.unpack_with_tar([work / "0000.tar.zst"], work / "tar")
        assert trees.rsync_difference(root, work / "tar") == ""
    finally:
        shutil.rmtree(work)


@given(st.lists(names, min_size=1, max_size=5).map(b"/".join))
def test_escaped_paths_come_back_and_hold_no_separator(path: bytes) -> None:
    escaped = index.escape(path)
    assert index.unescape(escaped) == path
    assert b"\t" not in escaped
    assert b"\n" not in escaped


@given(st.lists(st.lists(names, min_size=1, max_size=3).map(b"/".join), unique=True))
def test_lines_sort_as_the_walk_does(paths: list[bytes]) -> None:
    """Component by component."""
    assert sorted(paths, key=walk_key) == sorted(paths, key=lambda p: p.split(b"/"))
    lines = [index.escape(p) + b"\t0" for p in paths]
    assert [index.key_of(line) for line in lines] == [walk_key(p) for p in paths]
