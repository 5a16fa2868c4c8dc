"""Connect to the server, set up sessions, refuse poolers."""

import psycopg
from psycopg import Connection as Session

from stepvault.engines.base import Connection
from stepvault.engines.postgres import errors, programs
from stepvault.errors import SourceUnsupported

#: Seconds to wait for a table's lock before naming who holds it.
LOCK_TIMEOUT = 60

#: What pg_dump sets, so that our COPY prints what its COPY prints.
SETTINGS = (
    "SET statement_timeout = 0",  # first: it holds for the others, too
    "SET DateStyle = ISO",
    "SET IntervalStyle = postgres",
    "SET extra_float_digits = 3",
    "SET synchronize_seqscans = off",
    "SET idle_in_transaction_session_timeout = 0",
    "SET row_security = off",
    "SET search_path = ''",
)

#: What else decides how COPY prints values, so that a row's hash is the same on every server. Only
#: for those who read: rows are loaded in the zone of their database, which checks and defaults see.
_PRINTED = ("SET TimeZone = 'UTC'", "SET bytea_output = hex")


def connect(connection: Connection, database: str | None = None) -> Session:
    """Open a session in autocommit, without our settings yet.

    Raises:
        SourceUnreachable, SourceDenied, SourceMissing, SourceBusy: it cannot be made.
    """
    settings = programs.parameters(connection, database)
    try:
        return psycopg.connect(password=connection.password, autocommit=True, **settings)  # type: ignore[arg-type]
    except psycopg.Error as error:
        # "from None": libpq's text is in the message, the parameters stay out of it.
        raise errors.from_connecting(error, connection, database) from None


def statements(server_version: int) -> list[str]:
    """List the SQL that sets up a session."""
    more = [f"SET lock_timeout = {round(LOCK_TIMEOUT * 1000)}"]
    if server_version >= 140000:
        more.append("SET idle_session_timeout = 0")
    if server_version >= 170000:
        more.append("SET transaction_timeout = 0")
    return [*SETTINGS, *more]


def set_up(session: Session) -> None:
    """Give the session our settings and the database's own encoding."""
    for statement in statements(session.info.server_version):
        session.execute(statement)
    row = session.execute("SHOW server_encoding").fetchone()
    session.execute(f"SET client_encoding = '{text(row[0]) if row else 'UTF8'}'")


def text(value: str | bytes) -> str:
    """Decode text of the server; it is bytes where the database has no encoding (SQL_ASCII)."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def value(opened: Session, query: str) -> str:
    """Run a query and give its first value as text, empty when there is no row."""
    row = opened.execute(query).fetchone()
    first = row[0] if row else ""
    return text(first) if isinstance(first, bytes) else str(first)


def backend(session: Session) -> int:
    """Ask which process on the server serves us right now."""
    row = session.execute("SELECT pg_catalog.pg_backend_pid()").fetchone()
    return int(row[0]) if row else 0


def refuse_transaction_pooler(connection: Connection, first: Session) -> None:
    """Refuse a pooler that hands out servers per transaction: it loses settings, locks, snapshots.

    Behind one, the process that answers is not the one that libpq knows from connecting,
    and another session gets hold of the process that ``first`` just used.

    Raises:
        SourceUnsupported: there is such a pooler in between.
    """
    served_by = backend(first)
    if served_by == first.info.backend_pid:
        return
    with connect(connection) as second:
        second.execute("BEGIN")
        shared = backend(second) == served_by or backend(first) != served_by
        second.execute("ROLLBACK")
    if shared:
        raise SourceUnsupported(
            f"{connection.host}:{connection.port or 5432} is a pooler in transaction mode, "
            "which cannot hold one snapshot",
            "Connect to the server itself, or to a pool in session mode",
        )


def script(server_version: int, encoding: str) -> bytes:
    """Write the SQL that sets up a psql that reads rows."""
    lines = [
        *statements(server_version),
        *_PRINTED,
        f"SET client_encoding = '{encoding}'",
        "SET client_min_messages = error",
    ]
    return "".join(f"{line};\n" for line in lines).encode()
