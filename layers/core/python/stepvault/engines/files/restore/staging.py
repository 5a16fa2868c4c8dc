"""The folder in the target where files are made before they are moved into place."""

import hashlib
import os
from contextlib import suppress

from stepvault.engines.files.restore.target import Target

PREFIX = ".stepvault-restore-"

LINKS = b"links"
"""Files of which only later names are wanted, by ``orphan_name``."""
PIECES = b"pieces"
"""Files that come in pieces, by ``hidden_name``."""
DIRECTORIES = b"directories"
"""One for each directory with extended attributes, which it keeps until the end."""


class Staging:
    """The staging folder, reached through a tree of its own.

    So the few directories it has stay open however many others the target needs open.
    """

    def __init__(self, tree: Target, name: str) -> None:
        self._tree = tree
        self._root = os.fsencode(name)

    def folder(self, name: bytes = b"") -> int:
        """Return a descriptor of that folder in it, made if missing, for the user alone."""
        path = self._path(name)
        self._tree.make(path)
        descriptor = self._tree.directory(path)
        os.fchmod(descriptor, 0o700)
        return descriptor

    def existing(self, name: bytes = b"") -> int:
        """Return a descriptor of that folder in it.

        Raises:
            FileNotFoundError: there is none.
        """
        return self._tree.directory(self._path(name))

    def empty_folder(self, name: bytes) -> int:
        """Return a descriptor of that folder in it, made anew."""
        self.folder()
        self._tree.remove(self._path(name))
        return self.folder(name)

    def remove(self) -> None:
        """Remove the staging folder with all it holds."""
        self._tree.remove(self._root)

    def discard(self, folder: int, name: bytes) -> None:
        """Remove a file that an earlier attempt may have left."""
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)

    def _path(self, name: bytes) -> bytes:
        return self._root + b"/" + name if name else self._root


def hidden_name(path: bytes) -> bytes:
    """Return the name in a staging folder of what will be at that path."""
    return hashlib.sha256(path).hexdigest()[:32].encode()


def orphan_name(pack: int, offset: int) -> bytes:
    """Return the staging name of a file of which only later names are wanted.

    Args:
        pack: as the manifest numbers it: another pack may hold another file of that first name.
        offset: of the file in the unpacked pack.
    """
    return b"%d-%d" % (pack, offset)
