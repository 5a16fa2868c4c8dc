"""What a run looks like while it runs. Pure: a snapshot in, lines or a table out."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from stepvault_cli import output

SourceState = Literal[
    "waiting", "running", "retrying", "stored", "sealed", "failed", "skipped", "planning"
]
RunState = Literal["planning", "running", "sealing", "succeeded", "failed", "aborted", "timed out"]
#: Share of a run after which its pace says something about its end.
_TELLING = 0.03
ENDED: tuple[RunState, ...] = ("succeeded", "failed", "aborted", "timed out")


@dataclass(frozen=True)
class SourceProgress:
    """One source of a run."""

    name: str
    engine: str
    state: SourceState = "waiting"
    units: int = 1
    done: int = 0
    stored: int = 0
    """Bytes in finished objects and in parts of open uploads."""
    expected: int | None = None
    """Bytes that the last sealed backup stored; None for a first backup."""
    message: str = ""
    """Why a unit failed."""

    @property
    def share(self) -> float | None:
        """How much of it is done, 0 to 1; None if nothing tells."""
        if self.state in ("stored", "sealed", "skipped", "failed"):
            return 1.0
        by_units = self.done / self.units if self.units > 1 else None
        by_bytes = min(self.stored / self.expected, 0.99) if self.expected else None
        shares = [share for share in (by_units, by_bytes) if share is not None]
        return max(shares) if shares else None


@dataclass(frozen=True)
class Progress:
    """A run at one moment."""

    run: str
    state: RunState
    started: datetime
    now: datetime
    sources: Sequence[SourceProgress] = ()
    error: str = ""
    """Why the execution failed, in Step Functions' words."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ENDED

    @property
    def stored(self) -> int:
        """Bytes stored so far, of all sources."""
        return sum(source.stored for source in self.sources)

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return max(0.0, (self.now - self.started).total_seconds())


@dataclass
class Pace:
    """Bytes per second over the last while, and what that says about the end."""

    window: float = 20.0
    """Seconds."""
    _seen: deque[tuple[datetime, int]] = field(default_factory=deque)

    def take(self, progress: Progress) -> None:
        """Remember how far the run is now."""
        self._seen.append((progress.now, progress.stored))
        while len(self._seen) > 2 and (
            (progress.now - self._seen[1][0]).total_seconds() >= self.window
        ):
            self._seen.popleft()

    @property
    def rate(self) -> float:
        """Bytes per second; 0 until there are two moments to compare."""
        if len(self._seen) < 2:
            return 0.0
        (began, first), (ended, last) = self._seen[0], self._seen[-1]
        seconds = (ended - began).total_seconds()
        return max(0.0, (last - first) / seconds) if seconds > 0 else 0.0

    def left(self, progress: Progress) -> float | None:
        """Seconds left; None at the very start, or if a source gives no idea of its size."""
        rest = whole = 0.0
        for source in progress.sources:
            share = source.share
            if share is None:
                return None
            total = source.expected or (source.stored / share if share else 0)
            if share < 1 and not total:
                return None
            rest += total * (1 - share)
            whole += total
        if progress.state != "running" or not self.rate or rest > whole * (1 - _TELLING):
            return None
        return rest / self.rate


def headline(progress: Progress, pace: Pace) -> str:
    """One line about the whole run: units, bytes, rate and time."""
    done = sum(source.done for source in progress.sources)
    units = sum(source.units for source in progress.sources)
    parts = [
        f"{done} of {output.count(units, 'unit')}",
        output.size(progress.stored),
        f"{output.size(pace.rate)}/s" if not progress.ended else "",
        output.duration(progress.elapsed),
    ]
    left = pace.left(progress)
    if left is not None:
        parts.append(f"about {output.duration(max(1, round(left)))} left")
    return ", ".join(part for part in parts if part)


def picture(progress: Progress, pace: Pace) -> RenderableType:
    """Return the live display."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("source", "engine", "state"):
        table.add_column(heading, no_wrap=True)
    table.add_column("units", justify="right", no_wrap=True)
    table.add_column("stored", justify="right", no_wrap=True)
    table.add_column("", min_width=10, max_width=30)
    for source in progress.sources:
        table.add_row(
            Text(output.printable(source.name)),
            Text(output.printable(source.engine), style="dim"),
            output.status(source.state),
            f"{source.done}/{source.units}",
            output.size(source.stored),
            _bar(source),
        )
    lines: list[RenderableType] = [
        Text.assemble("run ", (progress.run, "bold"), "  ", output.status(progress.state))
    ]
    if progress.sources:
        lines += [table, Text(headline(progress, pace), style="dim")]
    else:
        lines.append(Text(f"planning, {output.duration(progress.elapsed)}", style="dim"))
    lines += [
        Text(output.printable(f"{source.name}: {source.message}"), style="yellow")
        for source in progress.sources
        if source.message
    ]
    return Group(*lines)


def _bar(source: SourceProgress) -> RenderableType:
    share = source.share
    if source.state in ("waiting", "failed", "skipped"):
        return ""
    if share is None:
        return Text("first backup", style="dim")
    return ProgressBar(total=1.0, completed=share, width=20)


def changes(before: Progress | None, after: Progress) -> list[str]:
    """Return what is new, one line each, for output that is not a terminal."""
    lines: list[str] = []
    known = {source.name: source for source in before.sources} if before else {}
    for source in after.sources:
        old = known.get(source.name)
        if old and (old.state, old.done, old.message) == (
            source.state,
            source.done,
            source.message,
        ):
            continue
        if old is None and source.state == "waiting":
            continue
        line = f"{source.name} ({source.engine}) {source.state}"
        if source.units > 1:
            line += f", {source.done} of {source.units} units"
        if source.stored:
            line += f", {output.size(source.stored)}"
        if source.message:
            line += f": {source.message}"
        lines.append(line)
    if before is None or before.state != after.state:
        # What began comes before its sources' news, what ended after them.
        begins = after.state in ("planning", "running")
        lines.insert(0 if begins else len(lines), f"run {after.run} {after.state}")
    return lines


@dataclass(frozen=True)
class RestoreProgress:
    """A restore by the state machine at one moment."""

    restore: str
    state: RunState
    started: datetime
    now: datetime
    tasks: int = 0
    done: int = 0
    failed: int = 0
    error: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ENDED

    @property
    def elapsed(self) -> float:
        """Seconds since the restore began."""
        return max(0.0, (self.now - self.started).total_seconds())


def restore_picture(progress: RestoreProgress) -> RenderableType:
    """Return the live display of a restore."""
    lines: list[RenderableType] = [
        Text.assemble("restore ", (progress.restore, "bold"), "  ", output.status(progress.state))
    ]
    if progress.tasks:
        row = Table.grid(padding=(0, 2, 0, 0))
        bar = ProgressBar(total=progress.tasks, completed=progress.done, width=40)
        row.add_row(bar, Text(_restore_line(progress), style="dim"))
        lines.append(row)
    return Group(*lines)


def restore_changes(before: RestoreProgress | None, after: RestoreProgress) -> list[str]:
    """Return what is new, one line each."""
    lines: list[str] = []
    if before is None or before.state != after.state:
        lines.append(f"restore {after.restore} {after.state}")
    if after.tasks and (before is None or (before.done, before.tasks) != (after.done, after.tasks)):
        lines.append(_restore_line(after))
    return lines


def _restore_line(progress: RestoreProgress) -> str:
    line = f"{progress.done} of {output.count(progress.tasks, 'task')}"
    if progress.failed:
        line += f", {progress.failed} failed"
    return f"{line}, {output.duration(progress.elapsed)}"
