"""Putting metadata back, as far as the system permits."""

import errno
import os
import stat
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress

from stepvault.engines.base import RestoreJob
from stepvault.engines.files.format.index import Line
from stepvault.records import Unrestored

_ACLS = (b"system.posix_acl_access", b"system.posix_acl_default")


class Metadata:
    """Puts back what the source's settings and the restore's options ask for."""

    def __init__(self, job: RestoreJob) -> None:
        self._job = job
        self.wanted: bool = job.source.preserve_metadata
        """False: files get the system's defaults."""
        self.owner = job.options.owner != "none"
        """Owner and group too, where the user may give files away."""

    def apply(self, descriptor: int, line: Line, xattrs: Iterable[tuple[bytes, bytes]]) -> None:
        """Put it back on an open file or directory.

        The order matters: a change of owner clears mode bits and capabilities, what the mode makes
        read-only gets no attributes, and any change but the last sets the time.
        """
        if not self.wanted:
            return
        mode = line.mode
        if not self._has_owner(descriptor, line):
            mode &= ~(stat.S_ISUID | stat.S_ISGID)  # they would be somebody else's rights
        put_xattrs(descriptor, xattrs)
        # The group's bits are the mask of an access ACL, in the backup as here.
        os.fchmod(descriptor, mode)
        os.utime(descriptor, ns=(line.mtime_ns, line.mtime_ns))

    def apply_to_directory(
        self, descriptor: int, line: Line, xattrs: Sequence[tuple[bytes, bytes]] | None
    ) -> None:
        """Do as ``apply`` does, and remove the ACLs that were inherited when it was made.

        Without ``xattrs`` those that are there stay.
        """
        if xattrs is not None:
            self.clear_acls(descriptor, but=[key for key, _ in xattrs])
        self.apply(descriptor, line, xattrs or ())

    def clear_acls(self, descriptor: int, but: Collection[bytes] = ()) -> None:
        """Remove an open directory's own ACL and the one that it gives what is made in it."""
        if not self.wanted:
            return
        for name in _ACLS:
            if name not in but:
                with suppress(OSError):  # there is none, or the file system knows none
                    os.removexattr(descriptor, name)

    def apply_to_link(
        self, directory: int, name: str, line: Line, xattrs: Iterable[tuple[bytes, bytes]]
    ) -> None:
        """Put it back on a symbolic link itself."""
        if not self.wanted:
            return
        if self.owner:
            try:
                os.chown(name, line.uid, line.gid, dir_fd=directory, follow_symlinks=False)
            except OSError as error:
                self._not_given(line, error)
        for key, value in xattrs:
            with suppress(OSError):
                path = f"/proc/self/fd/{directory}/{name}"
                os.setxattr(path, key, value, follow_symlinks=False)
        times = (line.mtime_ns, line.mtime_ns)
        os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)

    def _has_owner(self, descriptor: int, line: Line) -> bool:
        """Give a file to the owner of the line, if that is asked for; return whether it has it."""
        now = os.fstat(descriptor)
        if (now.st_uid, now.st_gid) == (line.uid, line.gid):
            return True
        if not self.owner:
            return False
        try:
            os.fchown(descriptor, line.uid, line.gid)
        except OSError as error:
            self._not_given(line, error)
            return False
        return True

    def _not_given(self, line: Line, error: OSError) -> None:
        """Go on without the owner where the user may not give files away."""
        if isinstance(error, PermissionError):
            return
        # EINVAL: root of a user namespace that does not know the owner.
        if error.errno != errno.EINVAL or not self._job.options.keep_going:
            raise error
        owner, reason = f"{line.uid}:{line.gid}", "this user namespace does not know it"
        self._job.unrestored(Unrestored(kind="owner", name=owner, reason=reason))


def put_xattrs(descriptor: int, xattrs: Iterable[tuple[bytes, bytes]]) -> None:
    """Set what may be set: some names need privileges, some file systems know none."""
    # ACLs last, as one may take away the right to set the others.
    for key, value in sorted(xattrs, key=lambda one: one[0] in _ACLS):
        with suppress(OSError):
            os.setxattr(descriptor, key, value)
