"""Which schedules have a run overdue: one that was due, and by now should have sealed something.

CloudWatch cannot know it: its alarms look back a week at most, and know neither cron expressions
nor daylight saving. So a function asks every hour, and the alarm only reads its answer.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

from stepvault import expressions, keys
from stepvault.catalog import Vault
from stepvault.errors import BackupTampered
from stepvault.history import readable_summary
from stepvault.records import Record
from stepvault.settings import Config, Schedule

#: EventBridge Scheduler starts within a minute of the time that the schedule names.
EARLY = timedelta(minutes=5)
#: No schedule's pauses are longer, but for years: "29 February" has eight of them at most.
LONGEST_PAUSE = timedelta(days=366 * 8)


class CheckRequest(Record):
    """The event of ``check_schedules``; EventBridge Scheduler's own has none of its keys."""

    now: datetime | None = None
    """The moment to check for; this one when left out."""


class ScheduleState(Record):
    """What is known of one schedule."""

    expression: str
    timezone: str
    since: datetime
    """When it was first seen as it is now."""
    sealed: datetime | None = None
    """When the newest run started that is known to have sealed something."""


class ScheduleStates(Record):
    """What the check remembers between two calls, by the schedule's name."""

    schedules: dict[str, ScheduleState] = {}


class Overdue(Record):
    """Whether one schedule's latest run is overdue."""

    schedule: str
    due: datetime | None = None
    """When the run was due that has sealed nothing; None: nothing is overdue."""


def check_schedules(vault: Vault, config: Config, now: datetime | None = None) -> list[Overdue]:
    """Say of every schedule whether it is overdue.

    A schedule counts from when it was first seen as it is now, so that neither a new deployment
    nor a changed expression is late at once. One without ``window_hours``, or that starts once
    only (``at``), is never overdue.
    """
    now = now or datetime.now(UTC)
    known = _known(vault)
    states: dict[str, ScheduleState] = {}
    answers = []
    for schedule in config.schedules:
        state = current(schedule, known.get(schedule.name), now)
        states[schedule.name], due = check(
            schedule, state, now, partial(_newest_sealed, vault, schedule.name)
        )
        answers.append(Overdue(schedule=schedule.name, due=due))
    if states != known:
        vault.put_lines(keys.SCHEDULES, [ScheduleStates(schedules=states)])
    return answers


def _known(vault: Vault) -> dict[str, ScheduleState]:
    """Return what was written down last; a record that cannot be read is begun anew."""
    try:
        states = vault.lines(keys.SCHEDULES, ScheduleStates)
    except BackupTampered:
        return {}
    return states[0].schedules if states else {}


def check(
    schedule: Schedule,
    state: ScheduleState,
    now: datetime,
    newest_sealed: Callable[[datetime], datetime | None],
) -> tuple[ScheduleState, datetime | None]:
    """Say when the run was due that is overdue, or None, with what is known of the schedule now.

    Args:
        schedule: as it is configured.
        state: what is known of it.
        now: the moment to check for.
        newest_sealed: gives the start of the newest run, not before a moment, that sealed a source;
            asked only when what is known does not answer.
    """
    due = latest_due(schedule, state.since, now)
    if due is None or (state.sealed and state.sealed >= due - EARLY):
        return state, None
    if sealed := newest_sealed(due - EARLY):
        return state.model_copy(update={"sealed": sealed}), None
    return state, due


def current(schedule: Schedule, known: ScheduleState | None, now: datetime) -> ScheduleState:
    """Give what is known of the schedule; one that is new or has changed counts from now."""
    if known and (known.expression, known.timezone) == (schedule.expression, schedule.timezone):
        return known
    return ScheduleState(
        expression=schedule.expression,
        timezone=schedule.timezone,
        since=now,
        sealed=known.sealed if known else None,
    )


def latest_due(schedule: Schedule, since: datetime, now: datetime) -> datetime | None:
    """Give the latest moment at which a run was due that should have sealed something by now.

    Args:
        schedule: as it is configured.
        now: the moment to check for.
        since: runs due before it do not count.
    """
    if schedule.window_hours == 0 or schedule.expression.startswith("at("):
        return None
    until = now - timedelta(hours=schedule.window_hours)
    if hours := expressions.rate_hours(schedule.expression):
        # Nobody but AWS knows at which minute a rate began: any run of the last interval will do.
        begin = until - timedelta(hours=hours)
        return begin if begin >= since else None
    after = max(since, until - LONGEST_PAUSE)
    return next(expressions.due(schedule.expression, schedule.timezone, after, until), None)


def _newest_sealed(vault: Vault, schedule: str, begin: datetime) -> datetime | None:
    """Give the start of the newest run of the schedule, not before ``begin``, that sealed a source."""
    for run in reversed(vault.runs()):
        if (started := keys.run_started(run)) < begin:
            return None
        summary = readable_summary(vault, run)
        if (
            summary
            and summary.schedule == schedule
            and any(result.status == "sealed" for result in summary.sources)
        ):
            return started
    return None
