"""EventBridge Scheduler's expressions, checked before anything is deployed. Pure.

``rate(1 day)``, ``cron(0 3 * * ? *)`` and ``at(2026-12-31T23:00:00)``; AWS's own complaint
about a bad one comes in mid-deployment and says only that it is not valid.
"""

import re
from collections.abc import Sequence
from datetime import datetime

_HOURS = {"minute": 1 / 60, "hour": 1, "day": 24}
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_RATE = re.compile(r"(\d+) +(minute|hour|day)(s?)")

#: name, least, greatest, names that stand for numbers, marks beside ``, - * /``.
_CRON: tuple[tuple[str, int, int, Sequence[str], str], ...] = (
    ("minutes", 0, 59, (), ""),
    ("hours", 0, 23, (), ""),
    ("day of month", 1, 31, (), "?LW"),
    ("month", 1, 12, _MONTHS, ""),
    ("day of week", 1, 7, _DAYS, "?L#"),
    ("year", 1970, 2199, (), ""),
)


def problem(expression: str) -> str | None:
    """What is wrong with the expression and how to write it; None if nothing is."""
    form = re.fullmatch(r"(rate|cron|at)\((.*)\)", expression)
    if form is None:
        return "write rate(1 day), cron(0 3 * * ? *) or at(2026-12-31T23:00:00)"
    kind, inside = form.groups()
    return {"rate": _rate_problem, "cron": _cron_problem, "at": _at_problem}[kind](inside)


def rate_hours(expression: str) -> float | None:
    """Hours between two runs of a ``rate`` expression; None for other kinds."""
    match = re.fullmatch(rf"rate\({_RATE.pattern}\)", expression)
    return int(match[1]) * _HOURS[match[2]] if match else None


def _rate_problem(inside: str) -> str | None:
    match = _RATE.fullmatch(inside)
    if match is None or int(match[1]) < 1:
        return "a rate is a whole number and minutes, hours or days, such as rate(12 hours)"
    if (match[1] == "1") == (match[3] == "s"):
        return f"write rate({match[1]} {match[2]}{'' if match[1] == '1' else 's'})"
    return None


def _at_problem(inside: str) -> str | None:
    try:
        datetime.strptime(inside, "%Y-%m-%dT%H:%M:%S")
    except ValueError:
        return "write the moment as at(2026-12-31T23:00:00); its time zone is a key of its own"
    return None


def _cron_problem(inside: str) -> str | None:
    fields = inside.split()
    if len(fields) != len(_CRON):
        return (
            f"cron has six fields (minutes hours day-of-month month day-of-week year), found "
            f"{len(fields)}; every night at three is cron(0 3 * * ? *)"
        )
    for value, (name, least, greatest, names, marks) in zip(fields, _CRON, strict=True):
        if not _cron_field(value, least, greatest, names, marks):
            return f"{value!r} is no {name}: {least} to {greatest}, with , - * /{' ' + ' '.join(marks) if marks else ''}"
    if (fields[2] == "?") == (fields[4] == "?"):
        return "exactly one of day of month and day of week has to be ?"
    return None


def _cron_field(value: str, least: int, greatest: int, names: Sequence[str], marks: str) -> bool:
    """Whether one of cron's six fields says something."""

    def number(text: str) -> int | None:
        if text.upper() in names:
            return names.index(text.upper()) + 1
        return int(text) if text.isdecimal() and least <= int(text) <= greatest else None

    def item(text: str) -> bool:  # noqa: PLR0911 - one per form
        if "?" in marks and text == "?":
            return value == "?"  # alone or not at all
        if "L" in marks and (text == "L" or (text.endswith("L") and number(text[:-1]) is not None)):
            return True
        if "W" in marks and (text == "LW" or (text.endswith("W") and number(text[:-1]))):
            return True
        if "#" in marks and re.fullmatch(r"\w+#[1-5]", text):
            return number(text.partition("#")[0]) is not None
        base, slash, step = text.partition("/")
        if slash and not (step.isdecimal() and int(step) > 0):
            return False
        if base == "*":
            return True
        low, dash, high = base.partition("-")
        first, last = number(low), number(high) if dash else number(low)
        return first is not None and last is not None

    return all(item(text) for text in value.split(","))
