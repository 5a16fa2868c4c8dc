"""The last task of a restore: hard links, files in pieces, directories."""

import os
from collections.abc import Sequence
from contextlib import suppress

from stepvault.engines.base import Counts, RestoreJob
from stepvault.engines.files.format import index
from stepvault.engines.files.format.index import Line
from stepvault.engines.files.paths import ROOT, show
from stepvault.engines.files.restore import staging
from stepvault.engines.files.restore.metadata import Metadata
from stepvault.engines.files.restore.staging import Staging
from stepvault.engines.files.restore.stored import Backup
from stepvault.engines.files.restore.target import Target
from stepvault.engines.files.tree.selection import Selection
from stepvault.engines.files.tree.xattrs import xattrs_of
from stepvault.errors import BackupTampered


class Finish:
    """The last task, on an open target."""

    def __init__(self, job: RestoreJob, target: Target, stage: Staging) -> None:
        self._target = target
        self._staging = stage
        self._backup = Backup(job.objects, job.read)
        self._selection = Selection(job.options.only)
        self._metadata = Metadata.of(job)

    def run(self) -> Counts:
        """Make hard links, join pieces, finish directories; remove the staging folder."""
        above: list[Line] = []
        count = 0
        for raw in self._backup.all_lines(self._selection):
            line = index.parse(raw)
            while above and not _within(line.path, above[-1].path):
                self._finish_directory(above.pop())
            match line.kind:
                case index.DIRECTORY:
                    self._target.make(line.path)
                    above.append(line)
                case index.HARD_LINK | index.SPARSE_HARD_LINK:
                    count += self._link(line)
                case index.PIECE:
                    count += self._join(line)
                case _:
                    pass
        root = above[0] if above and above[0].path == ROOT else None
        for line in reversed(above[1:] if root else above):
            self._finish_directory(line)
        xattrs = self._kept_xattrs(ROOT)
        self._staging.remove()
        if root:
            self._metadata.apply_to_directory(self._target.directory(ROOT), root, xattrs)
        return Counts(files=count)

    def _finish_directory(self, line: Line) -> None:
        descriptor, xattrs = self._target.directory(line.path), self._kept_xattrs(line.path)
        self._metadata.apply_to_directory(descriptor, line, xattrs)

    def _kept_xattrs(self, path: bytes) -> Sequence[tuple[bytes, bytes]]:
        try:
            kept = self._staging.existing(staging.DIRECTORIES + b"/" + staging.hidden_name(path))
        except FileNotFoundError:
            return ()
        return xattrs_of(kept)

    def _link(self, line: Line) -> int:
        """Give a file another name; return 0 if an earlier attempt came to the end."""
        try:
            folder = self._staging.existing()
        except FileNotFoundError:
            return 0
        first_folder, first = self._first_name(line)
        name = staging.hidden_name(line.path)
        self._staging.discard(folder, name)
        try:
            os.link(first, name, src_dir_fd=first_folder, dst_dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError as error:
            raise BackupTampered(
                f"{show(line.path)!r} is a hard link to {show(line.link)!r}, which the backup lacks"
            ) from error
        self._target.put(name, folder, line.path)
        return 1

    def _first_name(self, line: Line) -> tuple[int, bytes]:
        """Directory and name of the file; in the staging folder if its first name is not wanted."""
        orphan = staging.orphan_name(line.pack, line.offset)
        with suppress(FileNotFoundError):
            links = self._staging.existing(staging.LINKS)
            os.stat(orphan, dir_fd=links)
            return links, orphan
        return self._target.parent(line.link)

    def _join(self, line: Line) -> int:
        """Give a file that came in pieces its name; return 0 if it has it already."""
        staged = staging.hidden_name(line.path)
        try:
            folder = self._staging.existing(staging.PIECES)
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


def _within(path: bytes, directory: bytes) -> bool:
    return directory == ROOT or path.startswith(directory + b"/")
