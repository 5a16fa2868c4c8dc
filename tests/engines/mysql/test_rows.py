"""Cutting tables and packets: nothing twice, nothing lost."""

import socket
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devtools.servers.mariadb import MariaDb
from stepvault.engines.mysql.connection import connect
from stepvault.engines.mysql.contents import Names
from stepvault.engines.mysql.inventory import Column, Table, matches
from stepvault.engines.mysql.ranges import cut, walk
from stepvault.engines.mysql.wire import ROW_END, Wire
from stepvault.engines.row_digest import Sums
from tests.engines.driver import back_up, restore_job, run_restore
from tests.engines.mysql.test_contract import MariaDbRig

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


def framed(packets: list[bytes]) -> bytes:
    """Packets as the protocol sends them: 16 MiB pieces, the last one shorter."""
    out = bytearray()
    for number, packet in enumerate(packets):
        for start in range(0, len(packet) + 1, 0xFFFFFF):
            piece = packet[start : start + 0xFFFFFF]
            out += len(piece).to_bytes(3, "little") + bytes([number & 255]) + piece
    return bytes(out)


def received(data: bytes, sizes: Iterator[int], wanted: int, texts: bool = False) -> list[bytes]:
    """What is made of data that comes through a real socket in pieces of these sizes."""
    ours, theirs = socket.socketpair()

    def send() -> None:
        at = 0
        while at < len(data):
            size = next(sizes)
            theirs.sendall(data[at : at + size])
            at += size

    sender = threading.Thread(target=send)
    sender.start()
    found: list[bytes] = []
    with ours, theirs:
        wire = Wire(ours)
        while len(found) < wanted:
            if texts:
                found += wire.texts()
            if len(found) < wanted:
                found += wire.packets()
        sender.join()
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=400), min_size=1, max_size=30),
    st.lists(st.integers(1, 300), min_size=1, max_size=20),
)
def test_packets_are_whole_wherever_the_network_cuts_them(
    packets: list[bytes], sizes: list[int]
) -> None:
    def cycle() -> Iterator[int]:
        while True:
            yield from sizes

    assert received(framed(packets), cycle(), len(packets)) == packets


@pytest.mark.parametrize("size", [0xFFFFFE, 0xFFFFFF, 0x1000000, 2 * 0xFFFFFF, 2 * 0xFFFFFF + 5])
def test_packets_of_16_mib_and_more_are_joined(size: int) -> None:
    packets = [b"a", bytes(range(256)) * (size // 256) + b"x" * (size % 256), b"z"]
    assert received(framed(packets), iter([1 << 20] * 1000), 3) == packets


def test_sums_see_swapped_values_and_ignore_order() -> None:
    def of(*lines: bytes) -> Sums:
        sums = Sums()
        sums.add(lines)
        return sums

    assert of(b"1,'a'", b"2,'b'") == of(b"2,'b'", b"1,'a'")
    assert of(b"1,'a'", b"2,'b'") != of(b"1,'b'", b"2,'a'")
    assert of(b"1", b"2").plus(of(b"3")) == of(b"1", b"2", b"3")
    assert Sums.parse(2, of(b"1", b"2").text()) == of(b"1", b"2")


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


@given(st.lists(st.text(min_size=1, max_size=12), unique=True, max_size=30))
def test_file_names_are_safe_and_unique_whatever_the_tables_are_called(tables: list[str]) -> None:
    names = Names()
    found = [names.of(table, "shop") for table in tables]
    assert len({name.casefold() for name in found}) == len(tables)
    for name in found:
        assert name.isascii()
        assert not set(name) & set("./\\ `'\"*?")
        assert "-schema" not in name


def test_patterns_name_tables_with_or_without_their_database() -> None:
    assert matches("shop", "orders", ["ord*"])
    assert matches("shop", "orders", ["shop.order?"])
    assert not matches("shop", "orders", ["other.orders"])
    assert not matches("shop", "orders", ["order"])
    assert matches("shop", "a[1]", ["a[1]"])


# No NUL and no DEL in front, as in the texts that the server builds.
_TEXT = st.binary(max_size=700).map(lambda b: b"'" + b.replace(b"\0", b"\\0"))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.one_of(_TEXT, _TEXT, _TEXT, st.none()), min_size=1),
    st.lists(st.integers(1, 900), min_size=1, max_size=20),
)
def test_rows_of_one_field_are_whole_wherever_the_network_cuts_them(
    values: list[bytes | None], sizes: list[int]
) -> None:
    def cycle() -> Iterator[int]:
        while True:
            yield from sizes

    def field(value: bytes | None) -> bytes:
        if value is None:  # too large for the server to build
            return b"\xfb"
        size = len(value) + len(ROW_END)
        length = bytes([size]) if size < 251 else b"\xfc" + size.to_bytes(2, "little")
        return length + value + ROW_END

    packets = [field(value) for value in values]
    found = received(framed(packets), cycle(), len(packets), texts=True)
    assert len(found) == len(values)
    for row, value in zip(found, values, strict=True):
        assert row in {value, field(value)}


@pytest.mark.parametrize("size", [1, 246, 247, 250, 251, 65_531, 65_532, 70_000, 1_000_000])
def test_rows_of_every_length_are_cut_at_their_ends(size: int) -> None:
    def field(value: bytes) -> bytes:
        length = len(value)
        if length < 251:
            return bytes([length]) + value
        if length < 1 << 16:
            return b"\xfc" + length.to_bytes(2, "little") + value
        return b"\xfd" + length.to_bytes(3, "little") + value

    rows = [b"1" * size, b"2", b"\x7f" * size, b"3" * size]
    packets = [field(b"'" + row + ROW_END) for row in rows]
    ours, theirs = socket.socketpair()
    sender = threading.Thread(target=theirs.sendall, args=(framed(packets),))
    sender.start()
    found: list[bytes] = []
    with ours, theirs:
        wire = Wire(ours)
        while len(found) < len(rows):
            found += wire.texts()
        sender.join()
    assert found == [b"'" + row for row in rows]
