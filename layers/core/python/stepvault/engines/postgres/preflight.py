"""Look before a restore writes: what of the backup can this target not take?

Where the answer depends on what a server allows (each cloud allows something else), the statement
itself is tried in a transaction that is rolled back.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import Connection as Session
from psycopg import sql

from stepvault.engines.base import RestoreJob
from stepvault.engines.postgres import omit, selection, session, target
from stepvault.engines.postgres.toc import Entry
from stepvault.errors import TargetMissing, TargetUnsupported, listed
from stepvault.records import Unrestored

#: What no option goes without.
_HOPELESS = "privilege of"
_NAME = rb'(?:"(?:[^"]|"")+"|[^\s",;()]+)'
_IN_SCHEMA = re.compile(rb" WITH SCHEMA (%b)" % _NAME)
_PROVIDER = re.compile(rb"SECURITY LABEL FOR (%b) ON " % _NAME)
_POLICY_ROLES = re.compile(
    rb"CREATE POLICY %b ON %b\.%b(?: AS RESTRICTIVE)?(?: FOR [A-Z]+)? TO (%b(?:, %b)*)(?= USING| WITH CHECK|;)"
    % ((_NAME,) * 5)
)
_MAPPED_ROLE = re.compile(rb"CREATE USER MAPPING FOR (%b) SERVER " % _NAME)
#: Kinds whose definition is tried, and what ``without`` calls them.
_TRIED = {b"PUBLICATION": "publications", b"SUBSCRIPTION": "subscriptions"}
_TRY_EVENT_TRIGGER = (
    b"CREATE FUNCTION pg_temp.stepvault_try() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';"
    b"CREATE EVENT TRIGGER stepvault_try ON sql_drop EXECUTE FUNCTION pg_temp.stepvault_try()"
)


@dataclass(frozen=True)
class Obstacle:
    """Something that the target cannot take."""

    kind: str
    name: str
    reason: str
    go_without: str = ""
    """The value of ``without`` that leaves it out; empty: there is none."""
    entries: frozenset[int] = frozenset()
    """What is left out then."""
    harmless: bool = False
    """Nothing is lost without it: left out without asking."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.reason}"


def prepare(
    job: RestoreJob, opened: Session, entries: Sequence[Entry], facts: Mapping[str, Any]
) -> tuple[list[Entry], omit.Edits]:
    """Find what the target cannot take; go without it if the options say so.

    Args:
        job: the restore.
        opened: a session in the target.
        entries: what is to be restored.
        facts: what the receipt keeps of the source.

    Returns:
        What can be restored, and how the archive is changed for it.

    Raises:
        TargetUnsupported: listing all that is in the way.
        TargetMissing: roles are missing, and nothing else is in the way.
    """
    tablespaces = None if omit.TABLESPACES in job.options.without else ()
    found = [*_roles(job, opened, entries), *_owner(job, opened, entries)]
    if tablespaces is not None:
        found += _tablespaces(opened, entries)
    found += _trials(job, opened, entries, facts)
    for obstacle in found:
        if obstacle.harmless:
            entries = omit.leave_out(job, entries, obstacle.entries, obstacle.reason, asked=True)
    found = [o for o in found if not o.harmless]
    hopeless = any(o.kind == _HOPELESS for o in found)
    if found and (hopeless or not job.options.keep_going):
        raise _refusal(opened, found)
    for obstacle in found:
        if obstacle.entries:
            entries = omit.leave_out(job, entries, obstacle.entries, obstacle.reason)
        else:
            job.unrestored(
                Unrestored(kind=obstacle.kind, name=obstacle.name, reason=obstacle.reason)
            )
    missing = tuple(o.name for o in found if o.kind == "tablespace")
    edits = omit.Edits(
        roles=tuple(o.name for o in found if o.kind == "role"),
        owners=tuple(o.name for o in found if o.kind == "owner"),
        tablespaces=None if tablespaces is None else missing,
    )
    return list(entries), edits


