"""A real server of each kind for all tests here, with its binary log on.

Tests run on MariaDB and on MySQL, but for those marked ``mariadb``, which are about what MySQL does not have.
"""

from collections.abc import Iterator

import pytest

from devtools.servers.mariadb import MariaDb
from devtools.servers.mysql import MySql
from tests.engines.mysql import data
from tests.engines.mysql.rig import MariaDbRig

BRANDS = {"mariadb": MariaDb, "mysql": MySql}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    other_brand = [i for i in items if i.get_closest_marker("mariadb") and _brand(i) == "mysql"]
    config.hook.pytest_deselected(items=other_brand)
    items[:] = [i for i in items if i not in other_brand]


def _brand(item: pytest.Item) -> str | None:
    params: dict[str, str] = getattr(getattr(item, "callspec", None), "params", {})
    return params.get("brand")


@pytest.fixture(scope="session", params=BRANDS)
def brand(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def server(brand: str) -> Iterator[MariaDb]:
    options = [
        "--log-bin=binlog",
        "--server-id=1",
        "--binlog-format=ROW",
        "--max-allowed-packet=64M",
    ]
    with BRANDS[brand](options) as server:
        server.sql(
            "CREATE USER dumper@127.0.0.1 IDENTIFIED BY 'dump-me'",
            "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, RELOAD, LOCK TABLES, PROCESS, BINLOG MONITOR ON *.* TO dumper@127.0.0.1",
            "SET GLOBAL log_bin_trust_function_creators=1",
            "SET GLOBAL group_concat_max_len=1000000",
        )
        shop, wide = data.SHOP, data.WIDE
        data.make(server, "shop", data.for_mysql(shop + wide) if brand == "mysql" else shop + wide)
        yield server


@pytest.fixture(scope="session")
def other(brand: str) -> Iterator[MariaDb]:
    """A second server, without a binary log and with small packets; tests make its databases."""
    with BRANDS[brand]([BRANDS[brand].no_binary_log, "--max-allowed-packet=4M"]) as server:
        server.sql("SET GLOBAL log_bin_trust_function_creators=1")
        yield server


@pytest.fixture
def rig(server: MariaDb) -> Iterator[MariaDbRig]:
    rig = MariaDbRig(server)
    yield rig
    server.sql("SELECT 1", *(f"DROP DATABASE {name}" for name in rig.made))


@pytest.fixture
def small(rig: MariaDbRig) -> str:
    """A small database with everything in it."""
    name = rig.new_database()
    rig.server.sql(
        "CREATE TABLE one (id INT PRIMARY KEY)",
        "INSERT INTO one VALUES (1), (2)",
        "CREATE TABLE two (id INT PRIMARY KEY)",
        "INSERT INTO two VALUES (3)",
        f"CREATE TRIGGER {name}.guard BEFORE INSERT ON {name}.one FOR EACH ROW SET NEW.id = NEW.id",
        "CREATE DEFINER=`someone`@`%` VIEW all_of_it AS SELECT one.id FROM one JOIN two",
        "CREATE FUNCTION four () RETURNS INT RETURN 4",
        "CREATE SEQUENCE counter",
        "CREATE TABLE counted (id INT DEFAULT NEXTVAL(counter))",
        database=name,
    )
    return name


@pytest.fixture
def pair(rig: MariaDbRig) -> Iterator[None]:
    """Make a database ``pair`` of two tables; ``larger`` is read first."""
    rig.server.sql("CREATE OR REPLACE DATABASE pair")
    rig.server.sql(
        "CREATE TABLE larger (id INT PRIMARY KEY, t VARCHAR(200))",
        "INSERT INTO larger SELECT seq, REPEAT('x', 150) FROM seq_1_to_20000",
        "CREATE TABLE smaller (id INT PRIMARY KEY, t VARCHAR(50))",
        "INSERT INTO smaller VALUES (1, 'one')",
        "ANALYZE TABLE larger, smaller",
        database="pair",
    )
    yield
    rig.server.sql("DROP DATABASE pair")
