"""Tables left out, definitions or rows alone, and chosen tables at restore."""

from pathlib import Path
from typing import Any

import pytest

from devtools.servers.postgres import PostgresServer
from stepvault.engines.base import RestoreJob
from stepvault.engines.postgres import engine
from stepvault.engines.postgres.target import name_of
from stepvault.errors import ConfigInvalid, TargetMissing, TargetNotEmpty
from stepvault.records import RestoreOptions
from tests.engines.driver import Result, restore_job, run_restore
from tests.engines.postgres.rig import address, holds, new_database, run, source


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


def stored_tables(result: Result) -> set[str]:
    return {o.facts["table"] for o in result.objects if "table" in o.facts}


def restored(
    server: PostgresServer, database: str, result: Result, vault: Path, **options: Any
) -> RestoreJob:
    """Our restore into a new database."""
    job = restore_job(
        result,
        vault,
        source(database),
        connection=address(server, new_database(server)),
        options=RestoreOptions(**options),
    )
    run_restore(engine, job)
    return job


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
    result = run(pg18, shop, tmp_path / "vault", tables=["app.*"], exclude_tables=["app.s*"])
    assert stored_tables(result) == {"app.customers", "app.orders", "app.parted_1"}
    copy = stock_restore(pg18, tmp_path / "vault")
    assert pg18.psql("SELECT count(*) FROM app.parted_1", database=copy) == "10"
    assert pg18.psql("SELECT count(*) FROM app.lengths", database=copy) == "100"


def test_a_partition_can_be_stored_without_what_it_is_a_part_of(
    pg18: PostgresServer, shop: str, tmp_path: Path
) -> None:
    result = run(pg18, shop, tmp_path / "vault", tables=["app.parted_?"])
    assert stored_tables(result) == {"app.parted_1"}
    copy = stock_restore(pg18, tmp_path / "vault")
    assert pg18.psql("SELECT count(*) FROM app.parted_1", database=copy) == "10"


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


@pytest.fixture
def events(pg18: PostgresServer) -> str:
    """A partitioned table with a partition that is partitioned itself, in another schema."""
    name = new_database(pg18)
    pg18.psql(
        "CREATE SCHEMA old; CREATE TABLE events (a int PRIMARY KEY) PARTITION BY RANGE (a);"
        "CREATE TABLE e1 PARTITION OF events FOR VALUES FROM (0) TO (50);"
        "CREATE TABLE old.events PARTITION OF events FOR VALUES FROM (50) TO (100)"
        "  PARTITION BY RANGE (a);"
        "CREATE TABLE old.e2 PARTITION OF old.events FOR VALUES FROM (50) TO (100);"
        "INSERT INTO events SELECT generate_series(0, 99);"
        "CREATE TABLE plain (a int PRIMARY KEY); INSERT INTO plain VALUES (1);"
        "CREATE TABLE notes (a int REFERENCES events, b int REFERENCES plain);"
        "INSERT INTO notes VALUES (1, 1), (60, 1)",
        database=name,
    )
    return name


def test_a_partitioned_table_is_stored_with_its_partitions(
    pg18: PostgresServer, events: str, tmp_path: Path
) -> None:
    result = run(pg18, events, tmp_path / "vault", tables=["events"])
    assert stored_tables(result) == {"public.e1", "old.e2"}
    copy = stock_restore(pg18, tmp_path / "vault")
    assert pg18.psql("SELECT count(*) FROM events", database=copy) == "100"
    without = run(pg18, events, tmp_path / "other", tables=["events"], exclude_tables=["old.e?"])
    assert stored_tables(without) == {"public.e1"}


def test_a_partitioned_table_left_out_takes_its_partitions(
    pg18: PostgresServer, events: str, tmp_path: Path
) -> None:
    result = run(pg18, events, tmp_path / "vault", exclude_tables=["old.events"])
    assert stored_tables(result) == {"public.e1", "public.plain", "public.notes"}
    nothing = run(pg18, events, tmp_path / "other", exclude_tables=["events"])
    assert stored_tables(nothing) == {"public.plain", "public.notes"}


