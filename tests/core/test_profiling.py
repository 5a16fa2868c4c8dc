import time

import pytest

from stepvault.profiling import RESERVOIR, Durations, Meter, Watch


def test_quantiles_are_those_of_the_durations() -> None:
    durations = Durations()
    for n in range(1, 1001):
        durations.add(n / 1000)
    s = durations.statistics()
    assert (s.count, s.min, s.max) == (1000, 0.001, 1.0)
    assert s.mean == pytest.approx(0.5005)
    assert s.median == pytest.approx(0.5, abs=0.002)
    assert s.p95 == pytest.approx(0.95, abs=0.002)
    assert s.p99 == pytest.approx(0.99, abs=0.002)


def test_the_highest_quantiles_of_two_durations_are_the_longer() -> None:
    durations = Durations()
    for seconds in (1.0, 2.0):
        durations.add(seconds)
    s = durations.statistics()
    assert (s.p95, s.p99, s.max) == (2.0, 2.0, 2.0)


def test_memory_stays_bounded_and_the_sample_stays_representative() -> None:
    durations = Durations()
    for n in range(100_000):
        durations.add(float(n))
    assert len(durations.sample) == RESERVOIR
    assert durations.count == 100_000
    assert durations.statistics().median == pytest.approx(50_000, rel=0.15)


def test_a_watch_tells_work_from_waiting() -> None:
    watch = Watch()
    time.sleep(0.05)
    busy, waiting = watch.split()
    assert waiting > busy
    watch = Watch()
    sum(range(2_000_000))
    busy, _ = watch.split()
    assert busy > 0


@pytest.mark.parametrize(
    ("stage", "expected"), [("read", "source"), ("compress", "cpu"), ("upload", "network")]
)
def test_the_bottleneck_is_where_the_chain_stood_still(stage: str, expected: str) -> None:
    meter = Meter()
    for name in ("read", "compress", "upload"):
        getattr(meter, name).add(1000, 0.0, 1.0 if name == stage else 0.1)
    profile = meter.profile(peak_memory=1, throttled=0)
    assert profile.bottleneck == expected
    assert getattr(profile, stage).operations.count == 1
    assert getattr(profile, stage).bytes == 1000
