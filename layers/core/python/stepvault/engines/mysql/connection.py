"""One connection to a MySQL or MariaDB server, and what its errors mean.

``connect`` opens a :class:`Session` whose settings make values survive the trip; every method
of it raises errors of ``stepvault.errors`` only. ``Session.stream`` gives the raw socket to
``rows.py``, which reads faster than the driver can.
"""

import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import pymysql
from pymysql.constants import COMMAND, FIELD_TYPE
from pymysql.cursors import Cursor

from stepvault.engines.base import Connection
from stepvault.errors import (
    ConfigInvalid,
    OutOfTime,
    SourceBusy,
    SourceChanged,
    SourceCorrupt,
    SourceDenied,
    SourceMissing,
    SourceUnreachable,
    SourceUnsupported,
    StepvaultError,
)

#: Seconds that any statement waits for a lock before it says who holds it.
LOCK_WAIT = 10
#: Seconds without a byte from the server before the connection counts as lost.
READ_TIMEOUT = 600
#: What the text of values means, in our sessions and at the top of every file.
SQL_MODE = "NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES"

_SETTINGS = (
    f"sql_mode='{SQL_MODE}'",
    "time_zone='+00:00'",
    "wait_timeout=28800",
    "net_read_timeout=3600",
    "net_write_timeout=3600",  # a slow vault holds the reader back, not the server's patience
    "sql_quote_show_create=1",
    # A server-wide limit would end a table early in silence.
    "sql_select_limit=18446744073709551615",
    "sql_big_selects=1",
    "sql_safe_updates=0",
)
#: Only some servers know these, or let everybody set them.
_OPTIONAL_SETTINGS = (
    "max_statement_time=0",  # MariaDB
    "max_execution_time=0",  # MySQL
    "idle_transaction_timeout=0",  # MariaDB
    "idle_readonly_transaction_timeout=0",  # MariaDB
    "show_create_table_skip_secondary_engine=0",  # MySQL 8
    "information_schema_stats_expiry=0",  # MySQL 8: sizes and times as they are, not of yesterday
    "max_error_count=1024",  # warnings tell of values that could not be given as they are
    "check_constraint_checks=0",  # MariaDB: rows older than a CHECK come back, too
)


def quote(name: str) -> str:
    """An identifier as SQL wants it."""
    return "`" + name.replace("`", "``") + "`"


def literal(text: str) -> str:
    """A string as SQL wants it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


class Session:
    """One open connection; not shared between threads, except for :meth:`cut`."""

    def __init__(self, driver: "pymysql.Connection[Cursor]", address: str) -> None:
        self._driver = driver
        self.address = address
        self.cancelled = False
        self.in_answer = False
        """An answer is being streamed; until it ends the connection is good for nothing else."""
        self.id: int = driver.thread_id()  # type: ignore[no-untyped-call]
        version: str = driver.get_server_info()  # type: ignore[no-untyped-call]
        self.version = version.removeprefix("5.5.5-")  # MariaDB's mask for old clients
        self.mariadb = "mariadb" in version.lower()
        numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", self.version)
        if numbers is None:
            raise SourceUnsupported(f"{address} answers with server version {version!r}")
        self.number = tuple(int(n) for n in numbers.groups())

    def rows(self, sql: str, what: str = "") -> list[tuple[Any, ...]]:
        """All rows of a small result; ``what`` it is about stands in errors' messages."""
        with self.errors(what), self._driver.cursor() as cursor:
            cursor.execute(sql)
            return [tuple(map(_decoded, row)) for row in cursor.fetchall()]

    def one(self, sql: str, what: str = "") -> tuple[Any, ...]:
        """The only row, or an empty tuple."""
        return next(iter(self.rows(sql, what)), ())

    def run(self, sql: str | bytes, what: str = "") -> int:
        """Run a statement; returns the rows it changed."""
        with self.errors(what):
            return self._driver.query(sql)

    def stream(self, sql: str) -> socket.socket:
        """Send a query and return the socket its answer comes through."""
        self.in_answer = True
        with self.errors():
            self._driver._execute_command(COMMAND.COM_QUERY, sql)  # type: ignore[attr-defined]
        return self._driver._sock  # type: ignore[attr-defined,no-any-return]

    def wait_for_locks(self, seconds: int) -> None:
        """How long a statement waits for a lock before it fails."""
        self.run(f"SET SESSION lock_wait_timeout={seconds}, innodb_lock_wait_timeout={seconds}")

    def cut(self) -> None:
        """Break the connection from another thread: whoever reads from it gets an error."""
        self.cancelled = True
        sock = getattr(self._driver, "_sock", None)
        if sock is not None:
            with suppress(OSError):  # SSLSocket's own shutdown is not for two threads
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def close(self) -> None:
        # _force_close: no farewell on a connection that may be broken or in mid-answer.
        self._driver._force_close()  # type: ignore[attr-defined]

    @contextmanager
    def errors(self, what: str = "") -> Iterator[None]:
        """Raise the driver's and the network's errors as ours.

        Args:
            what: the thing at hand, such as a table, for the message.
        """
        try:
            yield
        except (pymysql.Error, OSError) as error:
            if self.cancelled:
                raise OutOfTime(f"reading from {self.address} was called off") from None
            number, said = _number_and_text(error)
            fail(number, said, self.address, what)


