"""``format = "sql"`` brings every value back bit by bit, whatever SQLite reads the script."""

import math
import random
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepvault.engines.sqlite import literals
from stepvault.engines.sqlite.script import Script, replay
from stepvault.errors import SourceUnsupported

EDGES = [
    0.0, -0.0, 5e-324, -5e-324, 2.2250738585072009e-308, 2.2250738585072014e-308,
    1.7976931348623157e308, -1.7976931348623157e308, math.inf, -math.inf,
    0.1, 0.1 + 0.2, 1e15, 1e22, 1e23, 9007199254740993.0, 123456789012345678.0,
]  # fmt: skip


def float_of(bits: int) -> float:
    return struct.unpack("<d", struct.pack("<Q", bits))[0]  # type: ignore[no-any-return]


def bits(values: list[float]) -> list[bytes]:
    return [struct.pack("<d", value) for value in values]


doubles = st.integers(0, 2**64 - 1).map(float_of).filter(lambda value: not math.isnan(value))
measures = st.builds(round, st.floats(-1e6, 1e6), st.integers(0, 12))


@contextmanager
def database(encoding: str = "UTF-8") -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute(f"PRAGMA encoding = '{encoding}'")
        yield connection


def script_of(connection: sqlite3.Connection) -> bytes:
    text_factory = connection.text_factory
    script = b"".join(Script(connection, "x.db").read())
    connection.text_factory = text_factory
    return script


def after_the_round_trip(connection: sqlite3.Connection, query: str) -> list[list[Any]]:
    """What the query gives where this SQLite ran the script, and where the newest one did."""
    script = script_of(connection)
    with database() as copy:
        replay(copy, [script])
        assert script_of(copy) == script
        by_this = copy.execute(query).fetchall()
    with closing(apsw.Connection(":memory:")) as newest:
        newest.execute(script.decode())
        return [by_this, list(newest.execute(query))]


