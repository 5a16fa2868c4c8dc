"""Putting a backup back below a directory.

Data tasks, one per pack, write every file under a staging folder in the target, check it
against the index, give it its metadata, and move all of a pack's files into place once the
whole pack has proved whole. The task ``after`` makes hard links, puts the metadata of
directories back (children first, since making them changes their parents) and removes the
staging folder. Any task may be repeated.
"""

import hashlib
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from stepvault.engines.base import Counts, RestoreJob
from stepvault.engines.files import index, tar, unpack
from stepvault.engines.files.holes import HoleDigest
from stepvault.engines.files.index import Line
from stepvault.engines.files.metadata import Metadata, put_xattrs
from stepvault.engines.files.selection import Selection
from stepvault.engines.files.stored import Backup
from stepvault.engines.files.target import Target
from stepvault.engines.files.tree import ROOT, show
from stepvault.engines.files.xattrs import xattrs_of
from stepvault.errors import (
    BackupTampered,
    ConfigInvalid,
    OutOfTime,
    SourceDenied,
    TargetMissing,
    TargetNotEmpty,
)
from stepvault.records import RestoreTask, StoredObject

_HOLES = (index.SPARSE, index.PIECE, index.SPARSE_HARD_LINK)
_STAGING = ".stepvault-restore-"
#: Below this share of a pack, only the frames that are needed are read.
_RANGES_BELOW = 0.5


def plan_restore(job: RestoreJob) -> list[RestoreTask]:
    """One task per pack that holds something wanted, and one for the end.

    Raises:
        TargetMissing: the job names no directory.
        TargetNotEmpty: the directory holds something and ``overwrite`` is not set.
        ConfigInvalid: ``only`` matches nothing.
    """
    _check_target(job)
    staging = _STAGING + secrets.token_hex(4)
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
        work = _Work(job, target, staged, task.arguments["staging"])
        if task.stage == "after":
            return work.finish()
        return work.restore_pack(task.id, task.arguments["index"], task.arguments["pack"])


