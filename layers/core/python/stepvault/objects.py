"""The requests to S3 about the objects of one bucket: read, write, list, remove.

Only this module and ``multipart`` (which writes data) send requests for the vault to S3.
"""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from stepvault import storage
from stepvault.deadline import Deadline
from stepvault.errors import BackupTampered, StorageUnavailable
from stepvault.records import StoredObject

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef

#: Bytes per GET while streaming: short requests survive a slow reader, which one long
#: response would not (S3 closes a connection that nobody reads).
FETCH = 8 << 20

#: Bytes of a claim: what stands under a receipt's key until the unit is done. A receipt is longer.
CLAIM_BYTES = 32


class Listed(NamedTuple):
    """An object as a listing shows it."""

    key: str
    size: int
    etag: str | None = None

    @property
    def is_claim(self) -> bool:
        """Tell whether an object under a receipt's key is only a claim: the unit is not done."""
        return self.size <= CLAIM_BYTES

    def is_still(self, stored: StoredObject) -> bool:
        """Tell whether it is the object that was stored, as far as a listing shows.

        Objects of earlier runs are compared by size only: they are never overwritten, but a
        person may have copied them (to another key or bucket), and a copy has another ETag.
        """
        etag = None if stored.run_id else stored.etag  # None in older records too
        return self.size == stored.stored_bytes and (None in (etag, self.etag) or self.etag == etag)


