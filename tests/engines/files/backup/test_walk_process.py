"""The walk in a process of its own. A test's process has threads, so each starts one that has not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engines.files import trees

_PLAN = """
import errno, os, signal, sys
from stepvault.engines.files.backup import walk_process
from stepvault.engines.files.tree import walk
from stepvault.engines.files.tree.warnings import Warnings
from stepvault.engines.files.tree.handles import Tree
from stepvault.settings import FilesSource

root, how = sys.argv[1:]
source = FilesSource(name="walk", engine="files", path=root)
me, warnings, forked = os.getpid(), Warnings(), os.fork
children = []

def fork():
    children.append(forked())
    if how == "killed" and not children[-1]:
        os.kill(os.getpid(), signal.SIGKILL)
    return children[-1]

os.fork = fork
with Tree(root) as tree:
    expected = list(walk.walk(tree, source, Warnings()))
if how == "denied":
    def denied(path):
        raise PermissionError(errno.EACCES, "Permission denied")
    os.scandir = denied
with Tree(root) as tree, walk_process.walked(tree, source, warnings) as stretches:
    if how == "given up":
        print(next(stretches)[0].path)
    else:
        found = [entry for stretch in stretches for entry in stretch]
        assert found == expected, (len(found), len(expected))
        print(len(found), warnings.lines())
assert len(children) == 1
try:
    os.waitpid(children[0], 0)
except ChildProcessError:
    print("no child left")
"""


def plan(root: Path, how: str = "") -> subprocess.CompletedProcess[str]:
    assert (os.process_cpu_count() or 1) > 1, "with one core there is no second process to test"
    words = [sys.executable, "-c", _PLAN, str(root), how]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)


def test_it_finds_and_tells_the_same(tmp_path: Path) -> None:
    trees.nasty(tmp_path / "tree")
    os.mkfifo(tmp_path / "tree" / "pipe")
    done = plan(tmp_path / "tree")
    assert done.returncode == 0, done.stderr
    assert "skipped a named pipe (1): pipe" in done.stdout
    assert "no child left" in done.stdout


def test_an_error_is_the_walk_s_own(tmp_path: Path) -> None:
    done = plan(tmp_path, "denied")
    assert done.returncode
    assert "SourceDenied: the directory '.' cannot be read (Permission denied)" in done.stderr


def test_a_child_that_is_killed_is_an_error(tmp_path: Path) -> None:
    done = plan(tmp_path, "killed")
    assert "ChildProcessError: the walk's process was killed" in done.stderr


def test_a_child_nobody_listens_to_ends(tmp_path: Path) -> None:
    for number in range(3_000):
        (tmp_path / f"{number:04}").touch()
    done = plan(tmp_path, "given up")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["b'.'", "no child left"]


@pytest.mark.parametrize("how", ["", "given up"])
def test_an_empty_tree(tmp_path: Path, how: str) -> None:
    assert plan(tmp_path, how).returncode == 0
