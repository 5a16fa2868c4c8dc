"""List the tables, choose those wanted, lock them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import psycopg
from psycopg import Connection as Session

from stepvault.engines.postgres import errors, session
from stepvault.engines.postgres.session import text
from stepvault.errors import SourceBusy, SourceDenied

#: Names come as bytes in the database's encoding: in SQL_ASCII there is no text. The privilege is
#: NULL for a table dropped since the snapshot: not denied; locking it will fail.
_SELECT = """
SELECT c.oid::pg_catalog.int8, c.relkind::pg_catalog.text,
       pg_catalog.convert_to(n.nspname, pg_catalog.getdatabaseencoding()),
       pg_catalog.convert_to(c.relname, pg_catalog.getdatabaseencoding()),
       pg_catalog.convert_to(pg_catalog.quote_ident(n.nspname) || '.'
         || pg_catalog.quote_ident(c.relname), pg_catalog.getdatabaseencoding()),
       coalesce(pg_catalog.has_table_privilege(c.oid, 'SELECT'), true), c.relpersistence = 'u',
       (SELECT i.inhparent::pg_catalog.int8 FROM pg_catalog.pg_inherits i
        WHERE i.inhrelid = c.oid AND c.relispartition)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = ANY (%s) AND c.relpersistence <> 't'
"""
_LIST = (
    _SELECT
    + """
  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                    AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY c.oid
"""
)
_CONFIGURED = (
    _SELECT
    + """
  AND c.oid IN (SELECT pg_catalog.unnest(extconfig) FROM pg_catalog.pg_extension)
ORDER BY c.oid
"""
)

#: Generated columns are computed again at restore; dropped ones are gone.
_COLUMNS = """
SELECT c.oid::pg_catalog.int8,
       pg_catalog.convert_to(coalesce(pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', '
         ORDER BY a.attnum), ''), pg_catalog.getdatabaseencoding()),
       pg_catalog.pg_table_size(c.oid)::pg_catalog.int8,
       (pg_catalog.pg_relation_size(c.oid)
         / pg_catalog.current_setting('block_size')::pg_catalog.int8)::pg_catalog.int8,
       pg_catalog.convert_to(pg_catalog.pg_get_userbyid(c.relowner),
         pg_catalog.getdatabaseencoding())
FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_attribute a
  ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
WHERE c.oid = ANY (%s) GROUP BY c.oid
"""

_BLOCKERS = """
SELECT a.pid, coalesce(a.usename::pg_catalog.text, '?'), coalesce(a.state, '?'),
       pg_catalog.left(a.query, 200), p.gid, p.owner::pg_catalog.text
FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
LEFT JOIN pg_catalog.pg_locks x ON l.pid IS NULL AND x.pid IS NULL
  AND x.virtualtransaction = l.virtualtransaction AND x.locktype = 'transactionid'
LEFT JOIN pg_catalog.pg_prepared_xacts p ON p.transaction = x.transactionid
WHERE l.mode = 'AccessExclusiveLock' AND l.locktype = 'relation' AND l.relation = ANY (%s)
  AND l.database = (SELECT oid FROM pg_catalog.pg_database
                    WHERE datname = pg_catalog.current_database())
  AND coalesce(a.pid::pg_catalog.text, p.gid) IS NOT NULL
ORDER BY l.granted DESC, a.xact_start LIMIT 1
"""


@dataclass(frozen=True)
class Table:
    """A table as the server names it."""

    oid: int
    kind: str
    """``r`` for a table, ``p`` for a partitioned one."""
    schema: bytes
    name: bytes
    quoted: bytes
    """Schema and name, ready for SQL."""
    readable: bool
    unlogged: bool
    parent: int | None
    """The partitioned table that this is a partition of."""
    label: str
    """Schema and name for people and patterns."""


@dataclass(frozen=True)
class Storage:
    """What reading a table takes."""

    columns: bytes
    """Quoted, separated by commas."""
    size: int
    """Bytes with TOAST."""
    pages: int
    owner: bytes


@dataclass(frozen=True)
class Wanted:
    """The tables of a database, sorted by what a source asks for."""

    tables: list[Table] = field(default_factory=list)
    left_out: list[Table] = field(default_factory=list)
    configured: list[Table] = field(default_factory=list)
    """Extensions' tables whose rows pg_dump is to read."""
    unread: list[Table] = field(default_factory=list)
    """Extensions' tables whose rows are not wanted."""


def listed(opened: Session, kinds: Sequence[str] = ("r", "p")) -> list[Table]:
    """List the user's tables, without those that belong to an extension."""
    return _tables(opened, _LIST, kinds)


def configured(opened: Session) -> list[Table]:
    """List extensions' configuration tables, whose rows pg_dump reads."""
    return _tables(opened, _CONFIGURED, ("r", "p"))


def _tables(opened: Session, query: str, kinds: Sequence[str]) -> list[Table]:
    codec = opened.info.encoding
    tables = []
    for oid, kind, schema, name, *rest in opened.execute(query, [list(kinds)]):
        label = (schema + b"." + name).decode(codec, "replace")
        quoted, readable, unlogged, parent = rest
        tables.append(
            Table(oid, text(kind), schema, name, quoted, readable, unlogged, parent, label)
        )
    return tables


def choose(tables: Sequence[Table], only: Sequence[str], but: Sequence[str]) -> Wanted:
    """Sort tables by the source's patterns.

    A pattern that fits a partitioned table fits its partitions, too.
    """
    wanted = Wanted()
    by_oid = {t.oid: t for t in tables}
    for table in tables:
        labels = [t.label for t in lineage(table, by_oid)]
        taken = not only or any(matches(label, only) for label in labels)
        taken = taken and not any(matches(label, but) for label in labels)
        (wanted.tables if taken else wanted.left_out).append(table)
    return wanted


