"""Writes a stream of unknown length into one S3 object, in bounded memory.

Threads of a shared pool upload the parts while the stream goes on; a stream that is faster than
its uploads waits (back-pressure). An error inside the ``with`` block aborts the upload.
"""

import base64
import hashlib
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from stepvault import storage
from stepvault.deadline import Deadline
from stepvault.errors import OutOfTime, StepvaultError, StorageUnavailable
from stepvault.governor import Governor
from stepvault.objects import Bucket
from stepvault.profiling import StageMeter

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MIB = 1 << 20
#: S3: at most 10,000 parts; 5 MiB to 5 GiB each (docs: "Amazon S3 multipart upload limits").
MAX_PARTS = 10_000
FIRST_PART = 6 * MIB
_DOUBLE_EVERY = 1_000
#: How often a conditional write is tried: each further time somebody else has written meanwhile.
_WRITES = 4
_NO_UPLOAD = "NoSuchUpload"


def part_size(number: int) -> int:
    """Return the bytes of part ``number`` (from 1): 6 MiB, doubled every thousand parts.

    The first 6 GB use parts of 6 MiB, so that most streams need little memory; the 10,000th
    part is 3 GiB and all parts hold 5.85 TiB, more than S3's 5 TiB for one upload.
    """
    return FIRST_PART << ((number - 1) // _DOUBLE_EVERY)


@dataclass(frozen=True)
class Uploaded:
    """A finished object."""

    bytes: int
    sha256: str
    parts: int
    etag: str | None


@dataclass(frozen=True)
class Condition:
    """What must be true for an object to be written; S3 checks it together with the write."""

    expected: str | None
    """ETag of the object that is there; None if there must be none."""
    confirm: Callable[[], None]
    """Called when S3 has refused; raises if the writer must stop."""
    retried: bool = False
    """An earlier writer of the key may have left an open upload."""


class _Refused(Exception):  # never leaves this module
    """S3 did not write the object on this condition."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Upload:
    """Write bytes, then ``complete``; use as a context manager.

    Args:
        pool: threads for the requests; shared by the streams of a unit.
        inflight: parts of this stream that may be uploaded at a time. Memory is at most
            ``inflight + 1`` parts.
        governor: may lower ``inflight`` while memory is short.
        meter: counts every request and every wait.
        condition: what must be true for the object to be written; None: it is always written.
        deadline: no request takes longer than this allows.

    Raises:
        VaultMissing, VaultDenied, StorageUnavailable: from ``write`` or ``complete``, when a
            request failed for good.
        OutOfTime: from the same, after the deadline or after ``abort``.
    """

    def __init__(
        self,
        bucket: str,
        key: str,
        pool: Executor,
        inflight: int,
        governor: Governor,
        meter: StageMeter,
        condition: Condition | None = None,
        deadline: Deadline | None = None,
    ) -> None:
        self._bucket = bucket
        self._key = key
        self._pool = pool
        self._wanted = inflight
        self._governor = governor
        self._meter = meter
        self._condition = condition
        self._deadline = deadline or Deadline()
        self._part = bytearray()
        self._filled = 0
        """How many bytes of ``_part`` are valid; the rest is from an earlier part."""
        self._spare: list[bytearray] = []
        """Buffers of uploaded parts, to be used again without a new allocation."""
        self._next = 1
        self._size = 0
        self._sha256 = hashlib.sha256()
        self._upload_id: str | None = None
        self._unknown_upload = False
        """S3 may have started an upload whose id did not reach us."""
        self._changed = threading.Condition()
        self._flying = 0
        self._etags: dict[int, tuple[str, str]] = {}
        self._error: BaseException | None = None
        self._ended = False

    def __enter__(self) -> "Upload":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._ended:
            self.abort()

    @property
    def _s3(self) -> "S3Client":
        return storage.client_for(self._deadline)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes; wait while too many parts are being uploaded."""
        self._sha256.update(data)
        with memoryview(data) as whole:
            done = 0
            while taken := min(len(whole) - done, part_size(self._next) - self._filled):
                end = self._filled + taken
                if end <= len(self._part):
                    with memoryview(self._part) as part:
                        part[self._filled : end] = whole[done : done + taken]
                else:
                    del self._part[self._filled :]
                    self._part += whole[done : done + taken]
                self._filled, done = end, done + taken
                if end == part_size(self._next):
                    self._send_part()

    def complete(self) -> Uploaded:
        """Make the object exist, with everything that was written.

        Raises:
            whatever the condition's ``confirm`` raises: then this has not written the object.
        """
        if self._upload_id is None:
            body = self._take_part()
            checksum = _crc32(body)
            etag = self._on_condition(lambda held: self._put(body, checksum, held), checksum)
        else:
            if self._filled:
                self._send_part()
            self._wait_until(lambda: self._flying == 0)
            etag = self._on_condition(self._finish, _crc32_of_parts(self._etags))
        self._ended = True
        return Uploaded(
            self._size, self._sha256.hexdigest(), max(1, len(self._etags)), storage.etag(etag)
        )

    def abort(self) -> None:
        """Leave nothing behind; the lifecycle rule removes an upload that cannot be aborted."""
        self._ended, self._deadline = True, self._deadline.for_cleanup()
        left = self._deadline.remaining()
        with self._changed:
            self._changed.wait_for(
                lambda: self._flying == 0, None if left == float("inf") else max(0.0, left)
            )
        with suppress(StepvaultError):
            if self._upload_id is not None:
                self._abort(self._upload_id)
            elif self._unknown_upload:
                self._abort_others()

    def _abort(self, upload_id: str) -> None:
        with storage.vault_errors(self._bucket):
            self._s3.abort_multipart_upload(Bucket=self._bucket, Key=self._key, UploadId=upload_id)

    def _abort_others(self) -> None:
        """Abort open uploads of this key that are not ours: nobody will complete them."""
        if self._condition is not None:
            self._condition.confirm()
        for key, upload_id in Bucket(self._bucket, self._deadline).open_uploads(self._key):
            if key == self._key and upload_id != self._upload_id:
                self._abort(upload_id)

    def _on_condition(
        self, write: Callable[[Mapping[str, str]], str | None], checksum: str
    ) -> str | None:
        """Write the object if the condition holds and return its ETag.

        A refused write is not always lost: the answer to an earlier attempt of ours may have been,
        or an invocation that may not finish any more has written. What is there is read before
        ``confirm``: a later invocation changes it only after it has taken our right to write.
        """
        if self._condition is None:
            return write({})
        expected = self._condition.expected
        for _ in range(_WRITES):
            try:
                return write({"IfMatch": f'"{expected}"'} if expected else {"IfNoneMatch": "*"})
            except _Refused as refused:
                there = self._there()
                self._condition.confirm()
                if (there.get("ContentLength"), there.get("ChecksumCRC32")) == (
                    self._size,
                    checksum,
                ):
                    return there.get("ETag")
                if refused.code == _NO_UPLOAD:
                    raise StorageUnavailable(
                        f"Somebody aborted the upload of {self._key!r}", "The unit is tried again"
                    ) from refused
                expected = storage.etag(there.get("ETag"))
        raise StorageUnavailable(
            f"Somebody else writes {self._key!r} again and again", "The unit is tried again"
        )

    def _there(self) -> Mapping[str, Any]:
        """Return what S3 says of the object under our key; empty if there is none."""
        with storage.vault_errors(self._bucket):
            try:
                return self._s3.head_object(
                    Bucket=self._bucket, Key=self._key, ChecksumMode="ENABLED"
                )
            except self._s3.exceptions.ClientError as error:
                if storage.error_code(error) in storage.MISSING_KEY:
                    return {}
                raise

    def _put(self, body: bytearray, checksum: str, condition: Mapping[str, str]) -> str | None:
        self._refuse_if_ended()
        started = time.perf_counter()
        with self._asking(condition):
            put = self._s3.put_object(
                Bucket=self._bucket,
                Key=self._key,
                Body=bytes(body),
                ChecksumCRC32=checksum,
                **condition,  # type: ignore[arg-type]
            )
        self._meter.add(len(body), time.perf_counter() - started, 0.0)
        return put.get("ETag")

    @contextmanager
    def _asking(self, condition: Mapping[str, str]) -> Iterator[None]:
        """Turn S3's errors into ours, and that the condition does not hold into ``_Refused``."""
        with storage.vault_errors(self._bucket):
            try:
                yield
            except self._s3.exceptions.ClientError as error:
                code = storage.error_code(error)
                if condition and code in storage.CONFLICT | storage.MISSING_KEY | {_NO_UPLOAD}:
                    raise _Refused(code) from error
                raise

    def _refuse_if_ended(self) -> None:
        if self._ended:
            raise OutOfTime(f"The upload of {self._key!r} was aborted")

    def _send_part(self) -> None:
        if self._upload_id is None:
            self._upload_id = self._create()
        self._wait_until(lambda: self._flying < self._governor.inflight(self._wanted))
        number, self._next = self._next, self._next + 1
        body = self._take_part()
        with self._changed:
            self._flying += 1
        self._pool.submit(self._upload_part, number, body)

    def _create(self) -> str:
        """Start the upload in parts and return its id."""
        self._refuse_if_ended()
        self._unknown_upload = True
        with storage.vault_errors(self._bucket):
            answer = self._s3.create_multipart_upload(
                Bucket=self._bucket, Key=self._key, ChecksumAlgorithm="CRC32"
            )
        self._upload_id = upload_id = _told(answer, "UploadId", "CreateMultipartUpload")
        # An attempt whose answer was lost has started an upload, too.
        repeated = answer["ResponseMetadata"].get("RetryAttempts", 0) > 0
        if repeated or (self._condition and self._condition.retried):
            self._abort_others()
        return upload_id

    def _take_part(self) -> bytearray:
        part, self._part = self._part, self._spare.pop() if self._spare else bytearray()
        del part[self._filled :]
        self._size, self._filled = self._size + len(part), 0
        return part

    def _upload_part(self, number: int, body: bytearray) -> None:
        try:
            if self._error is None and not self._ended:
                started = time.perf_counter()
                checksum = _crc32(body)
                with storage.vault_errors(self._bucket):
                    answer = self._s3.upload_part(
                        Bucket=self._bucket,
                        Key=self._key,
                        UploadId=self._upload_id or "",
                        PartNumber=number,
                        Body=body,  # type: ignore[arg-type]  # botocore takes a bytearray
                        ChecksumCRC32=checksum,
                    )
                self._etags[number] = (_told(answer, "ETag", "UploadPart"), checksum)
                if self._wanted > 1:  # streams that share the memory give it back at once
                    self._spare.append(body)
                self._meter.add(len(body), time.perf_counter() - started, 0.0)
        except BaseException as error:  # raised again in the stream
            self._error = error
        finally:
            with self._changed:
                self._flying -= 1
                self._changed.notify_all()

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        started = time.perf_counter()
        with self._changed:
            while self._error is None and not condition():
                self._changed.wait(1.0)  # the governor's answer changes without a notification
        self._meter.wait(time.perf_counter() - started)
        if self._error is not None:
            raise self._error

    def _finish(self, condition: Mapping[str, str]) -> str | None:
        self._refuse_if_ended()
        parts = [
            {"PartNumber": number, "ETag": etag, "ChecksumCRC32": checksum}
            for number, (etag, checksum) in sorted(self._etags.items())
        ]
        with self._asking(condition):
            done = self._s3.complete_multipart_upload(
                Bucket=self._bucket,
                Key=self._key,
                UploadId=self._upload_id or "",
                MultipartUpload={"Parts": parts},  # type: ignore[typeddict-item]
                **condition,  # type: ignore[arg-type]
            )
        return done.get("ETag")


def _told(answer: Mapping[str, Any], name: str, operation: str) -> str:
    """Return a value of S3's answer.

    Raises:
        StorageUnavailable: the answer does not have it.
    """
    if value := answer.get(name):
        return str(value)
    raise StorageUnavailable(
        f"S3 answered {operation} without {name}",
        "The unit is tried again; if it stays so, look for a proxy between here and S3",
    )


def _crc32(body: bytearray) -> str:
    return base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()


def _crc32_of_parts(parts: Mapping[int, tuple[str, str]]) -> str:
    """Return the checksum that S3 shows of an object of those parts."""
    joined = b"".join(base64.b64decode(checksum) for _, (_, checksum) in sorted(parts.items()))
    return f"{_crc32(bytearray(joined))}-{len(parts)}"
