"""Writing below a directory and nowhere else, whatever a backup's paths or the target's links say."""

import errno
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from stepvault.engines.files.paths import ROOT, show, split
from stepvault.engines.files.tree.handles import Tree
from stepvault.errors import BackupTampered, SourceDenied, TargetNotEmpty


class Target(Tree):
    """A tree to restore into; directories are made as they are needed.

    Directories that their owner may not write, enter or read are given those rights on the way:
    an earlier attempt may have given them their final mode already.
    """

    def __init__(self, root: Path) -> None:
        """Open the root, made if missing.

        Raises:
            SourceDenied: it cannot be made or opened.
        """
        self.remember_mode: Callable[[bytes, int], None] = lambda path, mode: None
        """Told of each directory that was given rights, and of its mode before."""
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SourceDenied(
                f"the directory {str(root)!r} cannot be made ({error.strerror})",
                "Restore to a place where the user may write",
            ) from error
        super().__init__(str(root))

    def parent(self, path: bytes) -> tuple[int, bytes]:
        """Return a descriptor of the directory that holds path, made if missing, and the name in it.

        Raises:
            BackupTampered: the path leaves the target.
            TargetNotEmpty: something that is not a directory stands in the way.
        """
        check(path)
        directory, name = split(path)
        return self.make(directory), name

    def make(self, path: bytes) -> int:
        """Return a descriptor of that directory, made if missing."""
        if path != ROOT:
            check(path)
        try:
            return self.directory(path)
        except OSError:
            pass  # missing, or something is in the way: the loop tells where
        missing = [path]
        while (above := split(missing[-1])[0]) != ROOT and not self.has_open(above):
            missing.append(above)
        for reached in reversed(missing):
            self._make_one(*split(reached))
            try:
                descriptor = self.directory(reached)
            except OSError as error:
                if error.errno in (errno.ENOTDIR, errno.ELOOP):
                    raise _in_the_way(reached) from error
                raise
        return descriptor

    def _make_one(self, above: bytes, name: bytes) -> None:
        parent = self.directory(above)
        with suppress(FileExistsError):
            try:
                os.mkdir(name, dir_fd=parent)
            except PermissionError:
                if not self._permit(above, parent):
                    raise
                os.mkdir(name, dir_fd=parent)

    def put(self, source: bytes, staged: int, path: bytes) -> None:
        """Move what is staged under a name in the directory ``staged`` to path."""
        directory, name = self.parent(path)
        try:
            try:
                os.rename(source, name, src_dir_fd=staged, dst_dir_fd=directory)
            except PermissionError:
                if not self._permit(split(path)[0], directory):
                    raise
                os.rename(source, name, src_dir_fd=staged, dst_dir_fd=directory)
        except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
            raise _in_the_way(path) from error
        # rename() of two names of one inode leaves both.
        with suppress(FileNotFoundError):
            os.unlink(source, dir_fd=staged)

    def remove(self, folder: bytes) -> None:
        """Remove a folder with all it holds, if it is there."""
        self.forget(folder)
        directory, name = self.parent(folder)
        with suppress(FileNotFoundError):
            try:
                shutil.rmtree(name, dir_fd=directory)
            except PermissionError:
                if not self._permit(split(folder)[0], directory):
                    raise
                shutil.rmtree(name, dir_fd=directory)

    def _enter(self, path: bytes, name: bytes, parent: int) -> int:
        try:
            return super()._enter(path, name, parent)
        except PermissionError:
            flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            with suppress(OSError):
                descriptor = os.open(name, flags, dir_fd=parent)
                try:
                    self._permit(path, descriptor)
                finally:
                    os.close(descriptor)
            return super()._enter(path, name, parent)

    def _permit(self, path: bytes, descriptor: int) -> bool:
        """Give the owner all rights on a directory; return whether that changed anything."""
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if mode & stat.S_IRWXU == stat.S_IRWXU:
            return False
        try:
            os.chmod(f"/proc/self/fd/{descriptor}", mode | stat.S_IRWXU)
        except OSError:
            return False
        self.remember_mode(path, mode)
        return True


def check(path: bytes) -> None:
    """Refuse a path that is not plainly below the root."""
    if b"\0" in path or not {b"", b".", b".."}.isdisjoint(path.split(b"/")):
        raise BackupTampered(f"the backup names {show(path)!r}, which leads out of the target")


def _in_the_way(path: bytes) -> TargetNotEmpty:
    return TargetNotEmpty(
        f"in the target {show(path)!r} is of another kind than in the backup",
        "Remove it, or restore to an empty directory",
    )
