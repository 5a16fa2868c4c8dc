"""What there is to back up: databases, tables, their columns and keys.

Read from information_schema once, in a few queries for all tables.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from stepvault.engines.mysql.connection import Session, literal, quote
from stepvault.errors import SourceMissing

_SYSTEM = ("information_schema", "performance_schema", "mysql", "sys")
#: Engines whose rows live in other tables or on other servers.
_ELSEWHERE = {"mrg_myisam", "merge", "federated", "spider", "connect", "blackhole"}
_KINDS = {
    "BASE TABLE": "table",
    "SYSTEM VERSIONED": "table",
    "VIEW": "view",
    "SEQUENCE": "sequence",
}


_CREATED = "COALESCE(create_time, '')"


@dataclass(frozen=True)
class Column:
    name: str
    type: str
    """Lower-case data type, without length."""
    charset: str | None
    stored: bool
    """False: the server computes it."""


@dataclass
class Table:
    """A table, view or sequence."""

    database: str
    name: str
    kind: str
    """table, view or sequence"""
    engine: str = ""
    transactional: bool = True
    elsewhere: bool = False
    """Its rows are not its own: only the definition is backed up."""
    versioned: bool = False
    rows: int = 0
    """The server's estimate."""
    bytes: int = 0
    columns: list[Column] = field(default_factory=list)
    key: list[str] = field(default_factory=list)
    """Columns of the primary key."""
    created: str = ""
    """When, as the server says; another table of that name was made at another time."""

    @property
    def label(self) -> str:
        return f"{self.database}.{self.name}"

    @property
    def stored(self) -> list[Column]:
        return [c for c in self.columns if c.stored]

    @property
    def sql(self) -> str:
        return f"{quote(self.database)}.{quote(self.name)}"


def matches(database: str, table: str, patterns: Iterable[str]) -> bool:
    """True if a pattern (``table`` or ``database.table``, with ``*`` and ``?``) names the table."""
    return any(_fits(f"{database}.{table}" if "." in p else table, p) for p in patterns)


def _fits(name: str, pattern: str) -> bool:
    """fnmatch without its brackets, which tables may have in their names."""
    parts = (".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
    return re.fullmatch("".join(parts), name, re.DOTALL) is not None


def databases(session: Session, patterns: Sequence[str], default: str | None) -> list[str]:
    """The databases to back up: those that match, else the connection's, else all of the users'.

    Raises:
        SourceMissing: there is none.
    """
    there = sorted(
        str(r[0]) for r in session.rows("SELECT schema_name FROM information_schema.schemata")
    )
    users = [d for d in there if d.lower() not in _SYSTEM]
    if patterns:
        # A pattern means the users' databases; the server's own are named in full.
        chosen = [
            d for d in there if d in patterns or (d in users and any(_fits(d, p) for p in patterns))
        ]
        wanted = f"database {', '.join(patterns)}"
    elif default:
        chosen, wanted = [d for d in there if d == default], f"database {default}"
    else:
        chosen, wanted = users, "database of a user's"
    if not chosen:
        raise SourceMissing(
            f"{session.address} has no {wanted}",
            f"Choose among {', '.join(users) or 'none that this user may see'}, or grant the user access",
        )
    return chosen


def tables(session: Session, database: str) -> list[Table]:
    """Everything that has rows, by name; columns and keys filled in."""
    where = literal(database)
    transactional = {
        str(name).lower()
        for name, yes in session.rows("SELECT engine, transactions FROM information_schema.engines")
        if yes == "YES"
    }
    found: dict[str, Table] = {}
    for name, kind, engine, rows, size, made in session.rows(
        "SELECT table_name, table_type, engine, COALESCE(table_rows, 0), COALESCE(data_length, 0),"
        f" {_CREATED} FROM information_schema.tables WHERE table_schema = {where} ORDER BY table_name"
    ):
        kept_by = str(engine or "").lower()
        if kind in _KINDS:
            found[name] = Table(
                database, name, _KINDS[kind], kept_by, kept_by in transactional or kind == "VIEW",
                kept_by in _ELSEWHERE, kind == "SYSTEM VERSIONED", int(rows), int(size), created=str(made),
            )  # fmt: skip
    for name, column, kind, charset, extra in session.rows(
        "SELECT table_name, column_name, data_type, character_set_name, extra"
        f" FROM information_schema.columns WHERE table_schema = {where} ORDER BY table_name, ordinal_position"
    ):
        if name in found:
            # MySQL 8 says DEFAULT_GENERATED of a column that merely has an expression as default.
            computed = "GENERATED" in extra.upper().replace("DEFAULT_GENERATED", "")
            found[name].columns.append(Column(column, kind.lower(), charset, not computed))
    for name, column in session.rows(
        "SELECT table_name, column_name FROM information_schema.statistics"
        f" WHERE table_schema = {where} AND index_name = 'PRIMARY' ORDER BY table_name, seq_in_index"
    ):
        if name in found:
            found[name].key.append(column)
    return list(found.values())


def created(session: Session, table: Table) -> str:
    """When the table of that name was made; nothing if there is none."""
    said = session.one(
        f"SELECT {_CREATED} FROM information_schema.tables"
        f" WHERE table_schema = {literal(table.database)} AND table_name = {literal(table.name)}"
    )
    return str(said[0]) if said else ""
