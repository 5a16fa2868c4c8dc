"""The last task of a restore: hard links, files in pieces, directories."""

import os
import stat
from collections.abc import Sequence
from contextlib import suppress

from stepvault.engines.base import Counts, RestoreJob
from stepvault.engines.files.format import index
from stepvault.engines.files.format.index import Line
from stepvault.engines.files.paths import ROOT, is_staging, show
from stepvault.engines.files.restore import staging
from stepvault.engines.files.restore.failures import Failures
from stepvault.engines.files.restore.metadata import Metadata
from stepvault.engines.files.restore.staging import Staging
from stepvault.engines.files.restore.stored import Backup
from stepvault.engines.files.restore.target import Target
from stepvault.engines.files.tree.selection import Selection
from stepvault.engines.files.tree.xattrs import xattrs_of
from stepvault.errors import BackupTampered

_NOT_RESTORED = "its content could not be restored"


class Finish:
    """The last task, on an open target."""

    def __init__(self, job: RestoreJob, target: Target, stage: Staging) -> None:
        self._target = target
        self._staging = stage
        self._backup = Backup(job.objects, job.read)
        self._selection = Selection.of(job)
        self._metadata = Metadata(job)
        self._failures = Failures(job)
        self._failed = set(stage.names(staging.FAILED))
        self._pieces_of: Line | None = None
        """A file of which not all pieces have been met yet,"""
        self._pieces_size = 0
        """and the bytes of those that have."""
        self._failed_pieces = {name.partition(b"-")[0] for name in self._failed}
        stage.load_modes()

    def run(self) -> Counts:
        """Make hard links, join pieces, finish directories; remove the staging folder."""
        above: list[Line] = []
        count = 0
        for raw in self._backup.all_lines(self._selection):
            line = index.parse(raw)
            while above and not _within(line.path, above[-1].path):
                self._finish_directory(above.pop())
            if self._pieces_of and line.path != self._pieces_of.path:
                self._end_pieces()
            if line.kind == index.DIRECTORY:
                with self._failures.of("directory", line.path):
                    self._target.make(line.path)
                    above.append(line)
            elif line.kind in index.HARD_LINKS:
                with self._failures.of("file", line.path):
                    count += self._link(line)
            elif line.kind == index.PIECE:
                with self._failures.of("file", line.path):
                    count += self._join(line)
        self._end_pieces()
        root = above[0] if above and above[0].path == ROOT else None
        for line in reversed(above[1:] if root else above):
            self._finish_directory(line)
        self._finish_root(root)
        return Counts(files=count)

    def _finish_directory(self, line: Line) -> None:
        with self._failures.of("directory", line.path):
            descriptor = self._target.directory(line.path)
            self._metadata.apply_to_directory(descriptor, line, self._kept_xattrs(line))
            self._staging.modes.pop(line.path, None)

    def _finish_root(self, line: Line | None) -> None:
        """Put back the modes of directories that are not restored; remove all staging folders."""
        xattrs = self._kept_xattrs(line) if line else None
        for path, mode in sorted(self._staging.modes.items(), reverse=True):
            if path != ROOT:
                with suppress(OSError):  # somebody else has removed it
                    os.fchmod(self._target.directory(path), mode)
        for name in map(os.fsencode, os.listdir(self._target.directory(ROOT))):
            if is_staging(name):
                self._target.remove(name)
        root = self._target.directory(ROOT)
        if line:
            self._metadata.apply_to_directory(root, line, xattrs)
        elif ROOT in self._staging.modes:
            os.fchmod(root, self._staging.modes[ROOT])

    def _kept_xattrs(self, line: Line) -> Sequence[tuple[bytes, bytes]] | None:
        """Return the attributes of a directory; None if those it has are to stay.

        They are gone when an earlier attempt came to the end, or when their pack is damaged.
        """
        if line.xattrs == index.NONE:
            return ()
        folder = staging.DIRECTORIES + b"/" + staging.hidden_name(line.path)
        try:
            return xattrs_of(self._staging.existing(folder))
        except FileNotFoundError:
            return None

    def _link(self, line: Line) -> int:
        """Give a file another name; return 0 if an earlier attempt came to the end."""
        if staging.failed_pack(line.pack) in self._failed:
            self._failures.report("file", line.path, _NOT_RESTORED)
            return 0
        try:
            folder = self._staging.existing()
        except FileNotFoundError:
            return 0
        first_folder, first = self._first_name(line)
        if not self._is_the_file(first, first_folder, line):
            if not self._failures.keep_going:
                raise BackupTampered(
                    f"{show(line.path)!r} is a hard link to {show(line.link)!r}, "
                    "which the backup lacks"
                )
            self._failures.report("file", line.path, _NOT_RESTORED)
            return 0
        name = staging.hidden_name(line.path)
        self._staging.discard(folder, name)
        os.link(first, name, src_dir_fd=first_folder, dst_dir_fd=folder, follow_symlinks=False)
        self._target.put(name, folder, line.path)
        return 1

    def _is_the_file(self, name: bytes, folder: int, line: Line) -> bool:
        """Whether that is the file which the line means, not one that was there before."""
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if line.kind == index.LINK_HARD_LINK:
            return stat.S_ISLNK(status.st_mode)
        same_time = status.st_mtime_ns == line.mtime_ns or not self._metadata.wanted
        return stat.S_ISREG(status.st_mode) and status.st_size == line.size and same_time

    def _first_name(self, line: Line) -> tuple[int, bytes]:
        """Directory and name of the file; in the staging folder if its first name is not there."""
        orphan = staging.orphan_name(line.pack, line.offset)
        with suppress(FileNotFoundError):
            links = self._staging.existing(staging.LINKS)
            os.stat(orphan, dir_fd=links, follow_symlinks=False)
            return links, orphan
        return self._target.parent(line.link)

    def _join(self, line: Line) -> int:
        """Take account of a piece; with the last one give the file its name."""
        start, end = map(int, line.link.split(b"-"))
        self._pieces_size += end - start
        if self._pieces_size < line.size:
            self._pieces_of = line
            return 0
        self._pieces_of, self._pieces_size = None, 0
        staged = staging.hidden_name(line.path)
        if staged in self._failed_pieces:
            self._failures.report("file", line.path, _NOT_RESTORED)
            return 0
        try:
            folder = self._staging.existing(staging.PIECES)
            os.chmod(staged, 0o600, dir_fd=folder)  # an earlier attempt may have shut it
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

    def _end_pieces(self) -> None:
        """Refuse a file of which the backup lacks a piece: the rest of it would look whole."""
        line, self._pieces_of, self._pieces_size = self._pieces_of, None, 0
        if line is None:
            return
        if not self._failures.keep_going:
            raise BackupTampered(f"the backup lacks a part of {show(line.path)!r}")
        self._failures.report("file", line.path, "the backup lacks a part of it")


def _within(path: bytes, directory: bytes) -> bool:
    return directory == ROOT or path.startswith(directory + b"/")
