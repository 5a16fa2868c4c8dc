"""The databases, tables, columns and keys of a server, from its information_schema.

A few queries read all tables of a database.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from stepvault.engines.mysql.session import Session, literal, quote
from stepvault.errors import Permanent, SourceChanged, SourceMissing

_SYSTEM = ("information_schema", "performance_schema", "mysql", "sys")
#: Engines whose rows live in other tables or on other servers.
_ELSEWHERE = {"mrg_myisam", "merge", "federated", "spider", "connect", "blackhole"}
_KINDS = {
    "BASE TABLE": "table",
    "SYSTEM VERSIONED": "table",
    "VIEW": "view",
    "SEQUENCE": "sequence",
}


#: How MariaDB shows a folder in its data directory that is not a database.
_FOLDER = "#mysql50#"
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
    empty_member: bool = False
    """An ENUM with the member '', which is not its error value 0."""


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
    counter: int = 0
    """The next AUTO_INCREMENT value; 0 if there is none, or none but the first was needed."""

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


def databases(
    session: Session, patterns: Sequence[str], default: str | None
) -> tuple[list[str], list[str]]:
    """List the databases to back up, and warnings about folders that are no databases.

    Args:
        session: the server.
        patterns: the source's setting.
        default: the database that the connection names; used when there are no patterns. Without
            either, all databases but the server's own are meant.

    Raises:
        SourceMissing: there is none.
    """
    schemata = sorted(
        str(r[0]) for r in session.rows("SELECT schema_name FROM information_schema.schemata")
    )
    names = [d for d in schemata if not d.startswith(_FOLDER)]
    users = [d for d in names if d.lower() not in _SYSTEM]
    folders = [d.removeprefix(_FOLDER) for d in schemata if d not in names]
    if patterns:
        # A wildcard matches only the users' databases; a system database must be named exactly.
        chosen = [
            d for d in names if d in patterns or (d in users and any(_fits(d, p) for p in patterns))
        ]
        wanted = f"database {', '.join(patterns)}"
    elif default:
        chosen, wanted = [d for d in names if d == session.fold(default)], f"database {default}"
    else:
        chosen, wanted = users, "database of a user"
    if not chosen:
        raise SourceMissing(
            f"{session.address} has no {wanted}",
            f"Choose among {', '.join(users) or 'none that this user may see'}, or grant the user access",
        )
    meant = [f for f in folders if not patterns or any(_fits(f, p) for p in patterns)]
    return chosen, [
        f"folder {f} in the server's data directory is no database: it is not in the backup"
        for f in (meant if patterns or not default else ())
    ]


def tables(session: Session, database: str) -> list[Table]:
    """List the tables, views and sequences of a database by name, with columns and keys.

    The server compares the names of databases without case and accents in its catalog, so the rows
    of each query are filtered here.
    """
    database = session.fold(database)
    where = f"WHERE table_schema = {literal(database)}"
    transactional = {
        str(name).lower()
        for name, yes in session.rows("SELECT engine, transactions FROM information_schema.engines")
        if yes == "YES"
    }
    by_name: dict[str, Table] = {}
    for schema, name, kind, engine in session.rows(
        "SELECT table_schema, table_name, table_type, engine FROM information_schema.tables"
        f" {where} ORDER BY table_name"
    ):
        engine_name = str(engine or "").lower()
        if schema == database and kind in _KINDS:
            by_name[name] = Table(
                database,
                name,
                _KINDS[kind],
                engine_name,
                transactional=engine_name in transactional or kind == "VIEW",
                elsewhere=engine_name in _ELSEWHERE,
                versioned=kind == "SYSTEM VERSIONED",
            )
    _add_statistics(session, where, by_name)
    for schema, name, column, kind, charset, extra, full_type in session.rows(
        "SELECT table_schema, table_name, column_name, data_type, character_set_name, extra,"
        " IF(data_type = 'enum', column_type, '') FROM information_schema.columns"
        f" {where} ORDER BY table_name, ordinal_position"
    ):
        if schema == database and name in by_name:
            # In MySQL 8, DEFAULT_GENERATED only means that the default is an expression.
            computed = "GENERATED" in extra.upper().replace("DEFAULT_GENERATED", "")
            empty = re.search(r"[(,]''[,)]", full_type) is not None
            by_name[name].columns.append(Column(column, kind.lower(), charset, not computed, empty))
    for schema, name, column in session.rows(
        "SELECT table_schema, table_name, column_name FROM information_schema.statistics"
        f" {where} AND index_name = 'PRIMARY' ORDER BY table_name, seq_in_index"
    ):
        if schema == database and name in by_name:
            by_name[name].key.append(column)
    return list(by_name.values())


def _add_statistics(session: Session, where: str, by_name: dict[str, Table]) -> None:
    """Fill in sizes, times and counters, for which the server opens every table.

    It fails on a FEDERATED table whose server does not answer; then each table that has its own
    rows is asked for alone.
    """
    query = (
        "SELECT table_schema, table_name, COALESCE(table_rows, 0), COALESCE(data_length, 0),"
        f" {_CREATED}, COALESCE(auto_increment, 0) FROM information_schema.tables {where}"
    )
    try:
        rows = session.rows(query)
    except (Permanent, SourceChanged):
        own = [t for t in by_name.values() if not t.elsewhere]
        if len(own) == len(by_name):
            raise
        rows = [
            row
            for table in own
            for row in session.rows(
                f"{query} AND table_name = {literal(table.name)}", f"table {table.label}"
            )
        ]
    for schema, name, estimate, size, created_at, counter in rows:
        table = by_name.get(name)
        if table is not None and schema == table.database:
            table.rows, table.bytes = int(estimate), int(size)
            table.created = str(created_at)
            table.counter = int(counter) if int(counter) > 1 else 0
