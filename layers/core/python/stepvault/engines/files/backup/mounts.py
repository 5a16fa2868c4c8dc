"""File systems that were mounted in the source at the previous backup and are not now.

What such a file system held is gone from the backup to come, and nothing else tells: its directory is
there, and empty. Device numbers change from boot to boot; that another file system begins does not.
"""

import os

from stepvault.engines.files.backup.parent import Parent
from stepvault.engines.files.paths import ROOT, join
from stepvault.engines.files.tree.selection import Filters
from stepvault.engines.files.tree.warnings import Warnings
from stepvault.settings import FilesSource

_WARNING = (
    "a file system was mounted here at the previous backup and is not now: what it held is not in "
    "this backup (mount it; or, if it is meant to be gone, remove or exclude the directory)"
)


def mounts_to_expect(source: FilesSource, parent: Parent | None, warnings: Warnings) -> list[bytes]:
    """Return the mounts that the next backup is to look for; warn of those that are missing now."""
    found = set(warnings.mounts)
    for path in sorted(parent.mounts - found if parent else ()):
        if _is_missing(source, path):
            warnings.add(_WARNING, path)
            found.add(path)
    return sorted(found)


def _is_missing(source: FilesSource, path: bytes) -> bool:
    """Whether there is the directory, not excluded, and no file system mounted on it."""
    if path != ROOT and Filters(source).exclude(path, is_directory=True):
        return False
    place = join(os.fsencode(source.path), path)
    try:
        return os.stat(place).st_dev == os.stat(join(place, b"..")).st_dev
    except OSError:
        return False
