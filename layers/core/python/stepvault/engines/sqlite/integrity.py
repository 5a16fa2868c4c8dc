"""SQLite's own checks of a database: signs of damage, and rows that break rules of their tables.

Rows that break a rule (CHECK, NOT NULL, the types of a STRICT table) are not damage: the rule was
added later, or switched off while they were written.
"""

import re
import sqlite3
from dataclasses import dataclass
from typing import Literal

from stepvault.engines.sqlite.errors import primary_code

_BROKEN_RULE = re.compile(
    r"CHECK constraint failed in |NULL value in |(?:NUMERIC|TEXT|non-\w+) value in "
)
_ALL = 2**31 - 1
_NAMED = 3


@dataclass(frozen=True)
class Verdict:
    """What a check reported; nothing at all for a sound database."""

    damage: list[str]
    broken_rules: list[str]
    """Each kind of message once."""
    unchecked: str | None = None
    """Why SQLite could not check it, or not all of it."""

    @property
    def remark(self) -> str | None:
        """What to tell of a database that is not damaged; None if there is nothing to tell."""
        if self.unchecked:
            return f"SQLite {sqlite3.sqlite_version} could not check it ({self.unchecked})"
        if not self.broken_rules:
            return None
        named = self.broken_rules[:_NAMED] + ["..."] * (len(self.broken_rules) > _NAMED)
        return f"rows break rules of their tables ({', '.join(named)})"


def examine(
    connection: sqlite3.Connection, check: Literal["quick_check", "integrity_check"], at_most: int
) -> Verdict:
    """Check a database, up to ``at_most`` signs of damage.

    Raises:
        sqlite3.Error: the database cannot be read.
    """
    verdict = _run(connection, check, at_most, at_most)
    if verdict.broken_rules and len(verdict.damage) < at_most:
        # Messages about rules count towards SQLite's limit and may have hidden damage.
        verdict = _run(connection, check, at_most, _ALL)
    return verdict


def _run(connection: sqlite3.Connection, check: str, at_most: int, messages: int) -> Verdict:
    damage: list[str] = []
    broken: dict[str, None] = {}
    unchecked = None
    try:
        for (line,) in connection.execute(f"PRAGMA {check}({messages})"):
            if _BROKEN_RULE.match(line):
                broken[line] = None
            elif line != "ok":
                damage.append(line)
            if len(damage) == at_most:
                break
    except sqlite3.OperationalError as error:
        # The application's own collations and functions do not exist here.
        if primary_code(error) != sqlite3.SQLITE_ERROR:
            raise
        unchecked = str(error)
    return Verdict(damage, list(broken), unchecked)
