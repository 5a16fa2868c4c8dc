"""Record in the target which steps of a restore are done.

While a restore runs, the schema ``stepvault_restore`` of the target holds one row per finished
step, written in the same transaction as the step itself: a task that runs again after a crash
skips what has been committed, and nothing is ever loaded twice. A restore that is planned again
after a failure finds its own rows and carries on. The last task drops the schema.
"""

import hashlib
import json
from collections.abc import Iterable

import psycopg
from psycopg import Connection as Session

from stepvault.engines.base import RestoreJob
from stepvault.engines.postgres import session

#: The schema's name.
SCHEMA = "stepvault_restore"
_BEGUN = "begun"
#: Settings that keep event triggers from seeing a statement: of PostgreSQL 17 and later, of all.
_QUIET = ("event_triggers = off", "session_replication_role = replica")


def token(job: RestoreJob) -> str:
    """Name a restore: the same for each attempt at the same objects, tables and owner."""
    objects = sorted((o.name, o.raw_sha256) for o in job.objects)
    what = [objects, sorted(job.options.only), job.options.owner]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


def begin(opened: Session, restore: str) -> str:
    """Write SQL that creates the schema; the first statements of a restore."""
    before, after = _quiet(opened)
    return (
        f"{before}CREATE SCHEMA {SCHEMA};\n"
        f"COMMENT ON SCHEMA {SCHEMA} IS 'A Stepvault restore is going on, or has failed';\n"
        f"CREATE TABLE {SCHEMA}.done (restore text, step text, PRIMARY KEY (restore, step));\n"
        f"{after}" + note(restore, _BEGUN)
    )


def note(restore: str, *steps: str) -> str:
    """Write SQL that notes steps as done, to run in the steps' own transaction."""
    quoted = [value.replace("'", "''") for value in (restore, *steps)]
    rows = ", ".join(f"('{quoted[0]}', '{step}')" for step in quoted[1:])
    return f"INSERT INTO {SCHEMA}.done VALUES {rows};\n"


def end(opened: Session) -> None:
    """Drop the schema, within the caller's transaction."""
    before, after = _quiet(opened)
    drop = f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE;\n"
    opened.execute(f"{before}{drop}{after}".encode())


def unfinished(opened: Session) -> str | None:
    """Name the restore that has begun in this database and has not ended."""
    row = opened.execute("SELECT pg_catalog.to_regclass(%s)::text", [f"{SCHEMA}.done"]).fetchone()
    if not (row and row[0]):
        return None
    first = opened.execute(f"SELECT restore FROM {SCHEMA}.done LIMIT 1".encode()).fetchone()
    return session.text(first[0]) if first else ""


def done(opened: Session, restore: str) -> set[str]:
    """Collect the steps of that restore that have been committed."""
    if unfinished(opened) is None:
        return set()
    rows = opened.execute(f"SELECT step FROM {SCHEMA}.done WHERE restore = %s", [restore])
    return {session.text(step) for (step,) in rows}


def is_done(opened: Session, restore: str, step: str) -> bool:
    """Tell whether that step of that restore has been committed."""
    if unfinished(opened) is None:
        return False
    query = f"SELECT 1 FROM {SCHEMA}.done WHERE restore = %s AND step = %s"
    return opened.execute(query, [restore, step]).fetchone() is not None


def steps(dump_ids: Iterable[int]) -> list[str]:
    """Name the steps that restore these entries."""
    return [f"entry {dump_id}" for dump_id in dump_ids]


def _quiet(opened: Session) -> tuple[str, str]:
    """Write SQL before and after a statement of ours that event triggers must not see.

    Empty where the user may not switch them off.
    """
    for setting in _QUIET:
        try:
            with opened.transaction(force_rollback=True):
                opened.execute(f"SET LOCAL {setting}".encode())
        except psycopg.Error:
            if opened.closed:
                raise
            continue
        return f"SET LOCAL {setting};\n", f"SET LOCAL {setting.split()[0]} TO DEFAULT;\n"
    return "", ""
