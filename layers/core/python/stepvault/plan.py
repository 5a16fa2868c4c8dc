"""From configuration to units: what a run will do, written down before it is done.

::

    plan ─┬→ units of databases
          └→ plan_source, one for each source of files → collect_units → their units
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from functools import partial
from typing import Any, get_args

from stepvault import engines, keys
from stepvault.buckets import Buckets
from stepvault.catalog import Vault
from stepvault.engines.base import WHOLE, PlanJob, Previous, UnitDraft
from stepvault.errors import (
    BackupTampered,
    ConfigInvalid,
    Permanent,
    RunNotFound,
    SourceBusy,
    SourceChanged,
    SourceUnreachable,
)
from stepvault.governor import Governor
from stepvault.multipart import Upload
from stepvault.profiling import StageMeter
from stepvault.records import Execution, Record, Unit
from stepvault.settings import Config, DatabaseSettings, Kind, Source

KINDS: tuple[Kind, ...] = get_args(Kind)


class RunInput(Record):
    """What starts a run: a schedule, the console or the command line."""

    schedule: str | None = None
    sources: list[str] = []
    """Names; all sources when empty."""
    run_id: str | None = None
    """Finish that run instead of starting a new one."""


class RunRequest(Record):
    """The event of ``plan`` and ``seal``."""

    execution: Execution
    input: RunInput = RunInput()

    @property
    def run_id(self) -> str:
        """The run this execution carries out.

        Raises:
            ConfigInvalid: the input's run id is not one.
        """
        given = self.input.run_id
        if given is None:
            return keys.run_id(self.execution.started, self.execution.name)
        if not keys.is_run_id(given):
            raise ConfigInvalid(
                f"run_id {given!r} is not a run id",
                "Leave it out for a new run, or take one from 'stepvault runs'",
            )
        return given


class SourceToPlan(Record):
    """One source whose units take a look at it: a line of the plan, the event of ``plan_source``."""

    run_id: str
    source: Source
    batch_bytes: int
    batch_files: int


class CollectRequest(Record):
    """The event of ``collect_units``."""

    run_id: str
    attempt: int = 0


def plan(config: Config, vault: Vault, request: RunRequest) -> dict[str, Any]:
    """Begin the run's plan and return what the state machine fans out over.

    Databases are one unit each and handed out at once. A source of files is handed out to be
    planned by a function of its own, so that a huge or slow tree costs no other source its backup;
    ``collect_units`` then hands out its units. A run id that is already planned keeps its plan;
    only units without a receipt are handed out.

    Raises:
        ConfigInvalid: the request names a source that is not configured.
        RunNotFound: it names a run that never began.
    """
    run = request.run_id
    if (planned := vault.units(run)) is not None:
        return hand_out(vault, run, unfinished(vault, planned), attempt=0, retry=True)
    if request.input.run_id is not None and not vault.exists(keys.request(run)):
        raise RunNotFound(
            f"Run {run!r} never began in this vault, so there is nothing to finish",
            "Take one from 'stepvault runs', or leave run_id out for a new run",
        )
    chosen = _chosen(config, request.input.sources)
    vault.put(keys.request(run), request.model_dump_json().encode())
    databases = [s for s in chosen if s.kind == "databases"]
    to_plan = [
        SourceToPlan(
            run_id=run,
            source=source,
            batch_bytes=config.limits.batch_bytes,
            batch_files=config.limits.batch_files,
        )
        for source in chosen
        if source.kind == "files"
    ]
    vault.put_lines(keys.sources_to_plan(run), to_plan)
    if not to_plan:
        vault.put_lines(keys.plan(run, "files"), [])
    units = [Unit(run_id=run, id=WHOLE, source=source) for source in databases]
    return hand_out(vault, run, units, attempt=0)


def hand_out(
    vault: Vault, run: str, units: Sequence[Unit], attempt: int, *, retry: bool = False
) -> dict[str, Any]:
    """Write the databases' units and the sources still to be planned, and say where they are.

    Args:
        vault: where the plan is.
        run: its id.
        units: of any kind; those of files are left to ``collect_units``.
        attempt: how often the run has been redriven.
        retry: the plan stands already; it is not overwritten.
    """
    key = keys.retry_plan(run, "databases", attempt) if retry else keys.plan(run, "databases")
    databases = [unit for unit in units if unit.source.kind == "databases"]
    vault.put_lines(key, databases)
    state = {"run_id": run, "attempt": attempt, "databases": _list(vault, key, databases)}
    to_plan = sources_to_plan(vault, run)
    if not retry:
        return state | {"planning": _list(vault, keys.sources_to_plan(run), to_plan)}
    key = keys.retry_plan(run, "sources", attempt)
    left = [s for s in to_plan if vault.source_units(run, s.source.name) is None]
    vault.put_lines(key, left)
    return state | {"planning": _list(vault, key, left)}


def plan_source(vault: Vault, request: SourceToPlan) -> dict[str, Any]:
    """Cut one source into units and write them down.

    A source that cannot be planned (its directory is missing, say) becomes one unit that will fail
    with the reason, in the place where failures show.
    """
    source, run = request.source, request.run_id
    job = PlanJob(
        source=source,
        batch_bytes=request.batch_bytes,
        batch_files=request.batch_files,
        previous=_previous(vault, source),
        buckets=Buckets(),
    )
    try:
        drafts = engines.find(source.engine).plan(job)
        units = [_unit(vault, run, source, draft) for draft in drafts]
    except (Permanent, SourceUnreachable, SourceBusy, SourceChanged):
        units = [Unit(run_id=run, id=WHOLE, source=source)]
    vault.put_lines(keys.source_units(run, source.name), units)
    return {"source": source.name, "units": len(units)}


def collect_units(vault: Vault, request: CollectRequest) -> dict[str, Any]:
    """Bring the planned sources' units together, and hand out those that have no receipt.

    A source whose planning was cut off becomes one unit that fails with the reason; finishing the
    run plans it again.
    """
    run = request.run_id
    units: list[Unit] = []
    for task in sources_to_plan(vault, run):
        planned = vault.source_units(run, task.source.name)
        if planned is None:
            planned = [Unit(run_id=run, id=WHOLE, source=task.source, unplanned=True)]
        units += planned
    vault.put_lines(keys.plan(run, "files"), units)
    left = unfinished(vault, units)
    key = keys.plan(run, "files")
    if len(left) < len(units):
        key = keys.retry_plan(run, "files", request.attempt)
        vault.put_lines(key, left)
    return {"run_id": run, "attempt": request.attempt, "files": _list(vault, key, left)}


def sources_to_plan(vault: Vault, run: str) -> list[SourceToPlan]:
    """Give the sources of the run that are planned by a function of their own."""
    return vault.lines(keys.sources_to_plan(run), SourceToPlan) or []


def _list(vault: Vault, key: str, records: Sequence[Record]) -> dict[str, Any]:
    return {"bucket": vault.bucket, "key": key, "count": len(records)}


def unfinished(vault: Vault, units: Sequence[Unit]) -> list[Unit]:
    """Return the units that are not stored: without a receipt, or damaged since."""
    done = {
        name: vault.done_units(name, units[0].run_id) for name in {u.source.name for u in units}
    }
    return [unit for unit in units if unit.id not in done[unit.source.name]]


def _chosen(config: Config, names: Sequence[str]) -> list[Source]:
    known = {source.name: source for source in config.sources}
    if unknown := [name for name in names if name not in known]:
        near = get_close_matches(unknown[0], known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Known are: {', '.join(known)}"
        raise ConfigInvalid(f"No source named {unknown[0]!r} is configured", hint)
    chosen = [known[name] for name in names] if names else config.sources
    return [_complete(config, source) for source in chosen]


def _complete(config: Config, source: Source) -> Source:
    """Fill in what the source leaves to the common limits: a unit carries all it needs."""
    if isinstance(source, DatabaseSettings) and source.connections is None:
        return source.model_copy(update={"connections": config.limits.connections})
    return source


def _unit(vault: Vault, run: str, source: Source, draft: UnitDraft) -> Unit:
    listing = None
    if draft.listing is not None:
        listing = keys.listing(run, source.name, draft.id)
        _store(vault, listing, draft.listing)
    return Unit(
        run_id=run,
        id=draft.id,
        source=source,
        listing=listing,
        estimated_bytes=draft.estimated_bytes,
        estimated_files=draft.estimated_files,
    )


def _store(vault: Vault, key: str, listing: Iterable[bytes]) -> None:
    """One request for most listings, parts for a million entries: they are not held."""
    with (
        ThreadPoolExecutor(1, thread_name_prefix="listing") as pool,
        Upload(vault.bucket, key, pool, 1, Governor(), StageMeter()) as upload,
    ):
        for chunk in listing:
            upload.write(chunk)
        upload.complete()


def _previous(vault: Vault, source: Source) -> Previous | None:
    if not source.builds_on_parent:
        return None
    try:
        manifest = vault.latest(source.name)
    except BackupTampered:  # told by verify and restore; a full backup needs nothing of it
        return None
    if manifest is None:
        return None
    return Previous(
        run_id=manifest.run_id,
        config=manifest.config,
        objects=manifest.objects,
        read=partial(vault.read, source.name, manifest.run_id),
    )