class _Work:
    """One task on an open target.

    The staging folder is reached through a tree of its own: the few directories it has stay open
    however many others the target makes us open.
    """

    def __init__(self, job: RestoreJob, target: Target, staged: Target, staging: str) -> None:
        self._job = job
        self._target = target
        self._staged = staged
        self._staging = os.fsencode(staging)
        self._backup = Backup(job.objects, job.read)
        self._selection = Selection(job.options.only)
        self._metadata = Metadata(
            wanted=job.source.preserve_metadata, owner=job.options.owner != "none"
        )

    # Data

    def restore_pack(self, task_id: str, by: Mapping[str, Any], pack: Mapping[str, Any]) -> Counts:
        """Restore what is wanted of a pack, by its index; both are given as ``run_id`` and ``name``."""
        stored = self._backup.find(**pack)
        lines = self._backup.lines_of(self._backup.find(**by), stored, self._selection)
        folder = self._staging + b"/" + os.fsencode(task_id)
        self._make_private(self._staging)
        # What the target's directory gives would be inherited by each file made in here.
        self._metadata.clear_acls(self._staged.directory(self._staging))
        self._staged.remove(folder)
        self._make_private(folder)
        whole = lines.stored_bytes >= _RANGES_BELOW * stored.stored_bytes
        found = (
            unpack.whole(stored, self._job.read(stored), lines)
            if whole
            else unpack.ranges(stored, self._job.read_range, lines)
        )
        count = 0
        for number, member in enumerate(found):
            if self._job.remaining() <= 0:
                raise OutOfTime(f"no time is left to restore {stored.name}")
            self._stage(member, folder, b"%d" % number, stored)
        for number, raw in enumerate(lines):
            line = index.parse(raw)
            if line.kind in (index.FILE, index.SPARSE, index.LINK):
                self._target.put(b"%d" % number, self._staged.directory(folder), line.path)
            count += line.kind in (index.FILE, index.SPARSE, index.LINK)
        return Counts(files=count)

    def _make_private(self, folder: bytes) -> None:
        self._staged.make(folder)
        os.fchmod(self._staged.directory(folder), 0o700)

    def _stage(
        self, member: unpack.Found, folder: bytes, name: bytes, stored: StoredObject
    ) -> None:
        """Write one member to the staging folder and check it."""
        line, xattrs = member.line, member.header.xattrs
        digest = index.xattrs_digest(xattrs) if xattrs else index.NONE
        if digest != line.xattrs:
            raise _differs(stored, line)
        match line.kind:
            case index.FILE | index.SPARSE:
                self._stage_file(member, folder, name, stored)
            case index.PIECE:
                self._stage_piece(member, stored)
            case index.LINK:
                directory = self._staged.directory(folder)
                os.symlink(line.link, name, dir_fd=directory)
                self._metadata.apply_to_link(directory, name.decode(), line, xattrs)
            case index.HARD_LINK | index.SPARSE_HARD_LINK:
                links = self._staging + b"/links"
                orphan = _orphan(self._backup.number(stored), line.offset)
                self._make_private(links)
                with suppress(FileNotFoundError):
                    os.unlink(orphan, dir_fd=self._staged.directory(links))
                self._stage_file(member, links, orphan, stored)
            case index.DIRECTORY if xattrs:
                self._stage_directory(line, xattrs)
            case _:
                pass

    def _stage_file(
        self, member: unpack.Found, folder: bytes, name: bytes, stored: StoredObject
    ) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o666, dir_fd=self._staged.directory(folder))
        try:
            if _write(descriptor, member, 0, self._job, stored) != member.line.sha256:
                raise _differs(stored, member.line)
            if os.fstat(descriptor).st_size != member.line.size:
                os.ftruncate(descriptor, member.line.size)
            self._metadata.apply(descriptor, member.line, member.header.xattrs)
        finally:
            os.close(descriptor)

    def _stage_piece(self, member: unpack.Found, stored: StoredObject) -> None:
        """All pieces of a file, whichever task has them, are written into one."""
        folder = self._staging + b"/pieces"
        self._make_private(folder)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        name = _hidden(member.line.path)
        descriptor = os.open(name, flags, 0o666, dir_fd=self._staged.directory(folder))
        try:
            start = int(member.line.link.partition(b"-")[0])
            if _write(descriptor, member, start, self._job, stored) != member.line.sha256:
                raise _differs(stored, member.line)
            put_xattrs(descriptor, member.header.xattrs)
        finally:
            os.close(descriptor)

    def _stage_directory(self, line: Line, xattrs: Sequence[tuple[bytes, bytes]]) -> None:
        """Keep a directory's attributes until all that it holds has been made: a default ACL
        would otherwise be inherited."""
        folder = self._staging + b"/directories/" + _hidden(line.path)
        put_xattrs(self._staged.make(folder), xattrs)

    # After

    def finish(self) -> Counts:
        """Hard links, pieces, directories; removes the staging folder."""
        above: list[Line] = []
        made = 0
        for raw in self._backup.all_lines(self._selection):
            line = index.parse(raw)
            while above and not _within(line.path, above[-1].path):
                self._finish_directory(above.pop())
            match line.kind:
                case index.DIRECTORY:
                    self._target.make(line.path)
                    above.append(line)
                case index.HARD_LINK | index.SPARSE_HARD_LINK:
                    made += self._link(line)
                case index.PIECE:
                    made += self._join(line)
                case _:
                    pass
        root = above[0] if above and above[0].path == ROOT else None
        for line in reversed(above[1:] if root else above):
            self._finish_directory(line)
        xattrs = self._kept_xattrs(ROOT)
        self._staged.remove(self._staging)
        if root:
            self._metadata.apply_to_directory(self._target.directory(ROOT), root, xattrs)
        return Counts(files=made)

    def _finish_directory(self, line: Line) -> None:
        descriptor, xattrs = self._target.directory(line.path), self._kept_xattrs(line.path)
        self._metadata.apply_to_directory(descriptor, line, xattrs)

    def _kept_xattrs(self, path: bytes) -> Sequence[tuple[bytes, bytes]]:
        try:
            kept = self._staged.directory(self._staging + b"/directories/" + _hidden(path))
        except FileNotFoundError:
            return ()
        return xattrs_of(kept)

    def _link(self, line: Line) -> int:
        """Give a file another name; 0 if an earlier attempt came to the end."""
        try:
            staging = self._staged.directory(self._staging)
        except FileNotFoundError:
            return 0
        place, first = self._first_name(line)
        name = _hidden(line.path)
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=staging)
        try:
            os.link(first, name, src_dir_fd=place, dst_dir_fd=staging, follow_symlinks=False)
        except FileNotFoundError as error:
            raise BackupTampered(
                f"{show(line.path)!r} is a hard link to {show(line.link)!r}, which the backup lacks"
            ) from error
        self._target.put(name, staging, line.path)
        return 1

    def _first_name(self, line: Line) -> tuple[int, bytes]:
        """Directory and name of the file; in the staging folder if its first name is not wanted."""
        orphan = _orphan(line.pack, line.offset)
        with suppress(FileNotFoundError):
            links = self._staged.directory(self._staging + b"/links")
            os.stat(orphan, dir_fd=links)
            return links, orphan
        return self._target.parent(line.link)

    def _join(self, line: Line) -> int:
        """Give a file that came in pieces its name; 0 if it has it already."""
        staged = _hidden(line.path)
        try:
            folder = self._staged.directory(self._staging + b"/pieces")
            descriptor = os.open(staged, os.O_RDWR | os.O_CLOEXEC, dir_fd=folder)
        except FileNotFoundError:
            return 0
        try:
            os.ftruncate(descriptor, line.size)
            self._metadata.apply(descriptor, line, ())
        finally:
            os.close(descriptor)
        self._target.put(staged, folder, line.path)
        return 1


