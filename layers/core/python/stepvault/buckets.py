"""S3 buckets as sources, for engines that know no AWS."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from stepvault import storage
from stepvault.aws_errors import AwsProblem, translated
from stepvault.deadline import Deadline
from stepvault.engines.base import Buffer, ObjectEntry
from stepvault.errors import (
    SourceBusy,
    SourceChanged,
    SourceDenied,
    SourceMissing,
    SourceUnreachable,
    StepvaultError,
    TargetMissing,
)

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef

_CHUNK = 1 << 20
#: Objects up to this size are written by one request; S3 takes 10,000 parts of others.
_PART = 8 << 20
_PARTS_AT_MOST = 10_000

#: What is kept of an object beside its bytes, as the API names it; tags and ``Expires`` apart.
_PROPERTIES = (
    "ContentType", "CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage",
    "WebsiteRedirectLocation", "StorageClass", "Metadata",
)  # fmt: skip
_DEFAULT_TYPE = "binary/octet-stream"


class Buckets:
    """``engines.base.ObjectStore`` over botocore.

    Args:
        deadline: no request takes longer than this allows.
    """

    def __init__(self, deadline: Deadline | None = None) -> None:
        self._deadline = deadline or Deadline()

    def list(self, bucket: str, prefix: str) -> Iterator[ObjectEntry]:
        """Yield every object under the prefix, in key order."""
        with _source_errors(bucket, prefix):
            pages = (
                storage.client_for(self._deadline)
                .get_paginator("list_objects_v2")
                .paginate(Bucket=bucket, Prefix=prefix)
            )
            for page in pages:
                for entry in page.get("Contents", []):
                    yield ObjectEntry(
                        entry["Key"],
                        entry["Size"],
                        entry["ETag"],
                        entry["LastModified"].timestamp(),
                    )

    def read(
        self,
        bucket: str,
        key: str,
        etag: str | None = None,
        part: tuple[int, int] | None = None,
        properties: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> Iterator[bytes]:
        """Yield the object's bytes, or those from one offset up to another.

        Args:
            bucket: its bucket.
            key: its key.
            etag: the ETag that it has to have.
            part: offsets of the first byte and after the last.
            properties: told, before the first bytes, what else the object has.

        Raises:
            SourceChanged: its ETag is no longer the one given.
        """
        asked = {"IfMatch": etag} if etag else {}
        if part:
            asked["Range"] = f"bytes={part[0]}-{part[1] - 1}"
        with _source_errors(bucket, key):
            client = storage.client_for(self._deadline)
            answer = client.get_object(Bucket=bucket, Key=key, **asked)  # type: ignore[arg-type]
            if properties:
                properties(self._properties(bucket, key, answer))
            yield from answer["Body"].iter_chunks(_CHUNK)

    def _properties(
        self, bucket: str, key: str, answer: "GetObjectOutputTypeDef"
    ) -> Mapping[str, Any]:
        """Return what an object has beside its bytes; what S3 gives every object is left out."""
        values: Mapping[str, Any] = answer
        kept = {name: values[name] for name in _PROPERTIES if values.get(name)}
        if kept.get("ContentType") == _DEFAULT_TYPE:
            del kept["ContentType"]
        if expires := answer.get("ExpiresString"):
            kept["Expires"] = expires
        if answer.get("TagCount"):
            kept["Tags"] = self._tags(bucket, key)
        return kept

    def _tags(self, bucket: str, key: str) -> dict[str, str] | None:
        """Return an object's tags; None if they may not be read."""
        try:
            with _source_errors(bucket, key):
                client = storage.client_for(self._deadline)
                tags = client.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]
        except SourceDenied:
            return None
        return {tag["Key"]: tag["Value"] for tag in tags}

    def write(
        self,
        bucket: str,
        key: str,
        chunks: Iterable[Buffer],
        size: int,
        properties: Mapping[str, Any],
    ) -> None:
        """Store an object of that many bytes; none is stored if ``chunks`` raises."""
        asked = {name: value for name, value in properties.items() if name != "Tags"}
        tags = properties.get("Tags") or {}
        client: Any = storage.client_for(self._deadline)
        with _target_errors(bucket, key):
            if size <= _PART:
                body = b"".join(chunks)
                asked |= {"Tagging": urlencode(tags)} if tags else {}
                client.put_object(Bucket=bucket, Key=key, Body=body, **asked)
                return
            self._write_parts(client, {"Bucket": bucket, "Key": key}, chunks, size, asked)
            if tags:
                listed = [{"Key": name, "Value": value} for name, value in tags.items()]
                client.put_object_tagging(Bucket=bucket, Key=key, Tagging={"TagSet": listed})

    @staticmethod
    def _write_parts(
        client: Any,
        where: Mapping[str, str],
        chunks: Iterable[Buffer],
        size: int,
        asked: Mapping[str, Any],
    ) -> None:
        upload = {**where, "UploadId": client.create_multipart_upload(**where, **asked)["UploadId"]}
        part_bytes = max(_PART, -(-size // _PARTS_AT_MOST))
        parts: list[dict[str, Any]] = []

        def send(body: bytes) -> None:
            number = len(parts) + 1
            answer = client.upload_part(**upload, PartNumber=number, Body=body)
            parts.append({"PartNumber": number, "ETag": answer["ETag"]})

        try:
            held = bytearray()
            for chunk in chunks:
                held += chunk
                while len(held) >= part_bytes:
                    send(bytes(held[:part_bytes]))
                    del held[:part_bytes]
            if held:
                send(bytes(held))
            client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
        except BaseException:
            with suppress(Exception):  # the first error is the one to tell
                client.abort_multipart_upload(**upload)
            raise

    def delete(self, bucket: str, key: str) -> None:
        """Remove an object, if it is there."""
        with _target_errors(bucket, key):
            storage.client_for(self._deadline).delete_object(Bucket=bucket, Key=key)


@contextmanager
def _target_errors(bucket: str, key: str) -> Iterator[None]:
    where = f"s3://{bucket}/{key}"

    def ours(problem: AwsProblem) -> StepvaultError:
        match problem.kind:
            case "missing":
                return TargetMissing(f"the bucket of {where} does not exist", "Make it first")
            case "throttled":
                return SourceBusy(f"{where} cannot be written now ({problem.code})")
            case "transient":
                return SourceUnreachable(f"{where} cannot be written: {problem.message}")
            case _:
                return SourceDenied(
                    f"{where} may not be written ({problem.code}: {problem.message})",
                    problem.hint or "Check the bucket's policy and its KMS key's",
                )

    with translated(ours):
        yield


@contextmanager
def _source_errors(bucket: str, key: str) -> Iterator[None]:
    where = f"s3://{bucket}/{key}"

    def ours(problem: AwsProblem) -> StepvaultError:
        match problem.kind:
            case "missing":
                return SourceMissing(f"{where} does not exist", "Check the source's path")
            case "changed":
                return SourceChanged(f"{where} was replaced while the backup ran")
            case "denied" | "refused" | "unset":
                return SourceDenied(
                    f"{where} may not be read ({problem.code})",
                    problem.hint or "Check the bucket's policy and its KMS key's",
                )
            case "throttled":
                return SourceBusy(f"{where} cannot be read now ({problem.code})")
            case "transient":
                return SourceUnreachable(f"{where} cannot be read: {problem.message}")

    with translated(ours):
        yield
