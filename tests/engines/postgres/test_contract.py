"""PostgreSQL keeps the contract of all engines."""

import pytest

from devtools.servers.postgres import PostgresServer
from tests.engines.contract import ServerContract
from tests.engines.postgres.rig import PostgresRig


class TestPostgresContract(ServerContract):
    @pytest.fixture
    def rig(self, pg18: PostgresServer, odd18: str) -> PostgresRig:
        return PostgresRig(pg18, odd18)
