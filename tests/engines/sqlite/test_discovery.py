"""Which files a pattern names, which it must not name, and what is said of those left out."""

import glob
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stepvault.engines.base import Job
from stepvault.engines.sqlite import engine
from stepvault.engines.sqlite.patterns import Pattern
from stepvault.errors import SourceCorrupt, SourceDenied, SourceMissing
from stepvault.settings import SqliteSource
from tests.engines.driver import Result, back_up
from tests.engines.sqlite.databases import as_nobody, make_database
from tests.engines.sqlite.test_sources import Folder


def source(path: Path | str, *exclude: str) -> SqliteSource:
    return SqliteSource(name="apps", engine="sqlite", path=str(path), exclude=list(exclude))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a.db", "cache/b.db", "app/cache/c.db", "app/d.db", "app/deep/e.db"):
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        make_database(tmp_path / "root" / name, mode="DELETE")
    return tmp_path / "root"


def stored(root: Path, *exclude: str, pattern: str = "**/*.db") -> tuple[str, Result]:
    """The databases of a backup, by the letters of their names, and its result."""
    (result,) = back_up(engine, source(root / pattern, *exclude), root.parent / "vault")
    return "".join(sorted(Path(o.facts["path"]).stem for o in result.objects)), result


def about(result: Result, name: str) -> str:
    """The one warning that names the file."""
    (line,) = [w for w in result.warnings if name in w and "journal mode" not in w]
    return line


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        ([], "abcde"),
        (["b.db"], "acde"),
        (["cache/"], "ade"),
        (["/cache/"], "acde"),
        (["cache"], "ade"),
        (["app/*.db"], "abce"),
        (["/app/**"], "ab"),
        (["app/**/c.db", "a.*"], "bde"),
        (["**/cache/*"], "ade"),
        (["[ab].db"], "cde"),
        (["nothing-like-it"], "abcde"),
    ],
)
def test_exclude_means_what_it_means_in_gitignore(
    root: Path, exclude: list[str], left: str
) -> None:
    assert stored(root, *exclude)[0] == left


@pytest.mark.parametrize(
    ("exclude", "left"), [(["cache/"], "ade"), (["/app/*.db"], "abce"), (["e.db", "a.db"], "bcd")]
)
def test_exclude_takes_keys_of_a_bucket(root: Path, exclude: list[str], left: str) -> None:
    settings = source("s3://root/**/*.db", *exclude)
    (result,) = back_up(engine, settings, root.parent / "v", buckets=Folder(root.parent))
    assert "".join(sorted(Path(o.facts["path"]).stem for o in result.objects)) == left


def test_a_folder_that_is_excluded_need_not_be_readable(root: Path) -> None:
    for folder in (root, root.parent, root.parent.parent, root.parent.parent.parent):
        folder.chmod(0o755)
    (root.parent / "vault").mkdir(mode=0o777)
    (root.parent / "vault").chmod(0o777)
    (root / "closed").mkdir(mode=0)
    for path in root.rglob("*.db"):
        os.chmod(path, 0o666)
        os.chmod(path.parent, 0o777)
    with as_nobody():
        with pytest.raises(SourceDenied, match="closed"):
            stored(root)
        assert stored(root, "closed/")[0] == "abcde"


def test_exclude_needs_a_pattern_and_knows_no_exceptions(root: Path) -> None:
    with pytest.raises(ValidationError, match="wildcard"):
        source(root / "a.db", "b.db")
    with pytest.raises(ValidationError, match="!keep"):
        source(root / "*.db", "!keep.db")


def test_all_excluded_is_nothing_found(root: Path) -> None:
    with pytest.raises(SourceMissing, match="exclude"):
        stored(root, "*.db")


