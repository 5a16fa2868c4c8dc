"""Makes complete backups exist, and records what a run did."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from stepvault import __version__, keys
from stepvault.catalog import Receipts, Vault, config_digest, first_astray
from stepvault.errors import BackupTampered, RunNotFound, SourcesFailed
from stepvault.history import with_unusual
from stepvault.objects import Listed
from stepvault.plan import RunInput, hand_out, unfinished
from stepvault.records import (
    Failure,
    Manifest,
    Receipt,
    Record,
    SourceResult,
    StoredObject,
    Summary,
    Unit,
    UnitFacts,
)


class SealRequest(Record):
    """The event of ``seal``."""

    run_id: str
    attempt: int = 0
    """Fan-outs since the start that were redrives."""
    redrive_count: int = 0
    """How often the execution has been redriven, from its context object."""
    input: RunInput = RunInput()


def seal(vault: Vault, request: SealRequest) -> tuple[Summary | None, dict[str, Any]]:
    """Write the manifest of every source whose units all have receipts, then the summary.

    Returns:
        The summary and the state machine's next state. After a redrive of a failed seal the
        first call returns no summary but plans the missing units once more (status
        ``incomplete``): Step Functions restarts only the state that failed, and the Maps,
        which tolerate failures, had succeeded.

    Raises:
        RunNotFound: the run was not planned.
    """
    run = request.run_id
    if (units := vault.units(run)) is None:
        raise RunNotFound(f"No run {run!r} was planned in this vault", "See 'stepvault runs'")
    if not units:
        raise RunNotFound(
            f"The plan of run {run!r} names no unit: nothing was backed up", "Start a new run"
        )
    if request.redrive_count > request.attempt and (missing := unfinished(vault, units)):
        state = hand_out(vault, run, missing, attempt=request.redrive_count, retry=True)
        return None, {"status": "incomplete", **state}
    failures = vault.failures(run)
    by_source: dict[str, list[Unit]] = {}
    for unit in units:
        by_source.setdefault(unit.source.name, []).append(unit)
    results = [_seal_source(vault, members, failures) for members in by_source.values()]
    results = with_unusual(vault, run, results)
    summary = Summary(
        tool_version=__version__,
        run_id=run,
        started=keys.run_started(run),
        ended=datetime.now(UTC),
        schedule=request.input.schedule,
        sources=results,
    )
    vault.put_summary(summary)
    return summary, {"status": "sealed", "run_id": run, "attempt": request.attempt}


def complain(summary: Summary) -> None:
    """Raise an error if the run left a source without a backup.

    Raises:
        SourcesFailed: naming each failed source and its first reason.
    """
    failed = [result for result in summary.sources if result.status == "failed"]
    if not failed:
        return
    reasons = "; ".join(
        f"{r.source} ({r.units_done} of {r.units} units done): "
        + (f"{r.failures[0].error}: {r.failures[0].message}" if r.failures else "unknown")
        for r in failed[:10]
    )
    raise SourcesFailed(
        f"{len(failed)} of {len(summary.sources)} sources are not backed up by run "
        f"{summary.run_id}: {reasons}".rstrip("."),
        _next_step([failure for result in failed for failure in result.failures]),
    )


def _next_step(failures: Sequence[Failure]) -> str:
    if failures and all(f.final for f in failures):
        return "A redrive does not help: start a new run"
    return "Fix the cause, then redrive this execution: only what is missing or damaged runs again"


def _seal_source(vault: Vault, units: Sequence[Unit], failures: Sequence[Failure]) -> SourceResult:
    name, run = units[0].source.name, units[0].run_id
    found = vault.checked_receipts(name, run)
    receipts = found.valid
    # No unit of the run is at work any more: what is still open was left by a killed function.
    vault.abort_uploads(keys.data_prefix(name, run))
    stored = [receipts[unit.id] for unit in units if unit.id in receipts]
    problems = _problems(vault, units, found, failures)
    backed_up = [receipt for receipt in stored if receipt.skipped is None]
    own = [o for receipt in stored for o in receipt.objects if o.run_id is None]
    if not problems and backed_up:
        problems = _make_exist(vault, units[0], _manifest(units[0], backed_up))
    return SourceResult(
        source=name,
        engine=units[0].source.engine,
        status="failed" if problems else "sealed" if backed_up else "skipped",
        units=len(units),
        units_done=len(stored),
        raw_bytes=sum(r.raw_bytes for r in stored),
        stored_bytes=sum(o.stored_bytes for o in own),
        rows=sum(o.rows or 0 for o in own),
        files=sum(o.files or 0 for receipt in stored for o in receipt.objects),
        bottleneck=_bottleneck(stored),
        failures=problems,
        warnings=[w for r in stored for w in ([r.skipped] if r.skipped else r.warnings)],
    )


def _problems(
    vault: Vault,
    units: Sequence[Unit],
    found: Receipts,
    failures: Sequence[Failure],
) -> list[Failure]:
    """Return why the source cannot be sealed; empty if it can."""
    name, run, receipts = units[0].source.name, units[0].run_id, found.valid
    recorded = {(f.source, f.unit): f for f in failures}
    problems = [_failure(u, found.invalid[u.id]) for u in units if u.id in found.invalid]
    problems += [
        recorded.get((name, unit.id))
        or _told(
            unit,
            "Killed",
            "The function left neither receipt nor error: it was stopped from outside, "
            "ran out of memory, or never started. See its log group",
        )
        for unit in units
        if unit.id not in receipts and unit.id not in found.invalid
    ]
    needed = {o.run_id or run for r in receipts.values() for o in r.objects}
    there = vault.stored_objects(name, needed)
    for unit in units:
        if (receipt := receipts.get(unit.id)) is None:
            continue
        if receipt.skipped and any(r.skipped is None for r in receipts.values()):
            problems.append(_told(unit, "SourceMissing", receipt.skipped, final=True))
        if not receipt.skipped and not receipt.objects:
            problems.append(_failure(unit, _empty(unit)))
        problems += _astray(unit, there, receipt.objects)
    return problems


def _make_exist(vault: Vault, unit: Unit, manifest: Manifest) -> list[Failure]:
    """Write the manifest, or check a backup that was sealed before against its manifest."""
    if vault.put_manifest(manifest):
        return []
    name, run = unit.source.name, unit.run_id
    try:
        own = [o for o in vault.manifest(name, run).objects if o.run_id is None]
    except BackupTampered as error:
        return [_failure(unit, error, final=True)]
    failures = _astray(unit, vault.stored_objects(name, [run]), own)
    # The first manifest stays whatever is stored now.
    return [failure.model_copy(update={"final": True}) for failure in failures]


def _astray(
    unit: Unit, there: Mapping[tuple[str, str], Listed], objects: Iterable[StoredObject]
) -> list[Failure]:
    """Return a failure for the first object that is not as it was stored; one is enough."""
    if (astray := first_astray(there, unit.run_id, objects)) is None:
        return []
    stored, found = astray
    return [_failure(unit, _not_as_stored(stored, found), final=stored.run_id is not None)]


def _not_as_stored(stored: StoredObject, there: Listed | None) -> BackupTampered:
    if there and there.size == stored.stored_bytes:
        return BackupTampered(
            f"{stored.name} was written over after it was stored (its ETag is another), "
            "perhaps by somebody who may write to the vault",
            "A redrive stores the unit again",
        )
    size = there.size if there else None
    what = f"was stored with {stored.stored_bytes} bytes, but {size} are there"
    if stored.run_id is None:
        return BackupTampered(f"{stored.name} {what}", "A redrive stores the unit again")
    return BackupTampered(
        f"{stored.name} of run {stored.run_id}, which this run leans on, {what}",
        "Start a new run; should that one say the same, run once with incremental = false, "
        "which leans on no earlier run",
    )


def _empty(unit: Unit) -> BackupTampered:
    return BackupTampered(
        f"The receipt of {unit.source.name}/{unit.id} names no object",
        "A redrive stores the unit again",
    )


def _failure(unit: Unit, error: BackupTampered, *, final: bool = False) -> Failure:
    return _told(unit, type(error).__name__, str(error), final=final)


def _told(unit: Unit, error: str, message: str, *, final: bool = False) -> Failure:
    return Failure(
        source=unit.source.name,
        unit=unit.id,
        error=error,
        message=message,
        at=datetime.now(UTC),
        final=final,
    )


def _bottleneck(receipts: Sequence[Receipt]) -> str | None:
    if not receipts:
        return None
    slowest = max(receipts, key=lambda r: r.ended - r.started)
    return slowest.profile.bottleneck


def _manifest(unit: Unit, receipts: Sequence[Receipt]) -> Manifest:
    objects = [stored for receipt in receipts for stored in receipt.objects]
    # Objects in earlier runs' folders need no more storage.
    own = [stored for stored in objects if stored.run_id is None]
    config = unit.source.model_dump(mode="json", exclude_none=True)
    return Manifest(
        tool_version=__version__,
        run_id=unit.run_id,
        source=unit.source.name,
        engine=unit.source.engine,
        started=min(r.started for r in receipts),
        sealed=datetime.now(UTC),
        config=config,
        config_sha256=config_digest(config),
        raw_bytes=sum(o.raw_bytes for o in objects),
        stored_bytes=sum(o.stored_bytes for o in own),
        rows=sum(o.rows or 0 for o in own),
        files=sum(o.files or 0 for o in objects),
        units=[
            UnitFacts(
                unit=r.unit,
                facts=r.facts,
                started=r.started,
                ended=r.ended,
                bottleneck=r.profile.bottleneck,
            )
            for r in receipts
        ],
        objects=objects,
        warnings=[w for r in receipts for w in r.warnings],
    )
