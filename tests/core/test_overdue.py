"""Schedules whose runs are overdue."""

from datetime import UTC, datetime, timedelta

import pytest

from stepvault import keys
from stepvault.catalog import Vault
from stepvault.overdue import check_schedules
from stepvault.records import SourceResult, Summary
from stepvault.settings import Config

START = datetime(2026, 3, 1, tzinfo=UTC)


def configured(when: str = "cron(0 3 * * ? *)", **more: object) -> Config:
    return Config.model_validate(
        {
            "sources": [{"name": "uploads", "engine": "files", "path": "/mnt/efs"}],
            "schedules": [{"name": "nightly", "when": when, **more}],
        }
    )


def ran(
    vault: Vault, started: datetime, status: str = "sealed", schedule: str | None = "nightly"
) -> None:
    """Leave the summary of a run behind."""
    run = keys.run_id(started, "x")
    result = SourceResult.model_validate(
        {"source": "uploads", "engine": "files", "status": status, "units": 1, "units_done": 1}
    )
    vault.put_summary(
        Summary(
            tool_version="1",
            run_id=run,
            started=started,
            ended=started,
            schedule=schedule,
            sources=[result],
        )
    )


def due(vault: Vault, config: Config, now: datetime) -> datetime | None:
    (answer,) = check_schedules(vault, config, now)
    assert answer.schedule == "nightly"
    return answer.due


def test_a_new_deployment_is_not_late(vault: Vault) -> None:
    config = configured()

    assert due(vault, config, START + timedelta(hours=20)) is None
    assert due(vault, config, START + timedelta(hours=26)) is None  # due at 27, six hours to seal


def test_a_run_that_never_came_is_overdue_after_the_window(vault: Vault) -> None:
    config = configured()
    due(vault, config, START)

    assert due(vault, config, START + timedelta(hours=8, minutes=59)) is None
    assert due(vault, config, START + timedelta(hours=9)) == START + timedelta(hours=3)
    ran(vault, START + timedelta(hours=10))  # somebody started it by hand, as that schedule
    assert due(vault, config, START + timedelta(hours=11)) is None


@pytest.mark.parametrize(
    ("status", "schedule"), [("failed", "nightly"), ("skipped", "nightly"), ("sealed", "other")]
)
def test_a_run_that_sealed_nothing_of_the_schedule_does_not_count(
    vault: Vault, status: str, schedule: str
) -> None:
    config = configured()
    due(vault, config, START)
    ran(vault, START + timedelta(hours=3), status, schedule)

    assert due(vault, config, START + timedelta(hours=9)) == START + timedelta(hours=3)


def test_a_weekly_run_is_in_time_all_week(vault: Vault) -> None:
    config = configured("cron(0 3 ? * MON *)")  # 2 March 2026 is a Monday
    due(vault, config, START)
    ran(vault, START + timedelta(days=1, hours=3))

    for day in range(2, 8):
        assert due(vault, config, START + timedelta(days=day, hours=12)) is None
    assert due(vault, config, START + timedelta(days=8, hours=9)) == START + timedelta(
        days=8, hours=3
    )


def test_a_changed_schedule_counts_from_the_change(vault: Vault) -> None:
    due(vault, configured(), START)
    changed = configured("cron(0 1 * * ? *)")

    assert due(vault, changed, START + timedelta(hours=8)) is None
    assert due(vault, changed, START + timedelta(hours=31)) == START + timedelta(hours=25)


def test_a_rate_is_overdue_when_an_interval_and_the_window_have_passed(vault: Vault) -> None:
    config = configured("rate(12 hours)", window_hours=2)
    due(vault, config, START)
    ran(vault, START + timedelta(hours=1))

    assert due(vault, config, START + timedelta(hours=15)) is None
    assert due(vault, config, START + timedelta(hours=16)) is not None


@pytest.mark.parametrize("when", ["at(2026-03-01T03:00:00)", "cron(0 3 * * ? *)"])
def test_without_a_window_and_for_a_single_start_nothing_is_overdue(
    vault: Vault, when: str
) -> None:
    config = configured(when, **({} if when.startswith("at") else {"window_hours": 0}))
    due(vault, config, START)

    assert due(vault, config, START + timedelta(days=9)) is None


def test_what_is_known_is_not_asked_for_again(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured()
    due(vault, config, START)
    ran(vault, START + timedelta(hours=3))
    assert due(vault, config, START + timedelta(hours=9)) is None

    monkeypatch.setattr(Vault, "runs", lambda self: pytest.fail("listed the runs again"))
    assert due(vault, config, START + timedelta(hours=26)) is None


def test_a_record_that_cannot_be_read_is_begun_anew(vault: Vault) -> None:
    config = configured()
    vault.put(keys.SCHEDULES, b"{")

    assert due(vault, config, START) is None
    assert due(vault, config, START + timedelta(hours=9)) == START + timedelta(hours=3)


def test_a_run_whose_summary_cannot_be_read_stops_no_check(vault: Vault) -> None:
    config = configured()
    due(vault, config, START)
    ran(vault, START + timedelta(hours=3))
    vault.put(keys.summary(keys.run_id(START + timedelta(hours=4), "x")), b"{")

    assert due(vault, config, START + timedelta(hours=9)) is None
