"""Measures Stepvault against other tools: the same source into the same S3 server, in turns.

``ObjectStore`` is a real S3 server on this machine (SeaweedFS, from PyPI) that writes to disk and,
like S3, wants every request signed.
``Contest`` runs each contender as a subprocess of its own, one after the other, round by round,
so that a busy machine slows all alike. A benchmark of a source is short::

    with ObjectStore() as store:
        contest = Contest("sqlite", "SQLite, 838 MB")
        contest.add("stepvault", lambda turn: backup_command(store, source, turn))
        contest.add("VACUUM INTO | zstd | rclone", lambda turn: ["bash", "-c", ...])
        contest.run(rounds=5, environment=store.environment)
        contest.report()

Trust ratios and CPU seconds; the wall clock of a shared machine wanders.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

from bench.ours import run_id
from devtools.servers.server import free_ports
from devtools.timer import Timer, wait_until

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
#: Where benchmarks make their data: on a disk, as sources are.
SCRATCH = ROOT / "build" / "bench"
OURS = "stepvault"

_SAMPLE_SECONDS = 0.02
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class ObjectStore:
    """SeaweedFS with an S3 gateway on free loopback ports; its data goes with it."""

    bucket = "bench"

    def __init__(self) -> None:
        SCRATCH.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix="s3-", dir=SCRATCH))
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: list[int] = []
        self.endpoint = ""

    def __enter__(self) -> "ObjectStore":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the server, too
        ports = self._ports = free_ports(8)
        self.endpoint = f"http://127.0.0.1:{ports[0]}"
        options: dict[str, object] = {
            "dir": self._folder,
            "ip": "127.0.0.1",
            "s3.port": ports[0],
            "s3.port.grpc": ports[1],
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "filer.port": ports[2],
            "filer.port.grpc": ports[3],
            "master.port": ports[4],
            "master.port.grpc": ports[5],
            "master.volumeSizeLimitMB": 4096,
            "volume.port": ports[6],
            "volume.port.grpc": ports[7],
            "volume.max": 64,
            "volume.preStopSeconds": 0,
        }
        weed = Path(sys.executable).with_name("weed")
        command = [str(weed), "server", "-s3", *(f"-{k}={v}" for k, v in options.items())]
        with (self._folder / "log").open("wb") as log:
            user = {key: value for key, value in self.environment.items() if "_KEY" in key}
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self._folder, env={**os.environ, **user}
            )
        try:
            self._wait()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
        for port in self._ports:  # sockets that SeaweedFS leaves behind
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        """What boto3, aws and rclone (remote ``s3:``) need to reach the server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
            "RCLONE_CONFIG": "/dev/null",
            "RCLONE_CONFIG_S3_TYPE": "s3",
            "RCLONE_CONFIG_S3_PROVIDER": "SeaweedFS",
            "RCLONE_CONFIG_S3_ENV_AUTH": "true",
            "RCLONE_CONFIG_S3_ENDPOINT": self.endpoint,
            "RCLONE_CONFIG_S3_NO_CHECK_BUCKET": "true",
        }

    @property
    def client(self) -> "S3Client":
        import boto3

        environment = self.environment
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
            region_name=environment["AWS_REGION"],
        )

    def size(self, prefix: str = "") -> int:
        """Bytes stored under the prefix."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=prefix
        )
        return sum(entry["Size"] for page in pages for entry in page.get("Contents", []))

    def empty(self, prefix: str = "") -> None:
        """Delete what is stored under the prefix."""
        client = self.client
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        for page in pages:
            for entry in page.get("Contents", []):
                client.delete_object(Bucket=self.bucket, Key=entry["Key"])

    def _wait(self) -> None:
        """Until a bucket can be made and written to."""
        from botocore.exceptions import BotoCoreError, ClientError

        def ready() -> bool:
            try:
                client = self.client
                with suppress(client.exceptions.BucketAlreadyExists, ClientError):
                    client.create_bucket(Bucket=self.bucket)
                client.put_object(Bucket=self.bucket, Key="ready", Body=b"ready")
                client.delete_object(Bucket=self.bucket, Key="ready")
            except (BotoCoreError, ClientError):
                return False
            return True

        process = self._process
        try:
            wait_until(
                ready,
                "SeaweedFS's first answer",
                seconds=60,
                pause=0.2,
                given_up=lambda: process is None or process.poll() is not None,
            )
        except TimeoutError as error:
            log = (self._folder / "log").read_text(errors="replace")
            raise RuntimeError(f"SeaweedFS did not start: {error}\n{log[-2_000:]}") from error


@dataclass(frozen=True)
class Run:
    """What one subprocess and its children used."""

    wall: float
    """Seconds."""
    cpu: float
    """Seconds, user and system."""
    peak_mb: float
    """Resident memory of all its processes at the highest moment, MB."""
    largest_mb: float = 0.0
    """Resident memory of the largest single process: what a function would need, MB."""
    busy: float = 0.0
    """Cores of the machine that were busy, on average, servers and all."""
    stored_bytes: int = 0


def measure(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> Run:
    """Run a command and measure it, its children and theirs.

    CPU is the kernel's account (``wait4``), exact for every process that was waited for. Memory
    is sampled every 20 ms over the process tree, as two processes' peaks need not meet.

    Raises:
        RuntimeError: the command failed; quotes the end of what it printed.
    """
    with tempfile.TemporaryFile() as output:
        timer, busy = Timer(), _busy_seconds()
        process = subprocess.Popen(
            [str(word) for word in command],
            # As installed: with Python's compiled modules, which the first round writes.
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "", **(environment or {})},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        sampler = _Sampler(process.pid)
        with sampler:
            _, status, usage = os.wait4(process.pid, 0)
        wall = timer.seconds
        busy = (_busy_seconds() - busy) / wall
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            printed = output.read().decode(errors="replace")[-2_000:]
            raise RuntimeError(f"{command} failed with {process.returncode}:\n{printed}")
    cpu = usage.ru_utime + usage.ru_stime
    return Run(wall, cpu, sampler.peak / 1e6, sampler.largest / 1e6, busy)


def _busy_seconds() -> float:
    """CPU seconds that the machine has spent since it started (proc(5): idle and iowait left out)."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (sum(ticks[:8]) - ticks[3] - ticks[4]) / _TICKS


