"""Buckets as sources, on the emulated S3."""

import io
import json
import os
import subprocess
import tarfile
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
from stepvault.errors import (
    BackupTampered,
    ConfigInvalid,
    SourceChanged,
    SourceDenied,
    SourceMissing,
    TargetUnsupported,
)
from stepvault.records import RestoreOptions, Unrestored
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


@pytest.fixture
def archived(bucket: str) -> FilesSource:
    """One object in an archive class, one under a key that only its writer has."""
    client = storage.client()
    client.put_object(Bucket=bucket, Key="old/archived", Body=b"cold", StorageClass="GLACIER")
    client.put_object(
        Bucket=bucket,
        Key="old/foreign-key",
        Body=b"?",
        SSECustomerAlgorithm="AES256",
        SSECustomerKey="0" * 32,
    )
    client.put_object(Bucket=bucket, Key="old/plain", Body=b"plain")
    return source(bucket, "/old")


def test_objects_that_cannot_be_read_are_named_and_left_out_where_that_is_allowed(
    archived: FilesSource, tmp_path: Path
) -> None:
    one = archived.model_copy(update={"allow_unreadable": True})
    results = run(one, tmp_path / "vault")
    assert restored(one, results, tmp_path / "vault", tmp_path / "to") == {"plain": b"plain"}
    assert sorted(w for r in results for w in r.warnings) == [
        "may not be read (InvalidObjectState), left out (1): archived",
        "may not be read (InvalidRequest), left out (1): foreign-key",
    ]


@pytest.mark.parametrize(("prefix", "fix"), [("archived", "archive class"), ("foreign", "SSE-C")])
def test_an_object_that_cannot_be_read_is_no_error_to_try_again(
    archived: FilesSource, tmp_path: Path, prefix: str, fix: str
) -> None:
    other = "foreign-key" if prefix == "archived" else "archived"
    one = archived.model_copy(update={"exclude": [f"/{other}"]})
    with pytest.raises(SourceDenied, match=f"{prefix}.* may not be read.*{fix}"):
        run(one, tmp_path / "vault")


@pytest.mark.usefixtures("in_parts")
def test_of_an_object_in_parts_that_cannot_be_read_nothing_is_stored(
    bucket: str, tmp_path: Path
) -> None:
    storage.client().put_object(
        Bucket=bucket, Key="photos/cold.bin", Body=bytes(3 << 20), StorageClass="GLACIER"
    )
    one = source(bucket, allow_unreadable=True)
    results = run(one, tmp_path / "vault", batch_bytes=1 << 20)
    assert restored(one, results, tmp_path / "vault", tmp_path / "to") == EXPECTED


@pytest.mark.usefixtures("in_parts")
def test_a_file_of_which_the_backup_lacks_a_part_is_not_put_in_place(
    bucket: str, tmp_path: Path
) -> None:
    """Its other parts, with a hole between them, would look like a whole file."""

    class Denied(Buckets):
        """S3 that refuses one part: its policy changed for a moment."""

        def read(self, bucket: str, key: str, *more: Any) -> Iterator[bytes]:
            if key == "photos/big.bin" and more[1] == (1 << 20, 2 << 20):
                raise SourceDenied(f"s3://{bucket}/{key} may not be read (AccessDenied)")
            yield from super().read(bucket, key, *more)

    one, vault = source(bucket, allow_unreadable=True), tmp_path / "vault"
    caps = {"buckets": Buckets(), "batch_bytes": 1 << 20}
    results = back_up(engine, one, vault, plan=caps, buckets=Denied())
    with pytest.raises(BackupTampered, match=r"lacks a part of 'big.bin'"):
        run_restore(engine, restore_job(results, vault, one, path=tmp_path / "to"))
    reported: list[Unrestored] = []
    keep_going = RestoreOptions(keep_going=True)
    job = restore_job(
        results,
        vault,
        one,
        path=tmp_path / "other",
        options=keep_going,
        unrestored=reported.append,
    )
    run_restore(engine, job)
    assert [what.name for what in reported] == ["big.bin"]
    assert not (tmp_path / "other" / "big.bin").exists()
    assert (tmp_path / "other" / "a.jpg").exists()


def test_names_too_long_for_the_target_are_told_at_the_backup_and_before_the_restore(
    bucket: str, tmp_path: Path
) -> None:
    """A key may have segments that are longer than any file system's names."""
    long, folder = "x" * 256, "y" * 300
    for key in ("short", "also/short", long, f"{folder}/inside"):
        storage.client().put_object(Bucket=bucket, Key=f"long/{key}", Body=key.encode())
    one, vault = source(bucket, "/long"), tmp_path / "vault"
    results = run(one, vault)
    (warning,) = [w for r in results for w in r.warnings]
    assert "name of over 255 bytes" in warning
    assert f"(2): {long}, {folder}/inside" in warning
    target, reported = tmp_path / "to", list[Unrestored]()
    with pytest.raises(TargetUnsupported, match=r"2 names are longer.*x{256}.*--keep-going"):
        engine.plan_restore(restore_job(results, vault, one, path=target))
    assert not target.exists()
    options = RestoreOptions(keep_going=True)
    job = restore_job(results, vault, one, path=target, options=options, unrestored=reported.append)
    run_restore(engine, job)
    assert {what.name for what in reported} == {long, f"{folder}/inside"}
    there = sorted(str(p.relative_to(target)) for p in target.rglob("*") if p.is_file())
    assert there == ["also/short", "short"]
    assert len(engine.differences(job)) == 2


