"""EventBridge Scheduler's expressions: checked before anything is deployed, and when they are due.

``rate(1 day)``, ``cron(0 3 * * ? *)`` and ``at(2026-12-31T23:00:00)``; AWS's own complaint
about a bad one comes in mid-deployment and says only that it is not valid. Pure. Source:
https://docs.aws.amazon.com/scheduler/latest/UserGuide/schedule-types.html
"""

import calendar
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

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
    """Say what is wrong with the expression and how to write it; None if nothing is."""
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


def due(expression: str, timezone: str, after: datetime, before: datetime) -> Iterator[datetime]:
    """Give the moments at which the expression starts a run, the latest first, in UTC.

    Where clocks go forward, a time that does not exist is skipped; where they go back, a time that
    comes twice counts once, as EventBridge Scheduler does it. A ``rate`` counts from ``after``.

    Args:
        expression: one that ``problem`` has nothing against.
        timezone: IANA name.
        after: exclusive.
        before: inclusive.
    """
    zone = ZoneInfo(timezone)
    kind, _, inside = expression.removesuffix(")").partition("(")
    match kind:
        case "rate":
            moments = _rate_moments(rate_hours(expression) or 1, after, before)
        case "at":
            moments = iter([datetime.fromisoformat(inside).replace(tzinfo=zone)])
        case _:
            moments = _cron_moments(inside.split(), zone, after, before)
    for moment in moments:
        if after < moment <= before:
            yield moment.astimezone(UTC)


def _rate_moments(hours: float, after: datetime, before: datetime) -> Iterator[datetime]:
    step = timedelta(hours=hours)
    for count in range((before - after) // step, 0, -1):
        yield after + count * step


def _cron_moments(
    fields: Sequence[str], zone: ZoneInfo, after: datetime, before: datetime
) -> Iterator[datetime]:
    minutes, hours = (_numbers(fields[n], n) for n in (0, 1))
    day, first = before.astimezone(zone).date(), after.astimezone(zone).date()
    while day >= first:
        if _is_day(day, fields):
            for hour in sorted(hours, reverse=True):
                for minute in sorted(minutes, reverse=True):
                    local = datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone)
                    if local.astimezone(UTC).astimezone(zone) == local:  # else it does not exist
                        yield local
        day -= timedelta(days=1)


def _is_day(day: date, fields: Sequence[str]) -> bool:
    _, _, of_month, month, of_week, year = fields
    return (
        day.month in _numbers(month, 3)
        and day.year in _numbers(year, 5)
        and (of_month == "?" or any(_is_day_of_month(day, i) for i in of_month.split(",")))
        and (of_week == "?" or any(_is_day_of_week(day, i) for i in of_week.split(",")))
    )


def _is_day_of_month(day: date, item: str) -> bool:
    last = calendar.monthrange(day.year, day.month)[1]
    if item == "L":
        return day.day == last
    if item.endswith("W"):
        wanted = last if item == "LW" else int(item[:-1])
        return wanted <= last and day == _nearest_weekday(day.replace(day=wanted), last)
    return day.day in _numbers(item, 2)


def _nearest_weekday(day: date, last: int) -> date:
    """Give the weekday nearest to the day within its month, as ``15W`` means it."""
    match day.isoweekday():
        case 6:
            return day - timedelta(days=1) if day.day > 1 else day + timedelta(days=2)
        case 7:
            return day + timedelta(days=1) if day.day < last else day - timedelta(days=2)
    return day


def _is_day_of_week(day: date, item: str) -> bool:
    number = day.isoweekday() % 7 + 1  # Sunday is 1
    if item == "L":
        return number == 7
    if item.endswith("L"):
        last = calendar.monthrange(day.year, day.month)[1]
        return number in _numbers(item[:-1], 4) and day.day > last - 7
    if "#" in item:
        wanted, _, which = item.partition("#")
        return number in _numbers(wanted, 4) and (day.day - 1) // 7 + 1 == int(which)
    return number in _numbers(item, 4)


def _numbers(field: str, which: int) -> set[int]:
    """Give the numbers that a field names: ``1-5``, ``*/15``, ``MON,WED``."""
    _, least, greatest, names, _ = _CRON[which]

    def number(text: str) -> int:
        return names.index(text.upper()) + 1 if text.upper() in names else int(text)

    numbers: set[int] = set()
    for item in field.split(","):
        base, _, step = item.partition("/")
        low, dash, high = base.partition("-")
        if base == "*":
            first, last = least, greatest
        else:
            first = number(low)
            last = number(high) if dash else greatest if step else first
        span = (
            range(first, last + 1)
            if first <= last
            else [*range(first, greatest + 1), *range(least, last + 1)]
        )
        numbers |= set(span[:: int(step or 1)])
    return numbers
