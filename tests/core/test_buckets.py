import pytest

from stepvault import storage
from stepvault.buckets import Buckets
from stepvault.catalog import Vault
from stepvault.engines.base import ObjectReader
from stepvault.errors import SourceChanged, SourceMissing


def test_objects_are_listed_and_read(vault: Vault) -> None:
    reader: ObjectReader = Buckets()
    for name in ("a/2", "a/1", "b/3"):
        vault.put(name, name.encode())
    entries = list(reader.list(vault.bucket, "a/"))
    assert [(e.key, e.size) for e in entries] == [("a/1", 3), ("a/2", 3)]
    assert b"".join(reader.read(vault.bucket, "a/1", entries[0].etag)) == b"a/1"


def test_an_object_replaced_meanwhile_is_noticed(vault: Vault) -> None:
    vault.put("a", b"old")
    (entry,) = Buckets().list(vault.bucket, "")
    storage.client().put_object(Bucket=vault.bucket, Key="a", Body=b"new")
    with pytest.raises(SourceChanged, match="was replaced"):
        list(Buckets().read(vault.bucket, "a", entry.etag))


@pytest.mark.usefixtures("aws")
def test_a_bucket_that_does_not_exist_is_named() -> None:
    with pytest.raises(SourceMissing, match=r"s3://no-such-bucket/x does not exist"):
        list(Buckets().list("no-such-bucket", "x"))


def test_an_object_that_does_not_exist_is_named(vault: Vault) -> None:
    with pytest.raises(SourceMissing, match="nope does not exist"):
        list(Buckets().read(vault.bucket, "nope"))
