"""Large tables are cut into ranges: nothing twice, nothing lost."""

from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devtools.servers.mariadb import MariaDb
from stepvault.engines.mysql.inventory import Column, Table
from stepvault.engines.mysql.ranges import cut, walk
from stepvault.engines.mysql.session import connect
from tests.engines.driver import back_up, restore_job, run_restore
from tests.engines.mysql.rig import MariaDbRig

_BIG = st.integers(-(2**63), 2**64 - 1)


@given(_BIG, _BIG, st.integers(1, 50), st.lists(_BIG, max_size=20))
def test_every_key_lies_in_exactly_one_range(
    one: int, two: int, parts: int, others: list[int]
) -> None:
    low, high = min(one, two), max(one, two)
    ranges = cut(low, high, parts)
    assert 1 <= len(ranges) <= parts
    for key in [
        low,
        high,
        low - 1,
        high + 1,
        *others,
        *(start for start, _ in ranges if start is not None),
    ]:
        holders = [
            (start, stop)
            for start, stop in ranges
            if (start is None or key >= start) and (stop is None or key < stop)
        ]
        assert len(holders) == 1


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("INT", "CAST(seq AS SIGNED) * 3 - 60000"),
        ("BIGINT UNSIGNED", "seq + 18446744073709200000"),
        ("BIGINT", "CAST(seq AS SIGNED) * IF(seq % 2, 1, 230000000000000)"),
        ("TINYINT UNSIGNED", "seq % 256"),
        ("CHAR(36)", "IF(seq % 9, CAST(UUID() AS CHAR), CONCAT('ä', seq))"),
        ("VARCHAR(50) CHARACTER SET cp932 COLLATE cp932_bin", "CONCAT('表', MD5(seq))"),
        (
            "VARCHAR(50) CHARACTER SET latin1",
            "CONCAT(ELT(1 + seq % 4, 'O\\'', 'ö', 'o', 'Ö'), seq)",
        ),
        ("BINARY(16)", "UNHEX(MD5(seq))"),
        pytest.param("UUID", "UUID()", marks=pytest.mark.mariadb),
        ("TIMESTAMP", "'2024-01-01' + INTERVAL seq SECOND"),
        ("DECIMAL(30,5)", "seq * 1.5"),
    ],
)
def test_a_split_table_is_put_together_again(
    server: MariaDb, tmp_path: Path, kind: str, values: str
) -> None:
    rig = MariaDbRig(server)
    name = rig.new_database()
    server.sql(
        f"CREATE TABLE many (id {kind}, n INT, t VARCHAR(100), PRIMARY KEY (id, n))",
        f"INSERT INTO many SELECT {values}, seq, REPEAT('x', 90) FROM seq_1_to_20000",
        "ANALYZE TABLE many",
        database=name,
    )
    source = rig.source(name, split_above_mb=1)
    results = back_up(rig.engine, source, tmp_path, **rig.job(source))
    chunks = [o for o in results[0].objects if o.facts.get("kind") == "data"]
    assert len(chunks) >= 3
    assert sum(o.rows or 0 for o in chunks) == 20000
    target = rig.target()
    job = restore_job(results, tmp_path, source, **target)
    run_restore(rig.engine, job)
    assert rig.content(target) == rig.content(source)
    assert rig.engine.differences(job) == []
    server.sql(*(f"DROP DATABASE {n}" for n in rig.made))


def test_a_wrong_estimate_of_rows_makes_few_ranges_all_the_same(server: MariaDb) -> None:
    rig = MariaDbRig(server)
    name = rig.new_database()
    server.sql(
        "CREATE TABLE many (id CHAR(32) PRIMARY KEY)",
        "INSERT INTO many SELECT MD5(seq) FROM seq_1_to_5000",
        database=name,
    )
    session = connect(rig.as_root(name))
    by = Column("id", "char", "utf8mb4", True)
    table = Table(name, "many", "table", rows=3, columns=[by], key=["id"])
    found = list(walk(lambda: nullcontext(session), table, by, 5))
    counts = [session.one(f"SELECT COUNT(*) FROM {table.sql} WHERE {where}")[0] for where in found]
    session.close()
    server.sql(f"DROP DATABASE {name}")
    assert sum(counts) == 5000
    assert len(found) < 30