def test_a_partitioned_table_comes_back_with_its_partitions(
    pg18: PostgresServer, events: str, tmp_path: Path
) -> None:
    result = run(pg18, events, tmp_path / "vault")
    job = restored(pg18, events, result, tmp_path / "vault", only=["events"])
    rows = "SELECT count(*) FROM events"
    assert pg18.psql(rows, database=name_of(job)) == "100"
    assert engine.differences(job) == []
    pg18.psql("DELETE FROM old.e2 WHERE a = 70", database=name_of(job))
    assert engine.differences(job) == ["table old.e2 holds 49 rows instead of 50"]


def test_a_partition_comes_back_without_what_it_is_a_part_of(
    pg18: PostgresServer, events: str, tmp_path: Path
) -> None:
    """Also over the one that is there: the others stay."""
    result = run(pg18, events, tmp_path / "vault")
    job = restored(pg18, events, result, tmp_path / "vault", only=["e1"])
    tables = "SELECT string_agg(relname, ',') FROM pg_class WHERE relkind IN ('r', 'p')"
    tables += " AND relnamespace = 'public'::regnamespace"
    assert pg18.psql(tables, database=name_of(job)) == "e1"
    assert pg18.psql("SELECT count(*) FROM e1", database=name_of(job)) == "50"
    assert engine.differences(job) == []
    options = RestoreOptions(only=["e1"], overwrite=True)
    there = address(pg18, events)
    pg18.psql("DROP TABLE notes", database=events)
    job = restore_job(result, tmp_path / "vault", source(events), connection=there, options=options)
    run_restore(engine, job)
    assert pg18.psql("SELECT count(*) FROM e1", database=events) == "50"
    assert pg18.psql("SELECT count(*) FROM events", database=events) == "50"


def test_a_child_does_not_come_back_without_its_parent(
    pg18: PostgresServer, odd18: str, tmp_path: Path
) -> None:
    result = run(pg18, odd18, tmp_path / "vault")
    where, options = address(pg18, new_database(pg18)), RestoreOptions(only=["app.child"])
    job = restore_job(result, tmp_path / "vault", source(odd18), connection=where, options=options)
    with pytest.raises(ConfigInvalid, match=r"app\.child cannot be made without app\.base"):
        engine.plan_restore(job)


def test_a_foreign_key_to_a_table_goes_with_one_of_its_partitions(
    pg18: PostgresServer, events: str, tmp_path: Path
) -> None:
    result = run(pg18, events, tmp_path / "vault", exclude_tables=["e1"])
    assert "notes_a_fkey on table public.notes" in "\n".join(result.warnings)
    assert "notes_b_fkey" not in "\n".join(result.warnings)
    keys = "SELECT conname FROM pg_constraint WHERE contype = 'f' AND conparentid = 0"
    copy = stock_restore(pg18, tmp_path / "vault")
    assert pg18.psql(keys, database=copy) == "notes_b_fkey"
    job = restored(pg18, events, result, tmp_path / "vault")
    assert pg18.psql(keys, database=name_of(job)) == "notes_b_fkey"
    assert engine.differences(job) == []


def test_a_foreign_key_of_a_partitioned_table_stays_without_one_of_its_partitions(
    pg18: PostgresServer, events: str, tmp_path: Path
) -> None:
    pg18.psql("ALTER TABLE events ADD FOREIGN KEY (a) REFERENCES plain NOT VALID", database=events)
    result = run(
        pg18, events, tmp_path / "vault", exclude_tables=["e1"], tables=["events", "plain"]
    )
    assert "events_a_fkey" not in "\n".join(result.warnings)


