"""Compare what was restored with its source, from outside: without Stepvault's own code."""

import hashlib
import os
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
from psycopg import sql

from devtools.lifelike import TOTAL

_TABLES = """
SELECT quote_ident(nspname) || '.' || quote_ident(relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE relkind IN ('r', 'm') AND nspname !~ '^pg_' AND nspname <> 'information_schema' ORDER BY 1
"""


class DifferentError(Exception):
    """The copy is not the original; the message says where."""


def postgres(original: str, copy: str, moving: Sequence[str]) -> list[str]:
    """Compare two databases table by table, by count and content of every row.

    Args:
        original: URL of the source.
        copy: URL of the restored database.
        moving: two tables that were written to during the backup. Their contents belong to the
            backup's moment, so only the sum that every transaction preserves is compared.

    Returns:
        What was compared, a line each.

    Raises:
        DifferentError: names the first table that differs.
    """
    with psycopg.connect(original) as there, psycopg.connect(copy) as here:
        tables = [name for (name,) in there.execute(_TABLES)]
        restored = [name for (name,) in here.execute(_TABLES)]
        if tables != restored:
            raise DifferentError(f"tables differ: {sorted(set(tables) ^ set(restored))}")
        rows = 0
        for name in tables:
            if name in moving:
                continue
            expected, restored_content = _content(there, name), _content(here, name)
            if expected != restored_content:
                raise DifferentError(
                    f"{name}: {expected[0]} rows in the source, {restored_content[0]} in the copy, "
                    "or other values"
                )
            rows += expected[0]
        total = sum(_one(here, f"SELECT sum(cents) FROM {name}") for name in moving)
        if total != TOTAL:
            raise DifferentError(f"{' + '.join(moving)} is {total}, not {TOTAL}: two moments mixed")
    return [
        f"PostgreSQL: {len(tables)} tables, {rows:,} rows equal; "
        f"{' + '.join(moving)} = {total:,} as in every transaction"
    ]


def _content(connection: psycopg.Connection[tuple[object, ...]], table: str) -> tuple[int, int]:
    """Return the row count and a hash that does not depend on the order, computed by the server."""
    query = sql.SQL(
        "SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) FROM {} t"
    ).format(sql.SQL(table))
    count, digest = connection.execute(query).fetchone() or (0, 0)
    return int(str(count)), int(str(digest))


def _one(connection: psycopg.Connection[tuple[object, ...]], query: str) -> int:
    (value,) = connection.execute(query.encode()).fetchone() or (0,)
    return int(str(value))


def sqlite(original: Path, copy: Path, moving: Sequence[str]) -> list[str]:
    """Check the copy's integrity, that still tables are equal, and the sum of those that moved.

    Raises:
        DifferentError: names what is wrong.
    """
    there, here = (sqlite3.connect(f"file:{path}?mode=ro", uri=True) for path in (original, copy))
    try:
        (verdict,) = here.execute("PRAGMA integrity_check").fetchone()
        if verdict != "ok":
            raise DifferentError(f"{copy.name}: integrity_check says {verdict}")
        tables = [
            name for (name,) in there.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        for name in set(tables) - set(moving):
            if list(there.execute(f"SELECT * FROM {name}")) != list(
                here.execute(f"SELECT * FROM {name}")
            ):
                raise DifferentError(f"{copy.name}: table {name} differs")
        total = sum(here.execute(f"SELECT sum(cents) FROM {name}").fetchone()[0] for name in moving)
        if total != TOTAL:
            raise DifferentError(f"{copy.name}: {' + '.join(moving)} is {total}, not {TOTAL}")
    finally:
        there.close()
        here.close()
    return [f"SQLite: integrity ok, {len(tables)} tables; {' + '.join(moving)} = {total:,}"]


def files(original: Path, copy: Path) -> str:
    """Compare names, types, bytes, modes, owners, link targets and times in nanoseconds.

    Raises:
        DifferentError: names the first entry that differs.
    """
    there, here = dict(_entries(original)), dict(_entries(copy))
    if missing := there.keys() ^ here.keys():
        raise DifferentError(f"only on one side: {sorted(missing)[:5]}")
    for name, entry in there.items():
        if entry != here[name]:
            raise DifferentError(f"{name!r} differs: {entry} became {here[name]}")
    return f"Files: {len(there):,} entries equal to the nanosecond"


def _entries(root: Path) -> Iterator[tuple[str, tuple[object, ...]]]:
    for folder, folders, names in os.walk(root):
        for name in [*folders, *names]:
            path = Path(folder, name)
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                content: object = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                content = None
            yield (
                str(path.relative_to(root)),
                (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, content),
            )
