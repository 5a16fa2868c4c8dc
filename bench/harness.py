"""Measure Stepvault against other tools: the same source into the same S3 server, in turns.

``Contest`` runs each contender as a subprocess of its own, one after the other, round by round,
so that a busy machine slows all alike. A benchmark of a source is short::

    with ObjectStore() as store:
        contest = Contest("sqlite", "SQLite, 838 MB")
        contest.add_ours(store, "stepvault", source)
        contest.add("VACUUM INTO | zstd | rclone", lambda turn: shell("..."))
        contest.run(rounds=5, environment=store.environment)
        contest.report()

Trust ratios and CPU seconds; the wall clock of a shared machine wanders.
"""

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.measuring import Run, measure
from bench.object_store import ObjectStore
from bench.ours import run_id

RESULTS = Path(__file__).parent / "results"

Command = Callable[[int], Sequence[str | Path]]


@dataclass
class Contender:
    """One way to do the job. ``command`` gets the number of the turn, to name what it stores."""

    name: str
    command: Command
    before: Callable[[int], None] | None = None
    after: Callable[[int], int] | None = None
    """Called after a turn, unmeasured: checks and removes what was stored; returns its bytes."""
    runs: list[Run] = field(default_factory=list)

    def median(self, of: str) -> float:
        """Return the median of one field of ``Run`` over all turns."""
        return float(statistics.median(getattr(run, of) for run in self.runs))


