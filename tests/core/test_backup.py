import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stepvault import __version__, engines, keys, multipart
from stepvault.backup import back_up
from stepvault.catalog import Vault
from stepvault.compress import decompress
from stepvault.deadline import Deadline
from stepvault.errors import (
    OutOfTime,
    ShortRead,
    SourceBusy,
    SourceMissing,
    SourceUnreachable,
    VaultMissing,
)
from stepvault.records import StoredObject
from tests.core.streams import RUN, Scripted, ScriptedEngine, read_object, unit

MIB = multipart.MIB
Install = Callable[..., ScriptedEngine]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a scripted engine in the place of the unit's."""

    def install(*scripts: Scripted, **more: Any) -> ScriptedEngine:
        made = ScriptedEngine(scripts, **more)
        monkeypatch.setattr(engines, "find", lambda name: made)
        return made

    return install


def stream(name: str, *chunks: bytes, **more: Any) -> Scripted:
    return Scripted(name, lambda: iter(chunks), **more)


def failing(name: str, *chunks: bytes, error: Exception) -> Scripted:
    def script() -> Iterator[bytes]:
        yield from chunks
        raise error

    return Scripted(name, script)


def data_keys(vault: Vault) -> list[str]:
    return [e.key for e in vault.entries(keys.data_prefix("shop", RUN))]


def test_a_stream_becomes_a_compressed_object_and_a_receipt(vault: Vault, engine: Install) -> None:
    engine(stream("a.zst", b"rows " * 1000, b"more", rows=12))
    receipt = back_up(unit(), vault)
    raw = b"rows " * 1000 + b"more"
    stored = read_object(vault, keys.data("shop", RUN, "a.zst"))
    assert b"".join(decompress([stored])) == raw
    (o,) = receipt.objects
    assert (o.raw_bytes, o.stored_bytes, o.rows) == (len(raw), len(stored), 12)
    assert o.raw_sha256 == hashlib.sha256(raw).hexdigest()
    assert o.stored_sha256 == hashlib.sha256(stored).hexdigest()
    assert receipt == vault.receipt("shop", RUN, "0000")
    assert receipt.tool_version == __version__
    assert receipt.facts == {"version": "1"}
    assert receipt.profile.read.bytes == len(raw)
    assert receipt.profile.compress.bytes == len(stored)
    assert receipt.profile.upload.bytes == len(stored)


def test_an_empty_stream_is_a_valid_object(vault: Vault, engine: Install) -> None:
    engine(stream("empty.zst"))
    (o,) = back_up(unit(), vault).objects
    assert o.raw_bytes == 0
    assert b"".join(decompress([read_object(vault, keys.data("shop", RUN, "empty.zst"))])) == b""


def test_a_stream_that_is_packed_already_is_stored_as_it_is(vault: Vault, engine: Install) -> None:
    engine(stream("toc.dat", b"\x00packed", encoding="none"))
    (o,) = back_up(unit(), vault).objects
    assert read_object(vault, keys.data("shop", RUN, "toc.dat")) == b"\x00packed"
    assert o.raw_sha256 == o.stored_sha256


def test_streams_are_read_in_parallel_and_the_closing_ones_come_last(
    vault: Vault, engine: Install
) -> None:
    together = threading.Barrier(3, timeout=20)

    def waits_for_the_others() -> Iterator[bytes]:
        together.wait()
        yield b"x"

    def stored_so_far() -> Iterator[bytes]:
        yield "\n".join(data_keys(vault)).encode()

    engine(
        *(Scripted(f"{n}.zst", waits_for_the_others) for n in range(3)),
        last=[Scripted("index", stored_so_far, encoding="none")],
        parallel=3,
    )
    receipt = back_up(unit(), vault)
    assert {o.name for o in receipt.objects} == {"0.zst", "1.zst", "2.zst", "index"}
    assert len(read_object(vault, keys.data("shop", RUN, "index")).splitlines()) == 3


