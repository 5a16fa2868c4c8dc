"""include, exclude, max_file_size, follow_symlinks, preserve_metadata."""

import os
import signal
import stat
import subprocess
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stepvault.config import load, notes
from stepvault.engines.files import engine
from stepvault.engines.files.tree.globs import Globs, without_effect
from stepvault.settings import FilesSource
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


def test_the_example_keeps_what_it_says(tmp_path: Path) -> None:
    config = load(Path(__file__).parents[4] / "examples" / "stepvault.toml")
    (example,) = [s for s in config.sources if isinstance(s, FilesSource)]
    root = tmp_path / "tree"
    for path in (
        "cache/keep/deep/kept",
        "cache/keep/kept",
        "cache/gone/x",
        "cache/y",
        "a.tmp",
        "b",
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    paths, _ = stored(root, tmp_path, include=example.include, exclude=example.exclude)
    files = {path for path in paths if (root / path).is_file()}
    assert files == {"b", "cache/keep/deep/kept", "cache/keep/kept"}


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["/cache/", "!/cache/keep/**"], ["!/cache/keep/**"]),
        (["cache", "!cache/keep"], ["!cache/keep"]),
        (["/a/b/", "!/a/b/*/c"], ["!/a/b/*/c"]),
        (["/a/b", "!/a/b/c", "!/a/b/c/d"], ["!/a/b/c", "!/a/b/c/d"]),
        (["!*.txt", "*.log"], ["!*.txt"]),
        (["/cache/*", "!/cache/keep/"], []),
        (["/cache/*", "!/cache/keep/**"], ["!/cache/keep/**"]),
        (["/cache/*", "!/cache/keep/", "!/cache/keep/**"], []),
        (["*.tmp", "!keep.tmp", "!/docs/keep.tmp"], []),
        (["/cache/", "!/cache/", "!/cache/keep"], []),
        (["# ! no pattern", "", "*", "!*/", "!*.txt"], []),
    ],
)
def test_patterns_that_take_nothing_back_are_found(
    patterns: list[str], expected: list[str]
) -> None:
    assert without_effect(patterns) == expected


def test_config_check_names_patterns_that_take_nothing_back(tmp_path: Path) -> None:
    file = tmp_path / "stepvault.toml"
    file.write_text(
        '[[sources]]\nname = "uploads"\nengine = "files"\npath = "/srv/up"\n'
        'exclude = ["/cache/", "!/cache/keep/**"]\n'
    )
    (note,) = [n for n in notes(load(file)) if "exclude" in n]
    assert "uploads: exclude: '!/cache/keep/**' takes nothing back" in note


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    patterns=st.lists(
        st.from_regex(r"!?/?[ab*]{1,2}(/[ab*]{1,2}){0,2}/?", fullmatch=True), max_size=4
    )
)
def test_what_is_said_to_take_nothing_back_makes_no_difference(patterns: list[str]) -> None:
    """Over all paths of three names."""
    useless = without_effect(patterns)
    names = [b"a", b"b", b"ab"]
    paths = [b"/".join(some) for n in (1, 2, 3) for some in product(names, repeat=n)]

    def kept(rules: list[str]) -> list[bytes]:
        globs = Globs(rules)
        return [
            path
            for path in paths
            if not any(
                globs.decide(above, above.rpartition(b"/")[2], is_directory=True)
                for above in (
                    b"/".join(path.split(b"/")[:n]) for n in range(1, path.count(b"/") + 1)
                )
            )
            and not globs.decide(path, path.rpartition(b"/")[2], is_directory=False)
        ]

    for pattern in useless:
        if patterns.count(pattern) == 1:
            assert kept([p for p in patterns if p != pattern]) == kept(patterns), pattern


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/".join(["**/a"] * 10) + "/b", b"a/" * 200 + b"c"),
        ("/".join(["**/a*"] * 30) + "/**/b", b"aa/" * 500 + b"c"),
        ("/".join(["**"] * 200) + "/x", b"a/" * 500 + b"c"),
        ("*a" * 20 + "*b", b"a" * 255),
        ("/x/" + "*?a" * 20 + "[b]", b"x/" + b"a" * 255),
        ("*" * 100 + "b", b"a" * 255),
    ],
)
def test_stars_cost_no_power_of_the_path_s_length(pattern: str, path: bytes) -> None:
    """With backtracking each star multiplies the time; here a second is a million times enough."""
    globs = Globs([pattern])

    def give_up(number: int, frame: Any) -> None:
        raise TimeoutError(pattern)

    before = signal.signal(signal.SIGVTALRM, give_up)
    signal.setitimer(signal.ITIMER_VIRTUAL, 1.0)
    try:
        assert globs.decide(path, path.rpartition(b"/")[2], is_directory=False) is None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _naive(pattern: list[str], path: list[str]) -> bool:
    """Whether an anchored pattern of plain names, stars and double stars matches, by definition."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        if len(pattern) == 1:
            return bool(path)
        return any(_naive(pattern[1:], path[n:]) for n in range(len(path) + 1))
    return bool(path) and fnmatchcase(path[0], pattern[0]) and _naive(pattern[1:], path[1:])


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(
    pattern=st.lists(
        st.sampled_from(["**", "*", "a", "b", "a*", "*b", "a*b*", "*a*b"]), min_size=2, max_size=7
    ),
    path=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=7),
)
def test_any_number_of_stars_means_what_it_means_to_git(
    pattern: list[str], path: list[str]
) -> None:
    text = "/".join(path).encode()
    matched = Globs(["/" + "/".join(pattern)]).decide(text, path[-1].encode(), is_directory=False)
    assert bool(matched) == _naive(pattern, path)
