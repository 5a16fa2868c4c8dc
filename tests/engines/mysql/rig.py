"""Sources and targets on a real server, for the contract of all engines and for other tests."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

import pymysql

from devtools.servers.mariadb import MariaDb
from stepvault.engines.base import Connection, Engine
from stepvault.engines.mysql import engine
from stepvault.records import StoredObject
from stepvault.settings import ConnectionSettings, MySqlSource
from tests.engines.contract import ServerRig, Target
from tests.engines.mysql import data

_numbers = count()


class MariaDbRig(ServerRig):
    engine: Engine = engine
    secrets = ("dump-me", MariaDb.password)

    def __init__(self, server: MariaDb) -> None:
        self.server = server
        self.made: list[str] = []

    def source(self, database: str, **settings: Any) -> MySqlSource:
        at = ConnectionSettings(url_env="MYSQL_URL")
        return MySqlSource(
            name="shop", engine="mysql", connection=at, databases=[database], **settings
        )

    def new_database(self) -> str:
        self.made.append(f"made_{next(_numbers)}")
        self.server.sql(f"CREATE DATABASE {self.made[-1]}")
        return self.made[-1]

    def as_root(self, database: str) -> Connection:
        return Connection("127.0.0.1", self.server.port, "root", self.server.password, database)

    def as_dumper(self, **more: Any) -> Connection:
        return Connection("127.0.0.1", self.server.port, "dumper", **{"password": "dump-me"} | more)

    def job(self, source: Any) -> dict[str, Any]:
        return {"connection": self.as_dumper(), "connections": 3}

    def filled(self) -> Any:
        return self.source("shop")

    def empty(self) -> Any:
        return self.source(self.new_database())

    def missing(self) -> Any:
        return self.source("no_such_database")

    def target(self) -> Target:
        return {"connection": self.as_root(self.new_database()), "connections": 2}

    def occupied(self, source: Any) -> Target:
        target = self.target()
        self.server.sql(
            "CREATE TABLE orders (id INT PRIMARY KEY)",
            "INSERT INTO orders VALUES (1)",
            database=target["connection"].database,
        )
        return target

    def content(self, where: Any) -> Any:
        name = (
            where.databases[0] if isinstance(where, MySqlSource) else where["connection"].database
        )
        return data.contents(self.server, name)

    def content_of(self, stored: StoredObject, target: Target) -> Any:
        name = stored.facts["name"].replace("`", "``")
        return self.server.sql(
            f"SELECT COUNT(*) FROM `{name}`", database=target["connection"].database
        )[0][0]

    def interrupt(self, source: Any) -> None:
        for (number,) in self.server.sql(
            "SELECT id FROM information_schema.processlist WHERE user='dumper'"
        ):
            with suppress(pymysql.err.OperationalError):  # ended by itself
                self.server.sql(f"KILL {number}")

    def damage(self, target: Target) -> None:
        self.server.sql(
            "UPDATE orders SET total = total + 1 WHERE id = 77",
            database=target["connection"].database,
        )

    def wrong_password(self, source: Any) -> tuple[str, dict[str, Any]]:
        return "let-me-in", {"connection": self.as_dumper(password="let-me-in")}

    def unreachable(self, source: Any) -> dict[str, Any]:
        return {"connection": Connection("127.0.0.1", 1, "dumper", "dump-me", connect_timeout=2)}

    @contextmanager
    def stalled(self, source: Any) -> Iterator[None]:
        os.kill(self.server.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.server.pid, signal.SIGCONT)
