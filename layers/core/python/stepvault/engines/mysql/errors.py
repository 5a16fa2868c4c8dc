"""What the errors of the driver and of the server mean to a backup or a restore."""

import ssl
from typing import NoReturn

import pymysql

from stepvault.errors import (
    SourceBusy,
    SourceChanged,
    SourceCorrupt,
    SourceDenied,
    SourceMissing,
    SourceUnreachable,
    SourceUnsupported,
    StepvaultError,
)

_PACKET = "Raise max_allowed_packet on the server above the size of its largest row"
_GRANT = "Grant the user SELECT, SHOW VIEW, TRIGGER, EVENT and (for routines) SELECT ON mysql.proc or SHOW_ROUTINE"

#: Error numbers of the server and of the driver, by the error and the advice they become.
_MEANING: dict[int, tuple[type[StepvaultError], str]] = {
    number: (kind, fix)
    for numbers, kind, fix in (
        ((1045, 1698, 1130), SourceDenied, "Check user, password and the host the user may come from"),
        ((1044, 1142, 1143, 1227, 1370, 1419), SourceDenied, _GRANT),
        ((1049,), SourceMissing, "Check the database's name"),
        ((2026,), SourceUnreachable, "Check the connection's tls and tls_ca against the server's certificate"),
        (
            (0, 2002, 2003, 2005, 2006, 2013, 2055, 1053, 1077, 1079, 1080, 1927, 1317, 1152, 1158, 1159, 1160, 1161),
            SourceUnreachable,
            "Check that the server runs and that host, port, security group and route let us in",
        ),
        ((1040, 1203, 1226, 1129), SourceBusy, "Wait, or allow the user more connections"),
        ((1205, 1213, 3572), SourceBusy, "Run the backup when the lock is free"),
        ((1969, 3024), SourceBusy, "Raise the server's limit on a statement's time for this user"),
        ((1412, 1146, 1051, 1054, 1932), SourceChanged, "Try again when no migration is under way"),
        ((1153, 1301, 1162, 1105), SourceUnsupported, _PACKET),
        ((126, 127, 134, 144, 145, 1034, 1035, 1194, 1195, 1712), SourceCorrupt, "Run CHECK TABLE on the server"),
    )
    for number in numbers
}  # fmt: skip


def number_and_text(error: Exception) -> tuple[int, str]:
    """Return the number and the message of an error of the driver or of the network."""
    if isinstance(getattr(error, "original_exception", error), ssl.SSLError):
        return 2026, str(error.args[-1])
    if isinstance(error, pymysql.Error) and len(error.args) >= 2:
        return int(error.args[0]), str(error.args[1])
    return 2013, str(error) or type(error).__name__


def fail(number: int, text: str, address: str, what: str) -> NoReturn:
    """Raise the error that a number stands for.

    Args:
        number: the server's or the driver's error number.
        text: its message.
        address: which server, for our message.
        what: the thing at hand, such as a table; may be empty.

    Raises:
        StepvaultError: always; an unknown number becomes SourceUnsupported.
    """
    kind, fix = _MEANING.get(number, (SourceUnsupported, ""))
    about = f"{what}: " if what else ""
    raise kind(f"{about}{address} answered {number}: {text.strip().rstrip('.')}", fix) from None
