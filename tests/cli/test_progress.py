"""What a run looks like while it runs: the same snapshot as lines and as a picture."""

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from stepvault_cli import output
from stepvault_cli.progress import (
    Pace,
    Progress,
    RestoreProgress,
    SourceProgress,
    changes,
    headline,
    picture,
    restore_changes,
    restore_picture,
)

START = datetime(2026, 11, 22, 3, tzinfo=UTC)
SHOP = SourceProgress(name="shop", engine="postgres", state="running", expected=100_000_000)
DOCS = SourceProgress(name="docs", engine="files", state="running", units=4)


def at(seconds: float, *sources: SourceProgress, **fields: Any) -> Progress:
    return Progress(
        run="20261122T030000Z-nightly",
        state=fields.pop("state", "running"),
        started=START,
        now=START + timedelta(seconds=seconds),
        sources=sources,
        **fields,
    )


def drawn(progress: Progress, pace: Pace | None = None) -> str:
    console = Console(width=100, force_terminal=False, file=io.StringIO(), record=True)
    console.print(picture(progress, pace or Pace()))
    return console.export_text()


def test_the_picture_has_a_line_per_source_and_one_about_all() -> None:
    pace = Pace()
    for seconds in range(11):
        progress = at(
            seconds,
            replace(SHOP, stored=seconds * 5_000_000),
            replace(DOCS, done=1, stored=1_000_000),
        )
        pace.take(progress)
    text = drawn(progress, pace)
    assert "run 20261122T030000Z-nightly  running" in text
    shop, docs = (next(x for x in text.splitlines() if x.startswith(n)) for n in ("shop", "docs"))
    assert "0/1" in shop
    assert "50.0 MB" in shop
    assert "1/4" in docs
    assert "1 of 5 units, 51.0 MB, 5.0 MB/s, 10 s, about 11 s left" in text


def test_time_left_is_not_guessed_for_a_first_backup() -> None:
    pace = Pace()
    for seconds in (0, 5):
        pace.take(at(seconds, replace(SHOP, expected=None, stored=seconds * 1000)))
    progress = at(5, replace(SHOP, expected=None, stored=5000))
    assert pace.left(progress) is None
    assert "left" not in headline(progress, pace)
    assert "first backup" in drawn(progress, pace)


def test_time_left_is_not_guessed_from_the_first_crumbs() -> None:
    pace = Pace()
    docs = replace(DOCS, state="stored", done=4, stored=57_000)
    for seconds in (0, 5):
        progress = at(seconds, replace(SHOP, stored=0), replace(docs, stored=seconds * 11_000))
        pace.take(progress)
    assert pace.rate > 0
    assert pace.left(progress) is None


def test_pace_looks_at_the_last_while_only_and_never_below_zero() -> None:
    pace = Pace(window=10)
    for seconds in range(100):
        pace.take(at(seconds, replace(SHOP, stored=min(seconds, 50) * 1_000_000)))
    assert pace.rate == 0
    pace.take(at(100, replace(SHOP, stored=10)))
    assert pace.rate == 0, "an aborted upload takes its bytes with it"


@pytest.mark.parametrize(
    ("source", "share"),
    [
        (replace(SHOP, stored=25_000_000), 0.25),
        (replace(SHOP, stored=300_000_000), 0.99),
        (replace(SHOP, state="sealed"), 1.0),
        (replace(DOCS, done=3), 0.75),
        (replace(SHOP, expected=None, stored=5), None),
    ],
)
def test_a_sources_share_comes_from_its_bytes_or_its_units(
    source: SourceProgress, share: float | None
) -> None:
    assert source.share == share


def test_lines_come_only_when_something_changes() -> None:
    planning = at(0, state="planning")
    assert changes(None, planning) == ["run 20261122T030000Z-nightly planning"]
    begun = at(1, replace(SHOP, state="waiting"), replace(DOCS, stored=10))
    assert changes(planning, begun) == [
        "run 20261122T030000Z-nightly running",
        "docs (files) running, 0 of 4 units, 10 B",
    ]
    assert changes(begun, replace(begun, now=START + timedelta(seconds=9))) == []
    one_more = at(2, replace(SHOP, state="waiting"), replace(DOCS, stored=2_500_000, done=1))
    assert changes(begun, one_more) == ["docs (files) running, 1 of 4 units, 2.5 MB"]


def test_a_failure_is_told_with_its_reason_in_both_forms() -> None:
    running, failed = at(1, SHOP), at(2, replace(SHOP, state="failed", message="wrong password"))
    assert changes(running, failed) == ["shop (postgres) failed: wrong password"]
    assert "shop: wrong password" in drawn(failed)


def test_a_source_with_brackets_in_its_message_is_shown_as_it_is() -> None:
    assert "no [bold]table[/]" in drawn(at(1, replace(SHOP, message="no [bold]table[/]")))


def test_a_restore_tells_tasks_and_failures() -> None:
    begun = RestoreProgress("20261122T040000Z-cli-1", "planning", START, START)
    running = replace(begun, state="running", tasks=7, done=2, now=START + timedelta(seconds=3))
    assert restore_changes(None, begun) == ["restore 20261122T040000Z-cli-1 planning"]
    assert restore_changes(begun, running) == [
        "restore 20261122T040000Z-cli-1 running",
        "2 of 7 tasks, 3.0 s",
    ]
    assert restore_changes(running, replace(running, done=3, failed=1)) == [
        "3 of 7 tasks, 1 failed, 3.0 s"
    ]
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(restore_picture(running))
    assert "2 of 7 tasks" in console.export_text()


@pytest.mark.parametrize(
    ("number", "text"),
    [
        *((0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_950, "1.0 MB"), (1_500_000, "1.5 MB")),
        *((123_456_789, "123 MB"), (5e12, "5.0 TB"), (5e15, "5000 TB")),
    ],
)
def test_sizes_read_well(number: float, text: str) -> None:
    assert output.size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min"), (200, "3 min 20 s")),
        *((3600, "1 h"), (7500, "2 h 5 min"), (100_000, "1 d 3 h")),
    ],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert output.duration(seconds) == text
