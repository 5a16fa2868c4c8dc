"""Putting a backup back below a directory, as tasks.

Data tasks, one per pack (``pack_task``), write every file under a staging folder in the target,
check it against the index, give it its metadata, and move all of a pack's files into place once
the whole pack has proved whole. The task ``after`` (``finish``) makes hard links, puts the metadata
of directories back (children first, since making them changes their parents) and removes the
staging folder. Any task may be repeated, and a restore that ended midway may be begun again: it
goes on with what is not in place yet.
"""

import os

from stepvault.engines.base import Counts, RestoreJob
from stepvault.engines.files.paths import is_staging
from stepvault.engines.files.restore.finish import Finish
from stepvault.engines.files.restore.pack_task import PackTask
from stepvault.engines.files.restore.preflight import Preflight
from stepvault.engines.files.restore.staging import Staging
from stepvault.engines.files.restore.staging import name_of as staging_name
from stepvault.engines.files.restore.stored import Backup
from stepvault.engines.files.restore.target import Target
from stepvault.engines.files.restore.to_bucket import ToBucket
from stepvault.engines.files.tree.selection import Selection
from stepvault.errors import SourceDenied, TargetMissing, TargetNotEmpty
from stepvault.records import RestoreTask


def plan_restore(job: RestoreJob) -> list[RestoreTask]:
    """Return one task per pack that holds something wanted, and one for the end.

    Raises:
        TargetMissing: the job names no directory.
        TargetNotEmpty: the directory holds something, which is not what an earlier attempt at the
            same restore left, and ``overwrite`` is not set.
        TargetUnsupported: the target cannot take all that is wanted.
        ConfigInvalid: a pattern of ``only`` matches nothing.
    """
    name = staging_name(job)
    begun_before = False
    if job.bucket:
        ToBucket(job, name).check_empty()
    else:
        begun_before = _check_target(job, name)
    backup, preflight = Backup(job.objects, job.read), Preflight(job)
    tasks = []
    for stored, index_object in backup.packs(Selection.of(job), preflight.look):
        pack, by = ({"run_id": one.run_id, "name": one.name} for one in (stored, index_object))
        tasks.append(
            RestoreTask(
                stage="data",
                id=f"{stored.run_id}-{stored.name}" if stored.run_id else stored.name,
                objects=[stored.name, index_object.name],
                arguments={"staging": name, "pack": pack, "index": by, "resume": begun_before},
            )
        )
    preflight.conclude()
    indexes = [stored.name for stored in backup.indexes]
    arguments = {"staging": name}
    tasks.append(RestoreTask(stage="after", id="finish", objects=indexes, arguments=arguments))
    return tasks


def _check_target(job: RestoreJob, staging: str) -> bool:
    """Refuse a target that holds data; return whether an earlier attempt may be gone on with."""
    if job.path is None:
        raise TargetMissing("no directory to restore to is given", "Name one with --to")
    try:
        names = sorted(os.listdir(job.path))
    except FileNotFoundError:
        return False
    except NotADirectoryError as error:
        raise TargetNotEmpty(
            f"{str(job.path)!r} is a file", "Name a directory, new or empty"
        ) from error
    except OSError as error:
        raise SourceDenied(
            f"the directory {str(job.path)!r} cannot be read ({error.strerror})",
            "Restore to a place where the user may read and write",
        ) from error
    if job.options.overwrite:
        return False  # what is in place may be somebody else's
    others = [name for name in names if not is_staging(os.fsencode(name))]
    if not others or staging in names:
        return staging in names
    if len(others) < len(names):
        raise TargetNotEmpty(
            f"the directory {str(job.path)!r} holds an unfinished restore of something else",
            "Restore to another place; or say --overwrite to write over what is there",
        )
    raise TargetNotEmpty(
        f"the directory {str(job.path)!r} is not empty (it holds {others[0]!r})",
        "Restore to another place, or say --overwrite to write over what is there",
    )


def restore(job: RestoreJob, task: RestoreTask) -> Counts:
    """Do one task."""
    if job.bucket:
        to_bucket = ToBucket(job, task.arguments["staging"])
        if task.stage == "after":
            return to_bucket.finish()
        return to_bucket.restore_pack(task.arguments["index"], task.arguments["pack"])
    if job.path is None:
        raise TargetMissing("no directory to restore to is given", "Name one with --to")
    with Target(job.path) as target, Target(job.path) as staged:
        staging = Staging(staged, task.arguments["staging"])
        target.remember_mode = staging.remember_mode
        if task.stage == "after":
            return Finish(job, target, staging).run()
        pack, by = task.arguments["pack"], task.arguments["index"]
        work = PackTask(job, target, staging, pack, resume=task.arguments.get("resume", False))
        return work.run(task.id, by)