def test_a_source_that_fails_in_mid_stream_leaves_no_object_no_upload_no_receipt(
    vault: Vault, engine: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multipart, "FIRST_PART", 5 * MIB)
    noise = [os.urandom(MIB) for _ in range(12)]
    engine(failing("a.zst", *noise, error=ShortRead("the server closed after 12 MiB")))
    with pytest.raises(ShortRead, match="closed after 12 MiB"):
        back_up(unit(), vault)
    assert data_keys(vault) == []
    assert vault.open_uploads("") == []
    assert vault.receipt("shop", RUN, "0000") is None
    (failure,) = vault.failures(RUN)
    assert (failure.error, failure.unit) == ("ShortRead", "0000")
    assert "closed after 12 MiB" in failure.message


def test_one_failing_stream_stops_its_siblings_and_its_error_is_the_one_told(
    vault: Vault, engine: Install
) -> None:
    made = engine(parallel=2)
    made.scripts = [
        Scripted("slow.zst", made.until_cancelled),
        failing("bad.zst", b"x", error=SourceBusy("table orders is locked by pid 7")),
    ]
    with pytest.raises(SourceBusy, match="locked by pid 7"):
        back_up(unit(), vault)
    assert made.cancelled.is_set()
    assert vault.open_uploads("") == []


def test_out_of_time_unblocks_a_dead_read_aborts_and_says_how_far_it_got(
    vault: Vault, engine: Install
) -> None:
    made = engine()
    made.scripts = [Scripted("a.zst", made.until_cancelled)]
    with pytest.raises(OutOfTime, match=r"shop/0000 ran out of time .* read\. .*batch_bytes"):
        back_up(unit(), vault, Deadline(0.5, margin=0.1))
    assert data_keys(vault) == []
    assert vault.open_uploads("") == []
    assert [f.error for f in vault.failures(RUN)] == ["OutOfTime"]


def test_a_unit_that_is_stored_already_is_not_read_again(vault: Vault, engine: Install) -> None:
    made = engine(stream("a.zst", b"once"))
    first = back_up(unit(), vault)
    assert back_up(unit(), vault) == first
    assert made.opened == 1


def test_a_receipt_whose_object_is_gone_does_not_count(vault: Vault, engine: Install) -> None:
    made = engine(stream("a.zst", b"twice"))
    back_up(unit(), vault)
    vault.delete([keys.data("shop", RUN, "a.zst")])
    back_up(unit(), vault)
    assert made.opened == 2
    assert data_keys(vault) == [keys.data("shop", RUN, "a.zst")]


def test_an_optional_source_that_is_not_there_is_skipped_with_the_reason(
    vault: Vault, engine: Install
) -> None:
    engine(fails_to_open=SourceMissing("/data/app.db does not exist"))
    receipt = back_up(unit(optional=True), vault)
    assert receipt.skipped == "/data/app.db does not exist"
    assert receipt.objects == []


def test_a_required_source_that_is_not_there_fails(vault: Vault, engine: Install) -> None:
    engine(fails_to_open=SourceMissing("/data/app.db does not exist"))
    with pytest.raises(SourceMissing):
        back_up(unit(), vault)


def test_an_optional_source_that_is_there_but_fails_is_not_skipped(
    vault: Vault, engine: Install
) -> None:
    engine(fails_to_open=SourceUnreachable("db:5432 does not answer"))
    with pytest.raises(SourceUnreachable):
        back_up(unit(optional=True), vault)


@pytest.mark.usefixtures("aws")
def test_a_vault_that_does_not_exist_is_named(engine: Install) -> None:
    engine(stream("a.zst", b"x"))
    with pytest.raises(VaultMissing, match="no-such-vault"):
        back_up(unit(), Vault("no-such-vault"))


def test_objects_of_earlier_runs_that_a_backup_leans_on_are_in_its_receipt(
    vault: Vault, engine: Install
) -> None:
    earlier = StoredObject(
        name="old.tar.zst",
        run_id="20260101T000000Z-old",
        raw_bytes=1,
        stored_bytes=1,
        raw_sha256="",
        stored_sha256="",
        encoding="zstd",
    )
    engine(stream("index.zst", b"x"), references=[earlier])
    receipt = back_up(unit(), vault)
    assert earlier in receipt.objects
    assert back_up(unit(), vault) == receipt
