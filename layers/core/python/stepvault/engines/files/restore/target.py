"""Writing below a directory and nowhere else, whatever a backup's paths or the target's links say."""

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

from stepvault.engines.files.paths import ROOT, join, show, split
from stepvault.engines.files.tree.handles import Tree
from stepvault.errors import BackupTampered, SourceDenied, TargetNotEmpty


class Target(Tree):
    """A tree to restore into; directories are made as they are needed."""

    def __init__(self, root: Path) -> None:
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
        reached = ROOT
        for name in path.split(b"/"):
            parent, reached = self.directory(reached), join(reached, name)
            with suppress(FileExistsError):
                os.mkdir(name, dir_fd=parent)
            try:
                descriptor = self.directory(reached)
            except OSError as error:
                if error.errno in (errno.ENOTDIR, errno.ELOOP):
                    raise _in_the_way(reached) from error
                raise
        return descriptor

    def put(self, source: bytes, staged: int, path: bytes) -> None:
        """Move what is staged under a name in the directory ``staged`` to path."""
        directory, name = self.parent(path)
        try:
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
            shutil.rmtree(name, dir_fd=directory)


def check(path: bytes) -> None:
    """Refuse a path that is not plainly below the root."""
    if b"\0" in path or not {b"", b".", b".."}.isdisjoint(path.split(b"/")):
        raise BackupTampered(f"the backup names {show(path)!r}, which leads out of the target")


def _in_the_way(path: bytes) -> TargetNotEmpty:
    return TargetNotEmpty(
        f"in the target {show(path)!r} is of another kind than in the backup",
        "Remove it, or restore to an empty directory",
    )
