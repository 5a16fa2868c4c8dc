"""A year of schedules through the alarms of the template: none false, none missed."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from stepvault.expressions import due
from stepvault.overdue import check, current
from stepvault.settings import Schedule
from tests.infra.alarm_simulator import Alarm
from tests.infra.synth import Template

BEGIN, END = datetime(2026, 1, 1, 0, 20, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
#: A run's life; well within the six hours of ``window_hours``.
TAKES = timedelta(hours=2, minutes=30)
SCHEDULES = {
    "daily": "cron(30 2 * * ? *)",  # a time that clocks skip in March and repeat in October
    "weekly": "cron(0 3 ? * SUN *)",
    "monthly": "cron(0 3 31 * ? *)",  # seven times a year
    "last-friday": "cron(0 22 ? * 6L *)",
    "working-days": "cron(0/30 8-17 ? * MON-FRI *)",
    "six-hourly": "rate(6 hours)",
}

Outcome = Callable[[datetime], str]


def alarm(template: Template, name: str) -> Alarm:
    (properties,) = [
        a
        for key, a in template.of_type("AWS::CloudWatch::Alarm").items()
        if re.sub(r"^Alarms|[0-9A-F]{8}$", "", key) == name
    ]
    return Alarm(properties)


def due_moments(expression: str) -> list[datetime]:
    return [*reversed([*due(expression, "Europe/Berlin", BEGIN, END)])]


def a_year(
    template: Template,
    expression: str,
    outcome: Outcome,
    checked: Callable[[datetime], bool] = lambda now: True,
) -> tuple[Alarm, Alarm, list[datetime]]:
    """Run the schedule for a year; the alarms on missed and failed runs, and when runs were due.

    Args:
        outcome: of the run due then: ``sealed``, ``failed`` or ``missed`` (nothing started).
        checked: whether the hourly check runs at that moment.
    """
    schedule = Schedule(name="nightly", when=expression, timezone="Europe/Berlin")
    moments = due_moments(expression)
    missed, failed = alarm(template, "Missednightly"), alarm(template, "RunFailed")
    sealed = [at for at in moments if outcome(at) == "sealed"]
    for at in moments:
        if outcome(at) == "failed":
            failed.put(at + TAKES, 1)
    now, state = BEGIN, current(schedule, None, BEGIN)
    while now < END:
        if checked(now):

            def newest(begin: datetime, now: datetime = now) -> datetime | None:
                done = [at for at in sealed if begin <= at and at + TAKES <= now]
                return done[-1] if done else None

            state, overdue = check(schedule, state, now, newest)
            missed.put(now, int(overdue is not None))
        now += HOUR
    return missed, failed, moments


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_year_without_a_fault_rings_no_alarm(everything: Template, name: str) -> None:
    missed, failed, moments = a_year(everything, SCHEDULES[name], lambda at: "sealed")

    assert len(moments) >= 7
    assert missed.messages(BEGIN, END) == []
    assert failed.messages(BEGIN, END) == []


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_missed_run_rings_once_and_in_time(everything: Template, name: str) -> None:
    expression = SCHEDULES[name]
    moments = due_moments(expression)
    third = len(moments) // 3
    lost = {*moments[third : third + 1], *moments[2 * third : 2 * third + 2]}
    if name in {"working-days", "six-hourly"}:  # one of many is made good within the window
        lost = {at for at in moments if timedelta(0) <= at - moments[third] < timedelta(days=2)}
    missed, _, _ = a_year(everything, expression, lambda at: "missed" if at in lost else "sealed")

    rung = missed.messages(BEGIN, END)

    groups = [at for at in sorted(lost) if not _before(at, moments) & lost]
    assert len(rung) == len(groups)
    for (when, state), first in zip(rung, groups, strict=True):
        assert state == "ALARM"
        assert (
            timedelta(hours=5) < when - first <= timedelta(hours=16 if name == "six-hourly" else 9)
        )
    assert [state for _, state in missed.states(BEGIN, END)][-1] == "OK"


def _before(at: datetime, moments: list[datetime]) -> set[datetime]:
    place = moments.index(at)
    return {*moments[max(place - 1, 0) : place]}


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_failed_run_rings_at_its_end(everything: Template, name: str) -> None:
    expression = SCHEDULES[name]
    moments = due_moments(expression)
    bad = set(moments[3 :: max(len(moments) // 5, 1)])
    _, failed, _ = a_year(everything, expression, lambda at: "failed" if at in bad else "sealed")

    rung = [when for when, _ in failed.messages(BEGIN, END)]

    assert len(rung) == len([at for at in bad if at + TAKES < END])
    for when, at in zip(rung, sorted(bad), strict=False):
        assert timedelta(0) <= when - (at + TAKES) <= timedelta(minutes=5)


def test_silence_of_the_check_itself_is_told(everything: Template) -> None:
    stops = BEGIN + timedelta(days=100)
    missed, _, _ = a_year(
        everything, SCHEDULES["daily"], lambda at: "sealed", lambda now: now < stops
    )

    ((when, state),) = missed.messages(BEGIN, END)

    assert state == "INSUFFICIENT_DATA"
    assert when - stops <= timedelta(hours=6)


def test_a_check_that_is_late_or_fails_once_tells_nobody(everything: Template) -> None:
    def often(now: datetime) -> bool:
        return now.hour % 5 != 0

    missed, _, _ = a_year(everything, SCHEDULES["daily"], lambda at: "sealed", often)

    assert missed.messages(BEGIN, END) == []


def test_two_stacks_do_not_share_a_metric(everything: Template) -> None:
    def dimensions(a: dict[str, Any]) -> dict[str, str]:
        return {d["Name"]: d["Value"] for d in a["Dimensions"]}

    ours = [
        a
        for a in everything.of_type("AWS::CloudWatch::Alarm").values()
        if a.get("Namespace") == "Stepvault"
    ]

    assert ours
    assert all(dimensions(a)["stack"] == "Stepvault" for a in ours)
