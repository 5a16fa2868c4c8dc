"""THE WAY BACK: a sealed backup is verified while it is put in place.

The engine cuts a restore into tasks of three stages (before, data, after); Step Functions, or
this process, runs each stage's tasks in parallel. Every byte passes its hashes on the way, and
an engine makes nothing final before a stream has ended well.
"""

import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from stepvault import __version__, engines, keys, secrets
from stepvault.catalog import Vault
from stepvault.deadline import Deadline
from stepvault.engines.base import Counts, RestoreJob
from stepvault.errors import (
    ConfigInvalid,
    OutOfTime,
    RunNotFound,
    SourceUnreachable,
    StepvaultError,
    StorageUnavailable,
    TargetMissing,
)
from stepvault.governor import settle_memory
from stepvault.records import (
    FORMAT_VERSION,
    Execution,
    Manifest,
    Record,
    RestoreOptions,
    RestoreTask,
    StoredObject,
)
from stepvault.settings import Config, DatabaseSettings, Source, TargetSettings

StageName = Literal["before", "data", "after"]
STAGES: tuple[StageName, ...] = get_args(StageName)
Progress = Callable[[str, int], None]


class RestoreRequest(Record):
    """What to restore, and where to."""

    source: str
    run_id: str = "latest"
    target: str | TargetSettings
    """Name of a configured target, or the target itself."""
    options: RestoreOptions = RestoreOptions()


class RestoreStart(Record):
    """The event of ``plan_restore``."""

    execution: Execution
    input: RestoreRequest

    @property
    def restore_id(self) -> str:
        """Sorts by age, like a run id."""
        return keys.run_id(self.execution.started, self.execution.name)


class RestoreLine(Record):
    """One task with all it needs: the event of ``restore``."""

    restore_id: str
    source: str
    run_id: str
    target: TargetSettings
    options: RestoreOptions
    task: RestoreTask


def plan_restore(
    vault: Vault, config: Config, request: RestoreRequest, restore_id: str
) -> dict[str, Any]:
    """Check the target, write the tasks down, and return what the state machine fans out over.

    Raises:
        RunNotFound: no such sealed backup.
        ConfigInvalid: no such target.
        TargetNotEmpty, TargetMissing: as the engine says.
    """
    manifest = find_manifest(vault, request.source, request.run_id)
    target = _target(config, request)
    with _job(vault, manifest, target, request.options) as job:
        tasks = engines.find(manifest.engine).plan_restore(job)
    state: dict[str, Any] = {"restore_id": restore_id, "run_id": manifest.run_id}
    for stage in STAGES:
        lines = [
            RestoreLine(
                restore_id=restore_id,
                source=manifest.source,
                run_id=manifest.run_id,
                target=target,
                options=request.options,
                task=task,
            )
            for task in tasks
            if task.stage == stage
        ]
        key = keys.restore_plan(restore_id, stage)
        vault.put_lines(key, lines)
        state[stage] = {"bucket": vault.bucket, "key": key, "count": len(lines)}
    return state


def restore_task(vault: Vault, line: RestoreLine, deadline: Deadline | None = None) -> Counts:
    """Do one task of a planned restore.

    Raises:
        StepvaultError: the task's part of the target is as it was, or is redone by a retry.
    """
    within = deadline or Deadline()
    return within.call(
        lambda: _restore_task(vault.within(within), line, within),
        lambda: _stuck(line.task, within),
    )


def _restore_task(vault: Vault, line: RestoreLine, deadline: Deadline) -> Counts:
    try:
        manifest = vault.manifest(line.source, line.run_id)
        with _job(vault, manifest, line.target, line.options, deadline) as job:
            return engines.find(manifest.engine).restore(job, line.task)
    except StepvaultError as error:
        # What S3 did not answer is tried again; everything else was cut off by the deadline.
        if deadline.expired and not isinstance(error, StorageUnavailable):
            raise _out_of_time(line.task, deadline) from error
        raise


def _stuck(task: RestoreTask, deadline: Deadline) -> SourceUnreachable:
    return SourceUnreachable(
        f"Restore task {task.stage}/{task.id} got no answer from the target: the time was up after "
        f"{deadline.elapsed():,.0f} s",
        "See whether the target's server or file system answers other clients",
    )


def restore_here(
    vault: Vault,
    request: RestoreRequest,
    config: Config | None = None,
    progress: Progress = lambda name, done: None,
) -> Manifest:
    """Restore in this process, stage by stage; returns what was restored.

    Args:
        progress: told of raw bytes as they are put in place, by name of the object.
    """
    manifest = find_manifest(vault, request.source, request.run_id)
    target = _target(config, request)
    engine = engines.find(manifest.engine)
    stopped = threading.Event()

    def watched(name: str, done: int) -> None:
        if stopped.is_set():  # Ctrl-C: what is under way does not go on to its end first
            raise OutOfTime("The restore was called off")
        progress(name, done)

    with _job(vault, manifest, target, request.options, progress=watched) as job:
        tasks = engine.plan_restore(job)
        with ThreadPoolExecutor(job.connections, thread_name_prefix="restore") as pool:
            for stage in STAGES:
                of_stage = [task for task in tasks if task.stage == stage]
                futures = [pool.submit(engine.restore, job, task) for task in of_stage]
                try:
                    for future in futures:
                        future.result()
                except BaseException:
                    stopped.set()
                    pool.shutdown(cancel_futures=True)
                    raise
    return manifest