def _refusal(opened: Session, found: Sequence[Obstacle]) -> TargetUnsupported | TargetMissing:
    """Say all that is in the way, and how to go without it."""
    if all(o.kind == "role" for o in found):
        return target.missing_roles([o.name for o in found])
    options = sorted({f"--without {o.go_without}" for o in found if o.go_without})
    if any(o.kind in ("role", "owner") for o in found):
        options.append("--owner none or NAME")
    ways = f"Restore with {', '.join(options)}; or with --keep-going, which restores all else and "
    ways += "lists what it could not"
    if any(o.kind == _HOPELESS for o in found):
        ways = "Give that role the privilege, or name another owner"
    return TargetUnsupported(
        listed(
            f"database {opened.info.dbname} cannot take all of the backup",
            [str(obstacle) for obstacle in found],
        ),
        ways,
    )


def _roles(job: RestoreJob, opened: Session, entries: Sequence[Entry]) -> Iterator[Obstacle]:
    """Find roles that the server lacks: owners and grantees; those of policies; mapped users."""
    known = {session.text(r[0]) for r in opened.execute("SELECT rolname FROM pg_catalog.pg_roles")}
    known |= {"public", "current_user", "session_user", "current_role"}
    owner = job.options.owner
    needed = selection.roles(entries) if owner == "keep" else [] if owner == "none" else [owner]
    for role in needed:
        if role not in known:
            yield Obstacle("role", role, "the server has no such role")
    if owner == "keep":
        yield from _owners(opened, entries)
    for kind, pattern, go_without in (
        (b"POLICY", _POLICY_ROLES, "policies"),
        (b"USER MAPPING", _MAPPED_ROLE, "user-mappings"),
    ):
        for entry in entries:
            match = pattern.match(entry.definition or b"") if entry.kind == kind else None
            names = re.findall(_NAME, match[1]) if match else ()
            missing = sorted({plain(n) for n in names} - known - {"PUBLIC"})
            if missing:
                yield _of(entry, f"the server has no role {', '.join(missing)}", go_without)


def _owners(opened: Session, entries: Sequence[Entry]) -> Iterator[Obstacle]:
    """Find owners to whom the user may give nothing."""
    privilege = "SET" if opened.info.server_version >= 160000 else "MEMBER"
    query = "SELECT rolname FROM pg_catalog.pg_roles WHERE NOT pg_catalog.pg_has_role(oid, %s)"
    others = {session.text(row[0]) for row in opened.execute(query, [privilege])}
    owners = {e.owner.decode(errors="replace") for e in entries if e.owner}
    for role in sorted(owners & others):
        user = opened.info.user
        yield Obstacle("owner", role, f"user {user} is not a member of that role")


def _owner(job: RestoreJob, opened: Session, entries: Sequence[Entry]) -> Iterator[Obstacle]:
    """Find what the role that is to own all may not do."""
    owner = job.options.owner
    if owner in ("keep", "none"):
        return
    row = opened.execute(
        "SELECT pg_catalog.pg_has_role(r.oid, 'MEMBER'),"
        " pg_catalog.has_database_privilege(r.oid, pg_catalog.current_database(), 'CREATE'),"
        " pg_catalog.has_schema_privilege(r.oid, n.nspname, 'CREATE')"
        " FROM pg_catalog.pg_roles r LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = 'public'"
        " WHERE r.rolname = %s",
        [owner],
    ).fetchone()
    if row is None:
        return  # reported as missing
    user = opened.info.user
    database = opened.info.dbname
    schemas = [plain(e.tag) for e in entries if e.kind == b"SCHEMA" and e.tag != b"public"]
    if not row[0]:
        yield Obstacle(_HOPELESS, owner, f"user {user} is not a member of that role")
    if not row[1] and schemas:
        yield Obstacle(_HOPELESS, owner, f"may not create schemas in database {database}")
    if row[2] is False and any(e.namespace == b"public" and e.kind == b"TABLE" for e in entries):
        yield Obstacle(_HOPELESS, owner, f"may not create in schema public of database {database}")


def _tablespaces(opened: Session, entries: Sequence[Entry]) -> Iterator[Obstacle]:
    """Find tablespaces that the server lacks, or in which we may not create."""
    query = (
        "SELECT spcname, pg_catalog.has_tablespace_privilege(oid, 'CREATE')"
        " FROM pg_catalog.pg_tablespace"
    )
    usable = {session.text(name): allowed for name, allowed in opened.execute(query)}
    for name in sorted({e.tablespace.decode() for e in entries if e.tablespace}):
        if not usable.get(name):
            reason = "the user may not create in it" if name in usable else "the server has none"
            yield Obstacle("tablespace", name, reason, omit.TABLESPACES)


