"""What the errors of the driver and of the server mean to a backup or a restore.

Each number has a meaning for both directions, as the same error asks for different things: a column
that is missing in the source is a migration under way, in the target it is a definition that does
not fit. :data:`TABLE` names all errors that mean something else than "the server refuses this".
"""

import ssl
from dataclasses import dataclass
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
    TargetMissing,
    TargetUnsupported,
)


@dataclass(frozen=True)
class Meaning:
    """What errors become: the class and the advice, in a backup and in a restore."""

    numbers: tuple[int, ...]
    source: type[StepvaultError]
    source_fix: str
    target: type[StepvaultError]
    target_fix: str


_AWAY = "Check that the server runs and that host, port, security group and route let us in"
_LOGIN = "Check user, password and the host the user may come from"
_LEAVE_OUT = "Pass --keep-going to restore everything else and have this reported"
_FITS = f"Restore into a server of the source's kind and version. {_LEAVE_OUT}"

TABLE = (
    Meaning((1045, 1698, 1130, 1862, 1820, 3118, 4151), SourceDenied, _LOGIN, SourceDenied, _LOGIN),
    Meaning(
        (1044, 1142, 1143, 1227, 1370, 1419, 3530),
        SourceDenied,
        "Grant the user SELECT, SHOW VIEW, TRIGGER, EVENT and (for routines) SELECT ON mysql.proc or SHOW_ROUTINE",
        SourceDenied,
        "Grant the user ALL on the database, and pass --owner none unless it may create what others"
        " define; triggers and functions may need log_bin_trust_function_creators=1",
    ),
    Meaning(
        (1418,),
        SourceDenied,
        "",
        SourceDenied,
        "Set log_bin_trust_function_creators=1 on the target (in its parameter group on RDS) while restoring",
    ),
    Meaning(
        (1049,),
        SourceMissing,
        "Check the database's name",
        TargetMissing,
        "Check the database's name, or grant the user CREATE on it",
    ),
    Meaning(
        (2026,),
        SourceUnreachable,
        "Check the connection's tls and tls_ca against the server's certificate",
        SourceUnreachable,
        "Check the target's tls and tls_ca against the server's certificate",
    ),
    Meaning(
        (0, 2002, 2003, 2005, 2006, 2013, 2055, 1053, 1077, 1079, 1080, 1152, 1158, 1159, 1160, 1161, 1184,
         1189, 1190, 1317, 1835, 1927, 3169, 4031),
        SourceUnreachable, _AWAY, SourceUnreachable, _AWAY,
    ),
    Meaning(
        (1040, 1203, 1226, 1129, 3168),
        SourceBusy,
        "Wait, or allow the user more connections",
        SourceBusy,
        "Wait, or allow the user more connections, or restore with fewer connections",
    ),
    Meaning(
        (1205, 1213, 1637, 3058, 3572),
        SourceBusy,
        "Run the backup when the lock is free",
        SourceBusy,
        "Run the restore when nobody else uses the target",
    ),
    Meaning(
        (1969, 3024),
        SourceBusy,
        "Raise the server's limit on a statement's time for this user",
        SourceBusy,
        "Raise the target's limit on a statement's time for this user",
    ),
    Meaning(
        (1021, 1037, 1038, 1041, 1114),
        SourceBusy,
        "Free memory or disk space on the server",
        TargetUnsupported,
        "Give the target more memory or disk space, and restore again: what is loaded stays",
    ),
    Meaning(
        (1412, 1146, 1051, 1054, 1932),
        SourceChanged,
        "Try again when no migration is under way",
        TargetUnsupported,
        f"What this needs is not in the target: restore that first, or all of the backup. {_LEAVE_OUT}",
    ),
    Meaning(
        (1305, 1356, 1449),
        SourceUnsupported,
        "Repair or drop the object, or leave it out",
        TargetUnsupported,
        f"What this needs is not in the target: restore that first, or all of the backup. {_LEAVE_OUT}",
    ),
    Meaning(
        (1153, 1301, 1162, 1105, 1118),
        SourceUnsupported,
        "Raise max_allowed_packet on the server above the size of its largest row",
        TargetUnsupported,
        "Raise max_allowed_packet on the target above the size of the largest row",
    ),
    Meaning(
        (126, 127, 134, 144, 145, 1034, 1035, 1194, 1195, 1712, 1877),
        SourceCorrupt,
        "Run CHECK TABLE on the server",
        TargetUnsupported,
        "Run CHECK TABLE on the target",
    ),
    Meaning(
        (1115, 1273, 1253, 1286, 1112, 1235, 1478, 1064, 1193, 1231, 3674, 4078),
        SourceUnsupported,
        "",
        TargetUnsupported,
        _FITS,
    ),
    Meaning(
        (1173, 3750),
        SourceUnsupported,
        "",
        TargetUnsupported,
        "Switch off the target's rule that every table needs a primary key"
        f" (sql_require_primary_key, innodb_force_primary_key). {_LEAVE_OUT}",
    ),
    Meaning(
        (1290, 1792, 1836, 3100),
        SourceUnsupported,
        "",
        TargetUnsupported,
        "Restore into the server that takes writes, not a replica or a read-only one",
    ),
    Meaning(
        (1429, 1430, 1431, 1432, 1433, 1434, 1477),
        SourceUnsupported,
        "Leave the table out with exclude_tables: its rows are on a server that does not answer",
        TargetUnsupported,
        f"The table's rows are on a server that does not answer. {_LEAVE_OUT}",
    ),
)  # fmt: skip

_MEANING = {number: meaning for meaning in reversed(TABLE) for number in meaning.numbers}
_REFUSED = Meaning((), SourceUnsupported, "", TargetUnsupported, _LEAVE_OUT)


def number_and_text(error: Exception) -> tuple[int, str]:
    """Return the number and the message of an error of the driver or of the network."""
    if isinstance(getattr(error, "original_exception", error), ssl.SSLError):
        return 2026, str(error.args[-1])
    if isinstance(error, pymysql.Error) and len(error.args) >= 2:
        return int(error.args[0]), str(error.args[1])
    return 2013, str(error) or type(error).__name__


def meaning(number: int, target: bool) -> tuple[type[StepvaultError], str]:
    """Return the class and the advice that an error number stands for, in one direction."""
    known = _MEANING.get(number, _REFUSED)
    return (known.target, known.target_fix) if target else (known.source, known.source_fix)


def fail(number: int, text: str, address: str, what: str, target: bool = False) -> NoReturn:
    """Raise the error that a number stands for.

    Args:
        number: the server's or the driver's error number.
        text: its message.
        address: which server, for our message.
        what: the thing at hand, such as a table; may be empty.
        target: the server is restored to, not backed up.

    Raises:
        StepvaultError: always; an unknown number is a refusal, which is permanent.
    """
    kind, fix = meaning(number, target)
    about = f"{what}: " if what else ""
    raise kind(f"{about}{address} answered {number}: {text.strip().rstrip('.')}", fix) from None
