"""Removes backups that retention lets go, and nothing else.

A backup ends as it began: with its manifest. That goes first, so no half-removed backup can
be taken for a whole one; objects that a later, incremental backup leans on stay.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from stepvault import keys
from stepvault.catalog import Vault
from stepvault.models import Config, FilesSource, Record, Source
from stepvault.retention import expired

#: Step Functions lets a failed execution be redriven for 14 days; its receipts stay as long.
REDRIVABLE = timedelta(days=14)
#: A run without an end may still be reading an older backup's index.
UNDER_WAY = timedelta(days=1)
#: The plan is one function, which Lambda ends after 15 minutes; with its retries.
PLANNING = timedelta(hours=2)


class PruneRequest(Record):
    """The event of ``prune``."""

    run_id: str | None = None
    """The run that calls, for the record."""
    dry_run: bool = True


class Pruned(Record):
    """What was, or in a dry run would be, removed of one source."""

    source: str
    removed: list[str] = []
    """Run ids whose backup is gone."""
    kept: int = 0
    """Sealed backups that stay."""
    objects: int = 0
    bytes: int = 0
    left_alone: str | None = None
    """Why nothing was touched."""


def prune(
    vault: Vault, config: Config, *, dry_run: bool = True, now: datetime | None = None
) -> list[Pruned]:
    """Apply every configured source's retention.

    Sources that are in the vault but not in the configuration are not touched.
    """
    now = now or datetime.now(UTC)
    busy = _under_way(vault, now)
    return [_prune_source(vault, config, s, busy, now, dry_run) for s in config.sources]


def _prune_source(
    vault: Vault, config: Config, source: Source, busy: dict[str, str], now: datetime, dry: bool
) -> Pruned:
    rule = source.retention or config.retention
    runs, sealed = vault.backup_runs(source.name), vault.sealed_runs(source.name)
    gone = expired(sealed, rule, now)
    stale = [
        run
        for run in runs
        if run not in sealed
        and sealed
        and run < sealed[-1]
        and now - keys.run_started(run) > REDRIVABLE
    ]
    kept = len(sealed) - len(gone)
    if not gone and not stale:
        return Pruned(source=source.name, kept=kept)
    if run := busy.get(source.name) or busy.get("*"):
        why = f"run {run} is not sealed yet and may lean on what would go"
        return Pruned(source=source.name, kept=len(sealed), left_alone=why)
    leaned_on = _leaned_on(vault, source, [run for run in sealed if run not in gone])
    doomed = [entry for run in gone + stale for entry in _objects(vault, source, run, leaned_on)]
    if not dry:
        vault.delete(keys.manifest(source.name, run) for run in gone)
        vault.delete(key for key, _ in doomed)
    return Pruned(
        source=source.name,
        removed=gone,
        kept=kept,
        objects=len(doomed) + len(gone),
        bytes=sum(size for _, size in doomed),
    )


def _under_way(vault: Vault, now: datetime) -> dict[str, str]:
    """Sources of recent runs that have not come to a good end; ``*`` for a run still planning."""
    busy: dict[str, str] = {}
    for run in vault.runs():
        if now - keys.run_started(run) > UNDER_WAY:
            continue
        if (summary := vault.summary(run)) is not None:
            busy |= {r.source: run for r in summary.sources if r.status == "failed"}
        elif (units := vault.units(run)) is not None:
            busy |= {unit.source.name: run for unit in units}
        elif now - keys.run_started(run) < PLANNING:
            busy["*"] = run
    return busy


def _leaned_on(vault: Vault, source: Source, kept: list[str]) -> set[str]:
    """Keys of earlier runs' objects that the kept backups need."""
    if not isinstance(source, FilesSource):
        return set()
    return {
        keys.data(source.name, stored.run_id, stored.name)
        for run in kept
        for stored in vault.manifest(source.name, run).objects
        if stored.run_id is not None
    }


def _objects(
    vault: Vault, source: Source, run: str, leaned_on: set[str]
) -> Iterator[tuple[str, int]]:
    manifest = keys.manifest(source.name, run)
    for key, size in vault.entries(keys.backup_prefix(source.name, run)):
        if key != manifest and key not in leaned_on and keys.parse_backup(key):
            yield key, size
