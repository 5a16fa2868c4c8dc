"""Tables left out, definitions or rows alone, and chosen tables at restore."""

from pathlib import Path
from typing import Any

import pytest

from examples.demo.postgres_server import PostgresServer
from stepvault.engines.postgres import engine
from stepvault.errors import ConfigInvalid, TargetMissing, TargetNotEmpty
from stepvault.models import RestoreOptions
from tests.engines.driver import Result, back_up, restore_job, run_restore
from tests.engines.postgres.rig import address, holds, new_database, source


@pytest.fixture
def shop(pg18: PostgresServer) -> str:
    name = new_database(pg18)
    pg18.psql(
        "CREATE SCHEMA app;"
        "CREATE TABLE app.customers (id int PRIMARY KEY, name text);"
        "CREATE TABLE app.orders (id int PRIMARY KEY, customer int REFERENCES app.customers);"
        "CREATE TABLE app.secrets (id serial PRIMARY KEY, order_id int REFERENCES app.orders);"
        "COMMENT ON CONSTRAINT orders_customer_fkey ON app.orders IS 'x';"
        "CREATE VIEW app.names AS SELECT name FROM app.customers;"
        "CREATE VIEW app.lengths AS SELECT length(name) FROM app.names;"
        "CREATE FUNCTION app.first() RETURNS SETOF app.customers LANGUAGE sql"
        "  AS 'SELECT * FROM app.customers LIMIT 1';"
        "CREATE TABLE app.parted (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);"
        "CREATE TABLE app.parted_1 PARTITION OF app.parted FOR VALUES FROM ('2024-01-01')"
        "  TO ('2025-01-01');"
        'CREATE TABLE "log.*" (a int); CREATE TABLE "log.x" (a int);'
        "INSERT INTO app.customers SELECT i, 'c' || i FROM generate_series(1, 100) i;"
        "INSERT INTO app.orders SELECT i, i FROM generate_series(1, 100) i;"
        "INSERT INTO app.secrets (order_id) SELECT i FROM generate_series(1, 100) i;"
        "INSERT INTO app.parted SELECT i, '2024-02-02' FROM generate_series(1, 10) i;",
        database=name,
    )
    return name


def run(server: PostgresServer, database: str, vault: Path, **settings: Any) -> Result:
    vault.mkdir()
    [result] = back_up(
        engine, source(database, **settings), vault, connection=address(server, database)
    )
    return result


def stored_tables(result: Result) -> set[str]:
    return {o.facts["table"] for o in result.objects if "table" in o.facts}


def stock_restore(server: PostgresServer, vault: Path) -> str:
    copy = new_database(server)
    server.run("pg_restore", "--exit-on-error", "-d", copy, vault)
    return copy


def test_a_table_left_out_takes_what_rests_on_it(
    pg18: PostgresServer, shop: str, tmp_path: Path
) -> None:
    result = run(pg18, shop, tmp_path / "vault", exclude_tables=["app.customers"])
    assert "app.customers" not in stored_tables(result)
    said = "\n".join(result.warnings)
    for what in ("orders_customer_fkey", "view app.names", "view app.lengths", "app.first()"):
        assert what in said
    assert "secrets_order_id_fkey" not in said
    copy = stock_restore(pg18, tmp_path / "vault")
    assert pg18.psql("SELECT count(*) FROM app.orders", database=copy) == "100"
    assert pg18.psql("SELECT conname FROM pg_constraint WHERE contype = 'f'", database=copy) == (
        "secrets_order_id_fkey"
    )


def test_only_the_tables_named_are_stored(pg18: PostgresServer, shop: str, tmp_path: Path) -> None:
    result = run(
        pg18, shop, tmp_path / "vault", tables=["app.*"], exclude_tables=["app.s*", "app.part??"]
    )
    assert stored_tables(result) == {"app.customers", "app.orders", "app.parted_1"}
    copy = stock_restore(pg18, tmp_path / "vault")
    assert pg18.psql("SELECT count(*) FROM app.parted_1", database=copy) == "10"
    assert pg18.psql("SELECT count(*) FROM app.lengths", database=copy) == "100"


