"""Putting metadata back, as far as the system permits."""

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from stepvault.engines.files.index import Line


@dataclass(frozen=True)
class Metadata:
    """What to put back."""

    wanted: bool
    """False: files get the system's defaults."""
    owner: bool
    """Owner and group too, where the user may give files away."""

    def apply(self, descriptor: int, line: Line, xattrs: Iterable[tuple[bytes, bytes]]) -> None:
        """To an open file or directory. The order matters: a change of owner clears mode bits
        and capabilities, and any change but the last sets the time."""
        if not self.wanted:
            return
        mode = line.mode
        if self.owner and not _give(descriptor, line):
            mode &= ~(stat.S_ISUID | stat.S_ISGID)
        os.fchmod(descriptor, mode)
        put_xattrs(descriptor, xattrs)
        os.utime(descriptor, ns=(line.mtime_ns, line.mtime_ns))

    def apply_to_link(
        self, directory: int, name: str, line: Line, xattrs: Iterable[tuple[bytes, bytes]]
    ) -> None:
        """To a symbolic link itself."""
        if not self.wanted:
            return
        if self.owner:
            with suppress(PermissionError):
                os.chown(name, line.uid, line.gid, dir_fd=directory, follow_symlinks=False)
        for key, value in xattrs:
            with suppress(OSError):
                path = f"/proc/self/fd/{directory}/{name}"
                os.setxattr(path, key, value, follow_symlinks=False)
        times = (line.mtime_ns, line.mtime_ns)
        os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)


def put_xattrs(descriptor: int, xattrs: Iterable[tuple[bytes, bytes]]) -> None:
    """Set what may be set: some names need privileges, some file systems know none."""
    for key, value in xattrs:
        with suppress(OSError):
            os.setxattr(descriptor, key, value)


def _give(descriptor: int, line: Line) -> bool:
    now = os.fstat(descriptor)
    if (now.st_uid, now.st_gid) == (line.uid, line.gid):
        return True
    try:
        os.fchown(descriptor, line.uid, line.gid)
    except PermissionError:
        return False
    return True
