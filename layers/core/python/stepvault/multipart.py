"""Writes a stream of unknown length into one S3 object, in bounded memory.

Threads of a shared pool upload the parts while the stream goes on; a stream that is faster than
its uploads waits (back-pressure). An error inside the ``with`` block aborts the upload.
"""

import base64
import hashlib
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from stepvault import storage
from stepvault.errors import StepvaultError
from stepvault.governor import Governor
from stepvault.profiling import StageMeter

MIB = 1 << 20
#: S3: at most 10,000 parts; 5 MiB to 5 GiB each (docs: "Amazon S3 multipart upload limits").
MAX_PARTS = 10_000
FIRST_PART = 6 * MIB
_DOUBLE_EVERY = 1_000


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


class Upload:
    """Write bytes, then ``complete``; use as a context manager.

    Args:
        pool: threads for the requests; shared by the streams of a unit.
        inflight: parts of this stream that may be uploaded at a time. Memory is at most
            ``inflight + 1`` parts.
        governor: may lower ``inflight`` while memory is short.
        meter: counts every request and every wait.

    Raises:
        VaultMissing, VaultDenied, StorageUnavailable: from ``write`` or ``complete``, when a
            request failed for good.
    """

    def __init__(
        self,
        bucket: str,
        key: str,
        pool: Executor,
        inflight: int,
        governor: Governor,
        meter: StageMeter,
    ) -> None:
        self._bucket = bucket
        self._key = key
        self._pool = pool
        self._wanted = inflight
        self._governor = governor
        self._meter = meter
        self._part = bytearray()
        self._filled = 0
        """How many bytes of ``_part`` are valid; the rest is from an earlier part."""
        self._spare: list[bytearray] = []
        """Buffers of uploaded parts, to be used again without a new allocation."""
        self._next = 1
        self._size = 0
        self._sha256 = hashlib.sha256()
        self._upload_id: str | None = None
        self._changed = threading.Condition()
        self._flying = 0
        self._etags: dict[int, tuple[str, str]] = {}
        self._error: BaseException | None = None
        self._completed = False

    def __enter__(self) -> "Upload":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._completed:
            self.abort()

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

    def complete(self, last_look: Callable[[], None] = lambda: None) -> Uploaded:
        """Make the object exist, with everything that was written.

        Args:
            last_look: called when all else is done; what it raises leaves no object.
        """
        if self._upload_id is None:
            last_look()
            etag = self._put_whole()
        else:
            if self._filled:
                self._send_part()
            self._wait_until(lambda: self._flying == 0)
            last_look()
            etag = self._finish()
        self._completed = True
        return Uploaded(
            self._size, self._sha256.hexdigest(), max(1, len(self._etags)), storage.etag(etag)
        )

    def abort(self) -> None:
        """Leave nothing behind; the lifecycle rule removes an upload that cannot be aborted."""
        self._completed = True
        with self._changed:
            self._changed.wait_for(lambda: self._flying == 0)
        if self._upload_id is not None:
            with suppress(StepvaultError), storage.vault_errors(self._bucket):
                storage.client().abort_multipart_upload(
                    Bucket=self._bucket, Key=self._key, UploadId=self._upload_id
                )

    def _put_whole(self) -> str | None:
        body = self._take_part()
        started = time.perf_counter()
        with storage.vault_errors(self._bucket):
            put = storage.client().put_object(
                Bucket=self._bucket, Key=self._key, Body=bytes(body), ChecksumCRC32=_crc32(body)
            )
        self._meter.add(len(body), time.perf_counter() - started, 0.0)
        return put.get("ETag")

    def _send_part(self) -> None:
        if self._upload_id is None:
            with storage.vault_errors(self._bucket):
                self._upload_id = storage.client().create_multipart_upload(
                    Bucket=self._bucket, Key=self._key, ChecksumAlgorithm="CRC32"
                )["UploadId"]
        self._wait_until(lambda: self._flying < self._governor.inflight(self._wanted))
        number, self._next = self._next, self._next + 1
        body = self._take_part()
        with self._changed:
            self._flying += 1
        self._pool.submit(self._upload_part, number, body)

    def _take_part(self) -> bytearray:
        part, self._part = self._part, self._spare.pop() if self._spare else bytearray()
        del part[self._filled :]
        self._size, self._filled = self._size + len(part), 0
        return part

    def _upload_part(self, number: int, body: bytearray) -> None:
        try:
            if self._error is None and not self._completed:
                started = time.perf_counter()
                checksum = _crc32(body)
                with storage.vault_errors(self._bucket):
                    etag = storage.client().upload_part(
                        Bucket=self._bucket,
                        Key=self._key,
                        UploadId=self._upload_id or "",
                        PartNumber=number,
                        Body=body,  # type: ignore[arg-type]  # botocore takes a bytearray
                        ChecksumCRC32=checksum,
                    )["ETag"]
                self._etags[number] = (etag, checksum)
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

    def _finish(self) -> str | None:
        parts = [
            {"PartNumber": number, "ETag": etag, "ChecksumCRC32": checksum}
            for number, (etag, checksum) in sorted(self._etags.items())
        ]
        with storage.vault_errors(self._bucket):
            done = storage.client().complete_multipart_upload(
                Bucket=self._bucket,
                Key=self._key,
                UploadId=self._upload_id or "",
                MultipartUpload={"Parts": parts},  # type: ignore[typeddict-item]
            )
        return done.get("ETag")


def _crc32(body: bytearray) -> str:
    return base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()
