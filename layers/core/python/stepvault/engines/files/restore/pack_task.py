"""Restoring what is wanted of one pack."""

import hashlib
import os
import stat
from collections.abc import Container, Mapping, Sequence
from typing import Any

from stepvault.engines.base import Counts, RestoreJob
from stepvault.engines.files.format import index, tar
from stepvault.engines.files.format.digests import HoleDigest, xattrs_digest
from stepvault.engines.files.format.index import Line
from stepvault.engines.files.paths import show, split
from stepvault.engines.files.restore import staging, unpack
from stepvault.engines.files.restore.failures import ENTRY_ERRORS, Failures
from stepvault.engines.files.restore.metadata import Metadata, put_xattrs
from stepvault.engines.files.restore.staging import Staging
from stepvault.engines.files.restore.stored import Backup, Lines
from stepvault.engines.files.restore.target import Target
from stepvault.engines.files.tree.selection import Selection
from stepvault.engines.object_paths import PROPERTIES
from stepvault.errors import BackupTampered, OutOfTime

_HOLES = (index.SPARSE, index.PIECE, index.SPARSE_HARD_LINK)
#: Of these a pack's task moves each into place itself.
_OWN = (index.FILE, index.SPARSE, index.LINK)
_KIND_NAMES = {
    index.DIRECTORY: "directory",
    index.LINK: "symbolic link",
    index.LINK_HARD_LINK: "symbolic link",
    index.FILE: "file",
    index.SPARSE: "file",
    index.PIECE: "file",
    index.HARD_LINK: "file",
    index.SPARSE_HARD_LINK: "file",
}
#: Below this share of a pack, only the frames that are needed are read.
_RANGES_BELOW = 0.5


