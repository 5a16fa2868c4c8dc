"""Prepare the database to restore into: create it if need be, refuse one that holds data."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg import Connection as Session
from psycopg import sql

from stepvault.engines.base import Connection, RestoreJob
from stepvault.engines.postgres import errors, programs, session, toc
from stepvault.engines.postgres.toc import Entry
from stepvault.errors import (
    ConfigInvalid,
    SourceMissing,
    SourceUnsupported,
    TargetMissing,
    TargetNotEmpty,
)

#: Comment of a database that a plan has created, until the restore's end.
_OURS = "Made by a Stepvault restore that has not ended"

_HOLDS = """
SELECT kind || ' ' || name FROM (
  SELECT 1 AS rank, 'table' AS kind, n.nspname::text || '.' || c.relname::text AS name, c.oid,
         'pg_class' AS catalog
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND c.relpersistence <> 't'
  UNION ALL
  SELECT 2, 'function', n.nspname::text || '.' || p.proname::text, p.oid, 'pg_proc'
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
  UNION ALL
  SELECT 3, 'type', n.nspname::text || '.' || t.typname::text, t.oid, 'pg_type'
    FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
    WHERE t.typtype IN ('e', 'd', 'r')
  UNION ALL
  SELECT 4, 'schema', n.nspname::text || '.', n.oid, 'pg_namespace'
    FROM pg_catalog.pg_namespace n WHERE n.nspname <> 'public'
  UNION ALL
  SELECT 5, 'large object', 'lo.' || l.oid, l.oid, 'pg_largeobject'
    FROM pg_catalog.pg_largeobject_metadata l
) AS thing
WHERE name !~ '^pg_' AND name !~ '^information_schema[.]'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.classid = ('pg_catalog.' || catalog)::pg_catalog.regclass
                    AND d.objid = thing.oid AND d.deptype = 'e')
ORDER BY rank, name LIMIT 4
"""

#: Which rows of extensions' configuration tables are not of the extension's own script.
_CONDITIONS = """
SELECT pg_catalog.convert_to(n.nspname, pg_catalog.getdatabaseencoding()),
       pg_catalog.convert_to(c.relname, pg_catalog.getdatabaseencoding()),
       pg_catalog.convert_to(u.condition, pg_catalog.getdatabaseencoding())
FROM pg_catalog.pg_extension e
CROSS JOIN LATERAL ROWS FROM (pg_catalog.unnest(e.extconfig), pg_catalog.unnest(e.extcondition))
  AS u (oid, condition)
JOIN pg_catalog.pg_class c ON c.oid = u.oid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
"""


def name_of(job: RestoreJob) -> str:
    """Name the database to restore into: the options', the connection's, the backup's."""
    named = [str(f["database"]) for f in job.facts if f.get("database")]
    wanted = job.options.database or address(job).database or (named[0] if named else None)
    if wanted is None:
        raise ConfigInvalid("no database to restore into is named", "Name one in the target")
    return wanted


def address(job: RestoreJob) -> Connection:
    """Get the target's connection."""
    if job.connection is None:
        raise ConfigInvalid("a PostgreSQL restore needs the connection of a target")
    return job.connection


def connect(job: RestoreJob) -> Session:
    """Open a session in the target database, set up for writing.

    Raises:
        TargetMissing: there is no such database.
    """
    try:
        opened = session.connect(address(job), name_of(job))
    except SourceMissing as missing:
        raise TargetMissing(missing.message, "Plan the restore again, which creates it") from None
    session.set_up(opened)
    return opened


def exists(job: RestoreJob) -> bool:
    """Tell whether the target database is there."""
    try:
        session.connect(address(job), name_of(job)).close()
    except SourceMissing:
        return False
    return True


def create(job: RestoreJob, *, note: bool = False) -> bool:
    """Create the database as the backup's was: same encoding, same locale.

    Returns False if it exists by now.

    Args:
        job: the restore.
        note: leave a comment by which another attempt at the plan knows that it is ours.
    """
    name = name_of(job)
    facts: Mapping[str, Any] = job.facts[0] if job.facts else {}
    owner = job.options.owner
    wanted = sql.SQL("CREATE DATABASE {}{} TEMPLATE template0 ENCODING {} {}").format(
        sql.Identifier(name),
        sql.SQL("" if owner in ("keep", "none") else " OWNER {}").format(sql.Identifier(owner)),
        sql.Literal(facts.get("encoding", "UTF8")),
        _locale(facts),
    )
    with elsewhere(job) as maintenance:
        try:
            maintenance.execute(wanted)
            if note:
                comment = sql.SQL("COMMENT ON DATABASE {} IS {}")
                maintenance.execute(comment.format(sql.Identifier(name), sql.Literal(_OURS)))
        except psycopg.errors.DuplicateDatabase:
            return False
        except psycopg.errors.UndefinedObject as error:
            if owner in ("keep", "none"):
                raise errors.at_target(error, f"cannot create database {name}") from error
            raise missing_roles([owner]) from error
        except psycopg.Error as error:
            raise errors.at_target(error, f"cannot create database {name}") from error
    return True


def is_ours(opened: Session) -> bool:
    """Tell whether a plan made the database, for a restore that has not ended."""
    row = opened.execute(
        "SELECT pg_catalog.shobj_description(oid, 'pg_database') = %s"
        " FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()",
        [_OURS],
    ).fetchone()
    return bool(row and row[0])


