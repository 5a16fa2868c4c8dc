"""Files: Stepvault against tar, zstd and rclone, restic, and rclone copy.

Three contests: many small files, the same again unchanged, a few large files. The tree is read
before every turn, as contenders differ in what they leave in the page cache (rclone and Stepvault
drop what they brought in) and the next one would pay for it. ``--large 0`` leaves out the last.
``python -m bench.files [--runs 5] [--files 100000] [--large 4]``
"""

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.harness import Contest, backup_command, options, shell, taken
from bench.measuring import measure
from bench.object_store import SCRATCH, ObjectStore
from devtools.timer import Timer

RCLONE = Path(sys.executable).with_name("rclone")
LARGE_BYTES = 256 << 20
#: Units at a time: on AWS the Map runs each as a function of its own, here as a process. As many as
#: rclone copies files at a time.
UNITS = 4


def make_small(root: Path, files: int) -> int:
    """Source code, mail and pictures as they lie about: 12 KB on average; returns the bytes."""
    rng = random.Random(files)
    words = ["".join(rng.choices("aeioulnrstdmkpbg", k=3 + n % 8)) for n in range(4_000)]
    total = 0
    for number in range(files):
        folder = root / f"d{number // 400:03d}" / f"e{number % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        size = min(int(rng.expovariate(1 / 12_000)), 400_000)
        if number % 5 == 0:  # compressed already
            data = rng.randbytes(size)
        else:
            data = " ".join(rng.choices(words, k=size // 7 + 1)).encode()[:size]
        (folder / f"file-{number:06d}").write_bytes(data)
        total += size
    return total


def make_large(root: Path, count: int) -> int:
    """Files that do not compress: what limits them is the upload."""
    root.mkdir()
    for number in range(count):
        with (root / f"large-{number}").open("wb") as file:
            for _ in range(LARGE_BYTES >> 20):
                file.write(os.urandom(1 << 20))
    return count * LARGE_BYTES


def warm(root: Path) -> Callable[[int], None]:
    """Return a ``before`` that brings the tree into the page cache."""

    def before(_: int) -> None:
        subprocess.run(
            ["bash", "-c", 'find "$0" -type f -exec cat {} + >/dev/null', str(root)], check=True
        )

    return before


class Restic:
    """A repository in the bucket for every turn, or one for all."""

    def __init__(self, store: ObjectStore, folder: Path, root: Path, name: str) -> None:
        self._store, self._root, self._name = store, root, name
        self._cache = folder / f"cache-{name}"

    def environment(self, turn: int) -> dict[str, str]:
        """Return the variables that name the turn's repository."""
        return {
            **self._store.environment,
            "RESTIC_REPOSITORY": f"s3:{self._store.endpoint}/{self._store.bucket}/{self.prefix(turn)}",
            "RESTIC_PASSWORD": "bench",
            "RESTIC_CACHE_DIR": str(self._cache),
        }

    def prefix(self, turn: int) -> str:
        """Return where in the bucket the turn's repository is."""
        return f"{self._name}-{turn}"

    def init(self, turn: int) -> None:
        """Make the turn's repository."""
        subprocess.run(self._restic(turn, "init"), check=True)

    def prepare(self, turn: int) -> None:
        """Make the turn's repository and bring the tree into the page cache."""
        self.init(turn)
        warm(self._root)(turn)

    def command(self, turn: int) -> list[str]:
        """Return the command that backs up into the turn's repository."""
        return self._restic(turn, "backup", str(self._root))

    def _restic(self, turn: int, *words: str) -> list[str]:
        given = (f"{key}={value}" for key, value in self.environment(turn).items())
        return ["env", *given, "restic", "-q", *words]


def first_run(
    name: str, what: str, store: ObjectStore, folder: Path, root: Path, *, copy: bool, **facts: Any
) -> Contest:
    """Return the contest in which everything is read and stored.

    Args:
        name: of the contest and of what it stores.
        what: one line about the job.
        store: where to back up to.
        folder: for restic's cache.
        root: the tree.
        facts: more to keep with the results.
        copy: let ``rclone copy`` take part; of a hundred thousand files, an object each, it is
            measured once and kept among the facts, as it takes several times as long as the rest.
    """
    contest = Contest(name, what, **facts)
    source = {"engine": "files", "name": name, "path": str(root), "incremental": False}
    contest.add_ours(store, "stepvault", source, UNITS, warm(root))
    contest.add(
        "tar, zstd -T0, rclone rcat",
        lambda turn: shell(
            f"tar -C {root} -c . | zstd -q -3 -T0 | {RCLONE} rcat s3:{store.bucket}/{name}-tar-{turn}"
        ),
        before=warm(root),
        after=lambda turn: taken(store, f"{name}-tar-{turn}"),
    )
    restic = Restic(store, folder, root, f"{name}-restic")
    contest.add(
        "restic backup",
        restic.command,
        before=restic.prepare,
        after=lambda turn: taken(store, restic.prefix(turn)),
    )
    if copy:
        contest.add(
            "rclone copy (no archive)",
            lambda turn: [str(RCLONE), "copy", str(root), f"s3:{store.bucket}/{name}-copy-{turn}"],
            before=warm(root),
            after=lambda turn: taken(store, f"{name}-copy-{turn}"),
        )
    else:
        words = [str(RCLONE), "copy", "--transfers=16", str(root), f"s3:{store.bucket}/{name}-copy"]
        contest.facts["rclone_copy_wall"] = round(measure(words, store.environment).wall, 3)
    return contest


def unchanged_run(store: ObjectStore, folder: Path, root: Path, what: str) -> Contest:
    """Return the contest of the second backup of a tree in which nothing has changed."""
    contest = Contest("files-unchanged", what)
    source = {"engine": "files", "name": "unchanged", "path": str(root)}
    first = measure(backup_command(store, source, -1, UNITS), store.environment)
    contest.facts["first_run_wall"] = round(first.wall, 3)
    contest.add_ours(store, "stepvault", source, UNITS)
    restic = Restic(store, folder, root, "unchanged-restic")
    restic.init(0)
    measure(restic.command(0), store.environment)
    contest.add("restic backup", lambda _: restic.command(0))
    return contest


def walked(root: Path) -> dict[str, Any]:
    """How fast the engine walks a tree, status of every entry included."""
    from stepvault.engines.files.tree.handles import Tree
    from stepvault.engines.files.tree.walk import walk
    from stepvault.engines.files.tree.warnings import Warnings
    from stepvault.settings import FilesSource

    source = FilesSource(name="walk", engine="files", path=str(root))
    best = 0.0
    count = 0
    for _ in range(5):
        with Timer() as timer, Tree(root) as tree:
            count = sum(1 for _ in walk(tree, source, Warnings()))
        best = max(best, count / timer.seconds)
    return {"entries": count, "walked_entries_per_second": round(best)}


def conclude(contest: Contest, runs: int, environment: Mapping[str, str]) -> None:
    """Measure, and write the results."""
    contest.run(runs, environment)
    contest.report()


def main() -> None:
    """Measure many small files, then a few large ones."""
    chosen = options(__doc__ or "", files=100_000, large=4)
    SCRATCH.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=SCRATCH) as temporary, ObjectStore() as store:
        folder = Path(temporary)
        small, large = folder / "small", folder / "large"
        size = make_small(small, chosen.files)
        what = f"{chosen.files:,} small files, {size / 1e6:,.0f} MB"
        contests: list[Callable[[], Contest]] = [
            lambda: first_run(
                "files", what, store, folder, small, copy=False, bytes=size, **walked(small)
            ),
            lambda: unchanged_run(store, folder, small, f"Unchanged: {what}"),
        ]
        for contest in contests:
            conclude(contest(), chosen.runs, store.environment)
        if not chosen.large:
            return
        size = make_large(large, chosen.large)
        what = f"{chosen.large} files that do not compress, {size / 1e6:,.0f} MB"
        conclude(
            first_run("files-large", what, store, folder, large, copy=True, bytes=size),
            chosen.runs,
            store.environment,
        )


if __name__ == "__main__":
    main()
