"""Files and links that have several names."""

import os
from pathlib import Path

import pytest

from stepvault.records import RestoreOptions
from tests.engines.files import trees
from tests.engines.files.backup.test_parent import Chain, packs

pytestmark = pytest.mark.usefixtures("file_system")


def inodes(root: Path, *names: str) -> set[int]:
    return {os.lstat(root / name).st_ino for name in names}


def test_a_link_with_several_names_stays_one(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    (chain.root / "sub").mkdir(parents=True)
    os.symlink("nowhere/" + "x" * 120, chain.root / "a-link")
    os.link(chain.root / "a-link", chain.root / "b-link", follow_symlinks=False)
    os.link(chain.root / "a-link", chain.root / "sub" / "c-link", follow_symlinks=False)
    chain.back_up()
    assert chain.restore(0, tmp_path / "to") == []
    assert len(inodes(tmp_path / "to", "a-link", "b-link", "sub/c-link")) == 1
    assert trees.rsync_difference(chain.root, tmp_path / "to") == ""
    by_tar = tmp_path / "by-tar"
    trees.unpack_with_tar(list(chain.vault(chain.runs[0][0]).glob("*.tar.zst")), by_tar)
    assert trees.rsync_difference(chain.root, by_tar) == ""


def test_of_a_link_with_several_names_one_comes_back_alone(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.root.mkdir()
    os.symlink("nowhere", chain.root / "a-link")
    os.link(chain.root / "a-link", chain.root / "b-link", follow_symlinks=False)
    chain.back_up()
    options = RestoreOptions(only=["b-link"])
    assert chain.restore(0, tmp_path / "to", options=options) == []
    assert os.listdir(tmp_path / "to") == ["b-link"]
    assert (tmp_path / "to" / "b-link").readlink() == Path("nowhere")
    (tmp_path / "to" / "b-link").unlink()
    (tmp_path / "to" / "b-link").symlink_to("elsewhere")
    time = os.lstat(chain.root / "b-link").st_mtime_ns
    os.utime(tmp_path / "to" / "b-link", ns=(time, time), follow_symlinks=False)
    assert chain.differences(0, tmp_path / "to", options=options) == [
        "b-link: links to elsewhere, as a-link did not",
    ]


def test_an_unchanged_link_with_several_names_is_not_stored_again(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.root.mkdir()
    os.symlink("nowhere", chain.root / "a-link")
    os.link(chain.root / "a-link", chain.root / "b-link", follow_symlinks=False)
    chain.back_up()
    assert packs(chain.back_up()) == []
    os.rename(chain.root / "a-link", chain.root / "z-link")
    chain.back_up()
    assert chain.restore(2, tmp_path / "to") == []
    assert len(inodes(tmp_path / "to", "b-link", "z-link")) == 1


def test_followed_links_to_a_file_with_several_names_stay_one_file(tmp_path: Path) -> None:
    """It then has more names than the system counts."""
    chain = Chain(tmp_path, {"follow_symlinks": True})
    chain.root.mkdir()
    (chain.root / "a").write_text("content")
    os.link(chain.root / "a", chain.root / "b")
    names = [*"abcdef"]
    for name in names[2:]:
        (chain.root / name).symlink_to("a")
    chain.back_up()
    assert chain.restore(0, tmp_path / "to") == []
    assert len(inodes(tmp_path / "to", *names)) == 1
    assert packs(chain.back_up()) == [], "nothing has changed"