def drop(job: RestoreJob) -> None:
    """Remove the database and everything in it; those connected to it are cut off."""
    name = name_of(job)
    with elsewhere(job) as maintenance:
        force = " WITH (FORCE)" if maintenance.info.server_version >= 130000 else ""
        try:
            maintenance.execute(
                sql.SQL("DROP DATABASE IF EXISTS {}" + force).format(sql.Identifier(name))
            )
        except psycopg.Error as error:
            raise errors.at_target(error, f"cannot drop database {name}") from error


def require_empty(opened: Session) -> None:
    """Raise TargetNotEmpty, naming some of what is there."""
    there = [session.text(row[0]) for row in opened.execute(_HOLDS)]
    if there:
        raise TargetNotEmpty(
            f"database {opened.info.dbname} already holds {', '.join(there[:3])}"
            + (" and more" if len(there) > 3 else ""),
            "Restore into a new database, or allow overwriting, which drops this one first",
        )


def contents(job: RestoreJob) -> list[Entry]:
    """List what is defined in the target, beside the database itself, as pg_dump writes it."""
    with tempfile.TemporaryDirectory(dir=job.scratch) as own:
        folder = Path(own) / "archive"
        dsn = programs.dsn(address(job), Path(own), name_of(job))
        options = ["-Fd", "-Znone", "--schema-only", "--no-sync", "--no-password", "--file"]
        arguments = ["pg_dump", *options, str(folder), "--dbname", dsn]
        programs.run(programs.Children(), address(job), arguments, job.remaining, target=True)
        archive = toc.read((folder / "toc.dat").read_bytes())
        archive.drop_internal_options()
        return [e for e in archive.entries if not e.of_database]


def require_empty_tables(opened: Session, entries: Sequence[Entry]) -> None:
    """Require the tables of a backup of rows alone, empty but for rows of extensions' scripts.

    Raises:
        TargetMissing, TargetNotEmpty: naming the table.
    """
    picked = conditions(opened)
    for entry in entries:
        table = sql.Identifier((entry.namespace or b"").decode(), entry.tag.decode())
        condition = picked.get((entry.namespace or b"", entry.tag), b"")
        try:
            query = b"SELECT 1 FROM ONLY %b %b LIMIT 1" % (table.as_bytes(opened), condition)
            filled = opened.execute(query).fetchone() is not None
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            raise TargetMissing(
                f"database {opened.info.dbname} has no table {entry.label[11:]}, and the backup "
                "holds rows without definitions",
                "Create the tables first",
            ) from None
        if filled:
            raise TargetNotEmpty(
                f"table {entry.label[11:]} of database {opened.info.dbname} already holds rows",
                "TRUNCATE it, or restore into another database",
            )


def conditions(opened: Session) -> dict[tuple[bytes, bytes], bytes]:
    """Look up which rows of extensions' configuration tables are the user's, by schema and name."""
    return {
        (bytes(schema), bytes(name)): bytes(condition)
        for schema, name, condition in opened.execute(_CONDITIONS)
    }


def require_absent(opened: Session, entries: Sequence[Entry]) -> None:
    """Raise TargetNotEmpty, naming the first of these tables that exists."""
    for entry in entries:
        table = sql.Identifier((entry.namespace or b"").decode(), entry.tag.decode())
        query = sql.SQL("SELECT pg_catalog.to_regclass({})").format(
            sql.Literal(table.as_string(opened))
        )
        row = opened.execute(query).fetchone()
        if row and row[0] is not None:
            raise TargetNotEmpty(
                f"database {opened.info.dbname} already has {entry.label}",
                "Rename or drop it, restore into another database, or allow overwriting, which "
                "drops it",
            )


def drop_tables(entries: Sequence[Entry]) -> str:
    """Write SQL that drops these tables; it fails when something else depends on them."""
    names = [
        sql.Identifier((e.namespace or b"").decode(), e.tag.decode()).as_string()
        for e in entries
        if e.kind == b"TABLE"
    ]
    return f"DROP TABLE IF EXISTS {', '.join(names)};\n" if names else ""


def switch_off_triggers(opened: Session) -> None:
    """Switch off foreign keys and triggers, which would see the rows in any order.

    The option --disable-triggers of pg_restore takes the same privilege.

    Raises:
        SourceDenied: the user may not.
    """
    try:
        opened.execute("SET session_replication_role = replica")
    except psycopg.Error as error:
        raise errors.at_target(error, "cannot switch off triggers") from error


def missing_roles(names: Sequence[str]) -> TargetMissing:
    """Explain that the target's server lacks these roles."""
    return TargetMissing(
        f"the target's server has no role {', '.join(names[:5])}",
        "Create them (globals.sql in the backup does), or restore with another owner or none",
    )


def elsewhere(job: RestoreJob) -> Session:
    """Open a session in another database of the same server; it closes when its block ends."""
    for maintenance in ("postgres", "template1"):
        if maintenance == name_of(job):
            continue
        try:
            return session.connect(address(job), maintenance)
        except SourceMissing:
            continue
    raise SourceUnsupported("the target's server has neither database postgres nor template1")


def _locale(facts: Mapping[str, Any]) -> sql.Composable:
    """Write the backup's locale in the words of CREATE DATABASE."""
    parts = []
    for word, fact in (("LC_COLLATE", "collate"), ("LC_CTYPE", "ctype")):
        if facts.get(fact):
            parts.append(sql.SQL(word + " {}").format(sql.Literal(facts[fact])))
    provider = {"i": "icu", "b": "builtin"}.get(facts.get("locale_provider", "c"))
    if provider and facts.get("locale"):
        words = f"LOCALE_PROVIDER {provider} {provider.upper()}_LOCALE {{}}"
        parts.append(sql.SQL(words).format(sql.Literal(facts["locale"])))
    return sql.SQL(" ").join(parts)
