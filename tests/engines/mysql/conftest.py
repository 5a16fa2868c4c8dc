"""One real server for all tests here, with its binary log on."""

from collections.abc import Iterator

import pytest

from examples.demo.mariadb_server import MariaDb
from tests.engines.mysql import data
from tests.engines.mysql.test_contract import MariaDbRig


@pytest.fixture(scope="session")
def server() -> Iterator[MariaDb]:
    options = [
        "--log-bin=binlog",
        "--server-id=1",
        "--binlog-format=ROW",
        "--max-allowed-packet=64M",
    ]
    with MariaDb(options) as server:
        server.sql(
            "CREATE USER dumper@127.0.0.1 IDENTIFIED BY 'dump-me'",
            "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, RELOAD, LOCK TABLES, PROCESS, BINLOG MONITOR ON *.* TO dumper@127.0.0.1",
            "SET GLOBAL log_bin_trust_function_creators=1",
        )
        data.make(server, "shop", data.SHOP + data.WIDE)
        yield server


@pytest.fixture(scope="session")
def other() -> Iterator[MariaDb]:
    """A second server, without a binary log and with small packets; tests make its databases."""
    with MariaDb(["--max-allowed-packet=4M"]) as server:
        server.sql("SET GLOBAL log_bin_trust_function_creators=1")
        yield server


@pytest.fixture
def rig(server: MariaDb) -> Iterator[MariaDbRig]:
    rig = MariaDbRig(server)
    yield rig
    server.sql("SELECT 1", *(f"DROP DATABASE {name}" for name in rig.made))
