"""include, exclude, max_file_size, follow_symlinks, preserve_metadata."""

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stepvault.engines.files import engine
from stepvault.engines.files.tree.globs import Globs
from tests.engines.driver import Result, back_up, restore_job, run_restore
from tests.engines.files import trees


def stored(root: Path, tmp_path: Path, **filters: Any) -> tuple[list[str], list[str]]:
    """Paths restored from a backup with those settings, and its warnings."""
    source = trees.source(root, **filters)
    vault, target = tmp_path / "vault", tmp_path / "to"
    results: list[Result] = back_up(engine, source, vault)
    job = restore_job(results, vault, source, path=target)
    run_restore(engine, job)
    assert engine.differences(job) == []
    paths = sorted(str(p.relative_to(target)) for p in target.rglob("*"))
    return paths, [w for r in results for w in r.warnings]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "tree"
    for name in ("a.txt", "b.log", "docs/c.txt", "docs/d.log", "docs/old/e.txt", "node/x/f.js"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(name)
    (made / "empty").mkdir()
    return made


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"exclude": ["*.log", "node/"]},
         ["a.txt", "docs", "docs/c.txt", "docs/old", "docs/old/e.txt", "empty"]),
        ({"include": ["*.txt"]},
         ["a.txt", "docs", "docs/c.txt", "docs/old", "docs/old/e.txt"]),
        ({"include": ["/docs/"], "exclude": ["old"]}, ["docs", "docs/c.txt", "docs/d.log"]),
        ({"include": ["docs/**", "!*.log"]},
         ["docs", "docs/c.txt", "docs/old", "docs/old/e.txt"]),
        ({"include": ["docs"], "exclude": ["docs"]}, []),
        ({"exclude": ["*", "!empty", "!a.txt"]}, ["a.txt", "empty"]),
    ],
)  # fmt: skip
def test_filters_choose(
    root: Path, tmp_path: Path, filters: dict[str, Any], expected: list[str]
) -> None:
    assert stored(root, tmp_path, **filters)[0] == expected


def test_large_files_are_skipped_and_counted(root: Path, tmp_path: Path) -> None:
    (root / "large").write_bytes(bytes(1000))
    (root / "limit").write_bytes(bytes(999))
    paths, warnings = stored(root, tmp_path, max_file_size=999)
    assert "limit" in paths
    assert "large" not in paths
    assert warnings == ["skipped, larger than max_file_size 999 (1): large"]


def test_followed_links_store_what_they_point_to_without_circles(
    root: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "far.txt").write_text("far")
    (root / "to-file").symlink_to("a.txt")
    (root / "to-dir").symlink_to(outside)
    (root / "docs" / "up").symlink_to("..")
    (outside / "back").symlink_to(outside)
    (root / "nowhere").symlink_to("missing")
    (root / "itself").symlink_to("itself")
    _, warnings = stored(root, tmp_path, follow_symlinks=True)
    target = tmp_path / "to"
    assert (target / "to-file").read_text() == "a.txt"
    assert not (target / "to-file").is_symlink()
    assert (target / "to-dir" / "far.txt").read_text() == "far"
    assert not (target / "to-dir").is_symlink()
    assert (target / "docs" / "up").is_symlink()
    assert (target / "nowhere").is_symlink()
    assert sorted(warnings) == [
        "a link that leads in a circle, kept as a link (2): docs/up, to-dir/back",
        "a link that leads nowhere, kept as a link (2): itself, nowhere",
    ]


def test_links_are_kept_by_default(root: Path, tmp_path: Path) -> None:
    (root / "to-dir").symlink_to("/etc")
    stored(root, tmp_path)
    assert (tmp_path / "to" / "to-dir").readlink() == Path("/etc")


def test_without_metadata_files_get_the_defaults(root: Path, tmp_path: Path) -> None:
    (root / "a.txt").chmod(0o600)
    os.utime(root / "a.txt", ns=(0, 1_000_000_000_123_456_789))
    stored(root, tmp_path, preserve_metadata=False)
    status = (tmp_path / "to" / "a.txt").stat()
    (tmp_path / "fresh").write_text("")
    assert stat.S_IMODE(status.st_mode) == stat.S_IMODE((tmp_path / "fresh").stat().st_mode)
    assert status.st_mtime_ns > 1_700_000_000_000_000_000


names = st.text(alphabet="abx.-[]!é", min_size=1, max_size=4).filter(lambda n: n not in (".", ".."))
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
plain = ["a", "b", "x", ".", "-", "*", "?", "**", "/", "/", "\\*", "!", "é"]
brackets = [
    "[ab]", "[!a]", "[a-x]", "[x-a]", "[!x-ab]", "[é-a]", "[--a]", "[a-]", "[a-b-x]",
    "[[:alpha:]-b]",
]  # fmt: skip
tokens = st.sampled_from(plain + brackets)
patterns = st.lists(st.lists(tokens, min_size=1, max_size=6).map("".join), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "-q", folder], check=True)
    return folder


@given(patterns, st.lists(paths, min_size=1, max_size=6, unique=True))
@example(["a/**/b", "!a/x/b", "**/c", "d/**"], ["a/b", "a/x/b", "a/x/y/b", "c", "x/c", "d", "d/e"])
@example(["**"], ["a", "a/b"])
@example(["/a", "b/", "*.x"], ["a", "b/a", "b", "b/c", "q.x", "b/q.x"])
@example(["[[:digit:]]x", "[]a]", "[!]a]"], ["1x", "]", "a", "b"])
@example(["[z-a]", "x[5-1]", "p[9-0b]", "q[!9-0]"], ["z", "a", "x5", "x3", "pb", "p9", "q9", "q8"])
@example(["x[[:space:]-z]", "y[a--]", "z[a-c-e]"], ["x-", "xz", "xm", "ya", "y-", "zb", "z-", "zd"])
@example(["[é-a]", "x[ö-ä]", "y[a-é]"], ["é", "a", "xö", "xä", "yb", "yé"])
@example(["[[:nothing:]]", "[[:nothing:]", "x[[:]"], ["n", "[", "n]", "x[", "x:"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_patterns_mean_what_they_mean_to_git(
    repository: Path, given_patterns: list[str], given_paths: list[str]
) -> None:
    """``git check-ignore`` is asked about the same patterns and paths (files, not directories)."""
    (repository / ".git" / "info" / "exclude").write_text("\n".join(given_patterns) + "\n")
    asked = subprocess.run(
        ["git", "check-ignore", "--no-index", "--stdin", "-z"],
        cwd=repository,
        input="\0".join(given_paths).encode(),
        capture_output=True,
    )
    assert asked.returncode in (0, 1), asked.stderr
    ignored = {p.decode() for p in asked.stdout.split(b"\0") if p}
    globs = Globs(given_patterns)
    assert {p for p in given_paths if _excluded(globs, p.encode())} == ignored


def _excluded(globs: Globs, path: bytes) -> bool:
    """As the walk does: an excluded directory is not entered."""
    parts = path.split(b"/")
    for depth in range(1, len(parts)):
        if globs.decide(b"/".join(parts[:depth]), parts[depth - 1], is_directory=True):
            return True
    return bool(globs.decide(path, parts[-1], is_directory=False))


def test_a_range_the_wrong_way_round_ends_no_backup(root: Path, tmp_path: Path) -> None:
    paths, _ = stored(root, tmp_path, include=["*.txt"], exclude=["docs/[z-a].txt", "[e-b].txt"])
    assert paths == ["a.txt", "docs", "docs/c.txt"]
