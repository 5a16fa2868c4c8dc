"""How numbers, times and tables look, on a terminal and in a pipe."""

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

_STYLES = {
    **dict.fromkeys(("sealed", "succeeded", "stored"), "green"),
    **dict.fromkeys(("failed", "aborted", "timed out"), "bold red"),
    **dict.fromkeys(("running", "sealing", "planning"), "cyan"),
    **dict.fromkeys(("retrying", "skipped", "partly"), "yellow"),
    **dict.fromkeys(("waiting", "not sealed"), "dim"),
}


def console(*, stderr: bool = False) -> Console:
    """Return a console on the current streams; plain and wide when they are not a terminal."""
    out = Console(stderr=stderr, highlight=False)
    return (
        out
        if out.is_terminal
        else Console(stderr=stderr, highlight=False, width=10_000, no_color=True)
    )


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def size(count: float) -> str:
    """Bytes in the decimal units that S3 bills in: 0 B, 999 B, 1.5 MB, 12 GB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 999.5 or unit == "TB":
            break
        count /= 1000
    digits = 1 if unit != "B" and abs(count) < 99.95 else 0
    return f"{count:.{digits}f} {unit}"


def duration(seconds: float) -> str:
    """0.4 s, 12 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    if seconds < 9.95:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    for name, length, below, below_length in (
        ("d", 86_400, "h", 3_600),
        ("h", 3_600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= length:
            rest = whole % length // below_length
            return f"{whole // length} {name}" + (f" {rest} {below}" if rest else "")
    return f"{whole} s"


def moment(at: datetime) -> str:
    """In the reader's own time zone, to the minute."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M")


def count(number: int, what: str) -> str:
    """1 table, 2 tables, 1,234 files."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def status(word: str) -> Text:
    """Return the word of a state in its colour."""
    return Text(word, style=_STYLES.get(word, ""))


def table(columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> Table:
    """Columns whose heading begins with ``>`` are set to the right."""
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in columns:
        right = heading.startswith(">")
        drawn.add_column(
            heading.removeprefix(">"), justify="right" if right else "left", no_wrap=right
        )
    for row in rows:
        drawn.add_row(*row)
    return drawn


def print_comparison(wrong: Sequence[str], not_compared: Sequence[str]) -> None:
    """Print what differs, and what nobody looked at."""
    for line in wrong:
        click.secho(f"different: {line}", fg="red", err=True)
    for what in dict.fromkeys(not_compared):
        click.echo(f"not compared: {what}")
    if not wrong:
        looked_at = "all that was compared" if not_compared else "all content"
        click.echo(f"compared: {looked_at} equals the backup")
