"""Cutting a large table into ranges of its primary key's first column.

Ranges of one column hold every row exactly once, unique or not, as long as each begins where
the one before ends and the outer two are open. Integers are cut evenly, by arithmetic; other
types, and integers with large gaps, by walking the key, one range at a time: the walk warms the
pages that are read next.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import count

from stepvault.engines.mysql.connection import Session, quote
from stepvault.engines.mysql.inventory import Column, Table
from stepvault.engines.mysql.rows import as_text

_INTEGERS = {"tinyint", "smallint", "mediumint", "int", "bigint"}
#: Types whose values, as literals, sort as the column does; an ENUM, say, does not.
_WALKABLE = {
    "decimal", "char", "varchar", "binary", "varbinary", "uuid",
    "date", "datetime", "timestamp", "time",
}  # fmt: skip
#: Walk when the key has more than so many times as many integers as rows.
_SPARSE = 20


def column(table: Table) -> Column | None:
    """The column to cut by, if there is one."""
    if not table.key or not table.transactional:
        return None
    first = next(c for c in table.columns if c.name == table.key[0])
    return first if first.type in _INTEGERS | _WALKABLE else None


def evenly(session: Session, table: Table, by: Column, parts: int) -> list[str] | None:
    """Conditions for ranges of the same width; None if that would be uneven in rows."""
    if by.type not in _INTEGERS:
        return None
    key = quote(by.name)
    low, high = session.one(f"SELECT MIN({key}), MAX({key}) FROM {table.sql}")
    if low is None:
        return [""]
    if int(high) - int(low) > _SPARSE * max(table.rows, 1):
        return None
    return [
        _condition(key, (">=", start), ("<", stop))
        for start, stop in cut(int(low), int(high), parts)
    ]


def cut(low: int, high: int, parts: int) -> list[tuple[int | None, int | None]]:
    """Half-open ranges [from, to) over the integers, the first and last open-ended (None).

    Every integer lies in exactly one; there are as many as parts, or fewer if low and high are
    close together.
    """
    width = max(1, -(-(high - low + 1) // parts))
    borders = [low + width * n for n in range(1, parts) if low + width * n <= high]
    return list(zip([None, *borders], [*borders, None], strict=True))


def walk(
    borrow: Callable[[], AbstractContextManager[Session]], table: Table, by: Column, parts: int
) -> Iterator[str]:
    """Conditions for ranges of about as many rows each, found by stepping along the key.

    Args:
        borrow: gives a session of the snapshot for a moment.
    """
    key, step = quote(by.name), max(1, table.rows // parts)
    last: str | None = None
    for number in count(1):
        if number > 2 * parts:  # the server's estimate of the rows is far too low
            step *= 2
        after = f"WHERE {key} > {last} " if last is not None else ""
        with borrow() as session:
            found = session.one(
                f"SELECT {as_text(by)} FROM {table.sql} {after}ORDER BY {key} LIMIT 1 OFFSET {step}"
            )
        border = str(found[0]) if found else None
        yield _condition(key, (">", last), ("<=", border))
        if border is None:
            return
        last = border


def _condition(
    key: str, start: tuple[str, int | str | None], stop: tuple[str, int | str | None]
) -> str:
    ends = [f"{key} {sign} {value}" for sign, value in (start, stop) if value is not None]
    return " AND ".join(ends)
