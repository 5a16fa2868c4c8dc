"""The test servers themselves."""

import os

import pytest

from devtools.servers.mariadb import MariaDb


def test_no_server_process_is_left_behind() -> None:
    with MariaDb() as server:
        pid = server.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not server.folder.exists()