class _Sampler:
    """Watches the resident memory of a process and all below it."""

    def __init__(self, pid: int) -> None:
        self.peak = 0
        self.largest = 0
        self._pid = pid
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            each = [_resident(pid) for pid in _tree(self._pid)]
            # A single process's own high-water mark also sees what falls between two samples.
            self.largest = max(self.largest, *each, _high_water(self._pid))
            self.peak = max(self.peak, sum(each), self.largest)
            if self._done.wait(_SAMPLE_SECONDS):
                return


def _tree(pid: int) -> list[int]:
    found, todo = [], [pid]
    while todo:
        one = todo.pop()
        found.append(one)
        with suppress(OSError):
            for task in os.listdir(f"/proc/{one}/task"):
                text = Path(f"/proc/{one}/task/{task}/children").read_text()
                todo += [int(child) for child in text.split()]
    return found


def _resident(pid: int) -> int:
    """Bytes a process has in memory; what it shares with others counts in each."""
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/statm").read_text().split()
        return int(fields[1]) * _PAGE
    return 0


def _high_water(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


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
        return float(statistics.median(getattr(run, of) for run in self.runs))


class Contest:
    """Contenders for one job, measured in turns; the first that is added is ours."""

    def __init__(self, name: str, what: str, **facts: Any) -> None:
        """Args:
        name: of the result files.
        what: one line about the job, for the table and the plot.
        facts: more to keep with the results (sizes, levels).
        """
        self.name, self.what, self.facts = name, what, facts
        self.contenders: list[Contender] = []

    def add(
        self,
        name: str,
        command: Command,
        before: Callable[[int], None] | None = None,
        after: Callable[[int], int] | None = None,
    ) -> None:
        self.contenders.append(Contender(name, command, before, after))

    def run(self, rounds: int = 5, environment: Mapping[str, str] | None = None) -> None:
        """One unmeasured round to warm caches, then as many as asked for, at least five.

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
        """Ours over the peer's, as the median of the rounds' own ratios."""
        pairs = zip(self.contenders[0].runs, peer.runs, strict=True)
        return float(statistics.median(getattr(a, of) / getattr(b, of) for a, b in pairs))

    def results(self) -> dict[str, Any]:
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
        """Markdown: medians, and ours over theirs (below 1: ours is faster)."""
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
    """Stepvault's own path for a whole source: plan, units, seal.

    Args:
        source: its settings, as in stepvault.toml.
        turn: every turn is a run of its own, as units that are stored already are left alone.
        parallel: units at a time, each in a process, as on AWS each is a function of its own.
    """
    job = {"bucket": store.bucket, "turn": turn, "parallel": parallel, "source": source}
    return [sys.executable, "-m", "bench.ours", json.dumps(job)]


def run_prefix(source: str, turn: int) -> str:
    """Where in the bucket the turn's backup is."""
    from stepvault import keys

    return keys.backup_prefix(source, run_id(source, turn))


def stored_bytes(store: ObjectStore, source: str) -> Callable[[int], int]:
    """For ``after``: the bytes of the turn's backup, which is then deleted.

    Raises:
        RuntimeError: nothing was stored.
    """

    def after(turn: int) -> int:
        return taken(store, run_prefix(source, turn))

    return after


def taken(store: ObjectStore, prefix: str) -> int:
    """Bytes under the prefix, which are then deleted; an error if there are none."""
    size = store.size(prefix)
    if not size:
        raise RuntimeError(f"nothing was stored under {prefix}")
    store.empty(prefix)
    return size


def options(description: str, **defaults: int) -> argparse.Namespace:
    """Command line of a benchmark: ``--runs`` and a number for each default."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--runs", type=int, default=5, help="rounds, at least 5")
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


def _say(line: str) -> None:
    print(line, flush=True)
