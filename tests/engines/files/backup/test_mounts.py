"""File systems within a source that are no longer mounted."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engines.driver import Result
from tests.engines.files.backup.test_parent import Chain


@contextmanager
def mounted(place: Path) -> Iterator[None]:
    """A file system of its own, with a file, while the block runs."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=True)
    try:
        for number in range(5):
            (place / f"file-{number}").write_text("on the other file system")
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def warnings(results: list[Result]) -> list[str]:
    return [w for r in results for w in r.warnings]


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    chain = Chain(tmp_path)
    (chain.root / "sub").mkdir(parents=True)
    (chain.root / "file").write_text("here")
    return chain


@pytest.mark.parametrize("name", ["mnt", "sub/with space\\udcff", "."])
@pytest.mark.parametrize("batch_files", [50_000, 2])
def test_a_file_system_that_is_no_longer_mounted_is_missed(
    chain: Chain, name: str, batch_files: int
) -> None:
    name = name.replace("\\udcff", "\udcff")
    with mounted(chain.root / name):
        assert warnings(chain.back_up(batch_files=batch_files)) == []
        (chain.root / "later").write_text("changed")
        assert warnings(chain.back_up(batch_files=batch_files)) == []
        assert warnings(chain.back_up(batch_files=batch_files)) == [], "nothing has changed"
    chain.root.mkdir(exist_ok=True)
    for _ in range(2):  # until somebody does something about it
        (warning,) = warnings(chain.back_up(batch_files=batch_files))
        assert warning.startswith("a file system was mounted here at the previous backup")
        shown = name.replace("\udcff", "\\xff")
        assert warning.endswith(f"(1): {shown}")
    with mounted(chain.root / name):
        assert warnings(chain.back_up(batch_files=batch_files)) == []


def test_what_is_meant_to_be_gone_is_not_missed(chain: Chain) -> None:
    with mounted(chain.root / "mnt"), mounted(chain.root / "sub" / "other"):
        chain.back_up()
    chain.settings = {"exclude": ["/sub/other/"]}
    (chain.root / "mnt").rmdir()
    assert warnings(chain.back_up()) == []


def test_a_link_to_another_file_system_is_no_mount(chain: Chain, tmp_path: Path) -> None:
    chain.settings = {"follow_symlinks": True}
    with mounted(tmp_path / "elsewhere"):
        (chain.root / "link").symlink_to(tmp_path / "elsewhere")
        chain.back_up()
        (chain.root / "link").unlink()
        (chain.root / "link").symlink_to(chain.root / "sub")
        assert warnings(chain.back_up()) == []