class PackTask:
    """One data task on an open target."""

    def __init__(
        self,
        job: RestoreJob,
        target: Target,
        stage: Staging,
        pack: Mapping[str, Any],
        *,
        resume: bool = False,
    ) -> None:
        """``resume``: what an earlier attempt has put in place is not restored again."""
        self._job = job
        self._target = target
        self._staging = stage
        self._backup = Backup(job.objects, job.read)
        self._pack = self._backup.find(**pack)
        self._number = self._backup.number(self._pack)
        self._metadata = Metadata(job)
        self._failures = Failures(job)
        self._resume = resume and self._metadata.wanted

    def run(self, task_id: str, by: Mapping[str, Any]) -> Counts:
        """Restore what is wanted of the pack, by the index of that ``run_id`` and ``name``."""
        selection = Selection.of(self._job)
        lines = self._backup.lines_of(self._backup.find(**by), self._pack, selection)
        if self._resume:
            lines = lines.without(self._is_in_place)
        # What the target's directory gives would be inherited by each file made in here.
        self._metadata.clear_acls(self._staging.folder())
        self._staging.unmark_failed(staging.failed_pack(self._number))
        folder = os.fsencode(task_id)
        self._staging.empty_folder(folder)
        try:
            return self._restore(lines, folder)
        except BackupTampered as error:
            self._failures.pack(self._pack.name, lines.count, error)
            self._mark_failed(lines)
            return Counts(files=0)

    def _mark_failed(self, lines: Lines) -> None:
        """Tell the last task what is missing for hard links and files in pieces."""
        self._staging.mark_failed(staging.failed_pack(self._number))
        for line in map(index.parse, lines):
            if line.kind == index.PIECE:
                self._staging.mark_failed(staging.failed_piece(line.path, self._number))

    def _is_in_place(self, line: Line) -> bool:
        """Whether an earlier attempt came as far as that: it moves only what is complete."""
        if line.kind not in _OWN:
            return False
        parent, name = split(line.path)
        try:
            directory = self._target.directory(parent)
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if line.kind == index.LINK:
                return os.readlink(name, dir_fd=directory) == line.link
        except OSError:
            return False
        same = (status.st_size, status.st_mtime_ns) == (line.size, line.mtime_ns)
        return same and stat.S_ISREG(status.st_mode)

    def _restore(self, lines: Lines, folder: bytes) -> Counts:
        pack, job = self._pack, self._job
        if not lines.count:
            return Counts(files=0)
        whole = lines.stored_bytes >= _RANGES_BELOW * pack.stored_bytes
        members = (
            unpack.whole(pack, job.read(pack), lines)
            if whole
            else unpack.ranges(pack, job.read_range, lines)
        )
        failed = set[int]()
        for number, member in enumerate(members):
            if job.remaining() <= 0:
                raise OutOfTime(f"no time is left to restore {pack.name}")
            try:
                self._stage(member, folder, b"%d" % number)
            except ENTRY_ERRORS as error:
                self._failures.handle(_KIND_NAMES[member.line.kind], member.line.path, error)
                failed.add(number)
        return Counts(files=self._put_in_place(lines, folder, failed))

    def _put_in_place(self, lines: Lines, folder: bytes, failed: Container[int]) -> int:
        count = 0
        for number, raw in enumerate(lines):
            line = index.parse(raw)
            if line.kind not in _OWN or number in failed:
                continue
            name, staged = b"%d" % number, self._staging.existing(folder)
            try:
                self._target.put(name, staged, line.path)
                count += 1
            except ENTRY_ERRORS as error:
                self._failures.handle(_KIND_NAMES[line.kind], line.path, error)
                self._keep_for_other_names(name, staged, line)
        return count

    def _keep_for_other_names(self, name: bytes, staged: int, line: Line) -> None:
        """Other names of the file, if it has any, are links to what could not be put in place."""
        orphan = staging.orphan_name(self._number, line.offset)
        os.rename(name, orphan, src_dir_fd=staged, dst_dir_fd=self._staging.folder(staging.LINKS))

    def _stage(self, member: unpack.Member, folder: bytes, name: bytes) -> None:
        """Write one member to the staging folder and check it."""
        line, xattrs = member.line, member.header.xattrs
        digest = xattrs_digest(xattrs) if xattrs else index.NONE
        if digest != line.xattrs:
            raise self._differs(line)
        # What only objects have means nothing to files.
        xattrs[:] = [one for one in xattrs if one[0] != PROPERTIES]
        match line.kind:
            case index.FILE | index.SPARSE:
                self._stage_file(member, self._staging.existing(folder), name)
            case index.PIECE:
                mark = staging.failed_piece(line.path, self._number)
                self._staging.mark_failed(mark)
                self._stage_piece(member)
                self._staging.unmark_failed(mark)
            case index.LINK:
                self._stage_link(member, self._staging.existing(folder), name)
            case index.HARD_LINK | index.SPARSE_HARD_LINK | index.LINK_HARD_LINK:
                links = self._staging.folder(staging.LINKS)
                orphan = staging.orphan_name(self._number, line.offset)
                self._staging.discard(links, orphan)
                if line.kind == index.LINK_HARD_LINK:
                    self._stage_link(member, links, orphan)
                else:
                    self._stage_file(member, links, orphan)
            case index.DIRECTORY if xattrs:
                self._stage_directory(line, xattrs)
            case _:
                pass

    def _stage_file(self, member: unpack.Member, folder: int, name: bytes) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o666, dir_fd=folder)
        try:
            if self._write(descriptor, member, 0) != member.line.sha256:
                raise self._differs(member.line)
            if os.fstat(descriptor).st_size != member.line.size:
                os.ftruncate(descriptor, member.line.size)
            self._metadata.apply(descriptor, member.line, member.header.xattrs)
        finally:
            os.close(descriptor)

    def _stage_link(self, member: unpack.Member, folder: int, name: bytes) -> None:
        line, target = member.line, member.header.link
        if line.kind == index.LINK_HARD_LINK and index.link_digest(target) != line.sha256:
            raise self._differs(line)
        os.symlink(line.link if line.kind == index.LINK else target, name, dir_fd=folder)
        self._metadata.apply_to_link(folder, name.decode(), line, member.header.xattrs)

    def _stage_piece(self, member: unpack.Member) -> None:
        """All pieces of a file, whichever task has them, are written into one."""
        folder = self._staging.folder(staging.PIECES)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        name = staging.hidden_name(member.line.path)
        descriptor = os.open(name, flags, 0o666, dir_fd=folder)
        try:
            start = int(member.line.link.partition(b"-")[0])
            if self._write(descriptor, member, start) != member.line.sha256:
                raise self._differs(member.line)
            put_xattrs(descriptor, member.header.xattrs)
        finally:
            os.close(descriptor)

    def _stage_directory(self, line: Line, xattrs: Sequence[tuple[bytes, bytes]]) -> None:
        """Keep a directory's attributes until all that it holds has been made.

        A default ACL would otherwise be inherited.
        """
        folder = staging.DIRECTORIES + b"/" + staging.hidden_name(line.path)
        put_xattrs(self._staging.folder(folder), xattrs)

    def _write(self, descriptor: int, member: unpack.Member, start: int) -> bytes:
        """Write a member's content from ``start`` on; return its hash as the index states it."""
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
                self._job.progress(self._pack.name, len(piece))
        return holes.hexdigest() if holes else plain.hexdigest().encode()

    def _differs(self, line: Line) -> BackupTampered:
        return BackupTampered(
            f"{show(line.path)!r} in {self._pack.name} is not what its index says was stored",
            "Restore another backup, or a copy of this one from an earlier version of the object",
        )


def _write_all(descriptor: int, piece: memoryview, at: int) -> None:
    while piece:
        written = os.pwrite(descriptor, piece, at)
        piece, at = piece[written:], at + written


def _grow(descriptor: int, size: int) -> None:
    if os.fstat(descriptor).st_size < size:
        os.ftruncate(descriptor, size)
