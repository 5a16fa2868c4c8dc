"""How numbers, times and tables look, on a terminal and in a pipe."""

import json
import re
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


#: What a terminal obeys instead of showing: control characters of both sets, marks that reverse the
#: direction of text, separators of lines. Lone surrogates, which no terminal can be sent, too.
_OBEYED = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """Return text on one line, with all that a terminal would obey written as an escape.

    Names of files and tables, and a server's messages about them, are somebody else's text.
    """
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class PlainConsole(Console):
    """A console that shows text as it is: no markup, nothing that a terminal obeys."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print like Rich; strings are text."""
        drawn = [Text(printable(o)) if isinstance(o, str) else o for o in objects]
        only_text = all(isinstance(o, Text) for o in drawn)
        super().print(*drawn, **{"soft_wrap": only_text} | options)


def console(*, stderr: bool = False) -> PlainConsole:
    """Return a console on the current streams; plain and wide when they are not a terminal."""
    out = PlainConsole(stderr=stderr, highlight=False)
    return (
        out
        if out.is_terminal
        else PlainConsole(stderr=stderr, highlight=False, width=10_000, no_color=True)
    )


def echo(text: str = "", *, err: bool = False, fg: str | None = None, start: str = "") -> None:
    """Print one line of text.

    Args:
        text: what to print; whatever a terminal would obey in it is escaped.
        err: on standard error.
        fg: colour of the line's start, or of all of it if it has none.
        start: the word that the line begins with, in bold.
    """
    if start:
        click.secho(start, fg=fg, bold=True, nl=False, err=err)
        fg = None
    click.secho(printable(text), fg=fg, err=err)


def echo_error(error: str) -> None:
    """Print an error of one or several lines on standard error."""
    first, *more = error.split("\n")
    echo(first, err=True, fg="red", start="error: ")
    for line in more:
        echo(line, err=True)


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    # JSON escapes the first set of control characters by itself; its own line ends stay.
    lines = (
        _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", line) for line in text.split("\n")
    )
    click.echo("\n".join(lines))


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
        drawn.add_row(*(Text(printable(cell)) if isinstance(cell, str) else cell for cell in row))
    return drawn


def print_comparison(wrong: Sequence[str], not_compared: Sequence[str]) -> None:
    """Print what differs, and each kind of thing that was not compared once."""
    for line in wrong:
        echo(f"different: {line}", fg="red", err=True)
    for what in dict.fromkeys(not_compared):
        echo(f"not compared: {what}")
    if not wrong:
        compared = "all that was compared" if not_compared else "all content"
        echo(f"compared: {compared} equals the backup")