def test_a_star_in_a_name_is_reached_by_a_pattern(
    pg18: PostgresServer, shop: str, tmp_path: Path
) -> None:
    result = run(pg18, shop, tmp_path / "vault", tables=["public.log.?"], schema=False)
    assert stored_tables(result) == {"public.log.*", "public.log.x"}


def test_patterns_that_fit_nothing_are_an_error(
    pg18: PostgresServer, shop: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigInvalid, match=r"app\.custmers"):
        run(pg18, shop, tmp_path / "vault", tables=["app.custmers"])


def test_a_child_without_its_parent_is_an_error(
    pg18: PostgresServer, odd18: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigInvalid, match=r"app\.child inherits"):
        run(pg18, odd18, tmp_path / "vault", exclude_tables=["app.base"])


def test_definitions_alone(pg18: PostgresServer, shop: str, tmp_path: Path) -> None:
    result = run(pg18, shop, tmp_path / "vault", data=False)
    assert stored_tables(result) == set()
    copy = stock_restore(pg18, tmp_path / "vault")
    assert holds(pg18, copy)["definitions"] == holds(pg18, shop)["definitions"]
    assert pg18.psql("SELECT count(*) FROM app.orders", database=copy) == "0"


def test_rows_alone_need_their_tables_and_need_them_empty(
    pg18: PostgresServer, shop: str, tmp_path: Path
) -> None:
    result = run(pg18, shop, tmp_path / "vault", schema=False)
    where = address(pg18, new_database(pg18))
    job = restore_job(result, tmp_path / "vault", source(shop), connection=where)
    with pytest.raises(TargetMissing, match=r"app\.customers"):
        engine.plan_restore(job)
    script = tmp_path / "definitions.sql"
    script.write_text(pg18.run("pg_dump", "-s", database=shop))
    pg18.psql(script, database=str(where.database))
    run_restore(engine, job)
    assert holds(pg18, str(where.database)) == holds(pg18, shop)
    with pytest.raises(TargetNotEmpty, match="already holds rows"):
        engine.plan_restore(job)


def test_rows_alone_bring_what_is_said_of_large_objects(
    pg18: PostgresServer, tmp_path: Path
) -> None:
    name = new_database(pg18)
    pg18.psql(
        "SELECT lo_from_bytea(4711, 'eau'); SELECT lo_from_bytea(4712, 'plain');"
        "COMMENT ON LARGE OBJECT 4711 IS 'water'; GRANT SELECT ON LARGE OBJECT 4711 TO PUBLIC;"
        "CREATE TABLE t (i int); COMMENT ON TABLE t IS 'a definition'",
        database=name,
    )
    query = (
        "SELECT oid, lo_get(oid), lomacl, obj_description(oid, 'pg_largeobject')"
        " FROM pg_largeobject_metadata ORDER BY oid"
    )
    result = run(pg18, name, tmp_path / "vault", schema=False)
    where, stock = address(pg18, new_database(pg18)), new_database(pg18)
    for database in (str(where.database), stock):
        pg18.psql("CREATE TABLE t (i int)", database=database)
    options = RestoreOptions(owner="keep")
    job = restore_job(result, tmp_path / "vault", source(name), connection=where, options=options)
    run_restore(engine, job, times=2)
    pg18.run("pg_restore", "--exit-on-error", "-j2", "-d", stock, tmp_path / "vault")
    assert "water" in pg18.psql(query, database=name)
    for database in (str(where.database), stock):
        assert pg18.psql(query, database=database) == pg18.psql(query, database=name)
        described = "SELECT obj_description('t'::regclass, 'pg_class')"
        assert pg18.psql(described, database=database) == ""


def test_chosen_tables_come_back_with_what_they_need(
    pg18: PostgresServer, shop: str, tmp_path: Path
) -> None:
    result = run(pg18, shop, tmp_path / "vault")
    where = address(pg18, new_database(pg18))
    options = RestoreOptions(only=["app.secrets", "app.customers"])
    job = restore_job(result, tmp_path / "vault", source(shop), connection=where, options=options)
    run_restore(engine, job)
    listed = pg18.psql(
        "SELECT string_agg(relname, ',' ORDER BY relname) FROM pg_class"
        " WHERE relnamespace = 'app'::regnamespace",
        database=str(where.database),
    )
    assert listed == "customers,customers_pkey,secrets,secrets_id_seq,secrets_pkey"
    added = "INSERT INTO app.secrets (order_id) VALUES (1) RETURNING id"
    assert pg18.psql(added, database=str(where.database)) == "101"
    assert engine.differences(job)[0].startswith("table app.secrets holds 101 rows instead of 100")


