"""Extensions' configuration tables: rows of the user's in tables that CREATE EXTENSION makes."""

import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from devtools.servers.postgres import PostgresServer
from stepvault.engines.postgres import engine
from stepvault.errors import SourceBusy, SourceDenied, TargetNotEmpty
from stepvault.records import RestoreOptions
from tests.engines.driver import Result, back_up, restore_job, run_restore
from tests.engines.postgres.rig import address, new_database, source
from tests.engines.postgres.test_freeze import meanwhile

CONTROL = "default_version = '1.0'\nrelocatable = true\n"
#: Rows that the script makes itself are not the user's, which is what the condition says.
SCRIPT = """
CREATE TABLE zones (name text PRIMARY KEY, builtin bool DEFAULT false);
INSERT INTO zones VALUES ('utc', true), ('local', true);
CREATE TABLE entries (id serial PRIMARY KEY, zone text REFERENCES zones, note text);
CREATE TABLE scratchpad (note text);
CREATE SEQUENCE tickets;
SELECT pg_extension_config_dump('zones', 'WHERE NOT builtin');
SELECT pg_extension_config_dump('entries', '');
SELECT pg_extension_config_dump('entries_id_seq', '');
"""
MAKE = 'CREATE SCHEMA "my zones"; CREATE EXTENSION zoned SCHEMA "my zones";'
#: More than a megabyte, above which these backups split tables.
FILL = f"""{MAKE}
INSERT INTO "my zones".zones VALUES ('mine'), (E'tab\\tand\\nline');
INSERT INTO "my zones".entries (zone, note)
  SELECT 'mine', repeat('n', 100) || i FROM generate_series(1, 15000) i;
INSERT INTO "my zones".scratchpad VALUES ('not registered');
"""
USERS = "CREATE TABLE rests AS SELECT i AS id FROM generate_series(1, 100) i;"


class Extended(PostgresServer):
    """A server with the extension ``zoned`` in an installation folder of its own."""

    def _reachable(self, home: Path) -> Path:
        copy = self.folder / "home"
        shutil.copytree(home, copy)
        folder = next(copy.glob("share/**/extension"))
        (folder / "zoned.control").write_text(CONTROL)
        (folder / "zoned--1.0.sql").write_text(SCRIPT)
        return copy


@pytest.fixture(scope="module")
def extended18() -> Iterator[PostgresServer]:
    with Extended("18") as server:
        yield server


@pytest.fixture(scope="module")
def extended15() -> Iterator[PostgresServer]:
    with Extended("15") as server:
        yield server


@pytest.fixture(params=["18", "15"])
def server(request: pytest.FixtureRequest) -> PostgresServer:
    found: PostgresServer = request.getfixturevalue(f"extended{request.param}")
    return found


def filled(server: PostgresServer, script: str = FILL) -> str:
    name = new_database(server)
    server.psql(script, database=name)
    return name


def run(server: PostgresServer, database: str, vault: Path, **settings: Any) -> Result:
    vault.mkdir()
    wanted = source(database, split_above_mb=1, **settings)
    [result] = back_up(engine, wanted, vault, connection=address(server, database), connections=2)
    return result


def content(server: PostgresServer, database: str) -> list[str]:
    """All that the configuration holds, and where its sequence stands."""
    queries = (
        'SELECT * FROM "my zones".zones ORDER BY name',
        'SELECT * FROM "my zones".entries ORDER BY id',
        'SELECT last_value, is_called FROM "my zones".entries_id_seq',
    )
    return [server.psql(query, database=database) for query in queries]


@pytest.mark.parametrize("script", [FILL, FILL + USERS], ids=["alone", "beside a table"])
def test_a_users_rows_come_back_beside_the_scripts_own(
    script: str, server: PostgresServer, extended18: PostgresServer, tmp_path: Path
) -> None:
    """The condition keeps out the rows of the script; a 15's archive needs pg_restore 17."""
    name, vault = filled(server, script), tmp_path / "vault"
    result = run(server, name, vault)
    where, stock = address(server, new_database(server)), new_database(extended18)
    job = restore_job(result, vault, source(name), connection=where)
    run_restore(engine, job, times=2)
    extended18.run("pg_restore", "--exit-on-error", "-j2", "-d", stock, vault)
    zones, entries, stands = content(server, name)
    assert len(zones.splitlines()) == 5
    assert (len(entries.splitlines()), stands) == (15_000, "15000|t")
    assert content(server, str(where.database)) == [zones, entries, stands]
    assert content(extended18, stock) == [zones, entries, stands]
    assert engine.differences(job) == []


