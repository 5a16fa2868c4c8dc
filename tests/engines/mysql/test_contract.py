"""The MySQL engine keeps the contract of all engines, on a real MariaDB and a real MySQL."""

from collections.abc import Iterator

import pytest

from devtools.servers.mariadb import MariaDb
from tests.engines.contract import ServerContract, ServerRig
from tests.engines.mysql.rig import MariaDbRig


class TestContract(ServerContract):
    @pytest.fixture
    def rig(self, server: MariaDb) -> Iterator[ServerRig]:
        rig = MariaDbRig(server)
        yield rig
        server.sql("SELECT 1", *(f"DROP DATABASE {name}" for name in rig.made))