def _trials(
    job: RestoreJob, opened: Session, entries: Sequence[Entry], facts: Mapping[str, Any]
) -> list[Obstacle]:
    """Try what servers allow or not, and take it back."""
    owner = job.options.owner
    with opened.transaction(force_rollback=True):
        found = [*_try_extensions(opened, entries, facts), *_try_labels(opened, entries)]
        triggers = [e for e in entries if e.kind == b"EVENT TRIGGER"]
        if triggers and (reason := _refused(opened, _TRY_EVENT_TRIGGER)):
            found += [_of(e, reason, "event-triggers") for e in triggers]
        if owner not in ("keep", "none"):
            role = b"SET LOCAL ROLE " + sql.Identifier(owner).as_bytes(opened)
            if _refused(opened, role):
                return found  # reported as missing, or as a role that the user is no member of
            opened.execute(role)
        for entry in entries:
            go_without = _TRIED.get(entry.kind)
            if go_without and (reason := _refused(opened, entry.definition or b"")):
                found.append(_of(entry, reason, go_without))
    return found


def _try_extensions(
    opened: Session, entries: Sequence[Entry], facts: Mapping[str, Any]
) -> list[Obstacle]:
    """Make the extensions that are missing, then their comments."""
    query = "SELECT extname FROM pg_catalog.pg_extension"
    there = {session.text(row[0]) for row in opened.execute(query)}
    versions = facts.get("extensions") or {}
    found: list[Obstacle] = []
    for entry in (e for e in entries if e.kind == b"EXTENSION"):
        name = entry.tag.decode(errors="replace")
        if name not in there and (reason := _refused(opened, *_extension(entry))):
            had = f" (the backup has version {versions[name]})" if name in versions else ""
            found.append(_of(entry, reason + had, omit.option("extension", name)))
    refused = {i for o in found for i in o.entries}
    for entry in entries:
        remark = entry.kind == b"COMMENT" and entry.tag.startswith(b"EXTENSION ")
        if not remark or refused.intersection(entry.dependencies):
            continue
        if reason := _refused(opened, entry.definition or b""):
            found.append(_of(entry, reason, "comments-on-extensions", harmless=True))
    return found


def _try_labels(opened: Session, entries: Sequence[Entry]) -> Iterator[Obstacle]:
    """Try whether the providers of security labels are loaded."""
    for entry in (e for e in entries if e.kind == b"SECURITY LABEL"):
        provider = _PROVIDER.match(entry.definition or b"")
        statement = b"SECURITY LABEL FOR %b ON SCHEMA pg_catalog IS NULL"
        reason = _refused(opened, statement % provider[1]) if provider else ""
        if "is not loaded" in reason:
            yield _of(entry, reason, "security-labels")


def _extension(entry: Entry) -> list[bytes]:
    """Write the statements that make an extension, with its schema."""
    definition = entry.definition or b""
    schema = _IN_SCHEMA.search(definition)
    made = [b"CREATE SCHEMA IF NOT EXISTS " + schema[1]] if schema else []
    return [*made, definition]


def _refused(opened: Session, *statements: bytes) -> str:
    """Try statements within the transaction; say why the server refuses them, or nothing.

    What succeeds stays until the transaction's end: an extension may need another one.
    """
    try:
        with opened.transaction():
            for statement in statements:
                opened.execute(statement)
    except psycopg.Error as error:
        if opened.closed:
            raise
        return error.diag.message_primary or str(error).splitlines()[0]
    return ""


def _of(entry: Entry, reason: str, go_without: str, *, harmless: bool = False) -> Obstacle:
    described = omit.unrestored(entry, reason)
    ids = frozenset((entry.dump_id,))
    return Obstacle(described.kind, described.name, reason, go_without, ids, harmless)


def plain(name: bytes) -> str:
    """Take the quotes off an identifier."""
    text = name.decode(errors="replace")
    return text[1:-1].replace('""', '"') if text.startswith('"') else text
