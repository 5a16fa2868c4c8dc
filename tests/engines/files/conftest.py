"""Tests that use ``file_system`` run twice: entries read one by one, and ahead as on EFS."""

import pytest

from stepvault.engines.files import unit, walk


@pytest.fixture(params=["local", "network"])
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "network":
        for room in (unit, walk):
            monkeypatch.setattr(room, "is_network", lambda _: True)
    return str(request.param)
