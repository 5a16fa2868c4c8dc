"""What the user may see. The server hides what it may not, so a backup would lack it in silence."""

import re
from contextlib import suppress

from stepvault.engines.mysql.connection import Session, quote
from stepvault.errors import SourceDenied, StepvaultError

_GRANT = re.compile(r"GRANT (?P<what>.+?) ON (?P<where>\S+\.\*) TO ")
_ROLE = re.compile(r"GRANT (?P<role>`[^`]*`@`[^`]*`) TO ")


def check(session: Session, database: str, needed: set[str]) -> None:
    """Refuse when the grants do not show these privileges on the whole database.

    Args:
        needed: such as SELECT or TRIGGER.

    Raises:
        SourceDenied: names what is missing and the GRANT that gives it.
    """
    missing = sorted(needed - granted(session, database))
    if missing:
        user = session.one("SELECT CURRENT_USER()")[0]
        name, _, host = str(user).rpartition("@")
        raise SourceDenied(
            f"user {user} of {session.address} lacks {', '.join(missing)} on database {database}: "
            "what the server hides from it would be missing from the backup",
            f"GRANT {', '.join(missing)} ON {quote(database)}.* TO '{name}'@'{host}'",
        )


def granted(session: Session, database: str) -> set[str]:
    """Privileges on the whole database: granted on it or everywhere, directly or by a role."""
    lines = [str(row[0]) for row in session.rows("SHOW GRANTS")]
    roles = [m["role"] for line in lines if (m := _ROLE.match(line))]
    if roles and not session.mariadb:  # MariaDB lists the current role's grants by itself
        lines += [
            str(r[0])
            for r in session.rows(f"SHOW GRANTS FOR CURRENT_USER() USING {','.join(roles)}")
        ]
    found: set[str] = set()
    for line in lines:
        grant = _GRANT.match(line)
        if grant and _covers(grant["where"], database):
            found |= {p.strip() for p in grant["what"].split(",")}
    everything = {"SELECT", "SHOW VIEW", "TRIGGER", "EVENT", "SHOW_ROUTINE", "SHOW CREATE ROUTINE"}
    return found | everything if "ALL PRIVILEGES" in found else found


def _covers(where: str, database: str) -> bool:
    if where == "*.*":
        return True
    pattern = where.removesuffix(".*").strip("`").replace("``", "`")
    # LIKE's wildcards, escaped by a backslash where they stand for themselves.
    parts = re.findall(r"\\.|.", pattern, re.DOTALL)
    like = (
        re.escape(p[1]) if len(p) == 2 else ".*" if p == "%" else "." if p == "_" else re.escape(p)
        for p in parts
    )
    return re.fullmatch("".join(like), database, re.DOTALL) is not None


def sees_routines(session: Session, database: str) -> bool:
    """Whether all functions and procedures show, with their bodies."""
    with suppress(StepvaultError):
        session.run("SELECT 1 FROM mysql.proc LIMIT 0")  # MariaDB, MySQL 5.7
        return True
    # https://dev.mysql.com/doc/refman/8.4/en/show-create-procedure.html
    # https://mariadb.com/kb/en/grant/#show-create-routine
    has = granted(session, database)
    if has & {"SHOW CREATE ROUTINE", "SHOW_ROUTINE"}:
        return True
    return not session.mariadb and "SELECT" in granted(
        session, "\0 no database: global grants only"
    )
