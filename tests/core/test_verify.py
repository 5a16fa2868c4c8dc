import pytest

from stepvault import keys
from stepvault.backup import back_up
from stepvault.plan import fan_out
from stepvault.seal import SealRequest, seal
from stepvault.verify import verify
from tests.core.streams import RUN, Scripted, ScriptedEngine, unit


@pytest.fixture
def manifest(vault, monkeypatch):
    """A sealed backup of three objects."""
    engine = ScriptedEngine(
        [Scripted(f"{n}.zst", lambda n=n: iter([b"row\n" * 1000 * (n + 1)])) for n in range(3)]
    )
    monkeypatch.setattr("stepvault.engines.find", lambda name: engine)
    fan_out(vault, RUN, [unit()], attempt=0)
    back_up(unit(), vault)
    seal(vault, SealRequest(run_id=RUN))
    return vault.manifest("shop", RUN)


def test_a_whole_backup_has_no_differences_and_every_byte_is_read(vault, manifest):
    read = []
    assert verify(vault, manifest, lambda name, size: read.append(size)) == []
    assert sum(read) == manifest.raw_bytes


def test_every_damaged_or_missing_object_is_named(vault, manifest):
    damaged = keys.data("shop", RUN, "1.zst")
    body = bytearray(vault.get(damaged))
    body[-1] ^= 1
    vault.put(damaged, bytes(body))
    vault.delete([keys.data("shop", RUN, "2.zst")])
    wrong = verify(vault, manifest)
    assert len(wrong) == 2
    assert "1.zst" in wrong[0]
    assert "2.zst" in wrong[1]
