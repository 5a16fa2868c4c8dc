"""Packets and rows are whole wherever the network cuts them."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepvault.engines.mysql.wire import ROW_END, Wire
from stepvault.errors import (
    SourceCorrupt,
)
from tests.engines.mysql.helpers import fails, globally
from tests.engines.mysql.rig import MariaDbRig


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


@pytest.mark.usefixtures("pair")
@pytest.mark.mariadb  # MySQL would change the text on its way in
def test_a_value_that_is_no_text_is_an_error_whatever_warnings_the_server_keeps(
    rig: MariaDbRig, tmp_path: Path
) -> None:
    rig.server.sql(
        "SET sql_mode = ''",
        "CREATE TABLE odd (id INT PRIMARY KEY, a VARCHAR(9) CHARACTER SET ascii)",
        "INSERT INTO odd VALUES (1, _ascii x'FF41')",
        database="pair",
    )
    with globally(rig.server, "max_error_count", 0):
        message = fails(rig, tmp_path, SourceCorrupt)
    assert "pair.odd" in message
