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
_Tables = tuple[dict[str, tuple[_Kind, str]], ...]

#: SQLSTATE, or its first characters, to what it means for us. The longest that fits counts.
_BY_STATE: dict[str, tuple[_Kind, str]] = {
    "0A": (SourceUnsupported, "The server does not know this feature"),
    "08": (SourceUnreachable, "The connection broke; try again"),
    "25P03": (SourceUnreachable, "The server ended the session; try again"),
    "25P04": (SourceUnreachable, "The server ended the session; try again"),
    "28": (SourceDenied, "Check the user and password in the connection's secret"),
    "38": (SourceUnsupported, "A function of the database failed; see the message"),
    "39": (SourceUnsupported, "A function of the database failed; see the message"),
    "3D000": (SourceMissing, "Check the database's name in the connection or its secret"),
    "40": (SourceChanged, "Try again; other transactions stood in the way"),
    "40003": (SourceUnreachable, "The connection broke; try again"),
    "40P01": (SourceBusy, "Try again; the server broke a deadlock"),
    "42501": (
        SourceDenied,
        "Grant the user what is missing (pg_read_all_data reads all tables), or name the "
        "thing in exclude_tables",
    ),
    "53": (SourceBusy, "The server is out of resources; try again when it is less busy"),
    "53100": (SourceUnsupported, "The server's disk is full: give it more space"),
    "53200": (
        SourceUnsupported,
        "Raise max_locks_per_transaction on the server, or lower the source's connections",
    ),
    "53300": (SourceBusy, "Raise max_connections or lower the source's connections"),
    "53400": (SourceUnsupported, "Raise the limit that the message names on the server"),
    "54": (SourceUnsupported, "A limit of the server is exceeded; see the message"),
    "55006": (SourceBusy, "Try again when nobody else uses it"),
    "55P03": (SourceBusy, "Try again when the statement that holds the lock is done"),
    "57014": (SourceBusy, "The statement was cancelled on the server; try again"),
    "57P0": (SourceUnreachable, "The server shut down or ended the session; try again"),
    "57P04": (SourceMissing, "The database was dropped; see who did it, and why"),
    "58": (SourceCorrupt, "The server cannot use its own files; see its log and its disks"),
    "58P01": (
        SourceUnsupported,
        "Install on the server what is missing there, such as an extension's library",
    ),
    "72": (SourceChanged, "Raise old_snapshot_threshold on the server, or try again"),
    "HV": (SourceUnsupported, "A foreign server failed; see the message"),
    "P0": (SourceUnsupported, "A function of the database raised it; see the message"),
    "XX": (Permanent, "The server met an error of its own; see its log"),
    "XX001": (SourceCorrupt, "The table is damaged; see the server's log and pg_amcheck"),
    "XX002": (SourceCorrupt, "An index is damaged; REINDEX it and try again"),
    # Not of the server: see _FINER.
    "STANDBY": (
        SourceChanged,
        "On a standby set hot_standby_feedback = on or raise max_standby_streaming_delay",
    ),
    "RLS": (
        SourceDenied,
        "Policies would hide rows: read as the owner, or as a role with BYPASSRLS",
    ),
    "LARGE": (
        SourceDenied,
        "Grant SELECT ON LARGE OBJECT for each (docs/operations.md shows how; pg_read_all_data does "
        "not cover them), or set large_objects = false for this source",
    ),
    "LABEL": (
        SourceUnsupported,
        "Load the provider on the target's server (shared_preload_libraries), or restore the "
        "backup's folder with pg_restore --no-security-labels",
    ),
}

_GOES_ON = "--keep-going restores all else and lists what it could not"
_DUPLICATE = (
    SourceUnsupported,
    "The target has something of that name: restore into a new database, or allow overwriting",
)
#: What means something else, or takes another next step, in the database to restore into.
_AT_TARGET: dict[str, tuple[_Kind, str]] = {
    "0A": (SourceUnsupported, f"The target's server does not know this feature; {_GOES_ON}"),
    "22": (SourceUnsupported, f"The target takes no such value; {_GOES_ON}"),
    "23": (SourceUnsupported, f"See which rows break the constraint; {_GOES_ON}"),
    "25006": (SourceUnsupported, "The target takes no writes: name the primary, not a standby"),
    "38": (SourceUnsupported, f"A function of the database failed; {_GOES_ON}"),
    "39": (SourceUnsupported, f"A function of the database failed; {_GOES_ON}"),
    "42": (SourceUnsupported, f"See the message and the statement; {_GOES_ON}"),
    "42501": (
        SourceDenied,
        f"Connect as a user with that right, or restore with --owner none or NAME; {_GOES_ON}",
    ),
    "42704": (SourceUnsupported, f"The target lacks it: make it there first; {_GOES_ON}"),
    "42710": _DUPLICATE,
    "42723": _DUPLICATE,
    "42P04": _DUPLICATE,
    "42P06": _DUPLICATE,
    "42P07": _DUPLICATE,
    "53100": (
        SourceUnsupported,
        "The target's disk is full: give it more space, then run the same restore again",
    ),
    "53200": (SourceUnsupported, "Raise max_locks_per_transaction on the target's server"),
    "53300": (SourceBusy, "Raise max_connections on the target's server, or use fewer connections"),
    "58P01": (
        SourceUnsupported,
        "Install it on the target's server, or restore with --without extension:NAME",
    ),
    "HV": (SourceUnsupported, f"A foreign server failed; {_GOES_ON}"),
    "P0": (SourceUnsupported, f"A function or trigger of the database raised it; {_GOES_ON}"),
    "XX001": (SourceCorrupt, "The target's table is damaged; restore into another database"),
    "XX002": (SourceCorrupt, "The target's index is damaged; restore into another database"),
    "RLS": (SourceDenied, "Connect as the tables' owner, or as a role with BYPASSRLS"),
    "LARGE": (
        SourceDenied,
        "Connect as the large objects' owner, or restore with --owner none or NAME",
    ),
}