def test_a_sequence_that_another_table_uses_stays(pg18: PostgresServer, tmp_path: Path) -> None:
    name = new_database(pg18)
    pg18.psql(
        "CREATE TABLE orders (id serial PRIMARY KEY, no serial);"
        "CREATE TABLE archive (LIKE orders INCLUDING ALL); ALTER TABLE archive ALTER no DROP DEFAULT;"
        "INSERT INTO orders VALUES (DEFAULT), (DEFAULT); INSERT INTO archive VALUES (DEFAULT, 1)",
        database=name,
    )
    result = run(pg18, name, tmp_path / "vault", exclude_tables=["orders"])
    copy = stock_restore(pg18, tmp_path / "vault")
    job = restored(pg18, name, result, tmp_path / "vault")
    assert engine.differences(job) == []
    for database in (copy, name_of(job)):
        added = "INSERT INTO archive VALUES (DEFAULT, 1) RETURNING id"
        assert pg18.psql(added, database=database) == "4"
        sequences = "SELECT relname FROM pg_class WHERE relkind = 'S'"
        assert pg18.psql(sequences, database=database) == "orders_id_seq"


@pytest.mark.parametrize(
    "column",
    [
        "i int DEFAULT nextval('orders_id_seq')",
        "i int DEFAULT how_many()",
        "i int CHECK (i > how_many())",
    ],
)
def test_a_table_that_cannot_be_made_without_one_left_out_is_an_error(
    column: str, pg18: PostgresServer, tmp_path: Path
) -> None:
    name = new_database(pg18)
    pg18.psql(
        "CREATE TABLE orders (id int GENERATED ALWAYS AS IDENTITY);"
        "CREATE FUNCTION how_many() RETURNS bigint LANGUAGE sql BEGIN ATOMIC"
        f"  SELECT count(*) FROM orders; END; CREATE TABLE kept ({column})",
        database=name,
    )
    with pytest.raises(
        ConfigInvalid, match=r"of table public\.kept|on table public\.kept"
    ) as caught:
        run(pg18, name, tmp_path / "vault", exclude_tables=["orders"])
    assert "exclude_tables = ['orders']" in caught.value.message
    assert caught.value.fix
    run(pg18, name, tmp_path / "rows", exclude_tables=["orders"], schema=False)


def test_what_a_kept_table_loses_is_named(pg18: PostgresServer, tmp_path: Path) -> None:
    name = new_database(pg18)
    pg18.psql(
        "CREATE TABLE blocked (u name); CREATE TABLE docs (i int, owner name);"
        "CREATE POLICY seen ON docs USING (owner NOT IN (SELECT u FROM blocked));"
        "CREATE RULE audit AS ON INSERT TO docs DO ALSO INSERT INTO blocked VALUES (NEW.owner);"
        "CREATE FUNCTION known(n name, b blocked DEFAULT NULL) RETURNS bool IMMUTABLE LANGUAGE sql"
        "  AS 'SELECT true'; CREATE INDEX by_known ON docs (known(owner));"
        "CREATE STATISTICS of_known ON known(owner) FROM docs;"
        "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
        "CREATE TRIGGER look BEFORE INSERT ON docs FOR EACH ROW WHEN (known(NEW.owner))"
        "  EXECUTE FUNCTION nothing()",
        database=name,
    )
    result = run(pg18, name, tmp_path / "vault", exclude_tables=["blocked"])
    said = "\n".join(result.warnings)
    for what in (
        "policy seen on table public.docs",
        "rule audit on table public.docs",
        "index public.by_known",
        "statistics object public.of_known",
        "trigger look on table public.docs",
        "function public.known",
    ):
        assert what in said
    stock_restore(pg18, tmp_path / "vault")


def test_a_restrictive_policy_is_not_lost(pg18: PostgresServer, tmp_path: Path) -> None:
    """Without it a restored table shows rows that nobody was to see."""
    name = new_database(pg18)
    pg18.psql(
        "CREATE TABLE blocked (u name); CREATE TABLE docs (i int);"
        "CREATE POLICY hide ON docs AS RESTRICTIVE"
        "  USING (NOT EXISTS (SELECT FROM blocked WHERE u = current_user))",
        database=name,
    )
    with pytest.raises(ConfigInvalid, match=r"policy hide on table public\.docs") as caught:
        run(pg18, name, tmp_path / "vault", exclude_tables=["blocked"])
    assert "exclude_tables = ['blocked']" in caught.value.message
    assert "Take" in caught.value.fix
