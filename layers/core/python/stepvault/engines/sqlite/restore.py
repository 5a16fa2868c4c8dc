"""Putting databases back: each into a file beside its place, moved there when it is proved whole."""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from stepvault.engines.base import Counts, RestoreJob
from stepvault.engines.sqlite.errors import writing
from stepvault.engines.sqlite.paths import shown
from stepvault.engines.sqlite.script import replay
from stepvault.engines.sqlite.session import open_new
from stepvault.engines.sqlite.target import (
    Placement,
    Rights,
    check_space,
    is_script,
    make_way,
    partial_of,
    placements,
    refuse_impossible,
    refuse_occupied,
    remove_companions,
    rights_for,
)
from stepvault.engines.sqlite.verify import is_restored
from stepvault.errors import (
    BackupTampered,
    OutOfTime,
    Permanent,
    TargetNotEmpty,
    TargetUnsupported,
    VaultDenied,
    VaultMissing,
)
from stepvault.records import RestoreTask, StoredObject, Unrestored

#: A task ends once it has this many bytes or databases.
_TASK_BYTES, _TASK_OBJECTS = 1 << 30, 500
#: Errors that are about the whole restore, not about one database.
_OF_THE_RESTORE = (OutOfTime, VaultDenied, VaultMissing)
_NAMED = 10


def plan_restore(job: RestoreJob) -> list[RestoreTask]:
    """Check every place and cut the databases into tasks of about 1 GiB.

    Raises:
        TargetNotEmpty, TargetUnsupported: naming each database that cannot be put at its place;
            with ``keep_going`` they are reported and left out.
        TargetMissing, SourceDenied: about the target's folder.
        BackupTampered, ConfigInvalid.
    """
    chosen: list[StoredObject] = []
    refused: list[tuple[Placement, Permanent]] = []
    for placement in placements(job):
        try:
            with writing(shown(placement.place)):
                _check_place(job, placement)
        except (TargetNotEmpty, TargetUnsupported) as error:
            refused.append((placement, error))
        else:
            chosen.append(placement.stored)
    if refused and not job.options.keep_going:
        raise _one_error([error for _, error in refused])
    for placement, reason in refused:
        job.unrestored(_unrestored(placement, reason))
    check_space(job, chosen)
    return [
        RestoreTask(stage="data", id=f"{number:04d}", objects=names)
        for number, names in enumerate(_batches(chosen))
    ]


def _check_place(job: RestoreJob, placement: Placement) -> None:
    """Refuse a place that cannot take the database, or holds anything but this database."""
    is_script(placement.stored)
    refuse_impossible(placement)
    if not job.options.overwrite and not is_restored(placement):
        refuse_occupied(placement)


def _one_error(refused: Sequence[Permanent]) -> Permanent:
    if len(refused) == 1:
        return refused[0]
    messages = [error.message for error in refused[:_NAMED]]
    if len(refused) > _NAMED:
        messages.append(f"and {len(refused) - _NAMED} more")
    unsupported = any(isinstance(error, TargetUnsupported) for error in refused)
    kind = TargetUnsupported if unsupported else TargetNotEmpty
    return kind("; ".join(messages), f"{refused[0].fix}; --keep-going restores all others")


def _batches(chosen: list[StoredObject]) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for stored in chosen:
        names.append(stored.name)
        size += stored.raw_bytes
        if size >= _TASK_BYTES or len(names) >= _TASK_OBJECTS:
            yield names
            names, size = [], 0
    if names:
        yield names


def restore(job: RestoreJob, task: RestoreTask) -> Counts:
    """Restore the task's databases; leave alone one that is there already, whole.

    With ``keep_going`` a database that cannot be restored is reported and costs no other.
    """
    done = 0
    for placement in placements(job, set(task.objects)):
        try:
            with writing(shown(placement.place)):
                _restore(job, placement)
            done += 1
        except Permanent as error:
            if not job.options.keep_going or isinstance(error, _OF_THE_RESTORE):
                raise
            job.unrestored(_unrestored(placement, error))
    return Counts(files=done)


def _unrestored(placement: Placement, error: Permanent) -> Unrestored:
    return Unrestored(kind="database", name=shown(placement.relative), reason=error.message)


def _restore(job: RestoreJob, placement: Placement) -> None:
    place = placement.place
    partial = partial_of(place)
    refuse_impossible(placement)
    if is_restored(placement):
        partial.unlink(missing_ok=True)
        return
    if not job.options.overwrite:
        refuse_occupied(placement)
    place.parent.mkdir(parents=True, exist_ok=True)
    partial.unlink(missing_ok=True)
    rights = rights_for(placement)
    try:
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL, 0o600 if rights else 0o666))
        if is_script(placement.stored):
            _write_script(job, placement.stored, partial)
        else:
            _write_file(job, placement.stored, partial)
        if rights:
            _give(job, rights, partial, placement)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        make_way(place)
        partial.rename(place)
        _sync_folder(place.parent)
    finally:
        partial.unlink(missing_ok=True)
        remove_companions(partial)


def _write_file(job: RestoreJob, stored: StoredObject, partial: Path) -> None:
    with partial.open("wb") as file:
        for piece in job.read(stored):
            file.write(piece)
            job.progress(stored.name, len(piece))


def _write_script(job: RestoreJob, stored: StoredObject, partial: Path) -> None:
    def pieces() -> Iterator[bytes]:
        for piece in job.read(stored):
            job.progress(stored.name, len(piece))
            yield piece

    connection = open_new(partial)
    try:
        replay(connection, pieces())
    except (sqlite3.Warning, ValueError) as error:
        raise BackupTampered(
            f"{stored.name} is not an SQL script: {error}",
            "do not restore this backup: it was not written like this",
        ) from error
    finally:
        connection.close()


def _give(job: RestoreJob, rights: Rights, partial: Path, placement: Placement) -> None:
    """Set mode and owner; with ``keep_going`` report an owner that cannot be set."""
    try:
        rights.give(partial, job.options.owner)
    except OSError as error:
        owner = f"user {rights.uid}, group {rights.gid}"
        reason = f"{shown(placement.place)} cannot be given to {owner}: {error.strerror}"
        if not job.options.keep_going:
            raise TargetUnsupported(reason, "restore with --owner none") from error
        job.unrestored(Unrestored(kind="owner", name=shown(placement.relative), reason=reason))
        rights.give(partial, "none")


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
