"""Partitions whose rows belong elsewhere in another database: a hash of an enum is one of its oid."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from devtools.servers.postgres import PostgresServer
from stepvault.engines.base import RestoreJob
from stepvault.engines.postgres import engine
from stepvault.errors import ConfigInvalid
from stepvault.records import RestoreOptions
from tests.engines.driver import Result, restore_job, run_restore
from tests.engines.postgres.rig import address, holds, new_database, source
from tests.engines.postgres.rig import run as back_up_whole

run = partial(back_up_whole, split_above_mb=1)
ROWS = (
    "SELECT count(*), md5(string_agg(x::text, ',' ORDER BY i))"
    ' FROM (SELECT i, m, a, t FROM late UNION ALL SELECT i, m, a, t FROM "p.early") x'
)


@pytest.fixture
def moods(pg18: PostgresServer) -> str:
    """By range, then by the hash of an enum, then by that of an array of it; one partition has its
    columns in another order, one is larger than a piece."""
    name = new_database(pg18)
    pg18.psql(
        "CREATE TYPE mood AS ENUM ('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h');"
        "CREATE TABLE p (m mood, a mood[], i int, t text) PARTITION BY RANGE (i);"
        'CREATE TABLE "p.early" PARTITION OF p FOR VALUES FROM (0) TO (40) PARTITION BY HASH (m);'
        'CREATE TABLE p0 PARTITION OF "p.early" FOR VALUES WITH (MODULUS 2, REMAINDER 0);'
        "CREATE TABLE p1 (t text, i int NOT NULL, a mood[], m mood);"
        'ALTER TABLE "p.early" ATTACH PARTITION p1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);'
        "CREATE TABLE late PARTITION OF p FOR VALUES FROM (40) TO (100000) PARTITION BY HASH (a);"
        "CREATE TABLE p2 PARTITION OF late FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        "CREATE TABLE p3 PARTITION OF late FOR VALUES WITH (MODULUS 2, REMAINDER 1);"
        "INSERT INTO p SELECT (enum_range(NULL::mood))[1 + i % 8],"
        "  enum_range(NULL, (enum_range(NULL::mood))[1 + i % 8]), i, repeat('x', i % 300)"
        "  FROM generate_series(1, 20000) i;"
        "CREATE INDEX ON p (i); CREATE UNIQUE INDEX ON p1 (i); CREATE UNIQUE INDEX ON p2 (i)",
        database=name,
    )
    return name


def job_for(
    server: PostgresServer, database: str, result: Result, vault: Path, copy: str, **options: Any
) -> RestoreJob:
    where, chosen = address(server, copy), RestoreOptions(**options)
    return restore_job(result, vault, source(database), connection=where, options=chosen)


@pytest.mark.parametrize("only", [[], ["p"], ["late", "public.p.early"]])
def test_rows_sorted_by_the_hash_of_an_enum_come_back(
    only: list[str], pg18: PostgresServer, moods: str, tmp_path: Path
) -> None:
    result = run(pg18, moods, tmp_path / "vault")
    # Oids decide which of the two has most of the rows: more than a piece holds.
    pieces = [o for o in result.objects if o.facts.get("table") in ("public.p2", "public.p3")]
    assert len(pieces) > 2
    copy = new_database(pg18)
    job = job_for(pg18, moods, result, tmp_path / "vault", copy, only=only)
    run_restore(engine, job)
    assert engine.differences(job) == []
    assert pg18.psql(ROWS, database=copy) == pg18.psql(ROWS, database=moods)
    change = "DELETE FROM \"p.early\" WHERE i = 7; UPDATE late SET t = '!' WHERE i = 77"
    pg18.psql(change, database=copy)
    assert engine.differences(job) == [
        "table public.late holds other values in its 19961 rows",
        "table public.p.early holds 38 rows instead of 39",
    ]


def test_rows_sorted_by_the_hash_of_an_enum_are_restored_by_pg_restore(
    pg18: PostgresServer, moods: str, tmp_path: Path
) -> None:
    run(pg18, moods, tmp_path / "vault")
    for jobs in ("-j1", "-j3"):
        copy = new_database(pg18)
        pg18.run("pg_restore", jobs, "--exit-on-error", "-d", copy, tmp_path / "vault")
        assert pg18.psql(ROWS, database=copy) == pg18.psql(ROWS, database=moods)
        assert holds(pg18, copy)["definitions"] == holds(pg18, moods)["definitions"]


def test_rows_alone_are_sorted_by_the_target(
    pg18: PostgresServer, moods: str, tmp_path: Path
) -> None:
    result = run(pg18, moods, tmp_path / "vault", schema=False)
    copy = new_database(pg18)
    script = tmp_path / "definitions.sql"
    script.write_text(pg18.run("pg_dump", "-s", database=moods))
    pg18.psql(script, database=copy)
    job = job_for(pg18, moods, result, tmp_path / "vault", copy)
    run_restore(engine, job)
    assert engine.differences(job) == []
    assert pg18.psql(ROWS, database=copy) == pg18.psql(ROWS, database=moods)


def test_one_partition_of_those_sorted_by_the_hash_of_an_enum_is_refused(
    pg18: PostgresServer, moods: str, tmp_path: Path
) -> None:
    with pytest.raises(
        ConfigInvalid, match=r"leave out public\.p0.*partitions of public\.p\.early"
    ):
        run(pg18, moods, tmp_path / "refused", exclude_tables=["p0"])
    result = run(pg18, moods, tmp_path / "vault")
    job = job_for(pg18, moods, result, tmp_path / "vault", new_database(pg18), only=["p3"])
    with pytest.raises(ConfigInvalid, match=r"public\.p3 .*through public\.late") as caught:
        engine.plan_restore(job)
    assert "Name public.late" in caught.value.fix
    alone = run(pg18, moods, tmp_path / "alone", tables=["p0"])
    copy = new_database(pg18)
    run_restore(engine, job_for(pg18, moods, alone, tmp_path / "alone", copy))
    count = "SELECT count(*) FROM p0"
    assert pg18.psql(count, database=copy) == pg18.psql(count, database=moods)
