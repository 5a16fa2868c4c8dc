"""Run a command and measure it: seconds, CPU seconds and memory of all its processes."""

import os
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from devtools.timer import Timer

ROOT = Path(__file__).parent.parent

_SAMPLE_SECONDS = 0.02
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


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
    """Return the machine's CPU seconds since it started (proc(5): without idle and iowait)."""
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
    tree, todo = [], [pid]
    while todo:
        one = todo.pop()
        tree.append(one)
        with suppress(OSError):
            for task in os.listdir(f"/proc/{one}/task"):
                text = Path(f"/proc/{one}/task/{task}/children").read_text()
                todo += [int(child) for child in text.split()]
    return tree


def _resident(pid: int) -> int:
    """Return the bytes a process has in memory; what it shares with others counts in each."""
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
