"""The way back: a sealed backup is verified while it is restored.

The engine cuts a restore into tasks of three stages (before, data, after); Step Functions, or
this process, runs each stage's tasks in parallel. Every byte passes its hashes on the way, and
an engine makes nothing final before a stream has ended well.
"""

import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from stepvault import engines, keys, secrets
from stepvault.buckets import Buckets
from stepvault.catalog import Vault
from stepvault.compatibility import source_settings
from stepvault.deadline import Deadline
from stepvault.engines.base import Counts, Engine, RestoreJob
from stepvault.errors import (
    ConfigInvalid,
    OutOfTime,
    Permanent,
    RestoreIncomplete,
    RunNotFound,
    SourceUnreachable,
    StepvaultError,
    StorageUnavailable,
    TargetMissing,
    VaultDenied,
    VaultMissing,
)
from stepvault.memory import settle_memory
from stepvault.records import (
    Execution,
    Manifest,
    Record,
    RestoreOptions,
    RestoreReport,
    RestoreTask,
    StoredObject,
    Unrestored,
)
from stepvault.settings import Config, DatabaseSettings, TargetSettings

#: Errors that are not about the task that met them: the others would meet them, too.
_OF_THE_WHOLE_RESTORE = (ConfigInvalid, OutOfTime, VaultDenied, VaultMissing)

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
    left: list[Unrestored] = []
    with _job(vault, manifest, target, request.options, unrestored=left.append) as job:
        tasks = engines.find(manifest.engine).plan_restore(job)
    if left:
        vault.put_unrestored(restore_id, "plan", "target", left)
    state: dict[str, Any] = {
        "restore_id": restore_id,
        "source": manifest.source,
        "run_id": manifest.run_id,
    }
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
    """Do one task of a planned restore, and store what it left out.

    Raises:
        StepvaultError: the task's part of the target is as it was, or is redone by a retry.
    """
    within = deadline or Deadline()
    return within.call(
        lambda: _restore_task(vault.within(within), line, within),
        lambda: _stuck(line.task, within),
    )


def _restore_task(vault: Vault, line: RestoreLine, deadline: Deadline) -> Counts:
    left: list[Unrestored] = []
    try:
        manifest = vault.manifest(line.source, line.run_id)
        with _job(
            vault, manifest, line.target, line.options, deadline, unrestored=left.append
        ) as job:
            counts = _do(engines.find(manifest.engine), job, line.task)
        if left:
            vault.put_unrestored(line.restore_id, line.task.stage, line.task.id, left)
    except StepvaultError as error:
        # What S3 did not answer is tried again; everything else was cut off by the deadline.
        if deadline.expired and not isinstance(error, StorageUnavailable):
            raise _out_of_time(line.task, deadline) from error
        raise
    return counts


def _stuck(task: RestoreTask, deadline: Deadline) -> SourceUnreachable:
    return SourceUnreachable(
        f"Restore task {task.stage}/{task.id} got no answer from the target: the time was up after "
        f"{deadline.elapsed():,.0f} s",
        "See whether the target's server or file system answers other clients",
    )


def _do(engine: Engine, job: RestoreJob, task: RestoreTask) -> Counts:
    """Do the task; if the restore keeps going, one that fails for good is reported instead.

    Definitions are not passed over: without them there is nothing to put rows into.
    """
    try:
        return engine.restore(job, task)
    except Permanent as error:
        going = job.options.keep_going and task.stage != "before"
        if not going or isinstance(error, _OF_THE_WHOLE_RESTORE):
            raise
        # Part of the task may have been done: the engine says so where it knows better.
        held = f" ({', '.join(task.objects[:3])}{', …' if task.objects[3:] else ''})"
        name = f"{task.stage}/{task.id}{held if task.objects else ''}"
        job.unrestored(Unrestored(kind="task", name=name, reason=str(error)))
        return Counts()


class ReportRequest(Record):
    """The event of ``report_restore``."""

    restore_id: str
    source: str
    run_id: str


def report_restore(vault: Vault, request: ReportRequest) -> RestoreReport:
    """Write down what a restore has left out, each thing once.

    Raises:
        RestoreIncomplete: after that, if it is more than the person asked to leave out.
    """
    report = RestoreReport(
        restore_id=request.restore_id,
        source=request.source,
        run_id=request.run_id,
        ended=datetime.now(UTC),
        unrestored=each_once(vault.unrestored(request.restore_id)),
    )
    vault.put_restore_report(report)
    complain(request.source, report.unrestored)
    return report


def each_once(left: Iterable[Unrestored]) -> list[Unrestored]:
    """Give each thing once, whoever reported it how often; failures before what was asked for."""
    known: dict[tuple[str, str], Unrestored] = {}
    for what in sorted(left, key=lambda what: what.asked):
        known.setdefault((what.kind, what.name), what)
    return list(known.values())