class Contest:
    """Contenders for one job, measured in turns; the first that is added is ours.

    Args:
        name: of the result files.
        what: one line about the job, for the table and the plot.
        facts: more to keep with the results (sizes, levels).
    """

    def __init__(self, name: str, what: str, **facts: Any) -> None:
        self.name, self.what, self.facts = name, what, facts
        self.contenders: list[Contender] = []

    def add(
        self,
        name: str,
        command: Command,
        before: Callable[[int], None] | None = None,
        after: Callable[[int], int] | None = None,
    ) -> None:
        """Add a contender; the arguments are the fields of ``Contender``."""
        self.contenders.append(Contender(name, command, before, after))

    def add_ours(
        self,
        store: ObjectStore,
        name: str,
        source: Mapping[str, Any],
        parallel: int = 1,
        before: Callable[[int], None] | None = None,
    ) -> None:
        """Add Stepvault's own path; ``source`` and ``parallel`` as of ``backup_command``."""
        self.add(
            name,
            lambda turn: backup_command(store, source, turn, parallel),
            before,
            lambda turn: taken(store, run_prefix(source["name"], turn)),
        )

    def run(self, rounds: int = 5, environment: Mapping[str, str] | None = None) -> None:
        """Run one unmeasured round to warm caches, then as many as asked for, at least five.

        Each round begins with another contender, so that none always follows the same one.
        """
        for turn in range(max(rounds, 5) + 1):
            shift = turn % len(self.contenders)
            for contender in self.contenders[shift:] + self.contenders[:shift]:
                if contender.before:
                    contender.before(turn)
                run = measure(contender.command(turn), environment)
                stored = contender.after(turn) if contender.after else 0
                if turn:
                    contender.runs.append(replace(run, stored_bytes=stored))
                    _say(f"{self.name} {turn}: {contender.name}: {run.wall:.2f} s, "
                         f"{run.cpu:.2f} s CPU, {run.peak_mb:.0f} MB")  # fmt: skip

    def ratio(self, peer: Contender, of: str) -> float:
        """Return ours over the peer's, as the median of the rounds' own ratios."""
        pairs = zip(self.contenders[0].runs, peer.runs, strict=True)
        return float(statistics.median(getattr(a, of) / getattr(b, of) for a, b in pairs))

    def results(self) -> dict[str, Any]:
        """Return all measurements, as they are written to the JSON file."""
        return {
            "name": self.name,
            "what": self.what,
            "facts": self.facts,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": {"cpus": os.cpu_count(), "arch": platform.machine()},
            "ours": self.contenders[0].name,
            "peers": {
                c.name: {
                    "wall_ratio": round(self.ratio(c, "wall"), 3),
                    "cpu_ratio": round(self.ratio(c, "cpu"), 3),
                    "wall": round(c.median("wall"), 3),
                    "cpu": round(c.median("cpu"), 3),
                    "busy_cores": round(c.median("busy"), 2),
                    "peak_mb": round(max(run.peak_mb for run in c.runs), 1),
                    "largest_process_mb": round(max(run.largest_mb for run in c.runs), 1),
                    "runs": [
                        {
                            "wall": round(r.wall, 3),
                            "cpu": round(r.cpu, 3),
                            "peak_mb": round(r.peak_mb, 1),
                            "stored_bytes": r.stored_bytes,
                        }
                        for r in c.runs
                    ],
                }
                for c in self.contenders
            },
        }

    def table(self) -> str:
        """Return the table in Markdown: medians, and ours over theirs (below 1: ours is faster)."""
        lines = [
            f"{self.what}",
            "",
            "| contender | wall s | CPU s | cores busy | peak MB (largest process) | stored MB "
            "| our wall / its | our CPU / its |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for c in self.contenders:
            peak = max(run.peak_mb for run in c.runs)
            largest = max(run.largest_mb for run in c.runs)
            lines.append(
                f"| {c.name.replace('|', '\\|')} | {c.median('wall'):.2f} | {c.median('cpu'):.2f} "
                f"| {c.median('busy'):.2f} | {peak:.0f} ({largest:.0f}) | {c.median('stored_bytes') / 1e6:.1f} "
                f"| {self.ratio(c, 'wall'):.2f} | {self.ratio(c, 'cpu'):.2f} |"
            )
        return "\n".join(lines) + "\n"

    def report(self) -> dict[str, Any]:
        """Write ``bench/results/<name>.json``, ``.md`` and ``.svg``, and print the table."""
        RESULTS.mkdir(parents=True, exist_ok=True)
        results = self.results()
        (RESULTS / f"{self.name}.json").write_text(json.dumps(results, indent=1) + "\n")
        (RESULTS / f"{self.name}.md").write_text(self.table())
        self._plot(RESULTS / f"{self.name}.svg")
        _say(self.table())
        return results

    def _plot(self, file: Path) -> None:
        import matplotlib as mpl

        mpl.use("Agg")
        mpl.rcParams["svg.hashsalt"] = self.name  # the same results give the same file
        from matplotlib import pyplot as plt

        figure, axes = plt.subplots(1, 3, figsize=(11, 1.2 + 0.5 * len(self.contenders)))
        names = [c.name for c in self.contenders]
        colours = ["#1f6feb"] + ["#9aa4b2"] * (len(names) - 1)
        for axis, (of, title) in zip(
            axes,
            [("wall", "seconds"), ("cpu", "CPU seconds"), ("peak_mb", "peak MB")],
            strict=True,
        ):
            values = [[getattr(run, of) for run in c.runs] for c in self.contenders]
            axis.barh(names, [statistics.median(v) for v in values], color=colours)
            for row, runs in enumerate(values):  # every run, not the median alone
                axis.plot(runs, [row] * len(runs), "k|", markersize=9)
            axis.set_title(title, fontsize=10)
            axis.invert_yaxis()
            axis.set_xlim(left=0)
            axis.spines[["top", "right"]].set_visible(False)
            if axis is not axes[0]:
                axis.set_yticklabels([])
        figure.suptitle(self.what, fontsize=11)
        figure.tight_layout()
        figure.savefig(file, metadata={"Date": None})
        plt.close(figure)


def backup_command(
    store: ObjectStore, source: Mapping[str, Any], turn: int, parallel: int = 1
) -> list[str]:
    """Return the command of Stepvault's own path for a whole source: plan, units, seal.

    Args:
        store: where to back up to.
        source: its settings, as in stepvault.toml.
        turn: every turn is a run of its own, as units that are stored already are left alone.
        parallel: units at a time, each in a process, as on AWS each is a function of its own.
    """
    job = {"bucket": store.bucket, "turn": turn, "parallel": parallel, "source": source}
    return [sys.executable, "-m", "bench.ours", json.dumps(job)]


def run_prefix(source: str, turn: int) -> str:
    """Return where in the bucket the turn's backup is."""
    from stepvault import keys

    return keys.backup_prefix(source, run_id(source, turn))


def taken(store: ObjectStore, prefix: str) -> int:
    """Return the bytes stored under the prefix, and delete them.

    Raises:
        RuntimeError: nothing was stored.
    """
    size = store.size(prefix)
    if not size:
        raise RuntimeError(f"nothing was stored under {prefix}")
    store.empty(prefix)
    return size


def shell(script: str) -> list[str]:
    """Return the command that runs a script and fails when any part of a pipe does."""
    return ["bash", "-euo", "pipefail", "-c", script]


def options(description: str, **defaults: int) -> argparse.Namespace:
    """Parse the command line of a benchmark: ``--runs`` and a number for each default."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--runs", type=int, default=5, help="rounds, at least 5")
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


def _say(line: str) -> None:
    print(line, flush=True)