def _write(
    descriptor: int, member: unpack.Found, start: int, job: RestoreJob, stored: StoredObject
) -> bytes:
    """Write a member's content from ``start`` on; returns its hash as the index states it."""
    line, header = member.line, member.header
    runs, left = [(0, header.size)], header.size
    if header.sparse_size is not None:
        runs, taken = tar.read_sparse_map(member.feed.exactly)
        left -= taken
        _grow(descriptor, start + header.sparse_size)
    holes = HoleDigest() if line.kind in _HOLES else None
    plain = hashlib.sha256()
    for offset, length in runs:
        at, end = start + offset, start + offset + length
        while at < end:
            piece = member.feed.some(min(end - at, left))
            if holes:
                holes.update(at, piece)
            else:
                plain.update(piece)
            _write_all(descriptor, piece, at)
            at += len(piece)
            left -= len(piece)
            job.progress(stored.name, len(piece))
    return holes.hexdigest() if holes else plain.hexdigest().encode()


def _write_all(descriptor: int, piece: memoryview, at: int) -> None:
    while piece:
        written = os.pwrite(descriptor, piece, at)
        piece, at = piece[written:], at + written


def _grow(descriptor: int, size: int) -> None:
    if os.fstat(descriptor).st_size < size:
        os.ftruncate(descriptor, size)


def _hidden(path: bytes) -> bytes:
    return hashlib.sha256(path).hexdigest()[:32].encode()


def _orphan(pack: int, offset: int) -> bytes:
    """Staging name of a file of which only later names are wanted; the pack as the manifest
    numbers it, since another file may have had the same first name in another pack."""
    return b"%d-%d" % (pack, offset)


def _within(path: bytes, directory: bytes) -> bool:
    return directory == ROOT or path.startswith(directory + b"/")


def _differs(stored: StoredObject, line: Line) -> BackupTampered:
    return BackupTampered(
        f"{show(line.path)!r} in {stored.name} is not what its index says was stored",
        "Restore another backup, or a copy of this one from an earlier version of the object",
    )
