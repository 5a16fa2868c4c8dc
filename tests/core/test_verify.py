import threading
from collections.abc import Iterator
from functools import partial

import pytest

from stepvault import keys
from stepvault.backup import back_up
from stepvault.catalog import Vault
from stepvault.plan import hand_out
from stepvault.records import Manifest, StoredObject
from stepvault.seal import SealRequest, seal
from stepvault.verify import verify
from tests.core.streams import RUN, Scripted, ScriptedEngine, read_object, unit


@pytest.fixture
def manifest(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    """A sealed backup of three objects."""
    engine = ScriptedEngine(
        [Scripted(f"{n}.zst", partial(iter, [b"row\n" * 1000 * (n + 1)])) for n in range(3)]
    )
    monkeypatch.setattr("stepvault.engines.find", lambda name: engine)
    hand_out(vault, RUN, [unit()], attempt=0)
    vault.put_lines(keys.plan(RUN, "files"), [])
    back_up(unit(), vault)
    seal(vault, SealRequest(run_id=RUN))
    return vault.manifest("shop", RUN)


def test_a_whole_backup_has_no_differences_and_every_byte_is_read(
    vault: Vault, manifest: Manifest
) -> None:
    read = []
    assert verify(vault, manifest, lambda name, size: read.append(size)) == []
    assert sum(read) == manifest.raw_bytes


def test_every_damaged_or_missing_object_is_named(vault: Vault, manifest: Manifest) -> None:
    damaged = keys.data("shop", RUN, "1.zst")
    body = bytearray(read_object(vault, damaged))
    body[-1] ^= 1
    vault.put(damaged, bytes(body))
    vault.delete([keys.data("shop", RUN, "2.zst")])
    wrong = verify(vault, manifest)
    assert len(wrong) == 2
    assert "1.zst" in wrong[0]
    assert "2.zst" in wrong[1]


def test_what_is_called_off_does_not_go_on_to_its_end(
    vault: Vault, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C reaches the thread that waits; the others are in the middle of large objects."""
    reading, read = threading.Event(), []

    def endless(source: str, run: str, stored: StoredObject) -> Iterator[bytes]:
        if stored.name == "0.zst":
            assert reading.wait(10)
            raise KeyboardInterrupt
        while True:
            yield b"more"

    def progress(name: str, size: int) -> None:
        reading.set()
        read.append(size)

    monkeypatch.setattr(vault, "read", endless)
    with pytest.raises(KeyboardInterrupt):
        verify(vault, manifest, progress)
    assert read
