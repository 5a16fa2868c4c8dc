"""One connection to a MySQL or MariaDB server.

``connect`` opens a :class:`Session` and sets it up so that values are read and written exactly.
Every method of a session raises errors of ``stepvault.errors`` only. ``Session.stream`` gives the
raw socket to ``wire.py``, which reads faster than the driver can.
"""

import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

import pymysql
from pymysql.constants import COMMAND, FIELD_TYPE
from pymysql.cursors import Cursor

from stepvault.engines.base import Connection
from stepvault.engines.mysql.errors import fail, number_and_text
from stepvault.errors import ConfigInvalid, OutOfTime, SourceUnsupported, StepvaultError

#: Seconds that any statement waits for a lock before it says who holds it.
LOCK_WAIT = 10
#: Seconds without a byte from the server before the connection counts as lost.
READ_TIMEOUT = 600
#: How the server reads and writes values as text, in our sessions and in every file.
SQL_MODE = "NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES"

_SETTINGS = (
    f"sql_mode='{SQL_MODE}'",
    "time_zone='+00:00'",
    "wait_timeout=28800",
    "net_read_timeout=3600",
    "net_write_timeout=3600",  # a slow upload must not make the server end the connection
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
    "information_schema_stats_expiry=0",  # MySQL 8: current sizes and times, not cached ones
    "max_error_count=1024",  # warnings name the values that the server could not give exactly
    "lc_messages='en_US'",
    "check_constraint_checks=0",  # MariaDB: a table may hold rows that are older than its CHECK
)


def quote(name: str) -> str:
    """Quote an identifier for SQL."""
    return "`" + name.replace("`", "``") + "`"


def literal(text: str) -> str:
    """Quote a string for SQL."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


class Session:
    """One open connection; not shared between threads, except for :meth:`cut`."""

    def __init__(
        self, driver: "pymysql.Connection[Cursor]", address: str, target: bool = False
    ) -> None:
        self._driver = driver
        self.address = address
        self.target = target
        """Restored to, not backed up: errors mean something else then."""
        self.cancelled = False
        self.in_answer = False
        """True while an answer is being streamed: no other statement can run until it has ended."""
        self.id: int = driver.thread_id()  # type: ignore[no-untyped-call]
        version: str = driver.get_server_info()  # type: ignore[no-untyped-call]
        self.version = version.removeprefix("5.5.5-")  # MariaDB's mask for old clients
        self.mariadb = "mariadb" in version.lower()
        numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", self.version)
        if numbers is None:
            raise SourceUnsupported(f"{address} answers with server version {version!r}")
        self.number = tuple(int(n) for n in numbers.groups())

    @cached_property
    def folds(self) -> bool:
        """Whether the server writes the names of databases and tables in lower case."""
        return bool(self.one("SELECT @@lower_case_table_names")[0] == 1)

    @cached_property
    def collations(self) -> dict[str, str]:
        """The default collation of each character set."""
        query = (
            "SELECT character_set_name, default_collate_name FROM information_schema.character_sets"
        )
        return {str(charset): str(collation) for charset, collation in self.rows(query)}

    def fold(self, name: str) -> str:
        """Return the name of a database or table as the server writes it."""
        return name.lower() if self.folds else name

    def rows(self, sql: str, what: str = "") -> list[tuple[Any, ...]]:
        """Return all rows of a small result.

        Args:
            sql: the query.
            what: the thing it is about, for the messages of errors.
        """
        with self.errors(what), self._driver.cursor() as cursor:
            cursor.execute(sql)
            return [tuple(map(_decoded, row)) for row in cursor.fetchall()]

    def one(self, sql: str, what: str = "") -> tuple[Any, ...]:
        """Return the first row, or an empty tuple if there is none."""
        return next(iter(self.rows(sql, what)), ())

    def run(self, sql: str | bytes, what: str = "") -> int:
        """Run a statement and return the number of rows it changed."""
        with self.errors(what):
            return self._driver.query(sql)

    @property
    def warnings(self) -> int:
        """How many warnings the last statement has left."""
        result = self._driver._result  # type: ignore[attr-defined]
        return int(result.warning_count) if result else 0

    def stream(self, sql: str) -> socket.socket:
        """Send a query and return the socket from which its answer can be read."""
        self.in_answer = True
        with self.errors():
            self._driver._execute_command(COMMAND.COM_QUERY, sql)  # type: ignore[attr-defined]
        return self._driver._sock  # type: ignore[attr-defined,no-any-return]

    def wait_for_locks(self, seconds: int) -> None:
        """Set how many seconds a statement waits for a lock before it fails."""
        self.run(f"SET SESSION lock_wait_timeout={seconds}, innodb_lock_wait_timeout={seconds}")

    def cut(self) -> None:
        """Break the connection from another thread: a blocked reader gets an error."""
        self.cancelled = True
        sock = getattr(self._driver, "_sock", None)
        if sock is not None:
            with suppress(OSError):  # SSLSocket's own shutdown is not for two threads
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection, whatever state it is in."""
        # _force_close sends nothing: the connection may be broken or in the middle of an answer.
        self._driver._force_close()  # type: ignore[attr-defined]

    @contextmanager
    def errors(self, what: str = "") -> Iterator[None]:
        """Turn errors of the driver and the network into ours.

        Args:
            what: the thing at hand, such as a table, for the message.
        """
        try:
            yield
        except (pymysql.Error, OSError) as error:
            if self.cancelled:
                raise OutOfTime(f"reading from {self.address} was cancelled") from None
            fail(*number_and_text(error), self.address, what, self.target)


