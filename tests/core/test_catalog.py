import hashlib
import os
from collections.abc import Callable

import pytest
import zstandard

from stepvault import keys, objects
from stepvault.catalog import Vault
from stepvault.errors import BackupTampered, RunNotFound, VaultMissing
from stepvault.records import StoredObject
from tests.core.streams import RUN, read_object
from tests.core.test_prune import put_backup

RAW = os.urandom(300_000) + b"rows\n" * 50_000


@pytest.fixture
def stored(vault: Vault) -> StoredObject:
    body = zstandard.ZstdCompressor(write_checksum=True).compress(RAW)
    vault.put(keys.data("shop", RUN, "a.zst"), body)
    return StoredObject(
        name="a.zst",
        raw_bytes=len(RAW),
        stored_bytes=len(body),
        raw_sha256=hashlib.sha256(RAW).hexdigest(),
        stored_sha256=hashlib.sha256(body).hexdigest(),
        encoding="zstd",
    )


def read(vault: Vault, stored: StoredObject) -> bytes:
    return b"".join(vault.read("shop", RUN, stored))


def change(vault: Vault, edit: Callable[[bytes], bytes]) -> None:
    key = keys.data("shop", RUN, "a.zst")
    vault.put(key, edit(read_object(vault, key)))


def test_an_object_is_read_back_as_it_was_stored(
    vault: Vault, stored: StoredObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "FETCH", 64_000)
    assert read(vault, stored) == RAW


@pytest.mark.parametrize(
    "edit",
    [
        lambda body: body[:-1000],
        lambda body: body[:1000] + bytes([body[1000] ^ 1]) + body[1001:],
        lambda body: zstandard.ZstdCompressor().compress(b"another database")[: len(body)],
        lambda body: b"",
        lambda body: body[:-4] + bytes(4),
    ],
    ids=["cut off", "a bit flipped", "another object", "emptied", "checksum gone"],
)
def test_a_tampered_object_is_refused(
    vault: Vault, stored: StoredObject, edit: Callable[[bytes], bytes]
) -> None:
    change(vault, edit)
    with pytest.raises(BackupTampered, match=r"a\.zst"):
        read(vault, stored)


def test_an_object_that_is_gone_is_refused(vault: Vault, stored: StoredObject) -> None:
    vault.delete([keys.data("shop", RUN, "a.zst")])
    with pytest.raises(BackupTampered, match="missing or shorter"):
        read(vault, stored)


def test_a_manifest_that_names_other_contents_is_refused(
    vault: Vault, stored: StoredObject
) -> None:
    other = stored.model_copy(update={"raw_sha256": hashlib.sha256(b"other").hexdigest()})
    with pytest.raises(BackupTampered, match="unpacked bytes differ"):
        read(vault, other)


def test_runs_and_sources_are_listed_oldest_first(vault: Vault) -> None:
    runs = [put_backup(vault, days) for days in (3, 2, 1)]
    assert vault.sources() == ["docs"]
    assert vault.backup_runs("docs") == vault.sealed_runs("docs") == runs
    latest = vault.latest("docs")
    assert latest
    assert latest.run_id == runs[-1]


def test_an_unknown_run_names_the_runs_there_are(vault: Vault) -> None:
    run = put_backup(vault, 1)
    with pytest.raises(RunNotFound, match=f"20200101T000000Z-x.*{run}"):
        vault.manifest("docs", "20200101T000000Z-x")


def test_an_unknown_source_names_the_sources_there_are(vault: Vault) -> None:
    put_backup(vault, 1)
    with pytest.raises(RunNotFound, match="'dcos'; sources in the vault: docs"):
        vault.manifest("dcos", "20200101T000000Z-x")


def test_more_than_a_thousand_objects_are_deleted_and_listed(vault: Vault) -> None:
    for n in range(3):
        vault.put(f"backups/x/{n}", b"")
    assert vault.delete(f"backups/x/{n}" for n in range(1500)) == 1500
    assert list(vault.entries("backups/x/")) == []


def test_the_first_manifest_of_a_run_stays(vault: Vault) -> None:
    vault.put("key", b"first", only_new=True)
    vault.put("key", b"second", only_new=True)
    assert vault.get("key") == b"first"


@pytest.mark.usefixtures("aws")
def test_a_vault_that_does_not_exist_is_named() -> None:
    with pytest.raises(VaultMissing, match="'no-such-vault' does not exist"):
        Vault("no-such-vault").sources()
