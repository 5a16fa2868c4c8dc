"""What the server's errors become."""

import signal
import threading
from pathlib import Path

import pytest

from devtools.servers.mariadb import MariaDb
from stepvault.engines.mysql import consistency as consistency_module
from stepvault.engines.mysql import session as session_module
from stepvault.errors import (
    SourceBusy,
    SourceUnreachable,
)
from tests.engines.mysql.helpers import at_first_row, fails
from tests.engines.mysql.rig import MariaDbRig


@pytest.mark.usefixtures("pair")
def test_a_lock_held_by_another_is_waited_for_briefly_and_its_holder_named(
    rig: MariaDbRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "LOCK_WAIT", 1)
    monkeypatch.setattr(consistency_module, "_PATIENCE", 0.5)
    holder = rig.server.connect("pair")
    holder.query("LOCK TABLES smaller WRITE")
    running = threading.Thread(target=lambda: holder.query("SELECT SLEEP(4) AS holding_the_lock"))
    running.start()
    try:
        message = fails(rig, tmp_path, SourceBusy)
    finally:
        running.join()
        holder.close()
    assert "pair.smaller" in message
    assert "holding_the_lock" in message
    assert "root@" in message


def test_a_killed_server_is_unreachable(tmp_path: Path) -> None:
    with MariaDb() as mortal:
        mortal.sql(
            "CREATE USER dumper@127.0.0.1 IDENTIFIED BY 'dump-me'",
            "GRANT ALL ON *.* TO dumper@127.0.0.1",
            "CREATE DATABASE pair",
            "CREATE TABLE pair.larger (id INT PRIMARY KEY, t LONGTEXT)",
        )
        mortal.sql(
            "INSERT INTO larger SELECT seq, REPEAT('x', 100000) FROM seq_1_to_200", database="pair"
        )
        kill = at_first_row(lambda: mortal.stop(signal.SIGKILL))
        message = fails(MariaDbRig(mortal), tmp_path, SourceUnreachable, watch=kill)
    assert f"127.0.0.1:{mortal.port}" in message