def test_the_archive_holds_what_pg_dump_would_write(
    extended18: PostgresServer, tmp_path: Path
) -> None:
    """Rows of the user's in registered tables; a table that is not registered stays out."""
    name = filled(extended18)
    run(extended18, name, tmp_path / "vault")
    extended18.run("pg_dump", "-Fd", "-f", tmp_path / "stock", database=name)
    scripts = [
        [x for x in extended18.run("pg_restore", "-f-", folder).splitlines() if x[:1] != "\\"]
        for folder in (tmp_path / "vault", tmp_path / "stock")
    ]
    assert scripts[0] == scripts[1]
    assert "mine\tf" in scripts[0]
    assert not {"utc\tt", "not registered"} & set(scripts[0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("DELETE FROM entries WHERE id = 7", ["entries holds 14999 rows of the user's instead"]),
        ("UPDATE entries SET note = 'x' WHERE id = 7", ["entries holds other values in its 15000"]),
        ("INSERT INTO zones VALUES ('new')", ["zones holds 3 rows of the user's instead of 2"]),
        ("INSERT INTO zones VALUES ('new', true)", []),
        ("SELECT setval('entries_id_seq', 3)", ["entries_id_seq stands at 3, not 15000"]),
        (
            "DROP EXTENSION zoned",
            ["EXTENSION zoned is missing", "zones is missing", "entries is missing"],
        ),
    ],
)
def test_a_comparison_sees_what_changed_in_a_configuration(
    change: str, said: list[str], server: PostgresServer, tmp_path: Path
) -> None:
    """The rows that belong to the extension are not the backup's business."""
    name = filled(server)
    result = run(server, name, tmp_path / "vault")
    server.psql(f'SET search_path = "my zones"; {change}', database=name)
    job = restore_job(result, tmp_path / "vault", source(name), connection=address(server, name))
    found = "\n".join(engine.differences(job))
    assert bool(found) == bool(said)
    for what in said:
        assert what in found


def test_a_sequence_that_is_not_declared_goes_on_counting(
    server: PostgresServer, extended18: PostgresServer, tmp_path: Path
) -> None:
    """pg_dump forgets it; a restored extension would give the same numbers again."""
    name, vault = filled(server), tmp_path / "vault"
    count = "SELECT nextval('\"my zones\".tickets') FROM generate_series(1, 41)"
    server.psql(count, database=name)
    result = run(server, name, vault)
    where, stock = address(server, new_database(server)), new_database(extended18)
    job = restore_job(result, vault, source(name), connection=where)
    told: list[str] = []
    job = replace(job, not_compared=told.append)
    run_restore(engine, job)
    extended18.run("pg_restore", "--exit-on-error", "-j2", "-d", stock, vault)
    stands = 'SELECT last_value, is_called FROM "my zones".tickets'
    assert server.psql(stands, database=str(where.database)) == "41|t"
    assert extended18.psql(stands, database=stock) == "41|t"
    assert engine.differences(job) == []
    server.psql('ALTER SEQUENCE "my zones".tickets RESTART', database=str(where.database))
    assert [x for x in engine.differences(job) if "my zones.tickets stands at 1, not 41" in x]
    zones = '"my zones".zones'
    assert [x for x in told if "extension zoned" in x and zones in x and "entries" not in x]


def test_a_sequence_that_the_target_lacks_stops_no_restore(
    extended18: PostgresServer, tmp_path: Path
) -> None:
    """As in another version of the extension, or where the user may not set it."""
    name, vault = filled(extended18), tmp_path / "vault"
    extended18.psql("""SELECT nextval('"my zones".tickets')""", database=name)
    result = run(extended18, name, vault, schema=False)
    change = (
        'ALTER EXTENSION zoned DROP SEQUENCE "my zones".tickets; DROP SEQUENCE "my zones".tickets'
    )
    where = address(extended18, filled(extended18, MAKE + change))
    job = restore_job(result, vault, source(name), connection=where)
    run_restore(engine, job)
    assert engine.differences(job) == ["SEQUENCE SET my zones.tickets is missing"]


def test_rows_alone_come_back_beside_the_scripts_own(
    server: PostgresServer, tmp_path: Path
) -> None:
    """An extension's own rows do not make its table a filled one; the user's do."""
    name = filled(server, FILL + USERS)
    result = run(server, name, tmp_path / "vault", schema=False)
    where = address(server, filled(server, MAKE + "CREATE TABLE rests (id int)"))
    job = restore_job(result, tmp_path / "vault", source(name), connection=where)
    run_restore(engine, job)
    assert content(server, str(where.database)) == content(server, name)
    assert engine.differences(job) == []
    server.psql("TRUNCATE rests", database=str(where.database))
    with pytest.raises(TargetNotEmpty, match=r"my zones\.(zones|entries) .* already holds rows"):
        engine.plan_restore(job)


