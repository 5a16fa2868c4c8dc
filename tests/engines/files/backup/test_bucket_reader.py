"""Buckets as sources, on the emulated S3."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from stepvault import storage
from stepvault.buckets import Buckets
from stepvault.engines.base import ObjectEntry
from stepvault.engines.files import engine
from stepvault.engines.files.backup import batches
from stepvault.errors import SourceChanged, SourceMissing
from stepvault.records import RestoreOptions
from stepvault.settings import FilesSource
from tests.engines.driver import Result, back_up, previous_of, restore_job, run_restore

OBJECTS = {
    "photos/a.jpg": b"jpeg" * 1000,
    "photos/a": b"an object",
    "photos/a/b.jpg": b"inside a",
    "photos/a!b": b"sorts between",
    "photos/big.bin": Random(1).randbytes(3 << 20),
    "photos/empty": b"",
    "photos/folder/": b"",
    "photos/two//slashes": b"odd",
    "photos/../up": b"escape?",
    "photos/ünï\n": b"name",
    "photos2/other": b"not under the prefix",
}


@pytest.fixture
def bucket(aws: str) -> str:
    name = f"source-{uuid.uuid4().hex[:12]}"
    storage.client().create_bucket(Bucket=name)
    for key, data in OBJECTS.items():
        storage.client().put_object(Bucket=name, Key=key, Body=data)
    return name


def source(bucket: str, prefix: str = "/photos", **settings: Any) -> FilesSource:
    return FilesSource(name="photos", engine="files", path=f"s3://{bucket}{prefix}", **settings)


def run(one: FilesSource, vault: Path, **plan: Any) -> list[Result]:
    return back_up(engine, one, vault, plan={"buckets": Buckets(), **plan}, buckets=Buckets())


def restored(one: FilesSource, results: list[Result], vault: Path, target: Path, **job: Any) -> Any:
    made = restore_job(results, vault, one, path=target, **job)
    run_restore(engine, made)
    assert engine.differences(made) == []
    return {str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*") if p.is_file()}


EXPECTED = {
    "a.jpg": OBJECTS["photos/a.jpg"],
    "a/%": b"an object",
    "a/b.jpg": b"inside a",
    "a!b": b"sorts between",
    "big.bin": OBJECTS["photos/big.bin"],
    "empty": b"",
    "two/%2F/slashes": b"odd",
    "%2E%2E/up": b"escape?",
    "ünï\n": b"name",
}


def test_every_object_under_the_prefix_comes_back_as_a_file(bucket: str, tmp_path: Path) -> None:
    results = run(source(bucket), tmp_path / "vault")
    assert restored(source(bucket), results, tmp_path / "vault", tmp_path / "to") == EXPECTED
    assert [w for r in results for w in r.warnings] == [
        "skipped a folder's marker object (1): folder/"
    ]


LIKE_OURS = {
    "a": b"an object that is a folder, too",
    "a/": b"an object with a folder's name",
    "a/%": b"a real percent sign",
    "a/%25": b"two of them, escaped",
    "a//b": b"below a segment without a name",
    "a/%2F/b": b"as that segment is called",
    "a/./b": b"below a dot",
    "a/%2E/b": b"as the dot is called",
    "a/b": b"below a",
    "done-100%": b"",
    "50%/of": b"not at the beginning",
}


@pytest.fixture
def like_ours(bucket: str) -> FilesSource:
    for key, data in LIKE_OURS.items():
        storage.client().put_object(Bucket=bucket, Key=f"odd/{key}", Body=data)
    return source(bucket, "/odd")


def test_no_two_keys_become_one_file(like_ours: FilesSource, tmp_path: Path) -> None:
    results = run(like_ours, tmp_path / "vault")
    assert restored(like_ours, results, tmp_path / "vault", tmp_path / "to") == {
        "a/%": b"an object that is a folder, too",
        "a/%2F/%": b"an object with a folder's name",
        "a/%25": b"a real percent sign",
        "a/%2525": b"two of them, escaped",
        "a/%2F/b": b"below a segment without a name",
        "a/%252F/b": b"as that segment is called",
        "a/%2E/b": b"below a dot",
        "a/%252E/b": b"as the dot is called",
        "a/b": b"below a",
        "done-100%": b"",
        "50%/of": b"not at the beginning",
    }
    assert [w for r in results for w in r.warnings] == []


def test_patterns_name_percent_signs_as_the_keys_have_them(
    like_ours: FilesSource, tmp_path: Path
) -> None:
    one = like_ours.model_copy(update={"include": ["/a/%", "%2F/"]})
    results = run(one, tmp_path / "vault")
    found = restored(one, results, tmp_path / "vault", tmp_path / "to")
    assert found["a/%25"] == LIKE_OURS["a/%"]
    assert found["a/%252F/b"] == LIKE_OURS["a/%2F/b"]


def test_without_a_listing_the_whole_prefix_is_stored(bucket: str, tmp_path: Path) -> None:
    from stepvault.engines.base import Job
    from tests.engines.driver import backup_to_folder

    job = Job(source=source(bucket), buckets=Buckets())
    result = backup_to_folder(engine, job, tmp_path / "vault")
    assert restored(source(bucket), [result], tmp_path / "vault", tmp_path / "to") == EXPECTED


def test_unchanged_objects_are_not_fetched_again(bucket: str, tmp_path: Path) -> None:
    one = source(bucket)
    first = run(one, tmp_path / "one")
    storage.client().put_object(Bucket=bucket, Key="photos/a!b", Body=b"replaced")
    storage.client().delete_object(Bucket=bucket, Key="photos/empty")
    previous = previous_of("one", first, tmp_path / "one", one)
    second = run(one, tmp_path / "two", previous=previous)
    stored = [o for r in second for o in r.objects if o.name.endswith(".tar.zst")]
    assert sum(o.files or 0 for o in stored) == 1
    earlier = {"one": tmp_path / "one"}
    found = restored(one, second, tmp_path / "two", tmp_path / "to", earlier=earlier)
    assert found == {k: v for k, v in EXPECTED.items() if k != "empty"} | {"a!b": b"replaced"}


def test_filters_hold_for_objects(bucket: str, tmp_path: Path) -> None:
    one = source(bucket, include=["*.jpg", "two/"], exclude=["/a/"], max_file_size=1 << 20)
    results = run(one, tmp_path / "vault")
    found = restored(one, results, tmp_path / "vault", tmp_path / "to")
    assert sorted(found) == ["a.jpg", "two/%2F/slashes"]


def test_a_bucket_or_prefix_that_is_not_there_is_named(bucket: str, tmp_path: Path) -> None:
    for missing in (source("no-such-bucket-here"), source(bucket, "/phtos")):
        with pytest.raises(SourceMissing, match=missing.path.removesuffix("/photos")):
            run(missing, tmp_path / "vault")


def test_an_object_replaced_after_the_plan_is_stored_as_it_is_now(
    bucket: str, tmp_path: Path
) -> None:
    one = source(bucket)

    class Late(Buckets):
        """S3 in which somebody replaces and deletes objects between plan and backup."""

        def list(self, bucket: str, prefix: str) -> Iterator[ObjectEntry]:
            yield from list(super().list(bucket, prefix))
            for key in ("photos/a.jpg", "photos/big.bin"):
                storage.client().put_object(Bucket=bucket, Key=key, Body=b"new" * 900_000)
            storage.client().delete_object(Bucket=bucket, Key="photos/empty")

    results = back_up(engine, one, tmp_path / "v", plan={"buckets": Late()}, buckets=Buckets())
    found = restored(one, results, tmp_path / "v", tmp_path / "to")
    assert found["a.jpg"] == found["big.bin"] == b"new" * 900_000
    assert "empty" not in found
    assert "vanished before it was read, left out (1): empty" in [
        w for r in results for w in r.warnings
    ]


def test_one_object_comes_back_alone(bucket: str, tmp_path: Path) -> None:
    one = source(bucket)
    results = run(one, tmp_path / "vault")
    options = RestoreOptions(only=["/a/b.jpg"])
    found = restored(one, results, tmp_path / "vault", tmp_path / "to", options=options)
    assert found == {"a/b.jpg": b"inside a"}


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is more than 2 MiB is split, into parts of a MiB."""
    monkeypatch.setattr(batches, "SPLIT_ABOVE", 2 << 20)
    monkeypatch.setattr(batches, "SPLIT_INTO", 1 << 20)


