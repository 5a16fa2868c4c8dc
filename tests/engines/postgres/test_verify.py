"""A comparison goes by meaning: nothing is called different that is not, and all that is, is."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from devtools.servers.postgres import PostgresServer
from stepvault.engines.base import RestoreJob
from stepvault.engines.postgres import engine
from stepvault.errors import SourceDenied
from tests.engines.driver import restore_job, run_restore
from tests.engines.postgres.rig import address, new_database, run, source

MEANING = Path(__file__).with_name("meaning.sql")


@pytest.fixture(scope="module", params=["15 to 15", "15 to 18", "18 to 18"])
def restored(
    request: pytest.FixtureRequest, layer: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[PostgresServer, RestoreJob]]:
    """A restored copy of what servers print in several ways, with its job."""
    before, after = (request.getfixturevalue(f"pg{v}") for v in request.param.split(" to "))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{layer / 'bin'}:/usr/bin:/bin")
        yield after, _copy(before, after, tmp_path_factory.mktemp("meaning") / "vault")


def _copy(
    before: PostgresServer, after: PostgresServer, vault: Path, **settings: Any
) -> RestoreJob:
    name = new_database(before)
    before.psql(MEANING, database=name)
    result = run(before, name, vault, **settings)
    where = address(after, new_database(after))
    after.psql(f"ALTER DATABASE {where.database} SET TimeZone = 'Asia/Tokyo'")
    job = restore_job([result], vault, source(name), connection=where, connections=2)
    run_restore(engine, job)
    return job


def test_a_restored_copy_is_equal(restored: tuple[PostgresServer, RestoreJob]) -> None:
    server, job = restored
    before = server.psql("SELECT count(*) FROM pg_database")
    told: list[str] = []
    assert engine.differences(replace(job, not_compared=told.append)) == []
    assert server.psql("SELECT count(*) FROM pg_database") == before
    assert told == [
        "roles and tablespaces of the server (globals.sql)",
        "contents of materialized views",
        "owners, privileges and comments of large objects",
    ]


#: A change of the copy, and the line that tells of it.
CHANGES = {
    "column type": (
        "ALTER TABLE app.heir ALTER own TYPE varchar(5)",
        "TABLE app.heir is defined otherwise",
    ),
    "default": (
        "ALTER TABLE ONLY app.base ALTER later SET DEFAULT 6",
        "TABLE app.base is defined otherwise",
    ),
    "nullability": (
        "ALTER TABLE app.turned ALTER after DROP NOT NULL",
        "TABLE app.turned is defined otherwise",
    ),
    "check": (
        "ALTER TABLE app.people DROP CONSTRAINT state_known,"
        " ADD CONSTRAINT state_known CHECK (state IN ('new', 'odd'))",
        "TABLE app.people is defined otherwise",
    ),
    "check of a domain": (
        "ALTER DOMAIN app.code DROP CONSTRAINT code_check; ALTER DOMAIN app.code ADD CONSTRAINT code_check CHECK (VALUE IN ('de', 'it'))",
        "DOMAIN app.code is defined otherwise",
    ),
    "index predicate": (
        "DROP INDEX app.people_new; CREATE INDEX people_new ON app.people (name) WHERE state IN ('new')",
        "INDEX app.people_new is defined otherwise",
    ),
    "missing table of an odd name": (
        'DROP TABLE app."LARGE OBJECT"',
        "TABLE app.LARGE OBJECT is missing; table app.LARGE OBJECT is missing",
    ),
    "missing index": ("DROP INDEX app.people_old", "INDEX app.people_old is missing"),
    "foreign key's action": (
        "ALTER TABLE app.pets DROP CONSTRAINT pets_owner,"
        " ADD CONSTRAINT pets_owner FOREIGN KEY (owner) REFERENCES app.people ON DELETE SET NULL",
        "FK CONSTRAINT app.pets pets_owner is defined otherwise",
    ),
    "trigger": (
        "DROP TRIGGER touched ON app.people; CREATE TRIGGER touched BEFORE UPDATE ON app.people"
        " FOR EACH ROW WHEN (NEW.state IN ('new', 'odd')) EXECUTE FUNCTION app.touch()",
        "TRIGGER app.people touched is defined otherwise",
    ),
    "trigger's body": (
        "CREATE OR REPLACE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "FUNCTION app.touch() is defined otherwise",
    ),
    "function's body": (
        "CREATE OR REPLACE FUNCTION app.seen(varchar) RETURNS bool LANGUAGE sql"
        " BEGIN ATOMIC SELECT $1 IN ('new', 'odd'); END",
        "FUNCTION app.seen(character varying) is defined otherwise",
    ),
    "view": (
        "CREATE OR REPLACE VIEW app.current AS SELECT id, name FROM app.people WHERE state IN ('new')",
        "VIEW app.current is defined otherwise",
    ),
    "policy": (
        "DROP POLICY own ON app.people; CREATE POLICY own ON app.people USING (state IN ('new'))",
        "POLICY app.people own is defined otherwise",
    ),
    "rule": ("DROP RULE quiet ON app.turned", "RULE app.turned quiet is missing"),
    "enum": ("ALTER TYPE app.mood ADD VALUE 'so so'", "TYPE app.mood is defined otherwise"),
    "comment": (
        "COMMENT ON TABLE app.pets IS 'who lives there'",
        "COMMENT app.TABLE pets is defined otherwise",
    ),
    "grant": ("GRANT INSERT ON app.pets TO PUBLIC", "ACL app.TABLE pets is defined otherwise"),
    "owner": (
        "ALTER VIEW app.joined OWNER TO pg_monitor",
        "VIEW app.joined belongs to pg_monitor, not postgres",
    ),
    "extra table": ("CREATE TABLE app.extra ()", "TABLE app.extra is not in the backup"),
    "sequence's value": (
        "SELECT setval('app.numbers', 22)",
        "SEQUENCE SET app.numbers stands at 22, not 21",
    ),
    "row's value": (
        "UPDATE app.heir SET own = 'z' WHERE a = 1",
        "table app.heir holds other values in its 2 rows",
    ),
    "missing row": (
        "DELETE FROM app.pets WHERE id = 3",
        "table app.pets holds 8 rows instead of 9",
    ),
    "extra row": (
        "INSERT INTO app.part VALUES (1, 2)",
        "table app.part holds 3 rows instead of 2",
    ),
    "large object": ("SELECT lo_put(4711, 0, 'W')", "large object 4711 holds other bytes"),
}


def test_every_kind_of_difference_is_told_and_nothing_else(
    restored: tuple[PostgresServer, RestoreJob],
) -> None:
    server, job = restored
    assert job.connection
    server.psql(";\n".join(c for c, _ in CHANGES.values()), database=str(job.connection.database))
    expected = [line for _, lines in CHANGES.values() for line in lines.split("; ")]
    assert sorted(engine.differences(job)) == sorted(expected)


def test_columns_that_the_target_lacks_are_named(pg18: PostgresServer, tmp_path: Path) -> None:
    job = _copy(pg18, pg18, tmp_path / "vault", tables=["app.base"])
    assert job.connection
    pg18.psql("ALTER TABLE app.base RENAME later TO sooner", database=str(job.connection.database))
    job = replace(job, options=job.options.model_copy(update={"only": ["app.base"]}))
    assert engine.differences(job) == [
        "table app.base has no column later",
        "table app.base has a column sooner, which the backup has not",
    ]


def test_without_the_right_to_make_a_database_text_is_compared_and_it_says_so(
    restored: tuple[PostgresServer, RestoreJob],
) -> None:
    server, job = restored
    assert job.connection
    database = job.connection.database
    role = f"auditor_of_{database}"
    server.psql(
        f"CREATE ROLE {role} LOGIN BYPASSRLS PASSWORD '{server.password}';"
        f"GRANT pg_read_all_data TO {role}; GRANT SELECT ON LARGE OBJECT 4711 TO {role}",
        database=str(database),
    )
    job = replace(job, connection=replace(job.connection, user=role))
    [line] = [x for x in engine.differences(job) if x.startswith("INDEX app.people_new ")]
    assert "compared by its text alone: cannot create database" in line


def test_a_user_who_may_not_read_the_target_is_told_so_in_its_words(
    pg18: PostgresServer, tmp_path: Path
) -> None:
    job = _copy(pg18, pg18, tmp_path / "vault", tables=["app.base"])
    assert job.connection
    role = f"stranger_to_{job.connection.database}"
    pg18.psql(
        f"CREATE ROLE {role} LOGIN PASSWORD '{pg18.password}'; GRANT USAGE ON SCHEMA app TO {role}",
        database=str(job.connection.database),
    )
    job = replace(job, connection=replace(job.connection, user=role))
    with pytest.raises(SourceDenied, match="permission denied for table base") as caught:
        engine.differences(job)
    assert "Connect as a user with that right" in caught.value.fix


def test_options_that_the_targets_server_keeps_for_itself_are_no_difference(
    pg18: PostgresServer, tmp_path: Path
) -> None:
    job = _copy(pg18, pg18, tmp_path / "vault", tables=["app.base"])
    assert job.connection
    pg18.psql(
        "UPDATE pg_attribute SET attoptions = '{pg_attver=3}'"
        " WHERE attrelid = 'app.base'::regclass AND attnum > 0",
        database=str(job.connection.database),
    )
    assert engine.differences(job) == []