#: Messages that say more than the SQLSTATE they come with.
_FINER: tuple[tuple[str, str], ...] = (
    (r"conflict with recovery", "STANDBY"),
    (r"row-level security policy", "RLS"),
    (r"permission denied for large object|must be owner of large object", "LARGE"),
    (r'security label provider ".*" is not loaded', "LABEL"),
)

#: Messages of libpq and the server that come without an SQLSTATE, to the SQLSTATE they stand for.
_BY_TEXT: tuple[tuple[str, str], ...] = (
    (r"password authentication failed|no password supplied|authentication failed", "28"),
    (r"no pg_hba\.conf entry", "28"),
    (r'role ".*" does not exist|is not permitted to log in', "28"),
    (r'permission denied for database|user lacks privilege "?connect', "42501"),
    (r'database ".*" does not exist|database ".*" is not currently accepting', "3D000"),
    (r"permission denied|must be owner|must be superuser", "42501"),
    (r"too many (clients|connections)|remaining connection slots", "53300"),
    (r"lock timeout|statement timeout|could not obtain lock", "55P03"),
    (r"out of shared memory", "53200"),
    (r"No space left on device", "53100"),
    (r"invalid page|could not read block|missing chunk number|compressed.* is corrupt", "XX001"),
)

_TLS = re.compile(r"certificate|SSL|TLS|root\.crt", re.IGNORECASE)
_LOST = re.compile(r"server closed the connection|connection to server was lost")
_NOISE = re.compile(r"^(LOCATION|CONTEXT|STATEMENT):.*$", re.MULTILINE)
_STATE = re.compile(r"(?:ERROR|FATAL|PANIC):  ([0-9A-Z]{5}): ")


def from_connecting(
    error: psycopg.Error, connection: Connection, database: str | None
) -> StepvaultError:
    """Explain why a connection could not be made."""
    return _of_connecting(str(error), connection, database)


def from_server(error: psycopg.Error, what: str) -> StepvaultError:
    """Explain why the source refused a statement; ``what`` begins the message."""
    return _of_statement(error, what, (_BY_STATE,))


def at_target(error: psycopg.Error, what: str) -> StepvaultError:
    """Explain why the database to restore into refused a statement."""
    return _of_statement(error, what, (_AT_TARGET, _BY_STATE))


def from_program(
    program: str, message: str, connection: Connection, *, target: bool = False
) -> StepvaultError:
    """Explain why pg_dump, pg_restore or psql failed, from its standard error.

    Args:
        program: its name.
        message: what it printed.
        connection: where it was connected to.
        target: it worked on the database to restore into, as pg_restore always does.
    """
    if "connection to server" in message and "failed:" in message:
        return _of_connecting(message, connection, None)
    stated = _STATE.search(message)
    state = _finer(message) or (stated[1] if stated else _state_of(message))
    if state is None and _LOST.search(message):
        state = "08"
    text = _one_line(_STATE.sub("", _NOISE.sub("", message)))
    if state is None:
        return SourceUnsupported(
            f"{program} failed: {text}", "See the message and the server's log"
        )
    at_target = target or program == "pg_restore"
    tables = (_AT_TARGET, _BY_STATE) if at_target else (_BY_STATE,)
    kind, fix = _class_of(state, tables)
    return kind(f"{program} failed: {text}", fix)


def _of_statement(error: psycopg.Error, what: str, tables: _Tables) -> StepvaultError:
    text = _one_line(error.diag.message_primary or str(error))
    state = _finer(text) or error.sqlstate or _state_of(text)
    if state is None and isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
        state = "08"
    kind, fix = _class_of(state or "", tables)
    return kind(f"{what}: {text}", fix)


def _of_connecting(message: str, connection: Connection, database: str | None) -> StepvaultError:
    text = _one_line(re.sub(r'connection to server [^"]*"[^"]*"[^:]*failed: ', "", message))
    where = f"{connection.host}:{connection.port or 5432}"
    state = _finer(text) or _state_of(text)
    if state is not None:
        kind, fix = _class_of(state, (_BY_STATE,))
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


def _class_of(state: str, tables: _Tables) -> tuple[_Kind, str]:
    """Look up the state, then its beginning, in each of the tables."""
    for length in (len(state), 4, 3, 2):
        for table in tables:
            if state[:length] in table:
                return table[state[:length]]
    return SourceUnsupported, "See the message and the server's log"


def _finer(text: str) -> str | None:
    return next((state for pattern, state in _FINER if re.search(pattern, text)), None)


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