def test_keys_are_named_alike_by_all_patterns(like_ours: FilesSource, tmp_path: Path) -> None:
    results = run(like_ours, tmp_path / "vault")
    options = RestoreOptions(only=["/a/%", "50%/"])
    found = restored(like_ours, results, tmp_path / "vault", tmp_path / "to", options=options)
    assert found["a/%25"] == LIKE_OURS["a/%"]
    assert found["50%/of"] == LIKE_OURS["50%/of"]
    assert "a/%2525" not in found


def test_a_pattern_that_matches_nothing_is_named(bucket: str, tmp_path: Path) -> None:
    one = source(bucket)
    results = run(one, tmp_path / "vault")
    options = RestoreOptions(only=["*.jpg", "*.jpeg", "!*.png", "/a/"])
    job = restore_job(results, tmp_path / "vault", one, path=tmp_path / "to", options=options)
    with pytest.raises(ConfigInvalid, match=r"matches '\*\.jpeg'\."):
        engine.plan_restore(job)
    assert not (tmp_path / "to").exists()


def described(bucket: str, key: str, **more: Any) -> None:
    storage.client().put_object(
        Bucket=bucket,
        Key=key,
        ContentType="text/html; charset=utf-8",
        CacheControl="max-age=60",
        ContentDisposition="attachment",
        ContentEncoding="identity",
        ContentLanguage="de",
        Metadata={"author": "somebody", "empty": ""},
        StorageClass="STANDARD_IA",
        Tagging="project=one%20two&secret=no",
        **more,
    )


def properties_in(vault: Path) -> dict[str, Any]:
    """What the packs say of each object, read by Python's tarfile."""
    found = {}
    for pack in sorted(vault.glob("*.tar.zst")):
        raw = subprocess.run(["zstd", "-dcq", pack], check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
            for member in archive:
                text = member.pax_headers.get("SCHILY.xattr.user.stepvault.object")
                found[member.name] = json.loads(text) if text else None
    return found


ALL_PROPERTIES = {
    "ContentType": "text/html; charset=utf-8",
    "CacheControl": "max-age=60",
    "ContentDisposition": "attachment",
    "ContentEncoding": "identity",
    "ContentLanguage": "de",
    "Metadata": {"author": "somebody", "empty": ""},
    "StorageClass": "STANDARD_IA",
    "Tags": {"project": "one two", "secret": "no"},
}


@pytest.mark.usefixtures("in_parts")
def test_what_an_object_has_beside_its_content_is_kept(bucket: str, tmp_path: Path) -> None:
    described(bucket, "kept/small", Body=b"small")
    described(bucket, "kept/medium", Body=bytes(3 << 19))
    described(bucket, "kept/huge", Body=bytes(3 << 20))
    storage.client().put_object(Bucket=bucket, Key="kept/plain", Body=b"plain")
    one = source(bucket, "/kept")
    results = run(one, tmp_path / "vault", batch_bytes=1 << 20)
    assert [w for r in results for w in r.warnings] == []
    parts = {f"huge.part-000{n}-of-0003": ALL_PROPERTIES for n in (1, 2, 3)}
    kept = properties_in(tmp_path / "vault")
    del kept["plain"]  # what an object has by default differs between S3 and the emulator
    assert kept == {"small": ALL_PROPERTIES, "medium": ALL_PROPERTIES, **parts}
    restored(one, results, tmp_path / "vault", tmp_path / "to")
    for name in ("small", "medium", "huge"):
        assert os.listxattr(tmp_path / "to" / name) == [], "files have no such thing"


def test_without_metadata_only_the_content_is_kept(bucket: str, tmp_path: Path) -> None:
    described(bucket, "kept/small", Body=b"small")
    run(source(bucket, "/kept", preserve_metadata=False), tmp_path / "vault")
    assert properties_in(tmp_path / "vault") == {"small": None}


def test_tags_that_may_not_be_read_cost_no_object(bucket: str, tmp_path: Path) -> None:
    class WithoutTags(Buckets):
        """S3 as a role sees it that may not read tags."""

        def _tags(self, bucket: str, key: str) -> None:
            return None

    described(bucket, "kept/small", Body=b"small")
    one = source(bucket, "/kept")
    results = back_up(
        engine, one, tmp_path / "v", plan={"buckets": Buckets()}, buckets=WithoutTags()
    )
    assert [w for r in results for w in r.warnings] == [
        "its tags may not be read (s3:GetObjectTagging) and are not kept (1): small"
    ]
    kept = {name: value for name, value in ALL_PROPERTIES.items() if name != "Tags"}
    assert properties_in(tmp_path / "v") == {"small": kept}