def test_a_configuration_that_is_emptied_and_refilled_is_never_seen_empty(
    extended18: PostgresServer, tmp_path: Path
) -> None:
    """pg_dump takes the snapshot first and the lock on such a table later: a TRUNCATE in between
    would take the rows away in silence."""
    name = filled(extended18)

    def refill(opened: Any) -> None:
        with opened.transaction():
            opened.execute('TRUNCATE "my zones".entries')
            opened.execute("""INSERT INTO "my zones".entries (note) VALUES ('refilled')""")
        time.sleep(0.2)

    whole = 0
    with meanwhile(extended18, name, refill):
        for number in range(5):
            vault = tmp_path / str(number)
            try:
                run(extended18, name, vault)
            except SourceBusy:  # each attempt met a TRUNCATE
                continue
            whole += 1
            assert re.search("\tnnn|\trefilled", extended18.run("pg_restore", "-f-", vault))
    assert whole


def test_a_configuration_may_be_left_out(extended18: PostgresServer, tmp_path: Path) -> None:
    name, vault = filled(extended18), tmp_path / "vault"
    result = run(extended18, name, vault, exclude_tables=["my zones.ent*"])
    where = address(extended18, new_database(extended18))
    job = restore_job(result, vault, source(name), connection=where)
    run_restore(engine, job)
    zones, entries, _ = content(extended18, str(where.database))
    assert (len(zones.splitlines()), entries) == (5, "")
    assert engine.differences(job) == []


def test_a_configuration_that_may_not_be_read_is_named(
    extended18: PostgresServer, tmp_path: Path
) -> None:
    name = filled(extended18)
    extended18.psql(f"CREATE ROLE weak LOGIN PASSWORD '{extended18.password}'")
    extended18.psql('GRANT USAGE ON SCHEMA "my zones" TO weak', database=name)
    where = address(extended18, name, user="weak")
    with pytest.raises(SourceDenied, match=r"may not read my zones\.zones, my zones\.entries"):
        back_up(engine, source(name), tmp_path / "vault", connection=where)


NEEDS = """
CREATE FUNCTION known(text) RETURNS bool LANGUAGE plpgsql AS
  $$BEGIN RETURN EXISTS (SELECT FROM "my zones".zones WHERE name = $1); END$$;
CREATE TABLE needs (zone text CHECK (public.known(zone)), filler text);
INSERT INTO needs SELECT 'mine', repeat('x', 500) FROM generate_series(1, 6000);
CREATE TABLE needs_too (zone text CHECK (public.known(zone)));
INSERT INTO needs_too VALUES ('mine');
"""


def test_rows_that_others_need_are_loaded_before_them(
    server: PostgresServer, tmp_path: Path
) -> None:
    """A custom SRID of spatial_ref_sys is looked up for each geometry that is loaded."""
    name = filled(server, FILL + NEEDS)
    result = run(server, name, tmp_path / "vault")
    for _ in range(2):
        where = address(server, new_database(server))
        job = restore_job(result, tmp_path / "vault", source(name), connection=where, connections=2)
        tasks = engine.plan_restore(job)
        loading = [t.stage for t in tasks if any(o in t.objects for o in of_zones(result))]
        assert loading == ["before"]
        run_restore(engine, job)
        assert engine.differences(job) == []


def of_zones(result: Result) -> list[str]:
    """Objects with an extension's rows, which pg_dump wrote."""
    return [
        o.name
        for o in result.objects
        if re.fullmatch(r"\d+\.dat\.zst", o.name) and "fingerprint" not in o.facts
    ]


@pytest.mark.parametrize("jobs", ["-j4", "-j1"])
def test_stock_pg_restore_loads_rows_that_others_need_before_them(
    jobs: str, extended18: PostgresServer, tmp_path: Path
) -> None:
    name = filled(extended18, FILL + NEEDS)
    run(extended18, name, tmp_path / "vault")
    for _ in range(4):
        copy = new_database(extended18)
        arguments = ["--exit-on-error", jobs, "-d", copy, tmp_path / "vault"]
        extended18.run("pg_restore", *arguments)
        assert content(extended18, copy) == content(extended18, name)


def test_a_table_alone_does_not_bring_rows_of_an_extension(
    extended18: PostgresServer, tmp_path: Path
) -> None:
    name = filled(extended18, FILL + USERS)
    result = run(extended18, name, tmp_path / "vault")
    where, options = address(extended18, new_database(extended18)), RestoreOptions(only=["rests"])
    job = restore_job(result, tmp_path / "vault", source(name), connection=where, options=options)
    run_restore(engine, job)
    extensions = "SELECT count(*) FROM pg_extension WHERE extname = 'zoned'"
    assert extended18.psql(extensions, database=str(where.database)) == "0"
    assert engine.differences(job) == []
