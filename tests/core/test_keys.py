from datetime import UTC, datetime, timedelta, timezone

import pytest

from stepvault import keys


def test_a_run_id_starts_with_the_start_in_utc_and_keeps_the_executions_name() -> None:
    started = datetime(2026, 11, 22, 1, 2, 3, tzinfo=timezone(timedelta(hours=2)))
    run = keys.run_id(started, "nightly-4f2a")
    assert run == "20261121T230203Z-nightly-4f2a"
    assert keys.is_run_id(run)
    assert keys.run_started(run) == started.astimezone(UTC)


def test_run_ids_sort_by_age() -> None:
    early, late = (datetime(2026, 1, day, tzinfo=UTC) for day in (2, 11))
    assert keys.run_id(early, "z") < keys.run_id(late, "a")


def test_an_execution_name_that_is_not_a_safe_key_still_gives_a_safe_run_id() -> None:
    run = keys.run_id(datetime(2026, 1, 1, tzinfo=UTC), "a/b c\n" + "x" * 200)
    assert keys.is_run_id(run)
    assert "/" not in run


@pytest.mark.parametrize(
    "key",
    [
        "backups/shop/not-a-run/data/x",
        "backups/../20260101T000000Z-a/data/x",
        "somebody/elses/thing",
        "backups/shop",
        "runs/20260101T000000Z-a/summary.json",
    ],
)
def test_a_key_that_is_not_of_a_backup_is_not_taken_for_one(key: str) -> None:
    assert keys.parse_backup(key) is None


def test_a_data_key_is_parsed_back_into_what_it_was_made_of() -> None:
    key = keys.data("shop", "20260101T000000Z-a", "sub/3055.dat.zst")
    assert keys.parse_backup(key) == ("shop", "20260101T000000Z-a", "data/sub/3055.dat.zst")