#: Numbers become int, all else comes as text.
_CONVERSIONS: dict[Any, Any] = dict.fromkeys(
    (FIELD_TYPE.TINY, FIELD_TYPE.SHORT, FIELD_TYPE.INT24, FIELD_TYPE.LONG, FIELD_TYPE.LONGLONG), int
)


def server_of(connection: Connection | None) -> Connection:
    """The connection, which this engine cannot do without.

    Raises:
        ConfigInvalid: there is none.
    """
    if connection is None:
        raise ConfigInvalid("a MySQL source or target needs a connection", "Give it one")
    return connection


def connect(connection: Connection, database: str | None = None) -> Session:
    """Open a connection and set it up.

    Args:
        connection: where and who.
        database: the database to use; the connection's own is not opened by itself.

    Raises:
        SourceUnreachable, SourceDenied, SourceMissing, SourceBusy, SourceUnsupported, ConfigInvalid.
    """
    port = connection.port or 3306
    address = f"MySQL server {connection.host}:{port}"
    try:
        driver = pymysql.connect(
            host=connection.host,
            port=port,
            user=connection.user,
            password=connection.password or "",
            database=database,
            charset="utf8mb4",
            conv=_CONVERSIONS,
            use_unicode=False,  # definitions may hold bytes that are no text, see _decoded
            autocommit=True,
            connect_timeout=connection.connect_timeout,
            read_timeout=connection.connect_timeout,  # for the greeting; see below
            write_timeout=READ_TIMEOUT,
            program_name="stepvault",
            **_tls(connection),
        )
    except (pymysql.Error, OSError) as error:
        number, said = _number_and_text(error)
        fail(number, said, f"{address} (user {connection.user})", "")
    except RuntimeError as error:  # MySQL 8 takes a password only over TLS or with cryptography
        raise ConfigInvalid(f"{address}: {error}", "Set the connection's tls to require") from None
    driver._read_timeout = READ_TIMEOUT  # type: ignore[attr-defined]
    _keep_alive(driver._sock)  # type: ignore[attr-defined]
    session = Session(driver, address)
    try:
        session.run("SET SESSION " + ", ".join(_SETTINGS))
        session.wait_for_locks(LOCK_WAIT)
        optional = [f"SET SESSION {setting}" for setting in _OPTIONAL_SETTINGS]
        if not session.mariadb:  # MySQL 8 has roles that are granted and not in force by themselves
            optional.append("SET ROLE ALL")
        for statement in optional:
            with suppress(pymysql.Error), driver.cursor() as cursor:
                cursor.execute(statement)
    except BaseException:
        session.close()
        raise
    return session


def _tls(connection: Connection) -> dict[str, Any]:
    mode = connection.tls
    if mode == "disable":
        return {"ssl_disabled": True}
    if mode == "prefer":
        return {}
    try:
        context = ssl.create_default_context(cafile=connection.tls_ca)
    except OSError as error:
        raise ConfigInvalid(
            f"connection.tls_ca: cannot read {connection.tls_ca}: {error.strerror or error}",
            "Name a readable PEM file",
        ) from None
    # As the driver does for its own contexts: the CAs that MySQL makes for itself break the rules.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.check_hostname = mode == "verify-full"
    if mode == "require":
        context.verify_mode = ssl.CERT_NONE
    return {"ssl": context}


