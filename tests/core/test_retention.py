from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from stepvault.keys import run_id, run_started
from stepvault.retention import expired
from stepvault.settings import Retention

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def runs(*ages_in_days: float) -> list[str]:
    return [run_id(NOW - timedelta(days=age), "r") for age in ages_in_days]


def test_without_a_rule_everything_stays() -> None:
    assert expired(runs(1, 2, 3000), Retention(), NOW) == []


def test_keep_last_lets_the_oldest_go() -> None:
    week = runs(6, 5, 4, 3, 2, 1, 0)
    assert expired(week, Retention(keep_last=3), NOW) == week[:4]


def test_max_age_lets_go_what_is_older() -> None:
    assert expired(runs(40, 31, 29, 1), Retention(max_age_days=30), NOW) == runs(40, 31)


def test_a_backup_goes_only_when_neither_rule_keeps_it() -> None:
    rule = Retention(keep_last=2, max_age_days=10)
    assert expired(runs(50, 20, 15, 5), rule, NOW) == runs(50, 20)


def test_the_newest_stays_however_old_it_is() -> None:
    assert expired(runs(900, 800), Retention(max_age_days=1), NOW) == runs(900)


@given(
    ages=st.lists(st.integers(0, 4000), unique=True),
    keep_last=st.none() | st.integers(1, 50),
    max_age=st.none() | st.integers(1, 4000),
)
def test_whatever_the_rules_the_newest_stays_and_only_what_no_rule_keeps_goes(
    ages: list[int], keep_last: int | None, max_age: int | None
) -> None:
    sealed = runs(*ages)
    gone = expired(sealed, Retention(keep_last=keep_last, max_age_days=max_age), NOW)
    newest_first = sorted(sealed, reverse=True)
    assert set(gone) <= set(sealed)
    assert not newest_first or newest_first[0] not in gone
    for run in gone:
        assert keep_last is None or newest_first.index(run) >= keep_last
        assert max_age is None or NOW - run_started(run) > timedelta(days=max_age)
    for run in newest_first[1:]:
        kept_by_number = keep_last is not None and newest_first.index(run) < keep_last
        kept_by_age = max_age is not None and NOW - run_started(run) <= timedelta(days=max_age)
        no_rule = keep_last is None and max_age is None
        assert (run not in gone) == (kept_by_number or kept_by_age or no_rule)
