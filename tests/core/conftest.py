"""What the core's tests share."""

from collections.abc import Iterator

import pytest

from devtools import faults
from stepvault import engines as engines_package
from stepvault import storage
from stepvault.catalog import Vault
from stepvault.engines.base import UnitDraft
from tests.core.streams import Scripted, ScriptedEngine


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> dict[str, ScriptedEngine]:
    """One scripted engine per engine name; ``files`` plans two batches."""
    made = {
        "sqlite": ScriptedEngine([Scripted("app.zst", lambda: iter([b"pages"]), rows=3)]),
        "files": ScriptedEngine(
            [],
            planned=[
                UnitDraft("0000", [b"a\0", b"b\0"], 20, 2),
                UnitDraft("0001", [b"c\0"], 10, 1),
            ],
        ),
    }
    monkeypatch.setattr(engines_package, "find", made.__getitem__)
    return made


@pytest.fixture
def proxy(aws: str, vault: Vault, monkeypatch: pytest.MonkeyPatch) -> Iterator[faults.Proxy]:
    """The way to S3; without faults until a test chooses some."""
    with faults.Proxy(aws) as made:
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.endpoint)
        storage.client.cache_clear()
        yield made
        made.choose = lambda _: None
    storage.client.cache_clear()
