"""Every error Stepvault raises on purpose, and whether trying again can help.

::

    StepvaultError
    ├── Transient                  Step Functions retries these, with backoff and jitter
    │   ├── SourceUnreachable      the host does not answer, refuses or drops the connection
    │   ├── SourceBusy             a lock, a connection limit or a restart stands in the way
    │   ├── SourceChanged          the source changed under the reader; a new attempt sees it whole
    │   └── StorageUnavailable     S3 throttles or fails, after boto3's own retries
    └── Permanent                  the same call fails again until somebody changes something
        ├── ConfigInvalid          a setting is wrong
        ├── SourceMissing          no such database, path or bucket
        ├── SourceDenied           wrong password, missing privilege, unreadable file
        ├── SourceUnsupported      a server, feature or file Stepvault cannot back up faithfully
        ├── SourceCorrupt          the source itself is damaged
        ├── ShortRead              a stream ended before the source said it was done
        ├── OutOfTime              the function's time ran out; nothing half-written is left
        ├── ScratchFull            the folder for temporary files has no space left
        ├── VaultMissing           the vault bucket does not exist
        ├── VaultDenied            the vault bucket refuses the call
        ├── RunNotFound            no sealed backup under that source and run id
        ├── BackupTampered         a stored object does not match its manifest
        ├── TargetMissing          the place to restore to does not exist
        ├── TargetNotEmpty         the place to restore to already holds data
        ├── TargetUnsupported      the place to restore to cannot take what the backup holds
        ├── RestoreIncomplete      all was put back but what the report names
        └── SourcesFailed          a run ended with at least one source not backed up

The class name reaches Step Functions as the error's name, so ``Retry`` and the console
show it; the names of the transient ones stand in the state machine and a test compares them.
"""

from collections.abc import Sequence


class StepvaultError(Exception):
    """An error with a next step.

    Args:
        message: what is wrong, naming the thing and its value; no secrets, no final full stop.
        fix: what the reader can do about it, as a sentence without its full stop.
    """

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message, fix)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        fix = self.fix[:1].upper() + self.fix[1:]
        if not fix:
            return self.message
        return f"{self.message}\n{fix}." if "\n" in self.message else f"{self.message}. {fix}."


def listed(what: str, reasons: Sequence[str]) -> str:
    """Return a message with its reasons: one on the same line, several on lines of their own."""
    if len(reasons) == 1:
        return f"{what}: {reasons[0]}"
    return "\n  ".join([f"{what}:", *reasons])


class Transient(StepvaultError):
    """The same call may succeed later."""


class Permanent(StepvaultError):
    """The same call will fail again until something is changed."""


class SourceUnreachable(Transient):
    """The source's host does not answer, refuses or drops the connection."""


class SourceBusy(Transient):
    """A lock, a connection limit or a restart stands in the way."""


class SourceChanged(Transient):
    """The source changed under the reader in a way that a new attempt gets round."""


class StorageUnavailable(Transient):
    """S3 throttles or fails, after boto3's own retries."""


class ConfigInvalid(Permanent):
    """A setting is wrong; the message names its path, its value and the fix."""


class SourceMissing(Permanent):
    """No such database, path or bucket."""


class SourceDenied(Permanent):
    """Wrong password, missing privilege or unreadable file."""


class SourceUnsupported(Permanent):
    """A server, a feature or a file that cannot be backed up faithfully."""


class SourceCorrupt(Permanent):
    """The source itself is damaged."""


class ShortRead(Permanent):
    """A stream ended before its source said it was done."""


class OutOfTime(Permanent):
    """The function's time ran out before the work was done."""


class ScratchFull(Permanent):
    """The folder for temporary files has no space left."""


class VaultMissing(Permanent):
    """The vault bucket does not exist."""


class VaultDenied(Permanent):
    """The vault bucket refuses the call."""


class RunNotFound(Permanent):
    """No sealed backup under that source and run id."""


class BackupTampered(Permanent):
    """A stored object is missing or does not match its manifest."""


class TargetMissing(Permanent):
    """The place to restore to does not exist."""


class TargetNotEmpty(Permanent):
    """The place to restore to already holds data."""


class TargetUnsupported(Permanent):
    """The place to restore to cannot take all that the backup holds; nothing was written."""


class RestoreIncomplete(Permanent):
    """A restore that kept going has put back all but what its report names."""


class SourcesFailed(Permanent):
    """A run ended with at least one source not backed up."""
