"""Record in the target which steps of a restore are done.

While a restore runs, the schema ``stepvault_restore`` of the target holds one row per finished
step, written in the same transaction as the step itself: a task that runs again after a crash
skips what has been committed, and nothing is ever loaded twice. The last task drops the schema.
"""

from psycopg import Connection as Session

#: The schema's name.
SCHEMA = "stepvault_restore"


def begin(restore: str) -> str:
    """Write SQL that makes the place for notes; the first step of a restore."""
    return (
        f"CREATE SCHEMA {SCHEMA};\n"
        f"COMMENT ON SCHEMA {SCHEMA} IS 'A Stepvault restore is going on, or has failed';\n"
        f"CREATE TABLE {SCHEMA}.done (restore text, step text, PRIMARY KEY (restore, step));\n"
        + note(restore, "schema")
    )


def note(restore: str, step: str) -> str:
    """Write SQL that notes a step as done, to run in the step's own transaction."""
    values = ", ".join("'" + value.replace("'", "''") + "'" for value in (restore, step))
    return f"INSERT INTO {SCHEMA}.done VALUES ({values});\n"


def begun(opened: Session) -> bool:
    """Tell whether the place for notes is there: between the first and the last step."""
    row = opened.execute("SELECT pg_catalog.to_regclass(%s)::text", [f"{SCHEMA}.done"]).fetchone()
    return bool(row and row[0])


def is_done(opened: Session, restore: str, step: str) -> bool:
    """Tell whether that step of that restore has been committed."""
    if not begun(opened):
        return False
    query = f"SELECT 1 FROM {SCHEMA}.done WHERE restore = %s AND step = %s"
    return opened.execute(query, [restore, step]).fetchone() is not None
