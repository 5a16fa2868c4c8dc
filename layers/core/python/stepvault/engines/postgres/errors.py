"""Turn PostgreSQL's errors into Stepvault's, each with its next step."""

import re

import psycopg

from stepvault.engines.base import Connection
from stepvault.errors import (
    Permanent,
    ShortRead,
    SourceBusy,
    SourceChanged,
    SourceCorrupt,
    SourceDenied,
    SourceMissing,
    SourceUnreachable,
    SourceUnsupported,
    StepvaultError,
)

_Kind = type[StepvaultError]

#: SQLSTATE, or its first two characters, to what it means for us.
_BY_STATE: dict[str, tuple[_Kind, str]] = {
    "28": (SourceDenied, "Check the user and password in the connection's secret"),
    "42501": (
        SourceDenied,
        "Grant the user what is missing (pg_read_all_data reads all tables), or name the "
        "thing in exclude_tables",
    ),
    "RLS": (
        SourceDenied,
        "Policies would hide rows: read as the owner, or as a role with BYPASSRLS",
    ),
    "LABEL": (
        SourceUnsupported,
        "Load the provider on the target's server (shared_preload_libraries), or restore the "
        "backup's folder with pg_restore --no-security-labels",
    ),
    "3D000": (SourceMissing, "Check the database's name in the connection or its secret"),
    "53300": (SourceBusy, "Raise max_connections or lower the source's connections"),
    "53200": (
        SourceUnsupported,
        "Raise max_locks_per_transaction on the server, or lower the source's connections",
    ),
    "53": (SourceBusy, "The server is out of resources; try again when it is less busy"),
    "55P03": (SourceBusy, "Try again when the statement that holds the lock is done"),
    "40P01": (SourceBusy, "Try again; the server broke a deadlock"),
    "40001": (
        SourceChanged,
        "On a standby set hot_standby_feedback = on or raise max_standby_streaming_delay",
    ),
    "57P0": (SourceUnreachable, "The server shut down or ended the session; try again"),
    "57014": (SourceBusy, "The statement was cancelled on the server; try again"),
    "08": (SourceUnreachable, "The connection broke; try again"),
    "XX001": (SourceCorrupt, "The table is damaged; see the server's log and pg_amcheck"),
    "XX002": (SourceCorrupt, "An index is damaged; REINDEX it and try again"),
    "0A000": (SourceUnsupported, "The server does not know this feature"),
}

#: Messages of libpq and the server that come without an SQLSTATE, to the SQLSTATE they stand for.
_BY_TEXT: tuple[tuple[str, str], ...] = (
    (r"password authentication failed|no password supplied|authentication failed", "28"),
    (r"no pg_hba\.conf entry", "28"),
    (r'role ".*" does not exist|is not permitted to log in', "28"),
    (r'permission denied for database|user lacks privilege "?connect', "42501"),
    (r'database ".*" does not exist|database ".*" is not currently accepting', "3D000"),
    (r"row-level security policy", "RLS"),
    (r"permission denied|must be owner|must be superuser", "42501"),
    (r"too many (clients|connections)|remaining connection slots", "53300"),
    (r"lock timeout|statement timeout|could not obtain lock", "55P03"),
    (r"conflict with recovery", "40001"),
    (r"out of shared memory", "53200"),
    (r"invalid page|could not read block|missing chunk number|compressed.* is corrupt", "XX001"),
)

_TLS = re.compile(r"certificate|SSL|TLS|root\.crt", re.IGNORECASE)
_NOISE = re.compile(r"^(LOCATION|CONTEXT|STATEMENT):.*$", re.MULTILINE)
_STATE = re.compile(r"(?:ERROR|FATAL|PANIC):  ([0-9A-Z]{5}): ")


def from_connecting(
    error: psycopg.Error, connection: Connection, database: str | None
) -> StepvaultError:
    """Explain why a connection could not be made."""
    return _of_connecting(str(error), connection, database)


def from_server(error: psycopg.Error, what: str) -> StepvaultError:
    """Explain why the server refused a statement; ``what`` begins the message."""
    text = _one_line(error.diag.message_primary or str(error))
    state = error.sqlstate or _state_of(text) or "08"
    kind, fix = _class_of(state)
    return kind(f"{what}: {text}", fix)


def from_program(program: str, message: str, connection: Connection) -> StepvaultError:
    """Explain why pg_dump, pg_restore or psql failed, from its standard error."""
    if "connection to server" in message and "failed:" in message:
        return _of_connecting(message, connection, None)
    stated = _STATE.search(message)
    state = stated[1] if stated else _state_of(message)
    if "row-level security policy" in message:
        state = "RLS"
    if re.search(r'security label provider ".*" is not loaded', message):
        state = "LABEL"
    text = _one_line(_STATE.sub("", _NOISE.sub("", message)))
    if re.search(r"server closed the connection|connection to server was lost", message):
        state = "08"
    if state is None:
        return SourceUnsupported(
            f"{program} failed: {text}", "See the message and the server's log"
        )
    kind, fix = _class_of(state)
    return kind(f"{program} failed: {text}", fix)


def _of_connecting(message: str, connection: Connection, database: str | None) -> StepvaultError:
    text = _one_line(re.sub(r'connection to server [^"]*"[^"]*"[^:]*failed: ', "", message))
    where = f"{connection.host}:{connection.port or 5432}"
    state = _state_of(text)
    if state is not None:
        kind, fix = _class_of(state)
        name = database or connection.database
        target = f"database {name} at {where}" if name else where
        return kind(f"cannot connect to {target} as {connection.user}: {text}", fix)
    if _TLS.search(text):
        return SourceDenied(
            f"no TLS connection to {where} in mode {connection.tls}: {text}",
            "Check the connection's tls and tls_ca, and the certificate's host name",
        )
    return SourceUnreachable(
        f"no connection to {where} within {connection.connect_timeout} s: {text}",
        "Check host, port, security group and subnet, and that the server runs",
    )


def _class_of(state: str) -> tuple[_Kind, str]:
    for length in (5, 4, 2):
        if state[:length] in _BY_STATE:
            return _BY_STATE[state[:length]]
    return Permanent if state.startswith("XX") else SourceUnsupported, "See the server's log"


def _state_of(text: str) -> str | None:
    return next((state for pattern, state in _BY_TEXT if re.search(pattern, text)), None)


def _one_line(text: str) -> str:
    return "; ".join(line.strip() for line in text.strip().splitlines() if line.strip())[:2000]


def short(table: str, sent: int, arrived: int) -> ShortRead:
    """Say that fewer or more rows arrived than the server counted."""
    return ShortRead(
        f"the server sent {sent} rows of {table}, {arrived} arrived",
        "Try again; if it happens again, look at the network between function and server",
    )
