"""SQLite: Stepvault against VACUUM INTO, zstd and rclone; and what its writer notices.

``python -m bench.sqlite [--runs 5] [--megabytes 1600]``
"""

import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.harness import Contest, backup_command, options, run_prefix, shell, taken
from bench.measuring import measure
from bench.object_store import SCRATCH, ObjectStore
from devtools.timer import Timer

WORDS = ["".join(random.Random(n).choices("aeioulnrstdmkpbg", k=3 + n % 8)) for n in range(4_000)]
WRITER = Path(__file__).parent.parent / "tests" / "engines" / "sqlite" / "writer.py"
RATE = 1_000  # commits a second


def make_shop(path: Path, megabytes: int) -> None:
    """Make customers, purchases and receipts, in WAL mode with about a megabyte in the log."""
    rng = random.Random(megabytes)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)
    connection.executescript(
        """
        PRAGMA journal_mode = WAL;
        PRAGMA synchronous = OFF;
        CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT, mail TEXT UNIQUE, since TEXT);
        CREATE TABLE purchase (
            id INTEGER PRIMARY KEY, customer INTEGER, at TEXT, cents INTEGER, code TEXT, note TEXT
        );
        CREATE INDEX purchase_customer ON purchase (customer, at);
        CREATE TABLE receipt (purchase INTEGER PRIMARY KEY, image BLOB);
        """
    )
    number = 0
    while path.stat().st_size < megabytes * 1_000_000:
        connection.execute("BEGIN")
        for _ in range(4_000):
            number += 1
            name = f"{rng.choice(WORDS)} {rng.choice(WORDS)}"
            day = f"20{rng.randrange(10, 26)}-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}"
            if number % 5 == 0:
                mail = f"{name.replace(' ', '.')}.{number}@example.org"
                connection.execute(
                    "INSERT INTO customer VALUES (?, ?, ?, ?)", (number, name, mail, day)
                )
            note = " ".join(rng.choices(WORDS, k=rng.randrange(4, 40)))
            row = (number, rng.randrange(number), day, rng.randrange(10**6), rng.randbytes(8).hex())
            connection.execute("INSERT INTO purchase VALUES (?, ?, ?, ?, ?, ?)", (*row, note))
            if number % 50 == 0:
                connection.execute(
                    "INSERT INTO receipt VALUES (?, ?)", (number, rng.randbytes(1_500))
                )
        connection.execute("COMMIT")
    connection.close()


def writer_alone_and_beside(store: ObjectStore, path: Path) -> dict[str, float]:
    """Measure what a program that commits a thousand times a second notices of the backup."""
    source = {"engine": "sqlite", "name": "live", "path": str(path)}

    def written(while_running: float | None) -> tuple[float, float, float]:
        command = [sys.executable, str(WRITER), str(path), "WAL", "1000", str(RATE)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin
            assert process.stdout
            process.stdout.readline()
            timer = Timer()
            if while_running is None:
                measure(backup_command(store, source, 0), store.environment)
            else:
                time.sleep(while_running)
            process.stdin.close()
            commits, _, longest = map(float, process.stdout.readline().split())
            seconds = timer.seconds
        return seconds, commits / seconds, longest

    beside = written(None)
    alone = written(beside[0])
    taken(store, run_prefix("live", 0))
    return {
        "writer_commits_per_second_alone": round(alone[1], 1),
        "writer_commits_per_second_beside": round(beside[1], 1),
        "writer_longest_commit_ms_alone": round(alone[2] * 1e3, 1),
        "writer_longest_commit_ms_beside": round(beside[2] * 1e3, 1),
    }


def main() -> None:
    """Measure, and write the results."""
    chosen = options(__doc__ or "", megabytes=1600)
    SCRATCH.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=SCRATCH) as folder, ObjectStore() as store:
        path, copy = Path(folder) / "shop.db", Path(folder) / "copy.db"
        make_shop(path, chosen.megabytes)
        size = path.stat().st_size
        contest = Contest(
            "sqlite",
            f"One SQLite database of {size / 1e6:,.0f} MB in WAL mode",
            bytes=size,
            **writer_alone_and_beside(store, path),
        )
        rclone = Path(sys.executable).with_name("rclone")
        vacuum = (
            "import sqlite3, sys; "
            "sqlite3.connect(sys.argv[1]).execute('VACUUM INTO ?', (sys.argv[2],))"
        )
        for level, name in ((3, "stepvault, zstd level 3"), (2, "stepvault, its default, level 2")):
            source = {"engine": "sqlite", "name": f"shop-{level}", "path": str(path)}
            contest.add_ours(store, name, {**source, "compression_level": level})

        contest.add(
            "VACUUM INTO, zstd, rclone rcat",
            lambda turn: shell(
                f'rm -f {copy}; {sys.executable} -c "{vacuum}" {path} {copy}; '
                f"zstd -q -3 -c {copy} | {rclone} rcat s3:{store.bucket}/peer-{turn}"
            ),
            after=lambda turn: taken(store, f"peer-{turn}"),
        )
        contest.add(
            "zstd, rclone rcat (not consistent)",
            lambda turn: shell(
                f"zstd -q -3 -c {path} | {rclone} rcat s3:{store.bucket}/plain-{turn}"
            ),
            after=lambda turn: taken(store, f"plain-{turn}"),
        )
        empty = Path(folder) / "empty.db"
        empty.touch()
        nothing = {"engine": "sqlite", "name": "nothing", "path": str(empty)}
        contest.add_ours(store, "stepvault, empty database (start of Python and boto3)", nothing)
        contest.add(
            "zstd -3 alone, to nowhere", lambda turn: shell(f"zstd -q -3 -c {path} >/dev/null")
        )
        contest.run(chosen.runs, store.environment)
        contest.report()


if __name__ == "__main__":
    main()
