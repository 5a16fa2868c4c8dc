"""From configuration to units: what a run will do, written down before it starts."""

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


def plan(config: Config, vault: Vault, request: RunRequest) -> dict[str, Any]:
    """Write the run's plan and return what the state machine fans out over.

    A run id that is already planned keeps its plan; only units without a receipt are handed
    out. A source that cannot be planned (its directory is missing, say) becomes one unit that
    will fail with the reason, and stops no sibling.

    Raises:
        ConfigInvalid: the request names a source that is not configured.
        RunNotFound: it names a run that never began.
    """
    run = request.run_id
    if (planned := vault.units(run)) is not None:
        return fan_out(vault, run, unfinished(vault, planned), attempt=0, retry=True)
    if request.input.run_id is not None and not vault.exists(keys.request(run)):
        raise RunNotFound(
            f"Run {run!r} never began in this vault, so there is nothing to finish",
            "Take one from 'stepvault runs', or leave run_id out for a new run",
        )
    chosen = _chosen(config, request.input.sources)
    vault.put(keys.request(run), request.model_dump_json().encode())
    units = [unit for source in chosen for unit in _plan_source(config, vault, run, source)]
    return fan_out(vault, run, units, attempt=0)


def fan_out(
    vault: Vault, run: str, units: Sequence[Unit], attempt: int, *, retry: bool = False
) -> dict[str, Any]:
    """Write the units as one JSON-lines file per Map and say where they are.

    Args:
        attempt: how often the run has been redriven.
        retry: these are units of a plan that stands already; it is not overwritten.
    """
    state: dict[str, Any] = {"run_id": run, "attempt": attempt}
    for kind in KINDS:
        key = keys.retry_plan(run, kind, attempt) if retry else keys.plan(run, kind)
        of_kind = [unit for unit in units if unit.source.kind == kind]
        vault.put_lines(key, of_kind)
        state[kind] = {"bucket": vault.bucket, "key": key, "count": len(of_kind)}
    return state


def unfinished(vault: Vault, units: Sequence[Unit]) -> list[Unit]:
    """The units that have no receipt yet."""
    done = {
        name: vault.receipt_ids(name, units[0].run_id) for name in {u.source.name for u in units}
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
    """The source with what it leaves to the common limits: a unit carries all it needs."""
    if isinstance(source, DatabaseSettings) and source.connections is None:
        return source.model_copy(update={"connections": config.limits.connections})
    return source


def _plan_source(config: Config, vault: Vault, run: str, source: Source) -> list[Unit]:
    job = PlanJob(
        source=source,
        batch_bytes=config.limits.batch_bytes,
        batch_files=config.limits.batch_files,
        previous=_previous(vault, source),
        buckets=Buckets(),
    )
    try:
        return [_unit(vault, run, source, draft) for draft in engines.find(source.engine).plan(job)]
    except (Permanent, SourceUnreachable, SourceBusy, SourceChanged):
        # The unit looks again and fails with the same reason, in the place where failures show.
        return [Unit(run_id=run, id=WHOLE, source=source)]


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
    if (manifest := vault.latest(source.name)) is None:
        return None
    return Previous(
        run_id=manifest.run_id,
        config=manifest.config,
        objects=manifest.objects,
        read=partial(vault.read, source.name, manifest.run_id),
    )
