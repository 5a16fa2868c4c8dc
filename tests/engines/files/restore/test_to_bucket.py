"""Backups of buckets put back into a bucket, on the emulated S3."""

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from stepvault import storage
from stepvault.buckets import Buckets
from stepvault.engines.base import RestoreJob
from stepvault.engines.files import engine
from stepvault.engines.files.backup import batches
from stepvault.engines.object_paths import key_of, path_of
from stepvault.errors import (
    BackupTampered,
    ConfigInvalid,
    SourceDenied,
    TargetMissing,
    TargetNotEmpty,
)
from stepvault.records import RestoreOptions, StoredObject, Unrestored
from stepvault.settings import FilesSource
from tests.engines.driver import back_up, restore_job, run_restore
from tests.engines.files import trees
from tests.engines.files.backup.test_bucket_reader import LIKE_OURS, described

BIG = Random(3).randbytes(5 << 20)


@pytest.fixture
def bucket(aws: str) -> str:
    """With objects of every kind under ``from/``."""
    name = f"both-{uuid.uuid4().hex[:12]}"
    storage.client().create_bucket(Bucket=name)
    for key, data in LIKE_OURS.items():
        storage.client().put_object(Bucket=name, Key=f"from/{key}", Body=data)
    described(name, "from/described/small", Body=b"small")
    described(name, "from/described/big", Body=BIG)
    storage.client().put_object(Bucket=name, Key="from/empty", Body=b"")
    storage.client().put_object(Bucket=name, Key="from/" + "x" * 300, Body=b"longer than names")
    return name


@pytest.fixture
def vault(tmp_path: Path) -> Path:
    return tmp_path / "vault"


def job_of(bucket: str, vault: Path, to: str = "to", **options: Any) -> RestoreJob:
    source = FilesSource(name="objects", engine="files", path=f"s3://{bucket}/from")
    plan = {"buckets": Buckets(), "batch_files": 6, "batch_bytes": 1 << 20}
    results = back_up(engine, source, vault, plan=plan, buckets=Buckets())
    return restore_job(
        results,
        vault,
        source,
        bucket=f"s3://{bucket}/{to}",
        buckets=Buckets(),
        options=RestoreOptions(**options),
    )