@pytest.mark.usefixtures("in_parts")
def test_an_object_too_large_for_one_unit_is_read_in_parts(bucket: str, tmp_path: Path) -> None:
    one, vault, caps = source(bucket), tmp_path / "one", {"batch_bytes": 1 << 20}
    results = run(one, vault, **caps)
    big = OBJECTS["photos/big.bin"]
    assert sum((o.raw_bytes > 1 << 20) for r in results for o in r.objects) == 3
    assert restored(one, results, vault, tmp_path / "to") == EXPECTED
    options = RestoreOptions(only=["/big.bin"])
    assert restored(one, results, vault, tmp_path / "alone", options=options) == {"big.bin": big}
    second = run(one, tmp_path / "two", previous=previous_of("one", results, vault, one), **caps)
    assert not list((tmp_path / "two").glob("*.tar.zst"))
    earlier = {"one": vault}
    assert restored(one, second, tmp_path / "two", tmp_path / "again", earlier=earlier) == EXPECTED


@pytest.mark.usefixtures("in_parts")
def test_an_object_replaced_between_its_parts_fails_the_backup(bucket: str, tmp_path: Path) -> None:
    class Replacing(Buckets):
        """S3 in which somebody replaces the object once its first part was read."""

        def read(self, bucket: str, key: str, *more: Any) -> Iterator[bytes]:
            yield from super().read(bucket, key, *more)
            if key == "photos/big.bin":
                storage.client().put_object(Bucket=bucket, Key=key, Body=bytes(3 << 20))

    caps = {"buckets": Buckets(), "batch_bytes": 1 << 20}
    with pytest.raises(SourceChanged, match="replaced or deleted while it was read in 3 parts"):
        back_up(engine, source(bucket), tmp_path / "vault", plan=caps, buckets=Replacing())
