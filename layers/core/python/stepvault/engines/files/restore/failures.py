"""Entries that cannot be put back: the first stops the restore, or each is reported."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from stepvault.engines.base import RestoreJob
from stepvault.engines.files.paths import show
from stepvault.errors import BackupTampered, SourceDenied, TargetNotEmpty, TargetUnsupported
from stepvault.records import Unrestored

#: What no other entry would fare better with.
_STOPS_ALL = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM,
    errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT, errno.EINTR,
}  # fmt: skip
_KEEP_GOING = "remove what is in the way, or say --keep-going to restore all else and see a list"


class Failures:
    """Decides what the failure of one entry means for a restore."""

    def __init__(self, job: RestoreJob) -> None:
        self._job = job
        self.keep_going = job.options.keep_going

    @contextmanager
    def of(self, kind: str, path: bytes) -> Iterator[None]:
        """Stop the restore, or report the entry and go on, when what follows fails.

        Raises:
            SourceDenied, TargetUnsupported, TargetNotEmpty: naming the entry.
        """
        try:
            yield
        except (TargetNotEmpty, SourceDenied) as error:
            if not self.keep_going:
                raise
            self.report(kind, path, error.message)
        except OSError as error:
            if error.errno in _STOPS_ALL:
                raise
            reason = error.strerror or str(error)
            if not self.keep_going:
                denied = isinstance(error, PermissionError)
                raise (SourceDenied if denied else TargetUnsupported)(
                    f"the {kind} {show(path)!r} cannot be restored ({reason})", _KEEP_GOING
                ) from error
            self.report(kind, path, reason)

    def report(self, kind: str, path: bytes | str, reason: str) -> None:
        """Report something that is not restored."""
        name = show(path) if isinstance(path, bytes) else path
        self._job.unrestored(Unrestored(kind=kind, name=name, reason=reason))

    def pack(self, name: str, files: int, error: BackupTampered) -> None:
        """Report a pack that is damaged.

        Raises:
            BackupTampered: the restore is to stop at the first failure.
        """
        if not self.keep_going:
            raise error
        self.report("pack", name, f"{error.message}; it holds {files:,} of the files wanted")
