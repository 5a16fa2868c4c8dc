"""Decides which backups may be removed. Takes ids and the time, returns ids; does no I/O."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from stepvault.keys import run_started
from stepvault.settings import Retention


def expired(sealed: Sequence[str], rule: Retention, now: datetime) -> list[str]:
    """Return the run ids of sealed backups that no rule keeps, oldest first.

    A backup is kept if it is among the newest ``keep_last``, or younger than ``max_age_days``,
    or the newest of all. Without any rule every backup is kept.

    Args:
        sealed: run ids of one source's sealed backups, in any order.
        rule: what to keep.
        now: the time from which ages count.
    """
    if rule.keep_last is None and rule.max_age_days is None:
        return []
    ordered = sorted(sealed)
    kept = set(ordered[-max(1, rule.keep_last or 0) :])
    if rule.max_age_days is not None:
        oldest = now - timedelta(days=rule.max_age_days)
        kept.update(run for run in ordered if run_started(run) >= oldest)
    return [run for run in ordered if run not in kept]
