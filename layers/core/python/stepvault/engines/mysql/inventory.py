"""The databases, tables, columns and keys of a server, from its information_schema.

A few queries read all tables of a database.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from stepvault.engines.mysql.session import Session, literal, quote
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
    """A column of a table."""

    name: str
    type: str
    """Lower-case data type, without length."""
    charset: str | None
    stored: bool
    """False: the server computes its values."""


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
    """Its rows are kept in other tables or servers: only the definition is backed up."""
    versioned: bool = False
    rows: int = 0
    """The server's estimate."""
    bytes: int = 0
    columns: list[Column] = field(default_factory=list)
    key: list[str] = field(default_factory=list)
    """Columns of the primary key."""
    created: str = ""
    """When the server created it; tells it from a later table of the same name."""

    @property
    def label(self) -> str:
        """``database.table``, for messages."""
        return f"{self.database}.{self.name}"

    @property
    def stored(self) -> list[Column]:
        """The columns whose values are kept, not computed."""
        return [c for c in self.columns if c.stored]

    @property
    def sql(self) -> str:
        """The quoted name with its database."""
        return f"{quote(self.database)}.{quote(self.name)}"


def matches(database: str, table: str, patterns: Iterable[str]) -> bool:
    """Tell whether a pattern (``table`` or ``database.table``, with ``*`` and ``?``) fits the table."""
    return any(_fits(f"{database}.{table}" if "." in p else table, p) for p in patterns)


def _fits(name: str, pattern: str) -> bool:
    """Match as fnmatch does, but without brackets, which may be part of a table's name."""
    parts = (".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
    return re.fullmatch("".join(parts), name, re.DOTALL) is not None


def databases(session: Session, patterns: Sequence[str], default: str | None) -> list[str]:
    """List the databases to back up.

    Args:
        session: the server.
        patterns: the source's setting.
        default: the database that the connection names; used when there are no patterns. Without
            either, all databases but the server's own are meant.

    Raises:
        SourceMissing: there is none.
    """
    names = sorted(
        str(r[0]) for r in session.rows("SELECT schema_name FROM information_schema.schemata")
    )
    users = [d for d in names if d.lower() not in _SYSTEM]
    if patterns:
        # A wildcard matches only the users' databases; a system database must be named exactly.
        chosen = [
            d for d in names if d in patterns or (d in users and any(_fits(d, p) for p in patterns))
        ]
        wanted = f"database {', '.join(patterns)}"
    elif default:
        chosen, wanted = [d for d in names if d == default], f"database {default}"
    else:
        chosen, wanted = users, "database of a user"
    if not chosen:
        raise SourceMissing(
            f"{session.address} has no {wanted}",
            f"Choose among {', '.join(users) or 'none that this user may see'}, or grant the user access",
        )
    return chosen


def tables(session: Session, database: str) -> list[Table]:
    """List the tables, views and sequences of a database by name, with columns and keys."""
    where = literal(database)
    transactional = {
        str(name).lower()
        for name, yes in session.rows("SELECT engine, transactions FROM information_schema.engines")
        if yes == "YES"
    }
    by_name: dict[str, Table] = {}
    for name, kind, engine, rows, size, created_at in session.rows(
        "SELECT table_name, table_type, engine, COALESCE(table_rows, 0), COALESCE(data_length, 0),"
        f" {_CREATED} FROM information_schema.tables WHERE table_schema = {where} ORDER BY table_name"
    ):
        engine_name = str(engine or "").lower()
        if kind in _KINDS:
            by_name[name] = Table(
                database,
                name,
                _KINDS[kind],
                engine_name,
                transactional=engine_name in transactional or kind == "VIEW",
                elsewhere=engine_name in _ELSEWHERE,
                versioned=kind == "SYSTEM VERSIONED",
                rows=int(rows),
                bytes=int(size),
                created=str(created_at),
            )
    for name, column, kind, charset, extra in session.rows(
        "SELECT table_name, column_name, data_type, character_set_name, extra"
        f" FROM information_schema.columns WHERE table_schema = {where} ORDER BY table_name, ordinal_position"
    ):
        if name in by_name:
            # In MySQL 8, DEFAULT_GENERATED only means that the default is an expression.
            computed = "GENERATED" in extra.upper().replace("DEFAULT_GENERATED", "")
            by_name[name].columns.append(Column(column, kind.lower(), charset, not computed))
    for name, column in session.rows(
        "SELECT table_name, column_name FROM information_schema.statistics"
        f" WHERE table_schema = {where} AND index_name = 'PRIMARY' ORDER BY table_name, seq_in_index"
    ):
        if name in by_name:
            by_name[name].key.append(column)
    return list(by_name.values())


def created(session: Session, table: Table) -> str:
    """Return when the table of that name was created; empty if there is none."""
    row = session.one(
        f"SELECT {_CREATED} FROM information_schema.tables"
        f" WHERE table_schema = {literal(table.database)} AND table_name = {literal(table.name)}"
    )
    return str(row[0]) if row else ""
