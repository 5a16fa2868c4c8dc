import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from stepvault import multipart, storage
from stepvault.catalog import Vault
from stepvault.errors import StorageUnavailable, VaultMissing
from stepvault.governor import Governor
from stepvault.multipart import MAX_PARTS, MIB, Upload, part_size
from stepvault.profiling import StageMeter

KEY = "backups/shop/20260101T000000Z-a/data/object"
TIB = 1 << 40
Open = Callable[..., Upload]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """S3's least part size, so that several parts need little memory."""
    monkeypatch.setattr(multipart, "FIRST_PART", 5 * MIB)


@pytest.fixture
def upload(vault: Vault) -> Iterator[Open]:
    """Opens uploads into the vault."""
    with ThreadPoolExecutor(4) as pool:
        yield lambda bucket=vault.bucket, **more: Upload(
            bucket, KEY, pool, more.get("inflight", 2), Governor(), more.get("meter", StageMeter())
        )


def test_ten_thousand_parts_hold_five_tebibytes_within_the_limits_of_s3() -> None:
    sizes = [part_size(number) for number in range(1, MAX_PARTS + 1)]
    assert sizes[0] == 6 * MIB
    assert sum(sizes) >= 5 * TIB
    assert min(sizes) >= 5 * MIB
    assert max(sizes) <= 5 << 30
    assert sizes == sorted(sizes)


def test_parts_stay_small_until_a_stream_is_really_large() -> None:
    assert all(part_size(n) == 6 * MIB for n in range(1, 1001))
    assert part_size(1001) == 12 * MIB


def test_a_short_stream_is_one_put(vault: Vault, upload: Open) -> None:
    with upload() as up:
        up.write(b"hello ")
        up.write(memoryview(b"world"))
        done = up.complete()
    assert vault.get(KEY) == b"hello world"
    assert (done.bytes, done.parts) == (11, 1)
    assert done.sha256 == hashlib.sha256(b"hello world").hexdigest()


def test_an_empty_stream_is_an_empty_object(vault: Vault, upload: Open) -> None:
    with upload() as up:
        done = up.complete()
    assert vault.get(KEY) == b""
    assert done.bytes == 0


@pytest.mark.usefixtures("small_parts")
def test_a_long_stream_arrives_in_order_with_a_checksum_on_every_part(
    vault: Vault, upload: Open
) -> None:
    data, meter = os.urandom(23 * MIB + 7), StageMeter()
    with upload(meter=meter) as up:
        for at in range(0, len(data), 300_000):
            up.write(data[at : at + 300_000])
        done = up.complete()
    assert done.parts == 5
    assert done.bytes == len(data)
    assert done.sha256 == hashlib.sha256(data).hexdigest()
    assert vault.get(KEY) == data
    assert meter.stage().operations.count == 5
    head = storage.client().head_object(Bucket=vault.bucket, Key=KEY, ChecksumMode="ENABLED")
    assert head["ChecksumCRC32"].endswith("-5")


@pytest.mark.usefixtures("small_parts")
def test_an_error_in_the_stream_leaves_neither_object_nor_open_upload(
    vault: Vault, upload: Open
) -> None:
    def interrupted() -> None:
        with upload() as up:
            up.write(os.urandom(11 * MIB))
            up.write(os.urandom(6 * MIB))
            assert vault.open_uploads("backups/")
            raise RuntimeError("the source died")

    with pytest.raises(RuntimeError, match="the source died"):
        interrupted()
    assert vault.open_uploads("") == []
    assert vault.get(KEY) is None


def test_leaving_without_complete_leaves_nothing(vault: Vault, upload: Open) -> None:
    with upload() as up:
        up.write(b"forgotten")
    assert vault.get(KEY) is None


@pytest.mark.usefixtures("small_parts")
def test_an_upload_that_somebody_else_aborts_fails_as_a_passing_fault(
    vault: Vault, upload: Open
) -> None:
    def aborted() -> None:
        with upload() as up:
            up.write(os.urandom(6 * MIB))
            for key, upload_id in vault.open_uploads(""):  # as a lifecycle rule might
                storage.client().abort_multipart_upload(
                    Bucket=vault.bucket, Key=key, UploadId=upload_id
                )
            up.write(os.urandom(6 * MIB))
            up.complete()

    with pytest.raises(StorageUnavailable, match=vault.bucket):
        aborted()
    assert vault.get(KEY) is None


def put(up: Upload) -> None:
    with up:
        up.write(b"x")
        up.complete()


@pytest.mark.usefixtures("aws")
def test_a_bucket_that_does_not_exist_is_named(upload: Open) -> None:
    with pytest.raises(VaultMissing, match=r"'no-such-vault' does not exist\. Deploy"):
        put(upload("no-such-vault"))


@pytest.mark.usefixtures("small_parts")
def test_memory_stays_bounded_by_back_pressure(
    vault: Vault, upload: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    flying, most = 0, 0
    real = storage.client().upload_part

    def watched(**call: Any) -> Any:
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        try:
            return real(**call)
        finally:
            flying -= 1

    monkeypatch.setattr(storage.client(), "upload_part", watched)
    with upload(inflight=2) as up:
        for _ in range(8):
            up.write(bytes(5 * MIB))
        up.complete()
    assert most <= 2