def objects(bucket: str, prefix: str) -> dict[str, Any]:
    """Content and all else of each object, as S3's own calls give it."""
    client, found = storage.client(), {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", []):
            answer: Any = client.get_object(Bucket=bucket, Key=entry["Key"])
            tags = client.get_object_tagging(Bucket=bucket, Key=entry["Key"])["TagSet"]
            kept = {
                name: answer.get(name)
                for name in (
                    "ContentType", "CacheControl", "ContentDisposition", "ContentEncoding",
                    "ContentLanguage", "Metadata", "StorageClass",
                )
            }  # fmt: skip
            found[entry["Key"].removeprefix(prefix)] = (
                answer["Body"].read(),
                json.dumps(kept, sort_keys=True),
                sorted((tag["Key"], tag["Value"]) for tag in tags),
            )
    return found


@pytest.mark.parametrize("in_parts", [False, True])
def test_every_object_comes_back_with_all_that_it_had(
    bucket: str, vault: Path, monkeypatch: pytest.MonkeyPatch, *, in_parts: bool
) -> None:
    if in_parts:
        monkeypatch.setattr(batches, "SPLIT_ABOVE", 2 << 20)
        monkeypatch.setattr(batches, "SPLIT_INTO", 1 << 20)
    job = job_of(bucket, vault)
    run_restore(engine, job, times=2)
    assert objects(bucket, "to/") == objects(bucket, "from/")
    assert engine.differences(job) == []


def test_what_differs_is_found(bucket: str, vault: Path) -> None:
    job = job_of(bucket, vault)
    run_restore(engine, job)
    client = storage.client()
    client.put_object(Bucket=bucket, Key="to/a/b", Body=b"below A")
    client.put_object(Bucket=bucket, Key="to/empty", Body=b"no more")
    client.delete_object(Bucket=bucket, Key="to/50%/of")
    described(bucket, "to/described/big", Body=BIG)
    client.put_object_tagging(
        Bucket=bucket, Key="to/described/small", Tagging={"TagSet": [{"Key": "a", "Value": "b"}]}
    )
    unseen: list[str] = []
    assert sorted(engine.differences(replace(job, not_compared=unseen.append))) == [
        "50%/of: missing",
        "a/b: other content",
        "described/small: other type, metadata, tags or storage class",
        "empty: 7 bytes, not 0",
    ]
    assert any("does not have" in what for what in unseen)


def test_some_objects_come_back_alone(bucket: str, vault: Path) -> None:
    job = job_of(bucket, vault, only=["/a/%", "/described/"])
    run_restore(engine, job)
    assert set(objects(bucket, "to/")) == {"a/%", "described/small", "described/big"}
    assert engine.differences(job) == []


def test_a_prefix_that_holds_objects_is_refused_and_untouched(bucket: str, vault: Path) -> None:
    storage.client().put_object(Bucket=bucket, Key="to/mine", Body=b"mine")
    job = job_of(bucket, vault)
    with pytest.raises(TargetNotEmpty, match="to/mine"):
        engine.plan_restore(job)
    over = replace(job, options=RestoreOptions(overwrite=True))
    run_restore(engine, over)
    restored = objects(bucket, "to/")
    assert restored.pop("mine")[0] == b"mine"
    assert restored == objects(bucket, "from/")


def test_a_bucket_that_is_not_there_is_named(bucket: str, vault: Path) -> None:
    job = replace(job_of(bucket, vault), bucket="s3://no-such-bucket-here/to")
    with pytest.raises(TargetMissing, match="no-such-bucket-here"):
        engine.plan_restore(job)


def test_a_directory_s_backup_is_not_put_into_a_bucket(
    bucket: str, vault: Path, tmp_path: Path
) -> None:
    trees.lifelike(tmp_path / "tree", files=3)
    source = trees.source(tmp_path / "tree")
    job = restore_job(
        back_up(engine, source, vault),
        vault,
        source,
        bucket=f"s3://{bucket}/to",
        buckets=Buckets(),
    )
    with pytest.raises(ConfigInvalid, match="a backup of a directory"):
        engine.plan_restore(job)


def test_a_restore_that_ended_midway_is_let_in_again_and_leaves_nothing(
    bucket: str, vault: Path
) -> None:
    job = job_of(bucket, vault)
    tasks = engine.plan_restore(job)
    engine.restore(job, tasks[0])
    begun = objects(bucket, "to/")
    assert any(name.startswith(".stepvault-restore-") for name in begun)
    other = replace(job, options=RestoreOptions(only=["/a/"]))
    with pytest.raises(TargetNotEmpty):
        engine.plan_restore(other)
    run_restore(engine, job)
    assert objects(bucket, "to/") == objects(bucket, "from/")


def test_a_backup_leaves_out_the_marker_of_an_unfinished_restore(
    bucket: str, vault: Path, tmp_path: Path
) -> None:
    key = "from/sub/.stepvault-restore-0123456789abcdef"
    storage.client().put_object(Bucket=bucket, Key=key, Body=b"")
    job = job_of(bucket, vault)
    run_restore(engine, job)
    assert "sub/.stepvault-restore-0123456789abcdef" not in objects(bucket, "to/")


def test_a_damaged_object_is_not_put_back(bucket: str, vault: Path) -> None:
    job = job_of(bucket, vault)
    pack = max(vault.glob("*.tar.zst"), key=lambda path: path.stat().st_size)
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.write_bytes(data)
    with pytest.raises(BackupTampered):
        run_restore(engine, job)
    assert "described/big" not in objects(bucket, "to/")


def test_an_object_that_may_not_be_written_costs_no_other(bucket: str, vault: Path) -> None:
    class Denied(Buckets):
        """S3 with a policy for one key."""

        def write(self, bucket: str, key: str, *more: Any) -> None:
            if key in ("to/a/b", "to/described/big"):
                raise SourceDenied(f"s3://{bucket}/{key} may not be written (AccessDenied)")
            super().write(bucket, key, *more)

    reported: list[Unrestored] = []
    job = replace(job_of(bucket, vault), buckets=Denied())
    with pytest.raises(SourceDenied):
        run_restore(engine, job)
    keep_going = RestoreOptions(keep_going=True, overwrite=True)
    run_restore(engine, replace(job, options=keep_going, unrestored=reported.append))
    assert sorted(what.name for what in reported) == ["a/b", "described/big"]
    expected = objects(bucket, "from/")
    assert objects(bucket, "to/") == {
        key: value for key, value in expected.items() if key not in ("a/b", "described/big")
    }


def test_an_upload_that_fails_leaves_nothing(bucket: str) -> None:
    def broken() -> Iterator[bytes]:
        yield bytes(9 << 20)
        raise BackupTampered("not what was stored")

    with pytest.raises(BackupTampered):
        Buckets().write(bucket, "to/half", broken(), 20 << 20, {})
    assert objects(bucket, "to/") == {}
    assert "Uploads" not in storage.client().list_multipart_uploads(Bucket=bucket)


def test_an_object_of_several_parts_is_written_whole(bucket: str) -> None:
    data = Random(4).randbytes(20 << 20)
    chunks = (data[at : at + 999_999] for at in range(0, len(data), 999_999))
    properties = {"ContentType": "text/x", "Metadata": {"a": "b"}, "Tags": {"k": "v"}}
    Buckets().write(bucket, "to/large", chunks, len(data), properties)
    content, _, tags = objects(bucket, "to/")["large"]
    assert content == data
    assert tags == [("k", "v")]


@pytest.mark.parametrize("key", ["a", "a//b", "./b", "../b", "%", "%/a", "%2F/x", "%25", "a%", ""])
def test_keys_come_back_from_their_paths(key: str) -> None:
    assert key_of(path_of(key).encode()) == key


def test_an_index_that_names_other_content_is_refused(bucket: str, vault: Path) -> None:
    job = job_of(bucket, vault, only=["/described/small"])

    def read(stored: StoredObject) -> Iterator[bytes]:
        data = b"".join(job.read(stored))
        if stored.name.endswith(".index.tsv.zst"):
            data = b"\n".join(
                line.replace(line.split(b"\t")[10], b"0" * 64) if b"small" in line else line
                for line in data.split(b"\n")
            )
        return iter([data])

    with pytest.raises(BackupTampered, match="small"):
        run_restore(engine, replace(job, read=read))
    assert "described/small" not in objects(bucket, "to/")