def _keep_alive(sock: socket.socket) -> None:
    """Notice within two minutes that the other side is gone, though nothing is being sent."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _decoded(value: Any) -> Any:
    """Bytes as text; those that are none (the default of a binary column) come back by
    encoding with surrogateescape."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def _number_and_text(error: Exception) -> tuple[int, str]:
    if isinstance(getattr(error, "original_exception", error), ssl.SSLError):
        return 2026, str(error.args[-1])
    if isinstance(error, pymysql.Error) and len(error.args) >= 2:
        return int(error.args[0]), str(error.args[1])
    return 2013, str(error) or type(error).__name__


_PACKET = "Raise max_allowed_packet on the server above the size of its largest row"
_GRANT = "Grant the user SELECT, SHOW VIEW, TRIGGER, EVENT and (for routines) SELECT ON mysql.proc or SHOW_ROUTINE"

#: Server and client error numbers by what they mean to the caller.
_MEANING: dict[int, tuple[type[StepvaultError], str]] = {
    number: (kind, fix)
    for numbers, kind, fix in (
        ((1045, 1698, 1130), SourceDenied, "Check user, password and the host the user may come from"),
        ((1044, 1142, 1143, 1227, 1370, 1419), SourceDenied, _GRANT),
        ((1049,), SourceMissing, "Check the database's name"),
        ((2026,), SourceUnreachable, "Check the connection's tls and tls_ca against the server's certificate"),
        (
            (0, 2002, 2003, 2005, 2006, 2013, 2055, 1053, 1077, 1079, 1080, 1927, 1317, 1152, 1158, 1159, 1160, 1161),
            SourceUnreachable,
            "Check that the server runs and that host, port, security group and route let us in",
        ),
        ((1040, 1203, 1226, 1129), SourceBusy, "Wait, or allow the user more connections"),
        ((1205, 1213, 3572), SourceBusy, "Run the backup when the lock is free"),
        ((1969, 3024), SourceBusy, "Raise the server's limit on a statement's time for this user"),
        ((1412, 1146, 1051, 1054, 1932), SourceChanged, "Try again when no migration is under way"),
        ((1153, 1301, 1162, 1105), SourceUnsupported, _PACKET),
        ((126, 127, 134, 144, 145, 1034, 1035, 1194, 1195, 1712), SourceCorrupt, "Run CHECK TABLE on the server"),
    )
    for number in numbers
}  # fmt: skip


def fail(number: int, said: str, address: str, what: str) -> NoReturn:
    """Raise the error that the server's number stands for."""
    kind, fix = _MEANING.get(number, (SourceUnsupported, ""))
    about = f"{what}: " if what else ""
    raise kind(f"{about}{address} answered {number}: {said.strip().rstrip('.')}", fix) from None


def blocking(connection: Connection, own: Sequence[int]) -> str:
    """Who most likely holds the lock, for a message; never raises.

    Args:
        own: connection ids that are ours.
    """
    try:
        session = connect(connection)
    except StepvaultError:
        return "the holder could not be asked for"
    try:
        ours = ",".join(str(i) for i in (*own, session.id))
        # Statements that run come first, then idle transactions, then idle connections.
        rows = session.rows(
            "SELECT p.id, p.user, p.host, p.command, p.time, COALESCE(p.info, '') FROM information_schema.processlist p"
            " LEFT JOIN information_schema.innodb_trx t ON t.trx_mysql_thread_id = p.id"
            f" WHERE p.id NOT IN ({ours}) AND p.command NOT IN ('Daemon', 'Binlog Dump', 'Slave_IO', 'Slave_SQL')"
            " AND p.user NOT IN ('system user', 'event_scheduler')"
            " ORDER BY COALESCE(p.state, '') LIKE 'Waiting for%', p.info IS NULL, t.trx_id IS NULL, p.time DESC LIMIT 1"
        )
    except StepvaultError:
        rows = []
    finally:
        session.close()
    if not rows:
        return "the holder is not visible to this user: grant PROCESS to have it named"
    number, user, host, command, seconds, statement = rows[0]
    doing = f"running {statement[:200]!r}" if statement else f"idle ({command})"
    return f"most likely held by connection {number} of {user}@{host}, {doing} for {seconds} s"
