"""When a schedule's runs are due."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from stepvault.expressions import due

BERLIN = "Europe/Berlin"


def moments(expression: str, after: str, before: str, zone: str = BERLIN) -> list[str]:
    """The local times between two local times, the earliest first."""
    tz = ZoneInfo(zone)
    begin, end = (datetime.fromisoformat(t).replace(tzinfo=tz) for t in (after, before))
    found = [*due(expression, zone, begin, end)]
    assert found == sorted(found, reverse=True)
    return [f"{m.astimezone(tz):%Y-%m-%d %H:%M}" for m in reversed(found)]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("cron(0 3 ? * MON *)", ["2026-06-01 03:00", "2026-06-08 03:00"]),
        ("cron(0 3 ? * 2#2 *)", ["2026-06-08 03:00"]),
        ("cron(0 3 ? * 6L *)", ["2026-05-29 03:00"]),
        ("cron(0 3 L * ? *)", ["2026-05-31 03:00"]),
        ("cron(0 3 LW * ? *)", ["2026-05-29 03:00"]),
        ("cron(0 3 31W * ? *)", ["2026-05-29 03:00"]),
        ("cron(0 3 1,15 * ? 2026)", ["2026-06-01 03:00"]),
        ("cron(0 3 1 * ? 2027)", []),
        ("cron(0/30 3 1 6 ? *)", ["2026-06-01 03:00", "2026-06-01 03:30"]),
        ("cron(15 22-1 31 5 ? *)", [f"2026-05-31 {h}:15" for h in ("00", "01", "22", "23")]),
        ("at(2026-06-02T12:00:00)", ["2026-06-02 12:00"]),
        ("at(2026-07-02T12:00:00)", []),
    ],
)
def test_runs_are_due_when_aws_says(expression: str, expected: list[str]) -> None:
    assert moments(expression, "2026-05-28T00:00", "2026-06-10T00:00") == expected


def test_a_time_that_clocks_skip_is_skipped() -> None:
    assert moments("cron(30 2 * * ? *)", "2026-03-28T00:00", "2026-03-31T00:00") == [
        "2026-03-28 02:30",
        "2026-03-30 02:30",
    ]


def test_a_time_that_comes_twice_counts_once() -> None:
    found = [*due("cron(30 2 * * ? *)", BERLIN, _utc(2026, 10, 24, 12), _utc(2026, 10, 25, 12))]

    assert found == [_utc(2026, 10, 25, 0, 30)]


def test_the_end_counts_and_the_beginning_does_not() -> None:
    expression = "cron(0 3 * * ? *)"
    begin, end = _utc(2026, 1, 1, 3), _utc(2026, 1, 3, 3)

    assert [*due(expression, "UTC", begin, end)] == [end, end - timedelta(days=1)]


def test_a_rate_counts_from_the_beginning() -> None:
    begin = _utc(2026, 1, 1, 0, 7)

    assert [*due("rate(6 hours)", "UTC", begin, begin + timedelta(hours=13))] == [
        begin + timedelta(hours=12),
        begin + timedelta(hours=6),
    ]


def test_a_leap_day_is_found_after_years() -> None:
    assert [*due("cron(0 3 29 2 ? *)", "UTC", _utc(2020, 1, 1), _utc(2027, 1, 1))] == [
        _utc(2024, 2, 29, 3),
        _utc(2020, 2, 29, 3),
    ]


def _utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type,misc]
