"""The vault: the runs and backups that it holds, and the records that describe them.

Stored records are untrusted input: whatever is wrong with one, the error is ``BackupTampered``.
"""

import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain

import zstandard
from pydantic import ValidationError

from stepvault import keys
from stepvault.compress import decompress
from stepvault.deadline import Deadline
from stepvault.errors import BackupTampered, RunNotFound
from stepvault.objects import CLAIM_BYTES, Bucket, Listed, unreadable
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

#: Bytes of a record at most, so that a wrong one does not fill the memory.
RECORD_BYTES = 512 << 20


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


def is_whole(receipt: Receipt, there: Mapping[tuple[str, str], Listed]) -> bool:
    """Tell whether a receipt proves that its unit is stored.

    Args:
        receipt: the receipt.
        there: the objects of its run, as ``Vault.stored_objects`` returns them.
    """
    own = (o for o in receipt.objects if o.run_id is None)
    something = bool(receipt.skipped or receipt.objects)
    return something and first_astray(there, receipt.run_id, own) is None


@dataclass
class Receipts:
    """The receipts of one source in one run."""

    valid: dict[str, Receipt] = field(default_factory=dict)
    """By unit."""
    invalid: dict[str, BackupTampered] = field(default_factory=dict)
    """By unit: what is wrong with those that do not prove anything."""


@dataclass(frozen=True)
class ReceiptOrClaim:
    """What stands under the key of a unit's receipt."""

    etag: str | None = None
    """None: nothing."""
    receipt: Receipt | None = None
    """None if it is a claim, or cannot be read."""
    is_claim: bool = False