def lineage(table: Table, by_oid: Mapping[int, Table]) -> list[Table]:
    """List the table and the partitioned tables above it, as far as they are known."""
    line = [table]
    while (parent := by_oid.get(line[-1].parent or 0)) is not None:
        line.append(parent)
    return line


def matches(label: str, patterns: Sequence[str]) -> bool:
    """Tell whether ``schema.table`` fits one of the patterns; without a schema, public is meant."""
    return any(_regex(p if "." in p else f"public.{p}").fullmatch(label) for p in patterns)


def _regex(pattern: str) -> re.Pattern[str]:
    """``*`` and ``?`` are wildcards, all else is itself."""
    escaped = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.compile(escaped, re.DOTALL)


def storage(
    opened: Session, tables: Sequence[Table], roots: Mapping[int, Table]
) -> dict[int, Storage]:
    """Look up columns and sizes by oid.

    Args:
        opened: a session.
        tables: those to look up; they must be locked, or this waits for others' locks.
        roots: tables whose columns' order is to be that of a partition, by the partition's oid:
            it may have them in another, but a row must look the same wherever it is.
    """
    asked = [t.oid for t in (*tables, *roots.values())]
    rows = opened.execute(_COLUMNS, [asked]).fetchall()
    by_oid = {r[0]: Storage(bytes(r[1]), r[2], r[3], bytes(r[4])) for r in rows}
    for table in tables:
        if root := roots.get(table.oid):
            by_oid[table.oid] = replace(by_oid[table.oid], columns=by_oid[root.oid].columns)
    return by_oid


def files(opened: Session, tables: Sequence[Table]) -> dict[int, int]:
    """Look up the file on the server of each table, by oid: another one after a TRUNCATE."""
    query = (
        "SELECT oid::pg_catalog.int8, relfilenode::pg_catalog.int8 FROM pg_catalog.pg_class"
        " WHERE oid = ANY (%s)"
    )
    return dict(opened.execute(query, [[t.oid for t in tables]]).fetchall())


def rerouted(opened: Session) -> set[int]:
    """Find partitioned tables whose rows may belong to another partition in another database.

    The hash of an enum's value is that of its oid, also within an array, a row or a range.
    """
    query = """
    SELECT t.partrelid::pg_catalog.int8 FROM pg_catalog.pg_partitioned_table t
    WHERE t.partstrat = 'h' AND EXISTS (
      SELECT FROM pg_catalog.pg_opclass c WHERE c.oid = ANY (t.partclass)
        AND c.opcnamespace = 'pg_catalog'::pg_catalog.regnamespace
        AND c.opcname IN ('enum_ops', 'array_ops', 'record_ops', 'range_ops', 'multirange_ops'))
    """
    return {oid for (oid,) in opened.execute(query)}


def enum_labels(opened: Session) -> dict[int, bytes]:
    """Look up the values of all enum types: COPY prints their names of now, not of the snapshot."""
    query = (
        "SELECT oid::pg_catalog.int8, pg_catalog.convert_to(enumlabel,"
        " pg_catalog.getdatabaseencoding()) FROM pg_catalog.pg_enum"
    )
    return dict(opened.execute(query).fetchall())


def check_readable(tables: Sequence[Table]) -> None:
    """Raise SourceDenied, naming the tables that the user may not read."""
    denied = [t.label for t in tables if not t.readable]
    if denied:
        some = ", ".join(denied[:5]) + (f" and {len(denied) - 5} more" if denied[5:] else "")
        raise SourceDenied(
            f"the user may not read {some}",
            "Grant SELECT on them (GRANT pg_read_all_data TO the user covers all), or name them "
            "in exclude_tables",
        )


def lock_statement(tables: Sequence[Table]) -> bytes:
    """Write the statement that holds off whatever could take rows away despite a snapshot."""
    return b"LOCK TABLE " + b", ".join(t.quoted for t in tables) + b" IN ACCESS SHARE MODE"


def lock(opened: Session, watcher: Session, tables: Sequence[Table]) -> None:
    """Take the locks, or name what is in the way.

    Raises:
        SourceBusy: the lock could not be had in time; names the statement that holds it.
        psycopg.errors.UndefinedTable: one of them has just been dropped or renamed.
        psycopg.errors.OutOfMemory: the server has no room for so many locks.
    """
    if not tables:
        return
    try:
        opened.execute(lock_statement(tables))
    except psycopg.errors.LockNotAvailable:
        raise blocked(watcher, tables) from None
    except (
        psycopg.errors.UndefinedTable,
        psycopg.errors.InvalidSchemaName,
        psycopg.errors.OutOfMemory,
    ):
        raise
    except psycopg.Error as error:
        raise errors.from_server(error, "cannot lock the tables") from error


def blocked(watcher: Session, tables: Sequence[Table]) -> SourceBusy:
    """Explain a lock that could not be had, with its holder if it is still there."""
    row = watcher.execute(_BLOCKERS, [[t.oid for t in tables]]).fetchone()
    fix = "Try again when that statement is done, or end it with pg_terminate_backend"
    if row is None:
        holder = "its holder is gone by now"
        fix = "Try again"
    elif row[0] is None:
        gid = "'" + text(row[4]).replace("'", "''") + "'"
        holder = f"the prepared transaction {gid} of {text(row[5])} holds it exclusively"
        fix = f"COMMIT PREPARED {gid} or ROLLBACK PREPARED {gid}: it has no session that could end"
    else:
        holder = (
            f"process {row[0]} of {text(row[1])} ({text(row[2])}) holds or wants it exclusively: "
            f"{text(row[3])}"
        )
    return SourceBusy(f"no lock on the tables within {session.LOCK_TIMEOUT} s; {holder}", fix)
