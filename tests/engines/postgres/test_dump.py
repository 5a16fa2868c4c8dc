"""What pg_dump is told to leave out is left out, whatever its name."""

from pathlib import Path

import pytest

from devtools.servers.postgres import PostgresServer
from stepvault.engines.postgres import engine, toc
from stepvault.engines.postgres.target import name_of
from tests.engines.driver import restore_job, run_restore
from tests.engines.postgres.rig import address, holds, new_database, run, source

#: Names that filter files, psql or scripts may read as something else.
NAMES = [
    "back\\slash",
    "back\\nslash",
    "two\\\\",
    "carriage\rreturn",
    "line\nfeed",
    "both\r\n\\",
    "line\n\\! touch pwned",
    "\\q",
    "line\n\\restrict x",
    "line\n\\unrestrict x",
    "line\nSET transaction_timeout = 0;",
    "star*",
    "wh?t",
    'quo"te',
    'quo"te\\',
    ":variable",
    ":'variable'",
    "dot.ted",
    "#comment",
    "exclude table_data x",
    "(a|b)",
    "$x$",
    "tab\there",
    " blank ",
    "--dash",
    "/* slash",
    "COPY x FROM stdin;\n\\.\n",
]


def made(server: PostgresServer) -> str:
    """A table, a view, an index, a key and a policy of each name, in a schema of that name."""
    database = new_database(server)
    for number, name in enumerate(NAMES):
        quoted = '"' + name.replace('"', '""') + '"'
        literal = "'" + name.replace("'", "''") + "'"
        table = f"{quoted}.{quoted}"
        server.psql(
            f"CREATE SCHEMA {quoted}; CREATE TABLE {table} ({quoted} int PRIMARY KEY, t text);"
            f"INSERT INTO {table} SELECT i, {literal} FROM generate_series(1, 5) i;"
            f"CREATE VIEW {quoted}.v AS SELECT {quoted} FROM {table};"
            f'CREATE INDEX "i{number}" ON {table} (t) WHERE t <> {literal};'
            f"ALTER TABLE {table} ADD CONSTRAINT \"c{number}\" CHECK (t <> {literal} || 'x');"
            f"COMMENT ON TABLE {table} IS {literal}",
            database=database,
        )
    return database


@pytest.fixture(params=["18", "15"])
def server(request: pytest.FixtureRequest) -> PostgresServer:
    found: PostgresServer = request.getfixturevalue(f"pg{request.param}")
    return found


def test_each_row_is_stored_once_and_comes_back(
    server: PostgresServer, pg18: PostgresServer, tmp_path: Path
) -> None:
    name = made(server)
    result = run(server, name, tmp_path / "vault")
    assert [o.rows for o in result.objects if "table" in o.facts] == [5] * len(NAMES)
    where = address(server, new_database(server))
    job = restore_job(result, tmp_path / "vault", source(name), connection=where)
    run_restore(engine, job)
    assert engine.differences(job) == []
    assert holds(server, name_of(job)) == holds(server, name)
    stock = new_database(pg18)
    pg18.run("pg_restore", "--exit-on-error", "-d", stock, tmp_path / "vault")
    assert holds(pg18, stock).keys() == holds(server, name).keys()


@pytest.mark.parametrize("name", NAMES)
def test_a_table_of_that_name_is_left_out_alone(
    name: str, pg18: PostgresServer, tmp_path: Path
) -> None:
    database = new_database(pg18)
    quoted = '"' + name.replace('"', '""') + '"'
    pg18.psql(
        f'CREATE TABLE {quoted} AS SELECT 1 AS i; CREATE TABLE {quoted[:-1]}+" AS SELECT 2 AS i',
        database=database,
    )
    pattern = "public." + name.replace("*", "?")
    result = run(pg18, database, tmp_path / "vault", exclude_tables=[pattern])
    archive = toc.read((tmp_path / "vault" / "toc.dat").read_bytes())
    assert [e.tag.decode() for e in archive.entries if e.kind == b"TABLE"] == [name + "+"]
    rows = [e.tag.decode() for e in archive.entries if e.kind == b"TABLE DATA"]
    assert rows == [name + "+"]
    assert [o.facts["table"] for o in result.objects if "table" in o.facts] == [f"public.{name}+"]
