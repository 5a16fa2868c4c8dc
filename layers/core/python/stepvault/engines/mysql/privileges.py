"""Check that the user may see everything: the server hides the rest without a word."""

import re
from collections.abc import Iterable
from contextlib import suppress

from stepvault.engines.mysql.inventory import Table
from stepvault.engines.mysql.session import Session, quote
from stepvault.errors import SourceDenied, StepvaultError

_NAME = r"`(?:[^`]|``)*`"
_LINE = re.compile(
    rf"(?P<verb>GRANT|REVOKE) (?P<what>.+?) ON (?P<database>\*|{_NAME})\.(?P<table>\*|{_NAME})"
    r" (?:TO|FROM) (?P<who>\S+)"
)
#: The privileges within ALL PRIVILEGES that matter here.
_ALL = {"SELECT", "SHOW VIEW", "TRIGGER", "EVENT", "SHOW_ROUTINE", "SHOW CREATE ROUTINE"}
_EVERYWHERE = "*"


def check(session: Session, database: str, needed: set[str]) -> None:
    """Refuse to go on when the user lacks privileges on a whole database.

    Args:
        session: connected as the user.
        database: its name.
        needed: privileges such as SELECT or TRIGGER.

    Raises:
        SourceDenied: names what is missing and the GRANT that gives it.
    """
    missing = needed - _granted(_grants(session), database)
    _refuse(session, missing, f"database {database}", f"{quote(database)}.*")


def check_tables(session: Session, tables: Iterable[Table], needed: set[str]) -> None:
    """Refuse likewise for single tables, where a grant on the table is enough.

    Raises:
        SourceDenied: as above.
    """
    grants = _grants(session)
    for table in tables:
        missing = needed - _granted(grants, table.database, table.name)
        _refuse(session, missing, f"table {table.label}", table.sql)


def _refuse(session: Session, missing: set[str], label: str, where: str) -> None:
    if not missing:
        return
    what = ", ".join(sorted(missing))
    user = session.one("SELECT CURRENT_USER()")[0]
    name, _, host = str(user).rpartition("@")
    raise SourceDenied(
        f"user {user} of {session.address} lacks {what} on {label}: "
        "what the server hides from it would be missing from the backup",
        f"GRANT {what} ON {where} TO '{name}'@'{host}'",
    )


def _grants(session: Session) -> list[re.Match[str]]:
    """Read the grants to the user and to its active roles."""
    using = ""
    if not session.mariadb:  # MariaDB lists those of the current role by itself
        with suppress(StepvaultError):  # MySQL 5.7 has no roles
            role = str(session.one("SELECT CURRENT_ROLE()")[0])
            using = "" if role == "NONE" else f" FOR CURRENT_USER() USING {role}"
    lines = (str(row[0]) for row in session.rows(f"SHOW GRANTS{using}"))
    return [grant for line in lines if (grant := _LINE.match(line))]


def _granted(grants: Iterable[re.Match[str]], database: str, table: str = "") -> set[str]:
    """Return the privileges that hold on a whole database, or on one table of it.

    The server's rule: the global privileges, and for the user and for each role those of the one
    grant on databases whose pattern is closest (https://mariadb.com/kb/en/grant/#database-privileges).
    """
    everywhere: set[str] = set()
    revoked: set[str] = set()
    on_table: set[str] = set()
    closest: dict[str, tuple[float, set[str]]] = {}
    for grant in grants:
        what = {p.strip() for p in grant["what"].split(",")}
        what |= _ALL if "ALL PRIVILEGES" in what else set()
        on, of = _unquoted(grant["database"]), _unquoted(grant["table"])
        if grant["verb"] == "REVOKE":  # MySQL's partial_revokes
            revoked |= what if on == database else set()
        elif grant["database"] == _EVERYWHERE:
            everywhere |= what
        elif grant["table"] != _EVERYWHERE:
            on_table |= what if table and (on, of) == (database, table) else set()
        elif _covers(on, database):
            fits = _closeness(on)
            best, _ = closest.get(grant["who"], (-1.0, set()))
            if fits > best:
                closest[grant["who"]] = (fits, what)
    return (everywhere - revoked) | on_table.union(*(what for _, what in closest.values()))


def _unquoted(name: str) -> str:
    return name[1:-1].replace("``", "`") if name.startswith("`") else name


def _parts(pattern: str) -> list[str]:
    """Split a LIKE pattern into its characters; an escaped one keeps its backslash."""
    return re.findall(r"\\.|.", pattern, re.DOTALL)


def _covers(pattern: str, database: str) -> bool:
    like = (
        re.escape(p[1]) if len(p) == 2 else ".*" if p == "%" else "." if p == "_" else re.escape(p)
        for p in _parts(pattern)
    )
    return re.fullmatch("".join(like), database, re.DOTALL) is not None


def _closeness(pattern: str) -> float:
    """Rank a pattern: infinite without wildcards, else the number of characters before the first."""
    parts = _parts(pattern)
    return next((n for n, part in enumerate(parts) if part in ("%", "_")), float("inf"))


#: A name that no grant on a database covers.
_NO_DATABASE = "\0 no database: global grants only"


def _globally(session: Session) -> set[str]:
    return _granted(_grants(session), _NO_DATABASE)


def may_log_functions(session: Session) -> bool:
    """Tell whether the user may create functions and triggers while the binary log is on."""
    return bool(_globally(session) & {"SUPER", "ALL PRIVILEGES", "BINLOG ADMIN"})


def may_set_definer(session: Session) -> bool:
    """Tell whether the user may create views and programs that others define."""
    special = {"SUPER", "ALL PRIVILEGES", "SET USER", "SET_USER_ID", "SET_ANY_DEFINER"}
    return bool(_globally(session) & special)


def sees_routines(session: Session, database: str) -> bool:
    """Tell whether the user may read the bodies of all functions and procedures."""
    with suppress(StepvaultError):
        session.run("SELECT 1 FROM mysql.proc LIMIT 0")  # MariaDB, MySQL 5.7
        return True
    # https://dev.mysql.com/doc/refman/8.4/en/show-create-procedure.html
    # https://mariadb.com/kb/en/grant/#show-create-routine
    grants = _grants(session)
    if _granted(grants, database) & {"SHOW CREATE ROUTINE", "SHOW_ROUTINE"}:
        return True
    return not session.mariadb and "SELECT" in _granted(grants, _NO_DATABASE)
