"""Rows as SQL: large ones, and the hash of their content."""

from pathlib import Path

import pytest

from devtools.servers.mariadb import MariaDb
from stepvault.engines.base import Connection
from stepvault.engines.row_digest import Sums
from stepvault.errors import (
    SourceUnsupported,
)
from tests.engines.driver import back_up, restore_job, run_restore
from tests.engines.mysql import data
from tests.engines.mysql.helpers import fails, globally
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
    with pytest.raises(SourceUnsupported, match="max_allowed_packet is 4,194,304"):
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
