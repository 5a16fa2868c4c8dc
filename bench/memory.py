"""Memory: a stream ten times as long takes no more of it.

``python -m bench.memory [--small 200] [--large 2000]`` (MB) backs up two SQLite databases
through the whole path into a disk-backed S3 server and prints the peak of each. Fails if the
two differ by ten percent or more.
"""

import json
import random
import sqlite3
import statistics
import sys
import tempfile
from pathlib import Path

from bench.harness import RESULTS, backup_command, options, run_prefix, taken
from bench.measuring import measure
from bench.object_store import SCRATCH, ObjectStore

ALLOWED = 0.10


def make_blobs(path: Path, megabytes: int) -> None:
    """Make pages that compress to about half, as parts are what takes memory."""
    rng = random.Random(megabytes)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, half BLOB)")
    connection.execute("BEGIN")
    for _ in range(megabytes):
        half = rng.randbytes(500_000)
        connection.execute("INSERT INTO t (half) VALUES (?)", (half + bytes(500_000),))
    connection.execute("COMMIT")
    connection.close()


def main() -> int:
    """Measure both sizes; return 1 if their memory differs too much."""
    chosen = options(__doc__ or "", small=200, large=2_000)
    SCRATCH.mkdir(parents=True, exist_ok=True)
    peaks: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=SCRATCH) as folder, ObjectStore() as store:
        for name, megabytes in (("small", chosen.small), ("large", chosen.large)):
            path = Path(folder) / f"{name}.db"
            make_blobs(path, megabytes)
            source = {"engine": "sqlite", "name": name, "path": str(path)}
            for turn in range(3):
                run = measure(backup_command(store, source, turn), store.environment)
                stored = taken(store, run_prefix(name, turn))
                peaks.setdefault(name, []).append(run.peak_mb)
                print(
                    f"{megabytes:,} MB: peak {run.peak_mb:.1f} MB, "
                    f"{run.wall:.1f} s, {stored / 1e6:,.0f} MB stored",
                    flush=True,
                )
            path.unlink()
    small, large = (statistics.median(peaks[name]) for name in ("small", "large"))
    difference = large / small - 1
    print(f"A stream {chosen.large / chosen.small:.0f} times as long: {difference:+.1%} memory")
    RESULTS.mkdir(parents=True, exist_ok=True)
    results = {
        "name": "memory",
        "small": {"megabytes": chosen.small, "peaks_mb": [round(p, 1) for p in peaks["small"]]},
        "large": {"megabytes": chosen.large, "peaks_mb": [round(p, 1) for p in peaks["large"]]},
        "difference": round(difference, 4),
        "allowed": ALLOWED,
    }
    (RESULTS / "memory.json").write_text(json.dumps(results, indent=1) + "\n")
    return abs(difference) >= ALLOWED


if __name__ == "__main__":
    sys.exit(main())
