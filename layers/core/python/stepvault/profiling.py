"""Measures how long each stage of the path worked and waited, in constant memory."""

import random
import threading
import time
from array import array
from dataclasses import dataclass, field

from stepvault.records import Profile, Stage, Statistics

#: Durations kept per stage for the quantiles; beyond it a uniform sample (reservoir, Vitter's R).
RESERVOIR = 2048


@dataclass
class Durations:
    """Exact count, minimum, mean and maximum; quantiles from a uniform sample."""

    count: int = 0
    total: float = 0.0
    least: float = float("inf")
    most: float = 0.0
    sample: array[float] = field(default_factory=lambda: array("d"))

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.count += 1
        self.total += seconds
        self.least = min(self.least, seconds)
        self.most = max(self.most, seconds)
        if len(self.sample) < RESERVOIR:
            self.sample.append(seconds)
        elif (slot := random.randrange(self.count)) < RESERVOIR:  # noqa: S311 (not a secret)
            self.sample[slot] = seconds

    def statistics(self) -> Statistics:
        """Return count, mean and quantiles; zeros if there were no durations."""
        if not self.count:
            return Statistics()
        ordered = sorted(self.sample)

        def quantile(q: float) -> float:
            return ordered[min(len(ordered) - 1, int(q * len(ordered)))]

        return Statistics(
            count=self.count,
            min=self.least,
            mean=self.total / self.count,
            median=quantile(0.5),
            p95=quantile(0.95),
            p99=quantile(0.99),
            max=self.most,
        )


class Watch:
    """Times one operation of the calling thread."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.thread_time()

    def split(self) -> tuple[float, float]:
        """Return the seconds since the start that the thread was busy, and those it waited."""
        busy = time.thread_time() - self._cpu
        return busy, max(0.0, time.perf_counter() - self._wall - busy)


class StageMeter:
    """Adds up one stage; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.bytes = 0
        self.busy = 0.0
        self.waiting = 0.0
        self.durations = Durations()

    def add(self, size: int, busy: float, waiting: float) -> None:
        """Count one operation that moved ``size`` bytes and took ``busy + waiting`` seconds."""
        with self._lock:
            self.bytes += size
            self.busy += busy
            self.waiting += waiting
            self.durations.add(busy + waiting)

    def wait(self, seconds: float) -> None:
        """Count seconds in which the chain waited for this stage, outside of any operation."""
        with self._lock:
            self.waiting += seconds

    def stage(self) -> Stage:
        """Return the sums and the statistics."""
        return Stage(
            bytes=self.bytes,
            busy=self.busy,
            waiting=self.waiting,
            operations=self.durations.statistics(),
        )


class Meter:
    """The three stages of a unit.

    read and compress run in a stream's own thread: *busy* is that thread's CPU time and
    *waiting* the rest of the wall time. upload runs beside it: *busy* is the time of the
    requests, *waiting* the time that a stream waited for a free upload slot.
    """

    def __init__(self) -> None:
        self.read = StageMeter()
        self.compress = StageMeter()
        self.upload = StageMeter()

    @property
    def bottleneck(self) -> str:
        """Return the stage that the chain waited for most: source, cpu or network.

        A stream's thread always does one of three things: it waits for the source, computes
        (reads and compresses, or waits for a free CPU), or waits for the network.
        """
        shares: dict[str, float] = {
            "source": self.read.waiting,
            "cpu": self.read.busy + self.compress.busy + self.compress.waiting,
            "network": self.upload.waiting,
        }
        return max(shares, key=lambda name: shares[name])

    def profile(self, peak_memory: int, throttled: int) -> Profile:
        """Return the profile so far."""
        return Profile.model_validate(
            {
                "read": self.read.stage(),
                "compress": self.compress.stage(),
                "upload": self.upload.stage(),
                "bottleneck": self.bottleneck,
                "peak_memory": peak_memory,
                "throttled": throttled,
            }
        )
