"""Watch a run or a restore from outside: S3 says how far it is, Step Functions how it ended.

Nothing in the functions reports progress, so a run that nobody watches costs nothing extra.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from rich.console import Console, RenderableType
from rich.live import Live

from stepvault import errors, keys
from stepvault.catalog import Vault
from stepvault.plan import sources_to_plan
from stepvault.records import Failure, SourceResult, Summary, Unit
from stepvault.restore import STAGES
from stepvault_cli import aws
from stepvault_cli.progress import (
    Pace,
    Progress,
    RestoreProgress,
    RunState,
    SourceProgress,
    SourceState,
    changes,
    picture,
    restore_changes,
    restore_picture,
)

_ENDS: dict[str, RunState] = {
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "PENDING_REDRIVE": "failed",
    "TIMED_OUT": "timed out",
    "ABORTED": "aborted",
}


class RunFollower:
    """Looks at one run.

    Args:
        execution: the execution at work on it; None where only the bucket is known.
    """

    def __init__(self, vault: Vault, run: str, execution: aws.Execution | None) -> None:
        self._vault = vault
        self._run = run
        self._execution = execution
        self._units: dict[str, list[Unit]] | None = None
        self._expected: dict[str, int | None] = {}
        self._finished: dict[str, SourceProgress] = {}

    def look(self) -> Progress:
        """Return the run as it is now."""
        execution = aws.execution(self._execution.arn) if self._execution else None
        ended = _ENDS.get(execution.status) if execution else None
        summary = self._summary(execution) if ended or execution is None else None
        if summary and execution and execution.ended and summary.ended > execution.ended:
            execution = ended = None  # a later execution finished the run: its word counts
        if summary is not None:
            sources = [self._from_result(result) for result in summary.sources]
            failed = any(source.state == "failed" for source in sources)
            state = ended or ("failed" if failed else "succeeded")
        else:
            sources = self._look_at_sources(execution)
            state = ended or _state(sources)
        return Progress(
            run=self._run,
            state=state,
            started=execution.started if execution else keys.run_started(self._run),
            now=summary.ended if summary else datetime.now(UTC),
            sources=sources,
            error=execution.error if execution else "",
        )

    def _summary(self, execution: aws.Execution | None) -> Summary | None:
        """Return the summary, unless an earlier execution of the same run wrote it."""
        summary = self._vault.summary(self._run)
        if summary and execution and summary.ended < execution.started:
            return None
        return summary

    def _from_result(self, result: SourceResult) -> SourceProgress:
        return SourceProgress(
            name=result.source,
            engine=result.engine,
            state=result.status,
            units=result.units,
            done=result.units_done,
            stored=result.stored_bytes,
            message=result.failures[0].message if result.failures else "",
        )

    def _look_at_sources(self, execution: aws.Execution | None) -> list[SourceProgress]:
        planned, planning = self._plan()
        since = keys.run_started(self._run)
        if execution:
            since = execution.redriven or execution.started
        failures = [f for f in self._vault.failures(self._run) if f.at >= since]
        with ThreadPoolExecutor(8, thread_name_prefix="follow") as pool:
            look = partial(self._look_at_source, failures=failures)
            sources = [*pool.map(look, planned.values()), *planning]
        items = aws.items(execution.arn) if execution else aws.Items()
        if items.running and not items.pending:
            # Nothing waits any more: a source without bytes is being read.
            return [replace(s, state="running") if s.state == "waiting" else s for s in sources]
        return sources

    def _plan(self) -> tuple[dict[str, list[Unit]], list[SourceProgress]]:
        """Return the units by source that are planned by now, and the sources that are not."""
        whole = self._units is None and self._vault.units(self._run)
        if self._units is None:
            units: dict[str, list[Unit]] = {}
            for unit in whole or self._vault.units_so_far(self._run):
                units.setdefault(unit.source.name, []).append(unit)
            if whole is None:
                planning = [
                    SourceProgress(
                        name=task.source.name, engine=task.source.engine, state="planning", units=0
                    )
                    for task in sources_to_plan(self._vault, self._run)
                ]
                return units, planning
            self._units = units
        return self._units, []

    def _look_at_source(self, units: Sequence[Unit], failures: Sequence[Failure]) -> SourceProgress:
        source, vault = units[0].source, self._vault
        if (finished := self._finished.get(source.name)) is not None:
            return finished
        done = vault.receipt_ids(source.name, self._run)
        stored = sum(e.size for e in vault.entries(keys.data_prefix(source.name, self._run)))
        for key, upload in vault.open_uploads(keys.data_prefix(source.name, self._run)):
            stored += vault.uploaded_bytes(key, upload)
        open_failures = [f for f in failures if f.source == source.name and f.unit not in done]
        progress = SourceProgress(
            name=source.name,
            engine=source.engine,
            state=_source_state(len(units), len(done), stored, open_failures),
            units=len(units),
            done=len(done),
            stored=stored,
            expected=self._expectation(units[0]),
            message=open_failures[0].message if open_failures else "",
        )
        if progress.state == "stored":
            self._finished[source.name] = progress
        return progress

    def _expectation(self, unit: Unit) -> int | None:
        """Return how much the last sealed backup stored; an incremental one predicts nothing."""
        source = unit.source
        if source.builds_on_parent:
            return None
        if source.name not in self._expected:
            last = self._vault.latest(source.name)
            self._expected[source.name] = last.stored_bytes if last else None
        return self._expected[source.name]


def _source_state(units: int, done: int, stored: int, failures: Sequence[Failure]) -> SourceState:
    if done == units:
        return "stored"
    if failures:
        transient = all(
            issubclass(getattr(errors, f.error, errors.Permanent), errors.Transient)
            for f in failures
        )
        return "retrying" if transient else "failed" if done + len(failures) >= units else "running"
    return "running" if done or stored else "waiting"


def _state(sources: Sequence[SourceProgress]) -> RunState:
    if not sources:
        return "planning"
    if all(source.state in ("stored", "failed") for source in sources):
        return "sealing"
    return "running"


def follow_run(follower: RunFollower, out: Console | None) -> Progress:
    """Look again and again until the run has ended; shows it on ``out`` unless that is None."""
    pace, before = Pace(), None
    with _display(out) as show:
        while True:
            progress = _patiently(follower.look)
            pace.take(progress)
            show(picture(progress, pace), changes(before, progress))
            if progress.ended:
                return progress
            before = progress
            _wait(progress.elapsed)


def follow_restore(vault: Vault, execution: aws.Execution, out: Console | None) -> RestoreProgress:
    """Look again and again until the restore has ended; show it on ``out`` unless that is None."""
    restore, before, tasks = keys.run_id(execution.started, execution.name), None, None
    with _display(out) as show:
        while True:
            now = _patiently(lambda: aws.execution(execution.arn))
            if not tasks:
                tasks = _restore_tasks(vault, restore)
            items = aws.items(execution.arn) if tasks else aws.Items()
            ended = _ENDS.get(now.status)
            progress = RestoreProgress(
                restore=restore,
                state=ended or ("running" if tasks else "planning"),
                started=execution.started,
                now=datetime.now(UTC),
                tasks=tasks or 0,
                done=items.done,
                failed=items.failed,
                error=now.error,
            )
            show(restore_picture(progress), restore_changes(before, progress))
            if progress.ended:
                return progress
            before = progress
            _wait(progress.elapsed)


def _restore_tasks(vault: Vault, restore: str) -> int | None:
    plans = [vault.get(keys.restore_plan(restore, stage)) for stage in STAGES]
    return None if None in plans else sum(plan.count(b"\n") for plan in plans if plan)


def _patiently[T](look: Callable[[], T]) -> T:
    """Look again when the network hiccups: the run does not mind, and it may last for hours."""
    for pause in (1, 5, 15):
        try:
            return look()
        except errors.Transient:
            time.sleep(pause)
    return look()


def _wait(elapsed: float) -> None:
    """Look less often the longer it runs: each look is a handful of S3 requests per source."""
    time.sleep(0.5 if elapsed < 20 else 2 if elapsed < 300 else 5)


@contextmanager
def _display(out: Console | None) -> Iterator[Callable[[RenderableType, Sequence[str]], None]]:
    """Show a live picture on a terminal, lines elsewhere, nothing without a console."""
    if out is None:
        yield lambda view, lines: None
    elif out.is_terminal:
        with Live(console=out, refresh_per_second=4) as live:
            yield lambda view, lines: live.update(view, refresh=True)
    else:

        def print_lines(_: RenderableType, lines: Sequence[str]) -> None:
            for line in lines:
                out.print(line)

        yield print_lines
