"""What the system says of files, as our errors."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from stepvault.engines.files.paths import show
from stepvault.errors import (
    Permanent,
    SourceCorrupt,
    SourceDenied,
    SourceMissing,
    SourceUnsupported,
)
from stepvault.settings import FilesSource

#: What the system says of what is no longer there; the last on network file systems.
VANISHED = {errno.ENOENT, errno.ENOTDIR, errno.ESTALE}


@contextmanager
def explained(what: str, kind: type[Permanent]) -> Iterator[None]:
    """Turn what the system says, where nothing closer to it knows better, into our errors."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise SourceUnsupported(
                f"{what}: there is no room left, there or for temporary files",
                "Make room; a function's temporary files need more ephemeral storage",
            ) from error
        raise kind(f"{what} ({error.strerror or error})", "Check the file system") from error


def vanished(source: FilesSource) -> SourceMissing:
    """Return the error for a root that is gone: without it an empty backup would look like a good one."""
    return SourceMissing(
        f"the directory {source.path!r} vanished while it was read",
        "Check that its file system is still mounted and run the backup again",
    )


def unreadable(path: bytes, what: str, error: OSError) -> SourceDenied:
    """Return the error for something that may not be read."""
    return SourceDenied(
        f"the {what} {show(path)!r} cannot be read ({error.strerror})",
        "Grant the user read on it, exclude it, or set allow_unreadable = true to leave it out",
    )


def broken(path: bytes, error: OSError) -> SourceCorrupt:
    """Return the error for something that the file system fails to read."""
    return SourceCorrupt(
        f"{os.fsdecode(path)!r} cannot be read ({error.strerror})",
        "Check the file system, or exclude the file",
    )
