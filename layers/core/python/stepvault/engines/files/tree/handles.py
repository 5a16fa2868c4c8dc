"""A directory tree by descriptors, never by long paths.

Every directory is opened from its parent's descriptor, one name at a time and without following
links, so paths may be longer than the system's limit and a link put in the way leads nowhere.
"""

import errno
import os
from collections import OrderedDict
from types import TracebackType
from typing import Self

from stepvault.engines.files.paths import ROOT
from stepvault.errors import SourceDenied, SourceMissing

#: Descriptors kept open; Lambda allows 1,024 in all.
_KEPT = 64


class Tree:
    """Opens the directories of a tree and keeps the latest few open. For one thread."""

    def __init__(self, root: str | bytes | os.PathLike[str], *, follow: bool = False) -> None:
        """Open the root; it may itself be a link.

        Raises:
            SourceMissing, SourceDenied.
        """
        self.root = os.fsencode(root)
        self._flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
        self._open: OrderedDict[bytes, int] = OrderedDict()
        self._latest = (b"", -1)
        self._root_fd = _open_root(self.root)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every descriptor, the root's too."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()
        self._latest = (b"", -1)
        if self._root_fd >= 0:
            os.close(self._root_fd)
            self._root_fd = -1

    def directory(self, path: bytes) -> int:
        """Return a descriptor of that directory, open until many others have been asked for.

        Raises:
            OSError: as open(2) says.
        """
        if path == self._latest[0]:
            return self._latest[1]
        if path == ROOT:
            return self._root_fd
        if path in self._open:
            self._open.move_to_end(path)
            self._latest = path, self._open[path]
            return self._open[path]
        names = path.split(b"/")
        known = len(names) - 1
        while known and b"/".join(names[:known]) not in self._open:
            known -= 1
        descriptor = self._open[b"/".join(names[:known])] if known else self._root_fd
        for depth in range(known, len(names)):
            inside = b"/".join(names[: depth + 1])
            descriptor = self._enter(inside, names[depth], descriptor)
            self._keep(inside, descriptor)
        return descriptor

    def has_open(self, path: bytes) -> bool:
        """Return whether a descriptor of that directory is kept open."""
        return path in self._open

    def _enter(self, path: bytes, name: bytes, parent: int) -> int:  # noqa: ARG002
        """Open a directory; its path is for those that override this."""
        return os.open(name, self._flags, dir_fd=parent)

    def _keep(self, path: bytes, descriptor: int) -> None:
        self._open[path] = descriptor
        self._latest = path, descriptor
        if len(self._open) > _KEPT:
            os.close(self._open.popitem(last=False)[1])

    def forget(self, folder: bytes) -> None:
        """Close what is open of a folder and below, because it is about to go."""
        self._latest = (b"", -1)
        for path in [p for p in self._open if p == folder or p.startswith(folder + b"/")]:
            os.close(self._open.pop(path))

    def still_there(self) -> bool:
        """Whether the root's path still leads to the directory that was opened."""
        try:
            now = os.stat(self.root)
        except OSError:
            return False
        then = os.fstat(self._root_fd)
        return (now.st_dev, now.st_ino) == (then.st_dev, then.st_ino)


def _open_root(root: bytes) -> int:
    name = os.fsdecode(root)
    try:
        return os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError as error:
        raise SourceDenied(
            f"the directory {name!r} may not be read", "Grant the user read and execute on it"
        ) from error
    except OSError as error:
        if error.errno == errno.ENOTDIR:
            raise SourceMissing(
                f"{name!r} is not a directory", "Name the directory that holds the file"
            ) from error
        raise SourceMissing(
            f"there is no directory {name!r} ({error.strerror})",
            "Check the source's path, and that its file system is mounted",
        ) from error
