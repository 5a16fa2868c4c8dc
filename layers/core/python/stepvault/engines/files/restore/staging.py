"""The folder in the target where files are made before they are moved into place.

Its name tells which restore it belongs to, so that the same restore, begun again, finds it and goes
on; a backup leaves it out. Beside files it keeps what the last task has to know: which directories
were given rights, and what could not be restored.
"""

import hashlib
import json
import os
from contextlib import suppress

from stepvault.engines.base import RestoreJob
from stepvault.engines.files.paths import STAGING
from stepvault.engines.files.restore.target import Target

LINKS = b"links"
"""Files for other names than their first, by ``orphan_name``."""
PIECES = b"pieces"
"""Files that come in pieces, by ``hidden_name``."""
DIRECTORIES = b"directories"
"""One for each directory with extended attributes, which it keeps until the end."""
MODES = b"modes"
"""One file for each directory that was given rights: its mode before, and its path."""
FAILED = b"failed"
"""One empty file for each pack or piece that could not be restored."""


class Staging:
    """The staging folder, reached through a tree of its own.

    So the few directories it has stay open however many others the target needs open.
    """

    def __init__(self, tree: Target, name: str) -> None:
        self._tree = tree
        self._root = os.fsencode(name)
        self.modes: dict[bytes, int] = {}
        """Of each directory that was given rights by this task, or is known by ``load_modes``."""
        tree.remember_mode = self.remember_mode

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

    def names(self, name: bytes) -> list[bytes]:
        """Return the names in that folder; none if there is no such folder."""
        try:
            return [os.fsencode(one) for one in os.listdir(self.existing(name))]
        except FileNotFoundError:
            return []

    def discard(self, folder: int, name: bytes) -> None:
        """Remove a file that an earlier attempt may have left."""
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)

    def remember_mode(self, path: bytes, mode: int) -> None:
        """Keep the mode that a directory had before it was given rights, unless one is kept."""
        self.modes.setdefault(path, mode)
        folder = self.folder(MODES)
        with suppress(FileExistsError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptor = os.open(hidden_name(path), flags, 0o600, dir_fd=folder)
            with open(descriptor, "wb") as file:
                file.write(b"%o %s" % (mode, path))

    def load_modes(self) -> None:
        """Read what all tasks have kept with ``remember_mode``."""
        for name in self.names(MODES):
            descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.existing(MODES))
            with open(descriptor, "rb") as file:
                mode, _, path = file.read().partition(b" ")
            if mode:  # else it was being written when the process ended
                self.modes[path] = int(mode, 8)

    def mark_failed(self, name: bytes) -> None:
        """Remember that something could not be restored."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        os.close(os.open(name, flags, 0o600, dir_fd=self.folder(FAILED)))

    def unmark_failed(self, name: bytes) -> None:
        """Forget what an earlier attempt marked."""
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.existing(FAILED))

    def _path(self, name: bytes) -> bytes:
        return self._root + b"/" + name if name else self._root


def name_of(job: RestoreJob) -> str:
    """Return the name of the staging folder: one for each backup, choice of files and owner."""
    objects = sorted((o.run_id or "", o.name, o.raw_sha256) for o in job.objects)
    identity = [job.source.name, objects, job.options.only, job.options.owner]
    return STAGING.decode() + hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]


def hidden_name(path: bytes) -> bytes:
    """Return the name in a staging folder of what will be at that path."""
    return hashlib.sha256(path).hexdigest()[:32].encode()


def orphan_name(pack: int, offset: int) -> bytes:
    """Return the staging name of a file that is kept for its other names.

    Args:
        pack: as the manifest numbers it: another pack may hold another file of that first name.
        offset: of the file in the unpacked pack.
    """
    return b"%d-%d" % (pack, offset)


def failed_pack(pack: int) -> bytes:
    """Return the mark of a pack that could not be restored, by its number in the manifest."""
    return b"pack-%d" % pack


def failed_piece(path: bytes, pack: int) -> bytes:
    """Return the mark of a piece of that file which could not be restored out of that pack."""
    return b"%s-%d" % (hidden_name(path), pack)