def complain(source: str, left: Sequence[Unrestored]) -> None:
    """Fail if a restore has left out more than the person asked it to.

    Raises:
        RestoreIncomplete: naming the first of it.
    """
    failed = [what for what in left if not what.asked]
    if not failed:
        return
    first = "; ".join(f"{what.kind} {what.name}: {what.reason.rstrip('.')}" for what in failed[:5])
    more = f"; and {len(failed) - 5} more" if len(failed) > 5 else ""
    raise RestoreIncomplete(
        f"All of {source!r} was restored but {len(failed)}: {first}{more}",
        "Correct the cause in the target and restore these alone with --only, or live without them",
    )


def restore_here(
    vault: Vault,
    request: RestoreRequest,
    config: Config | None = None,
    progress: Progress = lambda name, done: None,
    unrestored: Callable[[Unrestored], None] = lambda what: None,
    begin: Callable[[], None] = lambda: None,
) -> Manifest:
    """Restore in this process, stage by stage; returns what was restored.

    Args:
        vault: where the backup is.
        request: what to restore, and where to.
        config: knows the targets by name.
        progress: told of raw bytes as they are put in place, by name of the object.
        unrestored: told of each thing that is left out, perhaps more than once.
        begin: called when the target has been checked, before anything is written to it.
    """
    manifest = find_manifest(vault, request.source, request.run_id)
    target = _target(config, request)
    engine = engines.find(manifest.engine)
    stopped = threading.Event()

    def watched(name: str, done: int) -> None:
        if stopped.is_set():  # Ctrl-C: what is under way does not go on to its end first
            raise OutOfTime("The restore was called off")
        progress(name, done)

    with _job(
        vault, manifest, target, request.options, progress=watched, unrestored=unrestored
    ) as job:
        tasks = engine.plan_restore(job)
        begin()
        with ThreadPoolExecutor(job.connections, thread_name_prefix="restore") as pool:
            for stage in STAGES:
                of_stage = [task for task in tasks if task.stage == stage]
                futures = [pool.submit(_do, engine, job, task) for task in of_stage]
                try:
                    for future in futures:
                        future.result()
                except BaseException:
                    stopped.set()
                    pool.shutdown(cancel_futures=True)
                    raise
    return manifest


def differences(
    vault: Vault,
    request: RestoreRequest,
    config: Config | None = None,
    not_compared: Callable[[str], None] = lambda what: None,
) -> tuple[Manifest, list[str]]:
    """Compare what was restored with what was backed up; one line per difference.

    Args:
        vault: where the backup is.
        request: what was restored, and where to.
        config: knows the targets by name.
        not_compared: told of each kind of thing that the comparison does not look at.
    """
    manifest = find_manifest(vault, request.source, request.run_id)
    target = _target(config, request)
    with _job(vault, manifest, target, request.options, not_compared=not_compared) as job:
        return manifest, engines.find(manifest.engine).differences(job)


def find_manifest(vault: Vault, source: str, run: str) -> Manifest:
    """Return the manifest of that run, or of the newest sealed one for ``latest``.

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
    """Return the target itself; in a configured folder every source gets a folder of its own."""
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
    unrestored: Callable[[Unrestored], None] = lambda what: None,
    not_compared: Callable[[str], None] = lambda what: None,
) -> Iterator[RestoreJob]:
    settle_memory()
    source = source_settings(manifest)
    is_database = isinstance(source, DatabaseSettings)
    if is_database != (target.connection is not None):
        needs = "a connection" if is_database else "a path"
        raise ConfigInvalid(
            f"{manifest.source!r} is a {manifest.engine} source and restores to {needs}, "
            f"which target {target.name!r} is not"
        )

    if options.without and not source.can_leave_out_kinds:
        raise ConfigInvalid(
            f"A {manifest.engine} restore cannot go without {', '.join(map(repr, options.without))}",
            "It knows no kinds: leave --without out, or choose paths with --only",
        )
    if target.bucket and not source.restores_to_bucket:
        raise ConfigInvalid(
            f"{manifest.source!r} is a {manifest.engine} source, which is not restored to a bucket",
            "Write --to ./folder-or-file",
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
            path=Path(target.path) if target.path and not target.bucket else None,
            bucket=target.bucket,
            buckets=Buckets(deadline) if target.bucket else None,
            connections=(source.connections if isinstance(source, DatabaseSettings) else None) or 3,
            scratch=Path(scratch),
            options=options,
            remaining=(deadline or Deadline()).remaining,
            progress=progress,
            unrestored=unrestored,
            not_compared=not_compared,
        )


def _out_of_time(task: RestoreTask, deadline: Deadline) -> OutOfTime:
    return OutOfTime(
        f"Restore task {task.stage}/{task.id} ran out of time after {deadline.elapsed():,.0f} s",
        "Restore from a terminal ('stepvault restore … --to PATH'), which has no time limit",
    )
