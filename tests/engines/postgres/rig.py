"""PostgreSQL sources and targets for the engine contract: databases of a real server."""

import itertools
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from devtools.servers.postgres import PostgresServer, free_port
from stepvault.engines.base import Connection
from stepvault.engines.postgres import engine
from stepvault.records import StoredObject
from stepvault.settings import PostgresSource
from tests.engines.contract import ServerRig, Target
from tests.engines.driver import Result, back_up

ODD = Path(__file__).with_name("odd.sql")
_numbers = itertools.count()


def make_odd(server: PostgresServer, name: str = "odd", rows: int = 20_000) -> str:
    """The database of odd things; its largest table is one of 400 bytes per row."""
    server.psql(f"CREATE DATABASE {name} TEMPLATE template0")
    server.run("psql", "-X", "-q", "-v", f"big={rows}", "-f", ODD, database=name)
    return name


def new_database(server: PostgresServer, template: str = "template0") -> str:
    """A database of its own for one test."""
    name = f"db{next(_numbers)}"
    server.psql(f"CREATE DATABASE {name} TEMPLATE {template}")
    return name


def source(name: str, **settings: Any) -> PostgresSource:
    """Settings of a source; in these tests its name is that of the database."""
    given = {"name": name, "engine": "postgres", "connection": {"url_env": "UNUSED"}}
    return PostgresSource.model_validate(given | settings)


def address(server: PostgresServer, database: str, **more: Any) -> Connection:
    usual = Connection(
        host=server.host,
        port=server.port,
        user=server.user,
        password=server.password,
        database=database,
    )
    return replace(usual, **more)


def run(server: PostgresServer, database: str, vault: Path, **settings: Any) -> Result:
    """Back up a database into a folder that is made for it."""
    vault.mkdir()
    [result] = back_up(
        engine, source(database, **settings), vault, connection=address(server, database)
    )
    return result


def holds(server: PostgresServer, database: str) -> dict[str, Any]:
    """All that a database holds: definitions, rows in sorted order, sequences, large objects."""
    found: dict[str, Any] = {"definitions": definitions(server, database)}
    with closing(psycopg.connect(server.url(database), autocommit=True)) as session:
        session.execute("SET extra_float_digits = 3")
        relations = session.execute(
            "SELECT quote_ident(nspname) || '.' || quote_ident(relname), relkind::text FROM pg_class c"
            " JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind IN ('r', 'm', 'S')"
            " AND nspname !~ '^pg_' AND nspname <> 'information_schema'"
        ).fetchall()
        for name, kind in relations:
            if kind == "m" and not _one(
                session, "SELECT ispopulated FROM pg_matviews WHERE matviewname = %s", name[4:]
            ):
                found[name] = "not filled"
                continue
            what = "last_value::text || is_called" if kind == "S" else "x::text"
            found[name] = session.execute(
                sql.SQL(
                    f"SELECT count(*), md5(string_agg(md5({what}), '' ORDER BY md5({what})))"
                    f" FROM ONLY {name} AS x"
                )
            ).fetchone()
        found["large objects"] = session.execute(
            "SELECT oid, md5(lo_get(oid)), lomacl::text FROM pg_largeobject_metadata ORDER BY oid"
        ).fetchall()
    return found


def definitions(server: PostgresServer, database: str) -> str:
    """pg_dump's schema of the database, without its random restriction key."""
    lines = server.run("pg_dump", "--schema-only", database=database).splitlines()
    return "\n".join(x for x in lines if not x.startswith(("\\restrict", "\\unrestrict")))


def _one(session: psycopg.Connection[Any], query: str, *values: Any) -> Any:
    row = session.execute(query, values).fetchone()
    return row[0] if row else None


class PostgresRig(ServerRig):
    """Databases on one server; ``odd`` is the template of the filled ones."""

    engine = engine

    def __init__(self, server: PostgresServer, odd: str) -> None:
        self.server = server
        self.odd = odd
        self.secrets = [server.password]

    def job(self, source: Any) -> dict[str, Any]:
        return {"connection": address(self.server, source.name), "connections": 2}

    def filled(self) -> PostgresSource:
        return source(new_database(self.server, self.odd))

    def empty(self) -> PostgresSource:
        return source(new_database(self.server))

    def missing(self) -> PostgresSource:
        return source("nobody-made-this")

    def target(self) -> Target:
        return self._target(f"restored{next(_numbers)}")

    def occupied(self, source: Any) -> Target:
        name = new_database(self.server)
        self.server.psql("CREATE TABLE mine AS SELECT 1 AS x", database=name)
        return self._target(name)

    def content(self, where: Any) -> Any:
        return holds(self.server, self._name(where))

    def content_of(self, stored: StoredObject, target: Target) -> Any:
        with closing(psycopg.connect(self.server.url(self._name(target)))) as session:
            name = sql.Identifier(*stored.facts["table"].split(".", 1))
            return session.execute(sql.SQL("SELECT * FROM {} LIMIT 1").format(name)).fetchone()

    def interrupt(self, source: Any) -> None:
        ended = self.server.psql(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            f" WHERE datname = '{source.name}' AND query LIKE 'COPY%'"
        )
        assert int(ended) > 0

    def damage(self, target: Target) -> None:
        self.server.psql(
            "UPDATE app.customers SET notes = 'x' WHERE id = 7", database=self._name(target)
        )

    def wrong_password(self, source: Any) -> tuple[str, dict[str, Any]]:
        wrong = "open-sesame-123"
        return wrong, {"connection": address(self.server, source.name, password=wrong)}

    def unreachable(self, source: Any) -> dict[str, Any]:
        return {"connection": address(self.server, source.name, port=free_port())}

    @contextmanager
    def stalled(self, source: Any) -> Iterator[None]:
        self.server.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.server.signal(signal.SIGCONT)

    # ------------------------------------------------------------ inside

    def _target(self, name: str) -> Target:
        return {"connection": address(self.server, name), "connections": 2}

    @staticmethod
    def _name(where: Any) -> str:
        return str(where["connection"].database if isinstance(where, dict) else where.name)
