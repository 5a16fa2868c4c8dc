"""Removes the backups that retention does not keep, and nothing else.

The manifest is removed first, so that a backup that is partly removed never looks complete;
objects that a later, incremental backup refers to are kept.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import NamedTuple

from stepvault import keys
from stepvault.catalog import Vault
from stepvault.errors import BackupTampered
from stepvault.records import Record, StoredObject
from stepvault.retention import expired
from stepvault.settings import Config, Source, engine_models

#: Step Functions lets a failed execution be redriven for 14 days; its receipts stay as long.
REDRIVABLE = timedelta(days=14)
#: A run that has not ended may still be reading an older backup's index.
UNDER_WAY = timedelta(days=1)
#: The plan is one function, which Lambda ends after 15 minutes; with its retries.
PLANNING = timedelta(hours=2)


class PruneRequest(Record):
    """The event of ``prune``."""

    run_id: str | None = None
    """The run that calls; only repeated in the answer."""
    dry_run: bool = True


class Pruned(Record):
    """What was removed of one source, or in a dry run would be."""

    source: str
    removed: list[str] = []
    """Run ids whose backup was removed."""
    kept: int = 0
    """Sealed backups that are kept."""
    objects: int = 0
    bytes: int = 0
    left_alone: str | None = None
    """Why nothing was touched."""


class _Unsealed(NamedTuple):
    """A source that a run has not sealed, though it still may."""

    run: str
    source: str | None
    """None: the run is still planning, and it may be any."""
    engine: str


def prune(
    vault: Vault, config: Config, *, dry_run: bool = True, now: datetime | None = None
) -> list[Pruned]:
    """Apply every configured source's retention.

    Sources that are in the vault but not in the configuration are not touched.
    """
    now = now or datetime.now(UTC)
    unsealed = _unsealed(vault, now)
    return [_prune_source(vault, config, s, unsealed, now, dry_run) for s in config.sources]


def _prune_source(
    vault: Vault,
    config: Config,
    source: Source,
    unsealed: Sequence[_Unsealed],
    now: datetime,
    dry: bool,
) -> Pruned:
    rule = source.retention or config.retention
    runs, sealed = vault.backup_runs(source.name), vault.sealed_runs(source.name)
    unsealed = [one for one in unsealed if one.source in (source.name, None)]
    bases = _bases(unsealed, sealed)
    expired_runs = [run for run in expired(sealed, rule, now) if run not in bases]
    stale = [
        run
        for run in runs
        if run not in sealed
        and sealed
        and run < sealed[-1]
        and now - keys.run_started(run) > REDRIVABLE
    ]
    kept = len(sealed) - len(expired_runs)
    if not expired_runs and not stale:
        return Pruned(source=source.name, kept=kept)
    if run := next((u.run for u in unsealed if now - keys.run_started(u.run) <= UNDER_WAY), None):
        why = f"run {run} is not sealed yet and may refer to what would be removed"
        return Pruned(source=source.name, kept=len(sealed), left_alone=why)
    kept_runs = [run for run in sealed if run not in expired_runs]
    try:
        in_use = _in_use(vault, source.name, kept_runs, [one.run for one in unsealed])
    except BackupTampered as error:  # what it refers to is not known
        return Pruned(source=source.name, kept=len(sealed), left_alone=str(error))
    to_delete = [
        entry for run in expired_runs + stale for entry in _objects(vault, source, run, in_use)
    ]
    if not dry:
        vault.delete(keys.manifest(source.name, run) for run in expired_runs)
        vault.delete(key for key, _ in to_delete)
    return Pruned(
        source=source.name,
        removed=expired_runs,
        kept=kept,
        objects=len(to_delete) + len(expired_runs),
        bytes=sum(size for _, size in to_delete),
    )


def _unsealed(vault: Vault, now: datetime) -> list[_Unsealed]:
    """Return what runs that may still be redriven have not sealed, the newest run first."""
    recent = [run for run in vault.runs() if now - keys.run_started(run) <= REDRIVABLE]
    recent.reverse()
    with ThreadPoolExecutor(16, thread_name_prefix="unsealed") as pool:
        return [*chain.from_iterable(pool.map(lambda run: _left_by(vault, run, now), recent))]


def _left_by(vault: Vault, run: str, now: datetime) -> set[_Unsealed]:
    """Return what the run has not sealed."""
    with suppress(BackupTampered):  # a record that cannot be read proves no end
        return _recorded(vault, run, now)
    with suppress(BackupTampered):
        return _planned(vault, run)
    return {_Unsealed(run, None, "")}


def _recorded(vault: Vault, run: str, now: datetime) -> set[_Unsealed]:
    """Return what the run's summary says of it, or its plan while there is none."""
    if (summary := vault.summary(run)) is not None:
        failed = [result for result in summary.sources if result.status == "failed"]
        return {_Unsealed(run, result.source, result.engine) for result in failed}
    planning = now - keys.run_started(run) < PLANNING
    return _planned(vault, run) or ({_Unsealed(run, None, "")} if planning else set())


def _planned(vault: Vault, run: str) -> set[_Unsealed]:
    units = vault.units(run) or []
    return {_Unsealed(run, unit.source.name, unit.source.engine) for unit in units}


def _bases(unsealed: Sequence[_Unsealed], sealed: Sequence[str]) -> set[str]:
    """Return the backups that plans of unsealed runs may refer to: the newest before each.

    Units that have no receipt yet need of it what their listings say, which only the engine reads.
    """
    models = engine_models()  # an engine that only newer tools know may well build on a parent
    parents = [
        [run for run in sealed if run < one.run]
        for one in unsealed
        if one.source and (one.engine not in models or models[one.engine].can_build_on_parent)
    ]
    return {earlier[-1] for earlier in parents if earlier}


def _in_use(vault: Vault, source: str, kept: Sequence[str], unsealed: Sequence[str]) -> set[str]:
    """Keys of earlier runs' objects that kept backups need, or unsealed ones once they are sealed.

    Whatever the source's engine is now: kept backups may be older than that.
    """

    def sealed_in(run: str) -> set[str]:
        return _keys(source, vault.manifest(source, run).objects)

    def received_by(run: str) -> set[str]:
        return _keys(source, [o for r in vault.receipts(source, run) for o in r.objects])

    with ThreadPoolExecutor(16, thread_name_prefix="in-use") as pool:
        key_sets = [*pool.map(sealed_in, kept), *pool.map(received_by, unsealed)]
    return set().union(*key_sets)


def _keys(source: str, objects: Sequence[StoredObject]) -> set[str]:
    return {keys.data(source, o.run_id, o.name) for o in objects if o.run_id is not None}


def _objects(vault: Vault, source: Source, run: str, in_use: set[str]) -> Iterator[tuple[str, int]]:
    manifest = keys.manifest(source.name, run)
    for key, size, _ in vault.entries(keys.backup_prefix(source.name, run)):
        if key != manifest and key not in in_use and keys.parse_backup(key):
            yield key, size
