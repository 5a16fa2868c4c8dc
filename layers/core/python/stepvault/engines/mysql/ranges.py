"""Cut a large table into ranges of the first column of its primary key.

Each range begins where the one before it ends, and the first and the last are open: so every row
is in exactly one range, whether the column is unique or not. Integers are cut by arithmetic into
ranges of equal width. Other types, and integers with large gaps, are cut by stepping along the key,
one range at a time, which also loads the pages that are read next.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import count

from stepvault.engines.mysql.inventory import Column, Table
from stepvault.engines.mysql.rows import as_text
from stepvault.engines.mysql.session import Session, quote

_INTEGERS = {"tinyint", "smallint", "mediumint", "int", "bigint"}
#: Types whose literals sort as the column does; an ENUM, for example, does not.
_WALKABLE = {
    "decimal", "char", "varchar", "binary", "varbinary", "uuid",
    "date", "datetime", "timestamp", "time",
}  # fmt: skip
#: Step along an integer key whose span is more than so many times the number of rows.
_SPARSE = 20


def column(table: Table) -> Column | None:
    """Return the column to cut by, or None if the table cannot be cut."""
    if not table.key or not table.transactional:
        return None
    first = next(c for c in table.columns if c.name == table.key[0])
    return first if first.type in _INTEGERS | _WALKABLE else None


def evenly(session: Session, table: Table, by: Column, parts: int) -> list[str] | None:
    """Return conditions for ranges of equal width; None if their rows would be uneven."""
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
    """Cut the integers into half-open ranges [from, to); the first and the last are open (None).

    Every integer is in exactly one. There are ``parts`` ranges, or fewer if low and high are close
    together.
    """
    width = max(1, -(-(high - low + 1) // parts))
    borders = [low + width * n for n in range(1, parts) if low + width * n <= high]
    return list(zip([None, *borders], [*borders, None], strict=True))


def walk(
    borrow: Callable[[], AbstractContextManager[Session]], table: Table, by: Column, parts: int
) -> Iterator[str]:
    """Yield conditions for ranges of about equally many rows, by stepping along the key.

    Args:
        borrow: lends a session of the snapshot.
        table: the table to cut.
        by: the first column of its key.
        parts: how many ranges to aim for.
    """
    key, step = quote(by.name), max(1, table.rows // parts)
    last: str | None = None
    for number in count(1):
        if number > 2 * parts:  # the server's estimate of the rows was far too low
            step *= 2
        after = f"WHERE {key} > {last} " if last is not None else ""
        with borrow() as session:
            row = session.one(
                f"SELECT {as_text(by)} FROM {table.sql} {after}ORDER BY {key} LIMIT 1 OFFSET {step}"
            )
        border = str(row[0]) if row else None
        yield _condition(key, (">", last), ("<=", border))
        if border is None:
            return
        last = border


def _condition(
    key: str, start: tuple[str, int | str | None], stop: tuple[str, int | str | None]
) -> str:
    ends = [f"{key} {sign} {value}" for sign, value in (start, stop) if value is not None]
    return " AND ".join(ends)
