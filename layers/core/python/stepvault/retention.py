"""Which backups may go. Pure: ids and a clock in, ids out."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from stepvault.keys import run_started
from stepvault.settings import Retention


def expired(sealed: Sequence[str], rule: Retention, now: datetime) -> list[str]:
    """The run ids of sealed backups that no rule keeps, oldest first.

    A backup stays if it is among the newest ``keep_last``, or younger than ``max_age_days``,
    or the newest of all. Without any rule everything stays.

    Args:
        sealed: run ids of one source's sealed backups, in any order.
    """
    if rule.keep_last is None and rule.max_age_days is None:
        return []
    ordered = sorted(sealed)
    kept = set(ordered[-max(1, rule.keep_last or 0) :])
    if rule.max_age_days is not None:
        oldest = now - timedelta(days=rule.max_age_days)
        kept.update(run for run in ordered if run_started(run) >= oldest)
    return [run for run in ordered if run not in kept]