class TestReal:
    @settings(max_examples=60)
    @given(st.lists(doubles | measures, min_size=1, max_size=300))
    def test_every_number_comes_back_with_equal_bits(self, values: list[float]) -> None:
        with database() as connection:
            connection.execute("CREATE TABLE t (a, b REAL)")
            connection.executemany("INSERT INTO t VALUES (?, ?)", [(v, v) for v in values])
            stored = connection.execute("SELECT b FROM t ORDER BY rowid").fetchall()
            for rows in after_the_round_trip(connection, "SELECT a, b FROM t ORDER BY rowid"):
                assert bits([a for a, _ in rows]) == bits(values)
                assert bits([b for _, b in rows]) == bits([b for (b,) in stored])

    def test_a_hundred_thousand_ordinary_numbers_come_back_with_equal_bits(self) -> None:
        """Few of them are those that SQLite reads inexactly."""
        rng = random.Random(3)
        values = [round(rng.uniform(-180, 180), 2 + n % 12) for n in range(50_000)]
        values += [rng.uniform(-1e4, 1e4) for _ in range(50_000)]
        values += EDGES
        with database() as connection:
            connection.execute("CREATE TABLE t (a)")
            connection.executemany("INSERT INTO t VALUES (?)", [(v,) for v in values])
            for rows in after_the_round_trip(connection, "SELECT a FROM t ORDER BY rowid"):
                assert bits([a for (a,) in rows]) == bits(values)

    def test_ordinary_numbers_stay_readable(self) -> None:
        with database() as connection:
            connection.execute("CREATE TABLE t (price REAL, longitude REAL)")
            connection.execute("INSERT INTO t VALUES (19.99, -73.985656)")
            assert b"VALUES(1, 19.99, -73.985656)" in script_of(connection)

    def test_a_number_that_this_sqlite_would_read_as_another_is_refused(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(literals, "real", lambda value: "0.5")
        with database() as connection:
            connection.execute("CREATE TABLE t (a)")
            connection.execute("INSERT INTO t VALUES (0.25)")
            with pytest.raises(SourceUnsupported, match=r"x\.db.*table t.*0\.25") as caught:
                script_of(connection)
        assert 'format = "file"' in caught.value.fix

    def test_a_row_may_hold_more_numbers_than_a_query_has_columns(self) -> None:
        with database() as connection:
            columns = ", ".join(f"c{n}" for n in range(1_900))
            connection.execute(f"CREATE TABLE t ({columns})")
            numbers = [n + 0.1 for n in range(1_900)]
            for _ in range(3):
                connection.execute(f"INSERT INTO t VALUES ({', '.join('?' * 1_900)})", numbers)
            for rows in after_the_round_trip(connection, "SELECT * FROM t"):
                assert rows == [tuple(numbers)] * 3


ENCODINGS = {"UTF-8": "utf-8", "UTF-16le": "utf-16-le", "UTF-16be": "utf-16-be"}
ODD = "\ufeff\ufffe\uffff\ufffd\ud800\udc00\udfff\0\r\n\\'😀é\U0010ffff"


class TestText:
    @pytest.mark.parametrize("encoding", ENCODINGS)
    @settings(max_examples=60)
    @given(texts=st.lists(st.text(st.sampled_from(ODD) | st.characters(codec=None)), max_size=20))
    def test_every_text_comes_back_with_equal_bytes(self, encoding: str, texts: list[str]) -> None:
        stored = [text.encode(ENCODINGS[encoding], "surrogatepass") for text in texts]
        query = "SELECT typeof(a), CAST(a AS BLOB) FROM t ORDER BY rowid"
        with database(encoding) as connection:
            connection.execute("CREATE TABLE t (a)")
            for value in stored:  # SQLite would convert a bound parameter
                connection.execute(f"INSERT INTO t VALUES (CAST(X'{value.hex()}' AS TEXT))")
            expected = [("text", value) for value in stored]
            assert connection.execute(query).fetchall() == expected
            assert after_the_round_trip(connection, query) == [expected, expected]

    @pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
    def test_a_schema_that_is_no_text_is_refused(self, encoding: str) -> None:
        bad = "CREATE VIEW v AS SELECT '\ud800'".encode(ENCODINGS[encoding], "surrogatepass")
        with database(encoding) as connection:
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute(
                "INSERT INTO sqlite_schema VALUES "
                f"('view', 'v', 'v', 0, CAST(X'{bad.hex()}' AS TEXT))"
            )
            with pytest.raises(SourceUnsupported, match="schema") as caught:
                script_of(connection)
        assert 'format = "file"' in caught.value.fix

    def test_values_of_a_utf_16_database_keep_their_storage_class(self) -> None:
        rows: list[tuple[Any]] = [(None,), (1,), (1.5,), ("x",), (b"\xd8\x00",), ("",), (b"",)]
        with database("UTF-16le") as connection:
            connection.execute("CREATE TABLE t (a)")
            connection.executemany("INSERT INTO t VALUES (?)", rows)
            query = "SELECT a FROM t ORDER BY rowid"
            assert after_the_round_trip(connection, query) == [rows, rows]


class TestCost:
    """Ten times the tables or columns take about ten times the work."""

    def test_all_tables_are_listed_once(self) -> None:
        """SQLite goes through all tables for such a list, even for a list of one."""
        statements: list[str] = []
        with database() as connection:
            for number in range(50):
                connection.execute(f"CREATE TABLE t{number} (a INTEGER PRIMARY KEY, b)")
            connection.set_trace_callback(statements.append)
            script_of(connection)
        assert len([s for s in statements if "table_list" in s]) == 1

    def test_rows_of_a_wide_table_share_statements(self) -> None:
        """SQLite looks for each column's name among all, once a statement."""
        columns = [f"c{n}" for n in range(1_900)]
        row = [n % 10 for n in range(1_900)]
        with database() as connection:
            connection.execute(f"CREATE TABLE t ({', '.join(columns)})")
            connection.executemany(f"INSERT INTO t VALUES ({', '.join('?' * 1_900)})", [row] * 200)
            script = script_of(connection)
            assert 1 < script.count(b"INSERT INTO") < 10
            assert max(len(line) for line in script.split(b";\n")) < 512 << 10
            for rows in after_the_round_trip(connection, "SELECT * FROM t"):
                assert rows == [tuple(row)] * 200

    def test_rows_of_an_ordinary_table_have_a_statement_each(self) -> None:
        with database() as connection:
            connection.execute("CREATE TABLE t (a)")
            connection.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(20)])
            assert script_of(connection).count(b"INSERT INTO") == 20
