"""Entries that cannot be put back: the first stops the restore, or each is reported."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from stepvault.engines.base import RestoreJob
from stepvault.engines.files.paths import show
from stepvault.errors import (
    BackupTampered,
    SourceDenied,
    StepvaultError,
    TargetNotEmpty,
    TargetUnsupported,
)
from stepvault.records import Unrestored

#: What no other entry would fare better with.
_STOPS_ALL = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM,
    errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT, errno.EINTR,
}  # fmt: skip
#: What may be the fault of one entry alone.
ENTRY_ERRORS = (OSError, TargetNotEmpty, SourceDenied)
_KEEP_GOING = "remove what is in the way, or say --keep-going to restore all else and see a list"


class Failures:
    """Decides what the failure of one entry means for a restore."""

    def __init__(self, job: RestoreJob) -> None:
        self._job = job
        self.keep_going = job.options.keep_going

    @contextmanager
    def of(self, kind: str, path: bytes) -> Iterator[None]:
        """Do as ``handle`` does, when what follows fails."""
        try:
            yield
        except ENTRY_ERRORS as error:
            self.handle(kind, path, error)

    def handle(self, kind: str, path: bytes, error: Exception) -> None:
        """Stop the restore at the failure of an entry, or report it so that the caller goes on.

        Raises:
            SourceDenied, TargetUnsupported, TargetNotEmpty: naming the entry.
            OSError: what no other entry would fare better with.
        """
        if isinstance(error, OSError):
            if error.errno in _STOPS_ALL:
                raise error
            reason = error.strerror or str(error)
            if not self.keep_going:
                denied = isinstance(error, PermissionError)
                raise (SourceDenied if denied else TargetUnsupported)(
                    f"the {kind} {show(path)!r} cannot be restored ({reason})", _KEEP_GOING
                ) from error
            self.report(kind, path, reason)
            return
        if not self.keep_going:
            raise error
        self.report(kind, path, error.message if isinstance(error, StepvaultError) else str(error))

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