class Vault(Bucket):
    """The vault bucket and what is in it."""

    def within(self, deadline: Deadline) -> "Vault":
        """Return the same vault with another deadline."""
        return Vault(self.bucket, deadline)

    def stored_objects(self, source: str, runs: Iterable[str]) -> dict[tuple[str, str], Listed]:
        """Return the objects in the runs' data folders by run and name; one listing per run."""

        def listed(run: str) -> list[tuple[tuple[str, str], Listed]]:
            prefix = keys.data_prefix(source, run)
            return [((run, e.key[len(prefix) :]), e) for e in self.entries(prefix)]

        with ThreadPoolExecutor(16, thread_name_prefix="listings") as pool:
            return dict(chain.from_iterable(pool.map(listed, runs)))

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

    # --- records -----------------------------------------------------------------------------

    def _record[R: Record](self, key: str, model: type[R]) -> R | None:
        body = self.get(key, RECORD_BYTES)
        return None if body is None else _parse(key, model, body)

    def _records[R: Record](
        self, wanted: Iterable[str], model: type[R]
    ) -> list[tuple[str, R | BackupTampered]]:
        """Return the records that are there by key, or what is wrong with them."""

        def read(key: str) -> tuple[str, R | BackupTampered | None]:
            try:
                return key, self._record(key, model)
            except BackupTampered as error:
                return key, error

        with ThreadPoolExecutor(16, thread_name_prefix="records") as pool:
            return [(key, record) for key, record in pool.map(read, wanted) if record is not None]

    def claim(self, source: str, run: str, unit: str, over: str | None) -> str | None:
        """Put a claim on a unit that has no valid receipt.

        Args:
            source: the unit's source.
            run: its run.
            unit: its id.
            over: the ETag of the claim or receipt that the new claim replaces; None if there
                must be none.

        Returns:
            The claim's ETag; None if something else is there by now.
        """
        condition = {"IfMatch": over} if over else {"IfNoneMatch": "*"}
        claim = uuid.uuid4().hex.encode()
        return self._put(keys.receipt(source, run, unit), claim, condition)

    def receipt(self, source: str, run: str, unit: str) -> Receipt | None:
        """Return the unit's receipt, or None if it is not done.

        Raises:
            BackupTampered: what is there is no receipt of that unit.
        """
        key = keys.receipt(source, run, unit)
        body = self.get(key, RECORD_BYTES)
        if body is None or len(body) <= CLAIM_BYTES:
            return None
        return _of_unit(key, _parse(key, Receipt, body), source, run, unit)

    def receipt_or_claim(self, source: str, run: str, unit: str) -> "ReceiptOrClaim":
        """Return what stands under the key of the unit's receipt."""
        key = keys.receipt(source, run, unit)
        if (found := self.read_object(key, RECORD_BYTES)) is None:
            return ReceiptOrClaim()
        body, etag = found
        if len(body) <= CLAIM_BYTES:
            return ReceiptOrClaim(etag, is_claim=True)
        try:
            receipt = _of_unit(key, _parse(key, Receipt, body), source, run, unit)
        except BackupTampered:
            return ReceiptOrClaim(etag)
        return ReceiptOrClaim(etag, receipt)

    def receipt_ids(self, source: str, run: str) -> set[str]:
        """Return the units of the source that have a receipt, whatever it says."""
        return set(self._receipt_keys(source, run).values())

    def _receipt_keys(self, source: str, run: str) -> dict[str, str]:
        """Return the units of the source's receipts by key."""
        prefix = keys.receipts_prefix(source, run)
        return {
            entry.key: entry.key[len(prefix) :].removesuffix(".json")
            for entry in self.entries(prefix)
            if not entry.is_claim
        }

    def receipts(self, source: str, run: str) -> list[Receipt]:
        """Return the receipts of all units of the source that are done.

        Raises:
            BackupTampered: one of them is no receipt of its unit.
        """
        receipts = self.checked_receipts(source, run)
        for error in receipts.invalid.values():
            raise error
        return list(receipts.valid.values())

    def checked_receipts(self, source: str, run: str) -> Receipts:
        """Return the receipts of the source, those that cannot be used apart."""
        units, receipts = self._receipt_keys(source, run), Receipts()
        for key, record in self._records(units, Receipt):
            unit = units[key]
            try:
                if isinstance(record, BackupTampered):
                    raise record
                receipts.valid[unit] = _of_unit(key, record, source, run, unit)
            except BackupTampered as error:
                receipts.invalid[unit] = error
        return receipts

    def done_units(self, source: str, run: str) -> set[str]:
        """Return the units of the source whose receipts prove that they are stored."""
        receipts, there = self.checked_receipts(source, run), self.stored_objects(source, [run])
        return {unit for unit, receipt in receipts.valid.items() if is_whole(receipt, there)}

    def put_receipt(self, receipt: Receipt, over: str | None = None) -> bool:
        """Store the proof that a unit is done.

        Args:
            receipt: the proof.
            over: the ETag of the unit's claim, which must still be there.

        Returns:
            False if the claim is not there any more; the receipt was not stored.
        """
        key = keys.receipt(receipt.source, receipt.run_id, receipt.unit)
        return self._put(key, _json(receipt), {"IfMatch": over} if over else {}) is not None

    def failures(self, run: str) -> list[Failure]:
        """Return why units failed; a unit that succeeded later may still be among them.

        Records that cannot be read are left out: they only explain.
        """
        wanted = [e.key for e in self.entries(keys.failures_prefix(run))]
        return [f for _, f in self._records(wanted, Failure) if isinstance(f, Failure)]

    def put_failure(self, run: str, failure: Failure) -> None:
        """Store why a unit failed."""
        self.put(keys.failure(run, failure.source, failure.unit), _json(failure))

    def manifest(self, source: str, run: str) -> Manifest:
        """Return the manifest of a sealed backup.

        Raises:
            RunNotFound: there is none; the message names the runs there are.
            BackupTampered: it cannot be read, or is another backup's.
        """
        if (manifest := self._manifest(source, run)) is not None:
            return manifest
        if not (sealed := self.sealed_runs(source)):
            known = ", ".join(self.folders(keys.BACKUPS)) or "none yet"
            raise RunNotFound(f"No sealed backup of {source!r}; sources in the vault: {known}")
        raise RunNotFound(
            f"No sealed backup of {source!r} under run id {run!r}",
            f"The newest are: {', '.join(sealed[-3:])}; 'stepvault runs' lists all",
        )

    def latest(self, source: str) -> Manifest | None:
        """Return the manifest of the newest sealed backup of the source, or None.

        Raises:
            BackupTampered: that manifest cannot be read.
        """
        runs = reversed(self.backup_runs(source))
        manifests = (self._manifest(source, run) for run in runs)
        return next(filter(None, manifests), None)

    def _manifest(self, source: str, run: str) -> Manifest | None:
        key = keys.manifest(source, run)
        manifest = self._record(key, Manifest)
        if manifest is not None and (manifest.source, manifest.run_id) != (source, run):
            raise unreadable(key, f"it is of {manifest.source!r} in run {manifest.run_id!r}")
        return manifest

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
        """Return every unit of the run's plan; None if the plan is missing or not complete.

        Raises:
            BackupTampered: a line of the plan cannot be read, or is another run's.
        """
        plans = self._plans(run)
        if None in plans:
            return None
        return [unit for units in plans for unit in units or ()]

    def units_so_far(self, run: str) -> list[Unit]:
        """Return the units that are planned by now."""
        return [unit for units in self._plans(run) for unit in units or ()]

    def source_units(self, run: str, source: str) -> list[Unit] | None:
        """Return the units of a source that is planned by itself; None if it is not planned yet."""
        return self._units(keys.source_units(run, source), run)

    def _plans(self, run: str) -> list[list[Unit] | None]:
        kinds: tuple[Kind, ...] = (
            "databases",
            "files",
        )  # each plan is written, even if it is empty
        return [self._units(keys.plan(run, kind), run) for kind in kinds]

    def _units(self, key: str, run: str) -> list[Unit] | None:
        units = self.lines(key, Unit)
        foreign = next((unit for unit in units or () if unit.run_id != run), None)
        if foreign:
            raise unreadable(key, f"a line of it is of run {foreign.run_id!r}")
        return units

    def lines[R: Record](self, key: str, model: type[R]) -> list[R] | None:
        """Return the records of an object of JSON lines; None if there is no such object.

        Raises:
            BackupTampered: a line cannot be read.
        """
        body = self.get(key, RECORD_BYTES)
        return None if body is None else [_parse(key, model, line) for line in body.splitlines()]

    def put_lines(self, key: str, records: Iterable[Record]) -> None:
        """Store records as JSON lines."""
        self.put(key, b"".join(_json(record) + b"\n" for record in records))

    def put_unrestored(self, restore: str, stage: str, task: str, left: list[Unrestored]) -> None:
        """Store what a task of a restore left out."""
        self.put_lines(keys.unrestored(restore, stage, task), left)

    def unrestored(self, restore: str) -> list[Unrestored]:
        """Give what the tasks of a restore have left out so far."""
        listed = self.entries(keys.unrestored_prefix(restore))
        return [what for e in listed for what in self.lines(e.key, Unrestored) or ()]

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


def _parse[R: Record](key: str, model: type[R], body: bytes) -> R:
    """Return the record that the bytes hold.

    Raises:
        BackupTampered: they hold none.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise unreadable(key, f"{where}: {first['msg']}" if where else first["msg"]) from error


def _of_unit(key: str, receipt: Receipt, source: str, run: str, unit: str) -> Receipt:
    """Return the receipt if it is the one of that unit.

    Raises:
        BackupTampered: it is another's.
    """
    if (receipt.source, receipt.run_id, receipt.unit) != (source, run, unit):
        whose = f"{receipt.source}/{receipt.unit} in run {receipt.run_id}"
        raise unreadable(key, f"it is the receipt of {whose}")
    return receipt


def _tampered(key: str, how: str) -> BackupTampered:
    return BackupTampered(
        f"The stored object {key!r} is not what was backed up: {how}",
        "Nothing of it was put in place; restore another run, or an earlier version of the object",
    )
