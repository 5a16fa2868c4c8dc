"""Users, roles and grants of a server as a script."""

import re

from stepvault.engines.mysql.definitions import NAME
from stepvault.engines.mysql.session import Session, literal, quote
from stepvault.errors import SourceUnsupported

_HEAD = """\
-- Users, roles and grants of {address}.
-- Run it after the databases have been restored, as grants on tables need the tables:
--   zstd -dc accounts.grants.zst | mysql --force
"""
_LOCKED = """\
-- Password hashes are left out, so accounts that have one are created locked. Unlock each with
--   ALTER USER name@host IDENTIFIED BY 'new password' ACCOUNT UNLOCK;
"""
#: Accounts that the servers create for themselves, and Amazon's own.
_SYSTEM = {
    "mysql.sys",
    "mysql.session",
    "mysql.infoschema",
    "mariadb.sys",
    "rdsadmin",
    "rdsrepladmin",
}
_DEFAULT_ROLE = re.compile(rf" DEFAULT ROLE (?P<roles>{NAME}@{NAME}(?:,{NAME}@{NAME})*)")
_HASH = re.compile(r" (?:AS|USING) (?:0x\w+|'(?:[^'\\]|\\.|'')*')| IDENTIFIED BY PASSWORD '[^']*'")
#: How MariaDB repeats the login in a grant.
_LOGIN = re.compile(r" IDENTIFIED (?:BY PASSWORD '[^']*'|VIA .*?)(?= REQUIRE | WITH |$)")


def script(session: Session, passwords: bool) -> str:
    """Return the script that creates the accounts of a server and grants what they may do.

    Args:
        session: a user that may read the system's tables.
        passwords: whether to keep the hashes of passwords; accounts are created locked without.

    Raises:
        SourceDenied: the user may not read them.
    """
    roles: list[str] = []
    users: list[tuple[str, str]] = []
    if session.mariadb:
        for user, host, is_role in session.rows(
            "SELECT user, host, is_role FROM mysql.user ORDER BY 1, 2"
        ):
            if is_role == "Y":
                roles.append(user)
            elif user not in _SYSTEM:
                users.append((user, host))
    else:
        session.run("SET SESSION print_identified_with_as_hex=1")  # hashes hold any byte
        rows = session.rows("SELECT user, host FROM mysql.user ORDER BY 1, 2")
        users = [(user, host) for user, host in rows if user not in _SYSTEM]
    create = [f"CREATE ROLE IF NOT EXISTS {quote(role)}" for role in roles]
    grant: list[str] = []
    last: list[str] = []
    for user, host in users:
        who = f"{literal(user)}@{literal(host)}"
        try:
            statement = str(session.one(f"SHOW CREATE USER {who}")[0])
        except SourceUnsupported as error:  # as for host names with skip_name_resolve
            create.append(f"-- {who} is left out: {error.message}")
            continue
        if default := _DEFAULT_ROLE.search(statement):
            statement = _DEFAULT_ROLE.sub("", statement, count=1)
            last.append(f"ALTER USER {who} DEFAULT ROLE {default['roles']}")
        create.append(_created(statement, passwords))
        grant += _grants(session, who)
    for role in roles:
        grant += _grants(session, quote(role))
    # A default role can be set once the role has been granted.
    lines = [*create, *sorted(grant, key=lambda g: g.startswith("SET DEFAULT ROLE")), *last]
    head = _HEAD.format(address=session.address) + ("" if passwords else _LOCKED)
    return head + "".join(f"{line};\n" for line in lines)


def _grants(session: Session, who: str) -> list[str]:
    lines = [str(row[0]) for row in session.rows(f"SHOW GRANTS FOR {who}")]
    return [
        _LOGIN.sub("", line) if session.mariadb else line
        for line in lines
        if not line.startswith("GRANT USAGE ON *.*")
    ]


def _created(statement: str, passwords: bool) -> str:
    """Return the CREATE USER for a server that may have the user already."""
    statement = statement.replace("CREATE USER ", "CREATE USER IF NOT EXISTS ", 1)
    if passwords or not _HASH.search(statement):
        return statement
    statement = _HASH.sub("", statement).replace(" ACCOUNT UNLOCK", "")
    return statement if " ACCOUNT LOCK" in statement else f"{statement} ACCOUNT LOCK"