def test_an_unknown_table_to_restore_is_named(
    pg18: PostgresServer, shop: str, tmp_path: Path
) -> None:
    result = run(pg18, shop, tmp_path / "vault")
    job = restore_job(
        result,
        tmp_path / "vault",
        source(shop),
        connection=address(pg18, new_database(pg18)),
        options=RestoreOptions(only=["app.nothing"]),
    )
    with pytest.raises(ConfigInvalid, match=r"app\.nothing"):
        engine.plan_restore(job)


@pytest.mark.parametrize("owner", ["none", "new_owner"])
def test_another_owner_or_none(
    owner: str, pg18: PostgresServer, odd18: str, tmp_path: Path
) -> None:
    pg18.psql("DO $$BEGIN CREATE ROLE new_owner SUPERUSER; EXCEPTION WHEN OTHERS THEN END$$")
    result = run(pg18, odd18, tmp_path / "vault")
    where = address(pg18, new_database(pg18))
    options = RestoreOptions(owner=owner)
    job = restore_job(result, tmp_path / "vault", source(odd18), connection=where, options=options)
    run_restore(engine, job)
    owners = pg18.psql(
        "SELECT DISTINCT relowner::regrole FROM pg_class WHERE relnamespace = 'app'::regnamespace",
        database=str(where.database),
    )
    assert owners == {"none": "postgres", "new_owner": "new_owner"}[owner]
    assert engine.differences(job) == []


def test_a_missing_owner_is_named_before_anything_is_made(
    pg15: PostgresServer, pg18: PostgresServer, tmp_path: Path
) -> None:
    name = new_database(pg18)
    pg18.psql("DO $$BEGIN CREATE ROLE only_on_18; EXCEPTION WHEN OTHERS THEN END$$")
    pg18.psql("CREATE TABLE t (); ALTER TABLE t OWNER TO only_on_18", database=name)
    result = run(pg18, name, tmp_path / "vault")
    where = address(pg15, new_database(pg15))
    job = restore_job(result, tmp_path / "vault", source(name), connection=where)
    with pytest.raises(TargetMissing, match="only_on_18") as caught:
        engine.plan_restore(job)
    assert "globals.sql" in caught.value.fix


def test_a_lost_table_comes_back_into_the_living_database(
    pg18: PostgresServer, shop: str, tmp_path: Path
) -> None:
    """All around it stays; what it needs and is there already is not made again."""
    result = run(pg18, shop, tmp_path / "vault")
    before = holds(pg18, shop)
    pg18.psql("DROP TABLE app.secrets", database=shop)
    options = RestoreOptions(only=["app.secrets"])
    job = restore_job(
        result, tmp_path / "vault", source(shop), connection=address(pg18, shop), options=options
    )
    run_restore(engine, job)
    after = holds(pg18, shop)
    # The foreign key leads to a table that was not asked for.
    assert after.pop("definitions") != before.pop("definitions")
    assert after == before
    with pytest.raises(TargetNotEmpty, match=r"already has TABLE app\.secrets"):
        engine.plan_restore(job)


def test_a_damaged_table_is_replaced_when_told(
    pg18: PostgresServer, shop: str, tmp_path: Path
) -> None:
    result = run(pg18, shop, tmp_path / "vault")
    before = holds(pg18, shop)["app.secrets"]
    pg18.psql("UPDATE app.secrets SET order_id = 1", database=shop)
    options = RestoreOptions(only=["app.secrets"], overwrite=True)
    job = restore_job(
        result, tmp_path / "vault", source(shop), connection=address(pg18, shop), options=options
    )
    run_restore(engine, job, times=2)
    assert holds(pg18, shop)["app.secrets"] == before
