"""The servers of the tests: each starts, restarts with its data, ends, and says why it did not start."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from devtools.servers.mariadb import MariaDb
from devtools.servers.mysql import MySql
from devtools.servers.postgres import PostgresServer
from devtools.servers.server import Server

BRANDS: dict[str, Callable[[], Server]] = {
    "postgres": PostgresServer,
    "mariadb": MariaDb,
    "mysql": MySql,
}
BROKEN: dict[str, Callable[[], Server]] = {
    "postgres": lambda: PostgresServer(settings={"max_connections": "-5"}),
    "mariadb": lambda: MariaDb(["--no-such-option"]),
    "mysql": lambda: MySql(["--no-such-option"]),
}


def ask(server: Server, statement: str) -> str:
    if isinstance(server, PostgresServer):
        return server.psql(statement)
    assert isinstance(server, MariaDb)
    return ", ".join(str(row[0]) for row in server.sql(statement))


@pytest.mark.parametrize("brand", BRANDS)
def test_a_server_starts_again_with_its_data_and_leaves_nothing(brand: str) -> None:
    with BRANDS[brand]() as server:
        ask(server, "CREATE USER somebody")
        first = server.pid
        server.stop()
        assert not running(first)
        server.start()
        users = "pg_roles WHERE rolname" if brand == "postgres" else "mysql.user WHERE user"
        assert ask(server, f"SELECT count(*) FROM {users} = 'somebody'") == "1"
        pid, folder = server.pid, server.folder
        if os.geteuid() == 0:
            assert Path(f"/proc/{pid}").stat().st_uid != 0, "no server runs as root"
    assert not folder.exists()
    assert not running(pid)


@pytest.mark.parametrize("brand", BRANDS)
def test_a_server_that_does_not_start_is_quoted(brand: str) -> None:
    with pytest.raises(RuntimeError, match=r"did not start|failed") as caught, BROKEN[brand]():
        pass
    assert "max_connections" in str(caught.value) or "no-such-option" in str(caught.value)


def running(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIG_DFL)
    except ProcessLookupError:
        return False
    return True
