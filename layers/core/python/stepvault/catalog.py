"""The vault: the runs and backups that it holds, and the records that describe them.

Only this module and ``multipart`` (which writes data) send requests for the vault to S3.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import zstandard

from stepvault import keys, storage
from stepvault.compress import decompress
from stepvault.errors import BackupTampered, RunNotFound, StorageUnavailable
from stepvault.records import (
    Failure,
    Manifest,
    Receipt,
    Record,
    RestoreReport,
    StoredObject,
    Summary,
    Unit,
    Unrestored,
)
from stepvault.settings import Kind

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef

R = TypeVar("R", bound=Record)

#: Bytes per GET while streaming: short requests survive a slow reader, which one long
#: response would not (S3 closes a connection that nobody reads).
FETCH = 8 << 20


class Listed(NamedTuple):
    """An object as a listing shows it."""

    key: str
    size: int
    etag: str | None = None

    def is_still(self, stored: StoredObject) -> bool:
        """Tell whether it is the object that was stored, as far as a listing shows.

        Objects of earlier runs are compared by size only: they are never overwritten, but a
        person may have copied them (to another key or bucket), and a copy has another ETag.
        """
        etag = None if stored.run_id else stored.etag  # None in older records too
        return self.size == stored.stored_bytes and (None in (etag, self.etag) or self.etag == etag)


def first_astray(
    there: Mapping[tuple[str, str], Listed], run: str, objects: Iterable[StoredObject]
) -> tuple[StoredObject, Listed | None] | None:
    """Return the first object that is not there as it was stored, and what is there instead.

    Args:
        there: as ``Vault.stored_objects`` returns it.
        run: the run whose objects they are.
        objects: what must be there.
    """
    for stored in objects:
        found = there.get((stored.run_id or run, stored.name))
        if found is None or not found.is_still(stored):
            return stored, found
    return None


class Vault:
    """One vault bucket.

    Every method raises VaultMissing, VaultDenied or StorageUnavailable when S3 refuses or fails.
    """

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket

    # --- objects ---------------------------------------------------------------------------

    @property
    def _s3(self) -> "S3Client":
        return storage.client()

    def get(self, key: str) -> bytes | None:
        """Return the object's bytes, or None if there is no such object."""
        with storage.vault_errors(self.bucket):
            try:
                return self._s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()
            except self._s3.exceptions.ClientError as error:
                if storage.error_code(error) in storage.MISSING_KEY:
                    return None
                raise

    def put(self, key: str, body: bytes, *, only_new: bool = False) -> bool:
        """Store a small object.

        Args:
            key: where.
            body: its bytes.
            only_new: keep the object that is already there.

        Returns:
            False if ``only_new`` kept the object that was there.
        """
        with storage.vault_errors(self.bucket):
            try:
                condition = {"IfNoneMatch": "*"} if only_new else {}
                self._s3.put_object(
                    Bucket=self.bucket,
                    Key=key,
                    Body=body,
                    ChecksumSHA256=_base64_sha256(body),
                    **condition,  # type: ignore[arg-type]
                )
            except self._s3.exceptions.ClientError as error:
                if storage.error_code(error) not in {"PreconditionFailed", "412"}:
                    raise
                return False
        return True

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

    def stored_objects(self, source: str, runs: Iterable[str]) -> dict[tuple[str, str], Listed]:
        """Return the objects in the runs' data folders by run and name; one listing per run."""

        def listed(run: str) -> list[tuple[tuple[str, str], Listed]]:
            prefix = keys.data_prefix(source, run)
            return [((run, e.key[len(prefix) :]), e) for e in self.entries(prefix)]

        with ThreadPoolExecutor(16, thread_name_prefix="listings") as pool:
            return dict(chain.from_iterable(pool.map(listed, runs)))

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
                except OSError:  # the connection broke inside the body
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
        ranges = [(at, min(at + FETCH, size)) for at in range(0, size, FETCH)]
        with ThreadPoolExecutor(1, thread_name_prefix="fetch") as pool:
            ahead = None
            for start, end in ranges:
                coming, ahead = ahead, pool.submit(self.read_range, key, start, end)
                if coming is not None:
                    yield coming.result()
            if ahead is not None:
                yield ahead.result()

    def read(self, source: str, run: str, stored: StoredObject) -> Iterator[bytes]:
        """Yield the raw bytes of a stored object, verified.

        Raises:
            BackupTampered: at the end of the stream, if sizes or hashes are not those recorded;
                the consumer must not make anything final before.
        """
        key = keys.data(source, stored.run_id or run, stored.name)
        stored_hash, raw_hash, raw_size = hashlib.sha256(), hashlib.sha256(), 0

        def hashed() -> Iterator[bytes]:
            for chunk in self.fetch(key, stored.stored_bytes):
                stored_hash.update(chunk)
                yield chunk

        try:
            for chunk in hashed() if stored.encoding == "none" else decompress(hashed()):
                raw_hash.update(chunk)
                raw_size += len(chunk)
                yield chunk
        except zstandard.ZstdError as error:
            raise _tampered(key, f"zstd says {error}") from error
        if stored_hash.hexdigest() != stored.stored_sha256:
            raise _tampered(key, "its SHA-256 differs from the manifest's")
        if raw_size != stored.raw_bytes or raw_hash.hexdigest() != stored.raw_sha256:
            raise _tampered(key, "its unpacked bytes differ from the manifest's")

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

    # --- records -----------------------------------------------------------------------------

    def _record(self, key: str, model: type[R]) -> R | None:
        body = self.get(key)
        return None if body is None else model.model_validate_json(body)

    def _records(self, wanted: Sequence[str], model: type[R]) -> list[R]:
        with ThreadPoolExecutor(16, thread_name_prefix="records") as pool:
            found = pool.map(lambda key: self._record(key, model), wanted)
            return [record for record in found if record is not None]

    def receipt(self, source: str, run: str, unit: str) -> Receipt | None:
        """Return the unit's receipt, or None if it is not done."""
        return self._record(keys.receipt(source, run, unit), Receipt)

    def receipt_ids(self, source: str, run: str) -> set[str]:
        """Return the units of the source that have a receipt."""
        prefix = keys.receipts_prefix(source, run)
        return {e.key[len(prefix) : -len(".json")] for e in self.entries(prefix)}

    def receipts(self, source: str, run: str) -> list[Receipt]:
        """Return the receipts of all units of the source that are done."""
        return self._records(
            [e.key for e in self.entries(keys.receipts_prefix(source, run))], Receipt
        )

    def put_receipt(self, receipt: Receipt) -> None:
        """Store the proof that a unit is done."""
        key = keys.receipt(receipt.source, receipt.run_id, receipt.unit)
        self.put(key, _json(receipt))

    def failures(self, run: str) -> list[Failure]:
        """Return why units failed; a unit that succeeded later may still be among them."""
        return self._records([e.key for e in self.entries(keys.failures_prefix(run))], Failure)

    def put_failure(self, run: str, failure: Failure) -> None:
        """Store why a unit failed."""
        self.put(keys.failure(run, failure.source, failure.unit), _json(failure))

    def manifest(self, source: str, run: str) -> Manifest:
        """Return the manifest of a sealed backup.

        Raises:
            RunNotFound: there is none; the message names the runs there are.
        """
        found = self._record(keys.manifest(source, run), Manifest)
        if found is not None:
            return found
        if not (sealed := self.sealed_runs(source)):
            known = ", ".join(self.folders(keys.BACKUPS)) or "none yet"
            raise RunNotFound(f"No sealed backup of {source!r}; sources in the vault: {known}")
        raise RunNotFound(
            f"No sealed backup of {source!r} under run id {run!r}",
            f"The newest are: {', '.join(sealed[-3:])}; 'stepvault runs' lists all",
        )

    def latest(self, source: str) -> Manifest | None:
        """Return the manifest of the newest sealed backup of the source, or None."""
        runs = reversed(self.backup_runs(source))
        found = (self._record(keys.manifest(source, run), Manifest) for run in runs)
        return next(filter(None, found), None)

    def put_manifest(self, manifest: Manifest) -> bool:
        """Make the backup exist; return False if the run had a manifest already, which is kept."""
        key = keys.manifest(manifest.source, manifest.run_id)
        return self.put(key, _json(manifest), only_new=True)

    def sources(self) -> list[str]:
        """Return the names of the sources that have anything in the vault."""
        return self.folders(keys.BACKUPS)

    def backup_runs(self, source: str) -> list[str]:
        """Return the runs that have anything of the source, sealed or not, oldest first."""
        return [r for r in self.folders(keys.source_prefix(source)) if keys.is_run_id(r)]

    def sealed_runs(self, source: str) -> list[str]:
        """Return the runs of the source's sealed backups, oldest first."""
        runs = self.backup_runs(source)
        with ThreadPoolExecutor(16, thread_name_prefix="sealed") as pool:
            sealed = pool.map(lambda run: self.exists(keys.manifest(source, run)), runs)
            return [run for run, there in zip(runs, sealed, strict=True) if there]

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

    # --- runs --------------------------------------------------------------------------------

    def runs(self) -> list[str]:
        """Return the ids of all runs, oldest first."""
        return [run for run in self.folders(keys.RUNS) if keys.is_run_id(run)]

    def summary(self, run: str) -> Summary | None:
        """Return what the run did; None while it has not been sealed."""
        return self._record(keys.summary(run), Summary)

    def put_summary(self, summary: Summary) -> None:
        """Store what the run did."""
        self.put(keys.summary(summary.run_id), _json(summary))

    def units(self, run: str) -> list[Unit] | None:
        """Give every unit of the run's plan; None if it was not planned, or not to the end."""
        lists = self._unit_lists(run)
        return None if None in lists else [unit for units in lists for unit in units or ()]

    def units_so_far(self, run: str) -> list[Unit]:
        """Give the units that are planned by now."""
        return [unit for units in self._unit_lists(run) for unit in units or ()]

    def _unit_lists(self, run: str) -> list[list[Unit] | None]:
        kinds: tuple[Kind, ...] = ("databases", "files")  # each is written, if only empty
        return [self.lines(keys.plan(run, kind), Unit) for kind in kinds]

    def source_units(self, run: str, source: str) -> list[Unit] | None:
        """Give the units of a source that is planned by itself; None if it is not planned yet."""
        return self.lines(keys.source_units(run, source), Unit)

    def lines(self, key: str, model: type[R]) -> list[R] | None:
        """Give the records of an object of JSON lines; None if there is no such object."""
        body = self.get(key)
        return None if body is None else [model.model_validate_json(x) for x in body.splitlines()]

    def put_lines(self, key: str, records: Sequence[Record]) -> None:
        """Store records as JSON lines."""
        self.put(key, b"".join(_json(record) + b"\n" for record in records))

    def put_unrestored(self, restore: str, stage: str, task: str, left: list[Unrestored]) -> None:
        """Store what a task of a restore left out."""
        self.put_lines(keys.unrestored(restore, stage, task), left)

    def unrestored(self, restore: str) -> list[Unrestored]:
        """Give what the tasks of a restore have left out so far."""
        bodies = [self.get(e.key) for e in self.entries(keys.unrestored_prefix(restore))]
        lines = [line for body in bodies if body for line in body.splitlines()]
        return [Unrestored.model_validate_json(line) for line in lines]

    def put_restore_report(self, report: RestoreReport) -> None:
        """Store what a restore as a whole left out."""
        self.put(keys.restore_report(report.restore_id), _json(report))

    def restore_report(self, restore: str) -> RestoreReport | None:
        """Give what a restore left out; None while it has not ended."""
        return self._record(keys.restore_report(restore), RestoreReport)

    def listing(self, key: str) -> Iterator[bytes]:
        """Yield a unit's listing as its engine made it; it can be too large for memory."""
        if (found := self.look(key)) is None:
            raise RunNotFound(f"The plan's listing {key!r} is gone", "Start a new run")
        return self.fetch(key, found.size)


def _json(record: Record) -> bytes:
    return record.model_dump_json(exclude_none=True).encode()


def config_digest(config: object) -> str:
    """Return the SHA-256 of a settings mapping, to compare the settings of two backups."""
    canonical = json.dumps(config, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _base64_sha256(body: bytes) -> str:
    return base64.b64encode(hashlib.sha256(body).digest()).decode()


def _tampered(key: str, how: str) -> BackupTampered:
    return BackupTampered(
        f"The stored object {key!r} is not what was backed up: {how}",
        "Nothing of it was put in place; restore another run, or an earlier version of the object",
    )
