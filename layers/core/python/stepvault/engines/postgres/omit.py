"""Leave parts of a backup out of a restore: what the person names, what the target cannot take."""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from stepvault.engines.base import RestoreJob
from stepvault.engines.postgres.toc import Entry
from stepvault.errors import ConfigInvalid
from stepvault.records import Unrestored

#: What ``without`` may name beside ``tablespaces`` and ``extension:NAME``, and its entries.
_KINDS: dict[str, Callable[[Entry], bool]] = {
    "comments-on-extensions": lambda e: e.kind == b"COMMENT" and e.tag.startswith(b"EXTENSION "),
    "event-triggers": lambda e: e.kind == b"EVENT TRIGGER",
    "policies": lambda e: e.kind == b"POLICY",
    "publications": lambda e: e.kind == b"PUBLICATION",
    "security-labels": lambda e: e.kind == b"SECURITY LABEL",
    "subscriptions": lambda e: e.kind == b"SUBSCRIPTION",
    "user-mappings": lambda e: e.kind == b"USER MAPPING",
}
TABLESPACES = "tablespaces"
_EXTENSION = "extension:"
#: Entries that say something about another one: not reported when that one is left out.
_FOLLOWERS = {b"ACL", b"COMMENT", b"SECURITY LABEL"}
#: Kinds whose archive word is not what people call them.
_WORDS = {
    b"TABLE DATA": "rows",
    b"FK CONSTRAINT": "foreign key",
    b"BLOBS": "large objects",
    b"BLOB COMMENTS": "large objects",
}
_LONGEST_STATEMENT = 300
#: A statement with a role that lacks: the grantee at its end, or what it is about.
_GRANTEE = rb"(?:TO|FROM|FOR ROLE|AUTHORIZATION) (?:%b)(?= |;|$)"


@dataclass(frozen=True)
class Edits:
    """How the archive's entries are changed for the target."""

    roles: tuple[str, ...] = ()
    """Roles that the target lacks: nothing belongs to them, nothing is granted to them."""
    owners: tuple[str, ...] = ()
    """Roles to which the user may give nothing: nothing belongs to them."""
    tablespaces: tuple[str, ...] | None = ()
    """Tablespaces that are not named; None: no tablespace is."""

    def apply(self, entry: Entry) -> Entry:
        """Change an entry."""
        if entry.tablespace and (
            self.tablespaces is None or entry.tablespace.decode() in self.tablespaces
        ):
            entry = replace(entry, tablespace=b"")
        if entry.owner and entry.owner.decode(errors="replace") in (*self.roles, *self.owners):
            entry = replace(entry, owner=b"")
        if self.roles and entry.kind in (b"ACL", b"DEFAULT ACL"):
            kept = _without_roles(entry.definition or b"", self.roles)
            entry = replace(entry, definition=kept)
        return entry


def asked(job: RestoreJob, entries: Sequence[Entry]) -> list[Entry]:
    """Leave out what the options name, with all that needs it; each thing is reported.

    Raises:
        ConfigInvalid: there is no such kind.
    """
    for kind in job.options.without:
        if kind == TABLESPACES:
            for name in sorted({e.tablespace.decode() for e in entries if e.tablespace}):
                job.unrestored(
                    Unrestored(kind="tablespace", name=name, reason=f"without {kind}", asked=True)
                )
            continue
        roots = {e.dump_id for e in entries if _chooser(kind)(e)}
        entries = leave_out(
            job, entries, roots, f"without {kind}", needing=f"needs {kind}", asked=True
        )
    return list(entries)


def without(job: RestoreJob, entries: Sequence[Entry]) -> list[Entry]:
    """Leave out what the options name, as ``asked`` does, without a report."""
    return asked(replace(job, unrestored=lambda _: None), entries)


def leave_out(
    job: RestoreJob,
    entries: Sequence[Entry],
    roots: Collection[int],
    reason: str,
    *,
    needing: str | None = None,
    asked: bool = False,
) -> list[Entry]:
    """Leave out these entries, their comments and privileges, and report them.

    Args:
        job: the restore.
        entries: all entries, in the archive's order.
        roots: ids of those to leave out.
        reason: why, for the report.
        needing: why what depends on them goes too; None: that is tried all the same.
        asked: whether the person asked for it.
    """
    gone = set(roots)
    growing = bool(gone)
    while growing:
        more = {
            e.dump_id
            for e in entries
            if e.dump_id not in gone
            and gone.intersection(e.dependencies)
            and (needing is not None or e.kind in _FOLLOWERS)
        }
        gone |= more
        growing = bool(more)
    for entry in entries:
        if entry.dump_id in roots:
            job.unrestored(unrestored(entry, reason, asked=asked))
        elif entry.dump_id in gone and entry.kind not in _FOLLOWERS:
            job.unrestored(unrestored(entry, needing or reason, asked=asked))
    return [e for e in entries if e.dump_id not in gone]


def unrestored(
    entry: Entry, reason: str, statement: str = "", *, asked: bool = False
) -> Unrestored:
    """Describe an entry that is not restored."""
    where = f"{entry.namespace.decode(errors='replace')}." if entry.namespace else ""
    kind = _WORDS.get(entry.kind, entry.kind.decode().lower())
    name = where + entry.tag.decode(errors="replace")
    shown = statement[:_LONGEST_STATEMENT]
    return Unrestored(kind=kind, name=name, reason=reason, statement=shown, asked=asked)


def option(kind: str, name: str = "") -> str:
    """Name the value of ``without`` that leaves out things of that kind."""
    return f"{_EXTENSION}{name}" if kind == "extension" else kind


def _chooser(kind: str) -> Callable[[Entry], bool]:
    if kind.startswith(_EXTENSION):
        name = kind.removeprefix(_EXTENSION).encode()
        return lambda e: e.kind == b"EXTENSION" and e.tag == name
    if kind not in _KINDS:
        known = ", ".join([*_KINDS, TABLESPACES, f"{_EXTENSION}NAME"])
        raise ConfigInvalid(f"a PostgreSQL restore cannot go without {kind!r}", f"Name {known}")
    return _KINDS[kind]


def _without_roles(definition: bytes, roles: Iterable[str]) -> bytes:
    """Drop the statements that name one of these roles."""
    names = b"|".join(
        re.escape(form)
        for role in roles
        for form in (role.encode(), b'"' + role.replace('"', '""').encode() + b'"')
    )
    about = re.compile(_GRANTEE % names)
    lines = definition.splitlines(keepends=True)
    return b"".join(line for line in lines if not about.search(line))
