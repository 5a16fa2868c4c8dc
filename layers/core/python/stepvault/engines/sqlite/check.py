"""What SQLite's own checks say: damage, or that rows break rules which only the application keeps."""

import re
import sqlite3
from dataclasses import dataclass
from typing import Literal

#: Findings about what rows say, not about how they are stored: a rule was added later or ignored.
_OF_RULES = re.compile(
    r"CHECK constraint failed in |NULL value in |(?:NUMERIC|TEXT|non-\w+) value in "
)
_ALL = 2**31 - 1
_NAMED = 3


@dataclass(frozen=True)
class Verdict:
    """What a check found; nothing at all in a database that is sound."""

    damage: list[str]
    broken_rules: list[str]
    """Each kind of finding once."""
    unchecked: str | None = None
    """Why SQLite could not check it, or not all of it."""

    @property
    def remark(self) -> str | None:
        """What there is to say of a database that is not damaged."""
        if self.unchecked:
            return f"SQLite {sqlite3.sqlite_version} could not check it ({self.unchecked})"
        if not self.broken_rules:
            return None
        named = self.broken_rules[:_NAMED] + ["..."] * (len(self.broken_rules) > _NAMED)
        return f"rows break rules of their tables ({', '.join(named)})"


def examine(
    connection: sqlite3.Connection, how: Literal["quick_check", "integrity_check"], at_most: int
) -> Verdict:
    """Check a database, up to so many signs of damage.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    verdict = _examine(connection, how, at_most, at_most)
    if verdict.broken_rules and len(verdict.damage) < at_most:
        verdict = _examine(connection, how, at_most, _ALL)  # which may have hidden damage
    return verdict


def _examine(connection: sqlite3.Connection, how: str, at_most: int, findings: int) -> Verdict:
    damage: list[str] = []
    broken: dict[str, None] = {}
    unchecked = None
    try:
        for (line,) in connection.execute(f"PRAGMA {how}({findings})"):
            if _OF_RULES.match(line):
                broken[line] = None
            elif line != "ok":
                damage.append(line)
            if len(damage) == at_most:
                break
    except sqlite3.OperationalError as error:
        # Collations and functions of the application's own are not ours to call.
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF != sqlite3.SQLITE_ERROR:
            raise
        unchecked = str(error)
    return Verdict(damage, list(broken), unchecked)