def test_a_file_that_is_no_database_is_left_out_with_a_warning(root: Path) -> None:
    (root / "app" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" * 100)
    (root / "secret.db").write_bytes(os.urandom(16_384))
    os.mkfifo(root / "pipe.db")
    names, result = stored(root)
    assert names == "abcde"
    assert "not an SQLite database" in about(result, "Thumbs.db")
    assert "exclude" in about(result, "Thumbs.db")
    assert "encrypted" in about(result, "secret.db")
    assert "not a regular file" in about(result, "pipe.db")
    assert result.facts["left_out"] == 3
    names, result = stored_in(root, "v2", "Thumbs.db", "secret.db", "pipe.db")
    assert names == "abcde"
    assert result.facts["left_out"] == 0
    assert not [w for w in result.warnings if "Thumbs" in w or "secret" in w or "pipe" in w]


def stored_in(root: Path, vault: str, *exclude: str) -> tuple[str, Result]:
    (result,) = back_up(engine, source(root / "**/*.db", *exclude), root.parent / vault)
    return "".join(sorted(Path(o.facts["path"]).stem for o in result.objects)), result


def test_an_object_that_is_no_database_is_left_out_with_a_warning(root: Path) -> None:
    (root / "app" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" * 100)
    settings = source("s3://root/**/*.db")
    (result,) = back_up(engine, settings, root.parent / "v", buckets=Folder(root.parent))
    assert len(result.objects) == 5
    assert "not an SQLite database" in about(result, "Thumbs.db")


def test_a_file_that_is_named_itself_has_to_be_a_database(root: Path) -> None:
    (root / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" * 100)
    with pytest.raises(SourceCorrupt, match=r"Thumbs\.db"):
        back_up(engine, source(root / "Thumbs.db"), root.parent / "v")


def test_a_pattern_that_finds_no_database_at_all_fails(root: Path) -> None:
    (root / "only").mkdir()
    (root / "only" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" * 100)
    with pytest.raises(SourceCorrupt, match=r"Thumbs\.db"):
        stored(root, pattern="only/*.db")


def test_looking_whether_a_file_is_a_database_does_not_drop_the_lock_on_it(root: Path) -> None:
    """Closing any descriptor of a file drops all locks of the process on it."""
    held = SqliteSource(name="one", engine="sqlite", path=str(root / "a.db"))
    with engine.open(Job(source=held, scratch=root.parent)):
        with engine.open(Job(source=source(root / "**/*.db"), scratch=root.parent)):
            pass
        program = "import sqlite3, sys; sqlite3.connect(sys.argv[1], 0).execute('DELETE FROM note')"
        import subprocess
        import sys

        command = [sys.executable, "-c", f"{program}.connection.commit()", str(root / "a.db")]
        done = subprocess.run(command, capture_output=True, text=True)
    assert "database is locked" in done.stderr


def test_a_dangling_link_is_left_out_with_a_warning(root: Path) -> None:
    (root / "gone.db").symlink_to("/mnt/not-mounted/gone.db")
    (root / "loop.db").symlink_to("loop.db")
    names, result = stored(root)
    assert names == "abcde"
    assert "/mnt/not-mounted/gone.db" in about(result, "gone.db is a link")
    assert "loop.db" in about(result, "loop.db is a link")
    assert result.facts["left_out"] == 2


def test_a_dangling_link_alone_is_missing_and_named(root: Path) -> None:
    (root / "links").mkdir()
    (root / "links" / "gone.db").symlink_to("/mnt/not-mounted/gone.db")
    with pytest.raises(SourceMissing, match=r"gone\.db is a link"):
        stored(root, pattern="links/*.db")


def test_a_link_to_what_may_not_be_read_is_denied_as_the_file_itself_is(root: Path) -> None:
    for folder in (root, root.parent, root.parent.parent, root.parent.parent.parent):
        folder.chmod(0o755)
    (root.parent / "closed").mkdir(mode=0)
    (root / "link.db").symlink_to(root.parent / "closed" / "x.db")
    with as_nobody(), pytest.raises(SourceDenied, match=r"link\.db"):
        stored(root, pattern="*.db")


def test_a_linked_folder_is_not_entered_and_warned_of_where_it_would_be(root: Path) -> None:
    (root.parent / "elsewhere").mkdir()
    make_database(root.parent / "elsewhere" / "z.db", mode="DELETE")
    (root / "linked").symlink_to(root.parent / "elsewhere")
    names, result = stored(root, pattern="*/*.db")
    assert names == "bd"
    assert "link to a folder" in about(result, f"{root}/linked")
    (result,) = back_up(engine, source(root / "*.db"), root.parent / "v2")
    assert not [w for w in result.warnings if "link to a folder" in w]
    (result,) = back_up(engine, source(root / "*/*.db", "linked"), root.parent / "v3")
    assert not [w for w in result.warnings if "link to a folder" in w]


def test_a_folder_with_the_name_of_a_database_is_warned_of(root: Path) -> None:
    (root / "level.db").mkdir()
    names, result = stored(root)
    assert names == "abcde"
    assert "is a folder" in about(result, "level.db")


def test_folders_that_cannot_hold_a_match_are_not_read(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    scandir = os.scandir

    def counted(path: Any) -> Any:
        if str(path).startswith(str(root)):
            read.append(os.path.relpath(path, root))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counted)
    assert stored(root, pattern="ap*/*.db")[0] == "d"
    assert set(read) == {".", "app"}


segments = st.sampled_from(["a", "b", "ab", "*", "**", "a*", "?", "[ab]", ".", "a**b", "*b"])
names = st.sampled_from(["a", "b", "ab", "aab", ".", "ba", "x"])


@given(st.lists(segments, min_size=1, max_size=5), st.lists(names, min_size=1, max_size=6))
def test_patterns_match_as_pythons_glob_does(pattern: list[str], path: list[str]) -> None:
    regex = glob.translate("/".join(pattern), recursive=True, include_hidden=True)
    expected = re.fullmatch(regex, "/".join(path)) is not None
    assert Pattern("/".join(pattern)).matches("/".join(path)) == expected


def test_many_double_stars_cost_no_more_than_few() -> None:
    pattern = Pattern("/".join(["**", "a"] * 30 + ["b.db"]))
    path = "/".join(["a"] * 400)
    assert not pattern.matches(path)  # backtracking would not end
    assert pattern.matches(f"{path}/b.db")
