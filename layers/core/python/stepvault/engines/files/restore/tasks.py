"""Putting a backup back below a directory, as tasks.

Data tasks, one per pack (``pack_task``), write every file under a staging folder in the target,
check it against the index, give it its metadata, and move all of a pack's files into place once
the whole pack has proved whole. The task ``after`` (``finish``) makes hard links, puts the metadata
of directories back (children first, since making them changes their parents) and removes the
staging folder. Any task may be repeated.
"""

import os
import secrets

from stepvault.engines.base import Counts, RestoreJob
from stepvault.engines.files.restore.finish import Finish
from stepvault.engines.files.restore.pack_task import PackTask
from stepvault.engines.files.restore.staging import PREFIX, Staging
from stepvault.engines.files.restore.stored import Backup
from stepvault.engines.files.restore.target import Target
from stepvault.engines.files.tree.selection import Selection
from stepvault.errors import ConfigInvalid, SourceDenied, TargetMissing, TargetNotEmpty
from stepvault.records import RestoreTask


def plan_restore(job: RestoreJob) -> list[RestoreTask]:
    """Return one task per pack that holds something wanted, and one for the end.

    Raises:
        TargetMissing: the job names no directory.
        TargetNotEmpty: the directory holds something and ``overwrite`` is not set.
        ConfigInvalid: ``only`` matches nothing.
    """
    _check_target(job)
    staging = PREFIX + secrets.token_hex(4)
    backup = Backup(job.objects, job.read)
    tasks = []
    for stored, index_object in backup.packs(Selection(job.options.only)):
        pack, by = ({"run_id": one.run_id, "name": one.name} for one in (stored, index_object))
        tasks.append(
            RestoreTask(
                stage="data",
                id=f"{stored.run_id}-{stored.name}" if stored.run_id else stored.name,
                objects=[stored.name, index_object.name],
                arguments={"staging": staging, "pack": pack, "index": by},
            )
        )
    if not tasks and job.options.only:
        raise ConfigInvalid(
            f"nothing in the backup matches {', '.join(job.options.only)!r}",
            "Give paths relative to the source's directory; patterns have gitignore's meaning",
        )
    indexes = [stored.name for stored in backup.indexes]
    tasks.append(
        RestoreTask(stage="after", id="finish", objects=indexes, arguments={"staging": staging})
    )
    return tasks


def _check_target(job: RestoreJob) -> None:
    if job.path is None:
        raise TargetMissing("no directory to restore to is given", "Name one with --to")
    try:
        holds = next(iter(os.listdir(job.path)), None)
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise TargetNotEmpty(
            f"{str(job.path)!r} is a file", "Name a directory, new or empty"
        ) from error
    except OSError as error:
        raise SourceDenied(
            f"the directory {str(job.path)!r} cannot be read ({error.strerror})",
            "Restore to a place where the user may read and write",
        ) from error
    if holds is not None and not job.options.overwrite:
        raise TargetNotEmpty(
            f"the directory {str(job.path)!r} is not empty (it holds {holds!r})",
            "Restore to another place, or say --overwrite to write over what is there",
        )


def restore(job: RestoreJob, task: RestoreTask) -> Counts:
    """Do one task."""
    if job.path is None:
        raise TargetMissing("no directory to restore to is given", "Name one with --to")
    with Target(job.path) as target, Target(job.path) as staged:
        staging = Staging(staged, task.arguments["staging"])
        if task.stage == "after":
            return Finish(job, target, staging).run()
        pack, index = task.arguments["pack"], task.arguments["index"]
        return PackTask(job, target, staging, pack).run(task.id, index)