class Bucket:
    """One bucket of Stepvault's own.

    Args:
        bucket: its name.
        deadline: no request takes longer than this allows.

    Every method raises VaultMissing, VaultDenied or StorageUnavailable when S3 refuses or fails.
    """

    def __init__(self, bucket: str, deadline: Deadline | None = None) -> None:
        self.bucket = bucket
        self.deadline = deadline or Deadline()

    @property
    def _s3(self) -> "S3Client":
        return storage.client_for(self.deadline)

    def get(self, key: str, most: int | None = None) -> bytes | None:
        """Return the object's bytes, or None if there is no such object.

        Raises:
            BackupTampered: it has more than ``most`` bytes.
        """
        found = self.read_object(key, most)
        return None if found is None else found[0]

    def read_object(self, key: str, most: int | None = None) -> tuple[bytes, str | None] | None:
        """Return the object's bytes and its ETag; otherwise as ``get``."""
        with storage.vault_errors(self.bucket):
            try:
                answer = self._s3.get_object(Bucket=self.bucket, Key=key)
            except self._s3.exceptions.ClientError as error:
                if storage.error_code(error) in storage.MISSING_KEY:
                    return None
                raise
            if most is not None and answer.get("ContentLength", 0) > most:
                answer["Body"].close()
                raise unreadable(key, f"it has {answer['ContentLength']:,} bytes")
            return answer["Body"].read(), storage.etag(answer.get("ETag"))

    def put(self, key: str, body: bytes, *, only_new: bool = False) -> bool:
        """Store a small object.

        Args:
            key: where.
            body: its bytes.
            only_new: keep the object that is already there.

        Returns:
            False if ``only_new`` kept the object that was there.
        """
        return self._put(key, body, {"IfNoneMatch": "*"} if only_new else {}) is not None

    def _put(self, key: str, body: bytes, condition: Mapping[str, str]) -> str | None:
        """Store a small object and return its ETag, or None if the condition does not hold."""
        with storage.vault_errors(self.bucket):
            try:
                answer = self._s3.put_object(
                    Bucket=self.bucket,
                    Key=key,
                    Body=body,
                    ChecksumSHA256=_base64_sha256(body),
                    **condition,  # type: ignore[arg-type]
                )
            except self._s3.exceptions.ClientError as error:
                code = storage.error_code(error)
                if code in storage.CONFLICT or (condition and code in storage.MISSING_KEY):
                    return None
                raise
            return storage.etag(answer.get("ETag")) or ""

    def entries(self, prefix: str) -> Iterator[Listed]:
        """Yield every object under the prefix, in key order."""
        with storage.vault_errors(self.bucket):
            pages = self._s3.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=prefix
            )
            for page in pages:
                for entry in page.get("Contents", []):
                    yield Listed(entry["Key"], entry["Size"], storage.etag(entry.get("ETag")))

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders directly below the prefix, in order."""
        with storage.vault_errors(self.bucket):
            pages = self._s3.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=prefix, Delimiter="/"
            )
            return [
                entry["Prefix"][len(prefix) : -1]
                for page in pages
                for entry in page.get("CommonPrefixes", [])
            ]

    def exists(self, key: str) -> bool:
        """Tell whether there is an object under that key."""
        return self.look(key) is not None

    def look(self, key: str) -> Listed | None:
        """Return what a listing would show of the object under that key, or None."""
        with storage.vault_errors(self.bucket):
            try:
                head = self._s3.head_object(Bucket=self.bucket, Key=key)
                return Listed(key, head["ContentLength"], storage.etag(head.get("ETag")))
            except self._s3.exceptions.ClientError as error:
                if storage.error_code(error) in storage.MISSING_KEY:
                    return None
                raise

    def delete(self, wanted: Iterable[str]) -> int:
        """Remove objects (in a versioned bucket: hide them) and return how many."""
        batch: list[ObjectIdentifierTypeDef] = []
        removed = 0
        with storage.vault_errors(self.bucket):
            for key in [*wanted, None]:
                if key is not None:
                    batch.append({"Key": key})
                if batch and (key is None or len(batch) == 1000):
                    answer = self._s3.delete_objects(
                        Bucket=self.bucket, Delete={"Objects": batch, "Quiet": True}
                    )
                    if errors := answer.get("Errors"):
                        first = errors[0]
                        raise StorageUnavailable(
                            f"S3 did not remove {first.get('Key')!r} ({first.get('Code')})",
                            "Run prune again",
                        )
                    removed += len(batch)
                    batch = []
        return removed

    def read_range(self, key: str, start: int, end: int) -> bytes:
        """Return the bytes [start, end) of an object.

        Raises:
            BackupTampered: the object is gone or shorter.
        """
        if end <= start:
            return b""
        with storage.vault_errors(self.bucket):
            for attempt in range(3):
                try:
                    body = self._s3.get_object(
                        Bucket=self.bucket, Key=key, Range=f"bytes={start}-{end - 1}"
                    )["Body"].read()
                except self._s3.exceptions.ClientError as error:
                    if storage.error_code(error) in storage.MISSING_KEY | {"InvalidRange", "416"}:
                        break
                    raise
                except storage.cut_off_errors():
                    # The connection broke inside the body.
                    if attempt == 2:
                        raise StorageUnavailable(f"S3 cut off {key!r} three times") from None
                    continue
                if len(body) == end - start:
                    return body
                break
        raise BackupTampered(
            f"The stored object {key!r} is missing or shorter than its manifest says",
            "Restore another run; an earlier version of the object may still be in the bucket",
        )

    def fetch(self, key: str, size: int) -> Iterator[bytes]:
        """Yield the stored bytes of an object of that size, one request ahead of the reader."""
        with ThreadPoolExecutor(1, thread_name_prefix="fetch") as pool:
            ahead = None
            for start in range(0, size, FETCH):
                end = min(start + FETCH, size)
                coming, ahead = ahead, pool.submit(self.read_range, key, start, end)
                if coming is not None:
                    yield coming.result()
            if ahead is not None:
                yield ahead.result()

    # --- uploads not finished ----------------------------------------------------------------

    def open_uploads(self, prefix: str) -> list[tuple[str, str]]:
        """Return (key, upload id) of every open multipart upload under the prefix."""
        with storage.vault_errors(self.bucket):
            pages = self._s3.get_paginator("list_multipart_uploads").paginate(
                Bucket=self.bucket, Prefix=prefix
            )
            return [(u["Key"], u["UploadId"]) for page in pages for u in page.get("Uploads", [])]

    def uploaded_bytes(self, key: str, upload_id: str) -> int:
        """Return the bytes that an open upload has so far; 0 if it ended meanwhile."""
        try:
            pages = self._s3.get_paginator("list_parts").paginate(
                Bucket=self.bucket, Key=key, UploadId=upload_id
            )
            return sum(part["Size"] for page in pages for part in page.get("Parts", []))
        except self._s3.exceptions.ClientError:
            return 0

    def abort_uploads(self, prefix: str) -> int:
        """Abort every open upload under the prefix and return how many there were."""
        uploads = self.open_uploads(prefix)
        with storage.vault_errors(self.bucket):
            for key, upload_id in uploads:
                self._s3.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload_id)
        return len(uploads)


def unreadable(key: str, why: str) -> BackupTampered:
    """Return the error for a record that is not what Stepvault wrote."""
    return BackupTampered(
        f"The record {key!r} is not what Stepvault wrote: {why}",
        "Put an earlier version of the object back, if the bucket still has one",
    )


def _base64_sha256(body: bytes) -> str:
    return base64.b64encode(hashlib.sha256(body).digest()).decode()
