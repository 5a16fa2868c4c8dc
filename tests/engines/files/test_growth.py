"""Ten times the names, the depth or the patterns cost at most ten times the work and memory.

Work is counted, not timed: calls of functions, ours and the system's.
"""

import os
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from stepvault.engines.files import engine
from stepvault.records import RestoreOptions
from stepvault.settings import FilesSource
from tests.engines.driver import back_up, previous_of, restore_job
from tests.engines.files import trees

Work = dict[str, int]


def calls(run: Callable[[], Any]) -> int:
    """How many functions are called in this thread and in those that it starts."""
    count = 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return count


def names(root: Path, size: int) -> FilesSource:
    for number in range(size):
        (root / f"{number:05}").write_bytes(b"%d" % number)
    return trees.source(root)


def folders(root: Path, size: int) -> FilesSource:
    for number in range(size):
        (root / f"{number:05}").mkdir()
        (root / f"{number:05}" / "file").write_bytes(b"%d" % number)
    return trees.source(root)


def depth(root: Path, size: int, **settings: Any) -> FilesSource:
    """A file on each level before and after the directory below."""
    descriptor = os.open(root, os.O_RDONLY)
    for number in range(size):
        for name in ("a", "z"):
            file = os.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=descriptor)
            os.write(file, b"%d" % number)
            os.close(file)
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    return trees.source(root, **settings)


def filtered_depth(root: Path, size: int) -> FilesSource:
    return depth(root, size, include=["z"], exclude=["*.tmp"])


def followed_links(root: Path, size: int) -> FilesSource:
    (root.parent / f"elsewhere-{size}").mkdir()
    for number in range(size):
        (root / f"{number:05}").symlink_to(root.parent / f"elsewhere-{size}")
    return trees.source(root, follow_symlinks=True)


def hard_links(root: Path, size: int) -> FilesSource:
    (root / "first").write_text("content")
    for number in range(size):
        os.link(root / "first", root / f"{number:05}")
    return trees.source(root)


def patterns(root: Path, size: int) -> FilesSource:
    for number in range(20):
        (root / f"{number:05}").touch()
    excluded = [f"{'!' * (number % 2)}/{number:05}/**/x*" for number in range(size)]
    return trees.source(root, exclude=excluded)


def work(folder: Path, size: int, make: Callable[[Path, int], FilesSource]) -> tuple[Work, Work]:
    """Calls, and bytes of memory at most, of each step."""
    root, vault, target = folder / "tree", folder / "vault", folder / "to"
    root.mkdir(parents=True)
    source = make(root, size)
    counts, memory = Work(), Work()

    def measure(step: str, run: Callable[[Path], Any]) -> Any:
        """Run twice, as counting and tracing see each other's work."""
        counts[step] = calls(lambda: run(folder / f"{step}-counted"))
        tracemalloc.start()
        try:
            result = run(folder / f"{step}-traced")
            memory[step] = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        return result

    time.sleep(0.06)  # what was written in the last tick is never taken for unchanged
    measure("backup", lambda place: back_up(engine, source, place))
    results = back_up(engine, source, vault)
    previous = previous_of("first", results, vault, source)
    measure("unchanged", lambda place: back_up(engine, source, place, plan={"previous": previous}))
    job = restore_job(results, vault, source, path=target)
    tasks = measure("plan", lambda _: engine.plan_restore(job))
    measure(
        "restore",
        lambda place: [engine.restore(replace(job, path=place), task) for task in tasks],
    )
    last = replace(job, path=folder / "restore-traced")
    if not source.follow_symlinks:
        assert engine.differences(last) == []
    measure("compare", lambda _: engine.differences(last))
    some = RestoreOptions(only=["*", "!nothing"])
    measure("choice", lambda _: engine.plan_restore(replace(job, options=some)))
    return counts, memory


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (names, 100),
        (folders, 60),
        (depth, 20),
        (filtered_depth, 20),
        (followed_links, 60),
        (hard_links, 60),
        (patterns, 20),
    ],
)
def test_ten_times_the_size_costs_at_most_ten_times(
    make: Callable[[Path, int], FilesSource],
    size: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "process_cpu_count", lambda: 1)  # all in this process
    small, little = work(tmp_path / "small", size, make)
    large, much = work(tmp_path / "large", 10 * size, make)
    print({step: round(large[step] / small[step], 1) for step in small}, small, large)
    print({step: round(much[step] / little[step], 1) for step in little}, little, much)
    assert {step for step in small if large[step] > 10 * small[step]} == set()
    assert {step for step in little if much[step] > 10 * little[step]} == set()