def differences(
    vault: Vault, request: RestoreRequest, config: Config | None = None
) -> tuple[Manifest, list[str]]:
    """Compare what was restored with what was backed up; one line per difference."""
    manifest = find_manifest(vault, request.source, request.run_id)
    target = _target(config, request)
    with _job(vault, manifest, target, request.options) as job:
        return manifest, engines.find(manifest.engine).differences(job)


def find_manifest(vault: Vault, source: str, run: str) -> Manifest:
    """The manifest of that run, or of the newest sealed one for ``latest``.

    Raises:
        RunNotFound: with the runs there are.
    """
    if run != "latest":
        return vault.manifest(source, run)
    if (manifest := vault.latest(source)) is None:
        known = ", ".join(vault.sources()) or "none yet"
        raise RunNotFound(f"No sealed backup of {source!r}; sources in the vault: {known}")
    return manifest


def _target(config: Config | None, request: RestoreRequest) -> TargetSettings:
    """The target itself. In a configured folder every source gets a folder of its own."""
    if isinstance(request.target, TargetSettings):
        return request.target
    targets = {t.name: t for t in config.targets} if config else {}
    if (target := targets.get(request.target)) is None:
        raise ConfigInvalid(
            f"No restore target named {request.target!r} is configured",
            f"Known are: {', '.join(targets) or 'none'}; add a [[targets]] section and deploy",
        )
    if target.path is None:
        return target
    folder = Path(target.path, request.source)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TargetMissing(
            f"Target {target.name!r}: {folder} cannot be made ({error.strerror})",
            "Check the target's path and the function's mount",
        ) from error
    return target.model_copy(update={"path": str(folder)})


@contextmanager
def _job(
    vault: Vault,
    manifest: Manifest,
    target: TargetSettings,
    options: RestoreOptions,
    deadline: Deadline | None = None,
    progress: Progress = lambda name, done: None,
) -> Iterator[RestoreJob]:
    settle_memory()
    source = _source(manifest)
    is_database = isinstance(source, DatabaseSettings)
    if is_database != (target.connection is not None):
        needs = "a connection" if is_database else "a path"
        raise ConfigInvalid(
            f"{manifest.source!r} is a {manifest.engine} source and restores to {needs}, "
            f"which target {target.name!r} is not"
        )

    def read_range(stored: StoredObject, start: int, end: int) -> bytes:
        run = stored.run_id or manifest.run_id
        return vault.read_range(keys.data(manifest.source, run, stored.name), start, end)

    with tempfile.TemporaryDirectory(prefix="stepvault-") as scratch:
        yield RestoreJob(
            source=source,
            objects=manifest.objects,
            facts=[unit.facts for unit in manifest.units],
            read=partial(vault.read, manifest.source, manifest.run_id),
            read_range=read_range,
            connection=(
                secrets.resolve(target.connection, options.database) if target.connection else None
            ),
            path=Path(target.path) if target.path else None,
            connections=(source.connections if isinstance(source, DatabaseSettings) else None) or 3,
            scratch=Path(scratch),
            options=options,
            remaining=(deadline or Deadline()).remaining,
            progress=progress,
        )


def _source(manifest: Manifest) -> Source:
    """The source as it was configured for the backup. Settings that only newer tools know do not
    matter to what is stored, or the format's version would be another.

    Raises:
        ConfigInvalid: the backup is beyond this version of the tool.
    """
    if manifest.format_version > FORMAT_VERSION:
        raise _beyond(manifest, f"its format is {manifest.format_version}, not {FORMAT_VERSION}")
    config = deepcopy(manifest.config)
    for problem in _problems(config):
        if problem["type"] == "extra_forbidden":
            _drop(config, problem["loc"][1:])  # without the engine, which says which model it is
    if problems := _problems(config):
        raise _beyond(manifest, problems[0]["msg"])
    return _any_source().validate_python(config)


@cache
def _any_source() -> TypeAdapter[Source]:
    return TypeAdapter(Source)


def _problems(config: dict[str, Any]) -> list[ErrorDetails]:
    try:
        _any_source().validate_python(config)
    except ValidationError as error:
        return error.errors()
    return []


def _drop(config: Any, path: Sequence[Any]) -> None:
    for part in path[:-1]:
        config = config[part]
    del config[path[-1]]


def _beyond(manifest: Manifest, why: str) -> ConfigInvalid:
    return ConfigInvalid(
        f"Run {manifest.run_id} of {manifest.source!r} was made by Stepvault "
        f"{manifest.tool_version}, and this is {__version__}: {why}",
        "Restore it with the version that made it, or a later one",
    )


def _out_of_time(task: RestoreTask, deadline: Deadline) -> OutOfTime:
    return OutOfTime(
        f"Restore task {task.stage}/{task.id} ran out of time after {deadline.elapsed():,.0f} s",
        "Restore from a terminal ('stepvault restore … --to PATH'), which has no time limit",
    )
