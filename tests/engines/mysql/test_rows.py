"""Rows as SQL: large ones, and the hash of their content."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devtools.servers.mariadb import MariaDb
from stepvault.engines.base import Connection
from stepvault.engines.mysql.inventory import Column, Table, tables
from stepvault.engines.mysql.rows import Plan, statements
from stepvault.engines.mysql.session import connect
from stepvault.engines.row_digest import Sums
from stepvault.errors import (
    SourceUnsupported,
    TargetUnsupported,
)
from tests.engines.driver import back_up, restore_job, run_restore
from tests.engines.mysql import data
from tests.engines.mysql.helpers import fails, globally, there_and_back
from tests.engines.mysql.rig import MariaDbRig


@pytest.mark.usefixtures("pair")
def test_rows_beyond_max_allowed_packet_are_read_whole(
    rig: MariaDbRig, other: MariaDb, tmp_path: Path
) -> None:
    """The server could not put these into a text: they come raw. Only putting them back needs
    the room."""
    rig.server.sql(
        "CREATE TABLE huge (id INT PRIMARY KEY, b LONGBLOB, t LONGTEXT)",
        "INSERT INTO huge VALUES (1, REPEAT(x'00FF5C27', 5000000), NULL), (2, NULL, REPEAT('ü\\'', 3000000))",
        database="pair",
    )
    with globally(rig.server, "max_allowed_packet", 1048576):
        results = back_up(rig.engine, rig.source("pair"), tmp_path, connection=rig.as_dumper())
    target = rig.target()
    job = restore_job(results, tmp_path, rig.source("pair"), **target)
    run_restore(rig.engine, job)
    assert rig.content(target) == data.contents(rig.server, "pair")

    other.sql("CREATE OR REPLACE DATABASE small_packets")
    there = Connection("127.0.0.1", other.port, "root", other.password, "small_packets")
    job = restore_job(results, tmp_path, rig.source("pair"), connection=there)
    with pytest.raises(TargetUnsupported, match="max_allowed_packet is 4,194,304"):
        run_restore(rig.engine, job)
    assert other.sql("SELECT COUNT(*) FROM small_packets.huge") == [(0,)]


@pytest.mark.usefixtures("pair")
def test_a_row_too_large_for_the_server_to_build_is_an_error_not_a_gap(
    rig: MariaDbRig, tmp_path: Path
) -> None:
    rig.server.sql(
        "CREATE TABLE quotes (id INT PRIMARY KEY, a VARBINARY(60000))",
        "INSERT INTO quotes VALUES (1, 'fine'), (2, REPEAT('x', 60000))",
        database="pair",
    )
    with globally(rig.server, "max_allowed_packet", 65536):
        message = fails(rig, tmp_path, SourceUnsupported)
    assert "pair.quotes" in message
    assert "max_allowed_packet" in message


def test_sums_see_swapped_values_and_ignore_order() -> None:
    def of(*lines: bytes) -> Sums:
        sums = Sums()
        sums.add(lines)
        return sums

    assert of(b"1,'a'", b"2,'b'") == of(b"2,'b'", b"1,'a'")
    assert of(b"1,'a'", b"2,'b'") != of(b"1,'b'", b"2,'a'")
    assert of(b"1", b"2").plus(of(b"3")) == of(b"1", b"2", b"3")
    assert Sums.parse(2, of(b"1", b"2").text()) == of(b"1", b"2")


_TYPES = st.sampled_from(["int", "double", "varchar", "text", "longblob", "json", "geometry"])


@given(st.lists(_TYPES, min_size=1, max_size=40))
def test_ten_times_the_columns_make_ten_times_the_statement(types: list[str]) -> None:
    def length(times: int) -> int:
        columns = [Column(f"c{n:06d}", t, "utf8mb4", True) for n, t in enumerate(types * times)]
        return len(Plan(Table("d", "t", "table", columns=columns)).select)

    assert length(10) <= 10 * length(1) + 100


#: The most memory that a connection's statements have taken on the server, in bytes.
_PEAK = {
    "mariadb": "SELECT max_memory_used FROM information_schema.processlist WHERE id = {}",
    "mysql": "SELECT max_total_memory FROM performance_schema.threads WHERE processlist_id = {}",
}


def test_ten_times_the_columns_take_ten_times_the_servers_memory(
    brand: str, rig: MariaDbRig
) -> None:
    name = rig.new_database()

    def memory(count: int) -> int:
        columns = ", ".join(f"q{n} TEXT" for n in range(count))
        values = ", ".join(f"'answer {n}'" if n < 300 else "NULL" for n in range(count))
        rig.server.sql(
            f"CREATE TABLE survey{count} (id INT PRIMARY KEY, {columns}) ENGINE=MyISAM",
            f"INSERT INTO survey{count} VALUES (1, {values})",
            database=name,
        )
        session = connect(rig.as_root(name))
        try:
            table = next(t for t in tables(session, name) if t.name == f"survey{count}")
            before = int(str(rig.server.sql(_PEAK[brand].format(session.id))[0][0]))
            assert list(statements(session, table, "", Sums()))
            peak = int(str(rig.server.sql(_PEAK[brand].format(session.id))[0][0]))
        finally:
            session.close()
        return peak - before

    # A statement quadratic in the columns would take a hundred times as much.
    assert memory(2000) <= 15 * max(memory(200), 1 << 20)


def test_a_survey_of_a_thousand_questions_comes_back(rig: MariaDbRig, tmp_path: Path) -> None:
    columns = ", ".join(f"q{n} {('TEXT', 'BLOB')[n % 7 == 0]}" for n in range(1000))

    def values(length: int, filled: int) -> str:
        return ", ".join(
            f"REPEAT('{n % 10}', {length})" if n < filled else "NULL" for n in range(1000)
        )

    there_and_back(
        rig,
        tmp_path,
        [
            f"CREATE TABLE survey (id INT PRIMARY KEY, {columns}) ENGINE=MyISAM",
            *(
                f"INSERT INTO survey VALUES ({length}, {values(length, filled)})"
                for length, filled in (
                    (1, 1000),
                    (16, 500),
                    (70, 1000),
                    (71, 1000),
                    (5000, 40),
                    (0, 9),
                )
            ),
        ],
    )


def test_a_row_without_any_stored_value_is_counted_and_comes_back(
    rig: MariaDbRig, tmp_path: Path
) -> None:
    result, _, restored = there_and_back(
        rig,
        tmp_path,
        [
            "CREATE TABLE computed (a INT AS (1 + 1) VIRTUAL, b INT AS (3) STORED)",
            "INSERT INTO computed () VALUES (), (), ()",
        ],
    )
    assert sum(o.rows or 0 for o in result.objects) == 3
    assert rig.server.sql("SELECT * FROM computed", database=restored) == [(2, 3)] * 3


def test_the_error_value_of_an_enum_is_not_taken_for_its_empty_member(
    rig: MariaDbRig, tmp_path: Path
) -> None:
    """Without the member '' the server makes the error value of '' by itself."""
    _, _, restored = there_and_back(
        rig,
        tmp_path,
        [
            "SET sql_mode = ''",
            "CREATE TABLE e (id INT PRIMARY KEY, e ENUM('','a'), f ENUM('a','b'), s SET('x','y'))",
            "INSERT INTO e VALUES (1, 0, 0, 0), (2, '', 'zz', 'zz'), (3, 'a', 'b', 'x'), (4, NULL, NULL, NULL)",
        ],
    )
    assert rig.server.sql("SELECT e+0, f+0, s+0 FROM e ORDER BY id", database=restored) == [
        (0, 0, 0),
        (1, 0, 0),
        (2, 2, 1),
        (None, None, None),
    ]
