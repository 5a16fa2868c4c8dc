"""The table in the target that tells what a restore has done, while it runs.

It holds the names of the loaded objects, the fingerprint of the backup, and a mark once all tables
have been created. So a task can be repeated, and a restore that failed goes on when begun again.
"""

from stepvault.engines.mysql.session import Session, literal, quote
from stepvault.errors import StepvaultError

TABLE = "stepvault_restore_progress"
_DEFINED = "all tables"


def _row(fingerprint: str) -> str:
    return f"backup {fingerprint}"


def begun(session: Session, database: str, fingerprint: str) -> bool:
    """Tell whether a restore of the same backup has begun in the database and not ended."""
    return _has(session, database, _row(fingerprint))


def defined(session: Session, database: str, fingerprint: str) -> bool:
    """Tell whether such a restore has created all tables."""
    return begun(session, database, fingerprint) and _has(session, database, _DEFINED)


def _has(session: Session, database: str, row: str) -> bool:
    try:
        return bool(
            session.one(f"SELECT 1 FROM {quote(database)}.{TABLE} WHERE object = {literal(row)}")
        )
    except StepvaultError:
        return False


def begin(session: Session, fingerprint: str) -> None:
    """Create the table in the session's database."""
    session.run(
        f"CREATE TABLE {TABLE} (object VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin"
        " PRIMARY KEY) ENGINE=InnoDB"
    )
    # Not empty: MariaDB locks an empty table as a whole for its first writer, see load.shared.
    session.run(f"INSERT INTO {TABLE} VALUES ({literal(_row(fingerprint))})")


def set_defined(session: Session) -> None:
    """Note that all tables have been created."""
    session.run(f"INSERT IGNORE INTO {TABLE} VALUES ({literal(_DEFINED)})")


def loaded(session: Session, name: str) -> bool:
    """Tell whether the object has been loaded."""
    return bool(session.one(f"SELECT 1 FROM {TABLE} WHERE object = {literal(name)}"))


def add(session: Session, name: str) -> None:
    """Note that the object has been loaded; part of the session's transaction."""
    session.run(f"INSERT INTO {TABLE} VALUES ({literal(name)})")


def end(session: Session, database: str) -> None:
    """Drop the table."""
    session.run(f"DROP TABLE IF EXISTS {quote(database)}.{TABLE}")