#: Integers become int, everything else comes as text.
_CONVERSIONS: dict[Any, Any] = dict.fromkeys(
    (FIELD_TYPE.TINY, FIELD_TYPE.SHORT, FIELD_TYPE.INT24, FIELD_TYPE.LONG, FIELD_TYPE.LONGLONG), int
)


def server_of(connection: Connection | None) -> Connection:
    """Return the connection, which must be there.

    Raises:
        ConfigInvalid: it is None.
    """
    if connection is None:
        raise ConfigInvalid("a MySQL source or target needs a connection", "Give it one")
    return connection


def connect(connection: Connection, database: str | None = None, target: bool = False) -> Session:
    """Open a connection and set it up.

    Args:
        connection: address and credentials.
        database: the database to use; None to use none, whatever the connection names.
        target: the connection is for a restore.

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
            use_unicode=False,  # definitions may hold bytes that are not UTF-8, see _decoded
            autocommit=True,
            connect_timeout=connection.connect_timeout,
            read_timeout=connection.connect_timeout,  # for the greeting; see below
            write_timeout=READ_TIMEOUT,
            program_name="stepvault",
            **_tls(connection),
        )
    except (pymysql.Error, OSError) as error:
        fail(*number_and_text(error), f"{address} (user {connection.user})", "", target)
    except RuntimeError as error:  # a way to log in that needs another package
        raise _login_needs(str(error), f"{address} (user {connection.user})") from None
    driver._read_timeout = READ_TIMEOUT  # type: ignore[attr-defined]
    _keep_alive(driver._sock)  # type: ignore[attr-defined]
    session = Session(driver, address, target)
    try:
        session.run("SET SESSION " + ", ".join(_SETTINGS))
        session.wait_for_locks(LOCK_WAIT)
        optional = [f"SET SESSION {setting}" for setting in _OPTIONAL_SETTINGS]
        if not session.mariadb:  # in MySQL 8 a granted role is not active by itself
            optional.append("SET ROLE ALL")
        for statement in optional:
            with suppress(pymysql.Error), driver.cursor() as cursor:
                cursor.execute(statement)
    except BaseException:
        session.close()
        raise
    return session


def _login_needs(text: str, address: str) -> ConfigInvalid:
    """Return what the driver's demand for another package asks of the person."""
    if "pynacl" in text.lower():
        return ConfigInvalid(
            f"{address}: the account logs in by ed25519, which needs the package PyNaCl",
            "Add PyNaCl to layers/deps/requirements.in and build the layers, or give the account another"
            " plugin: ALTER USER … IDENTIFIED VIA mysql_native_password USING PASSWORD('…')",
        )
    # MySQL 8 takes a password only over TLS or with the package cryptography.
    return ConfigInvalid(f"{address}: {text}", "Set the connection's tls to require")


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
    # As the driver does: the certificates that MySQL generates do not pass the strict checks.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.check_hostname = mode == "verify-full"
    if mode == "require":
        context.verify_mode = ssl.CERT_NONE
    return {"ssl": context}


def _keep_alive(sock: socket.socket) -> None:
    """Notice within two minutes that the server is gone, even while nothing is sent."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _decoded(value: Any) -> Any:
    """Decode bytes as text.

    Bytes that are not UTF-8 (the default of a binary column) become surrogates, which encoding
    with surrogateescape turns back.
    """
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def blocking(connection: Connection, own: Sequence[int]) -> str:
    """Describe who most likely holds a lock, for a message; never raise.

    Args:
        connection: how to reach the server.
        own: the ids of our own connections.
    """
    try:
        session = connect(connection)
    except StepvaultError:
        return "the server could not be asked who holds it"
    try:
        ours = ",".join(str(i) for i in (*own, session.id))
        # Running statements first, then idle transactions, then idle connections.
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
        return "this user may not see who holds it: grant PROCESS to have the holder named"
    number, user, host, command, seconds, statement = rows[0]
    doing = f"running {statement[:200]!r}" if statement else f"idle ({command})"
    return f"most likely held by connection {number} of {user}@{host}, {doing} for {seconds} s"
