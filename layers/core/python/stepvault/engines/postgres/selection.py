"""Choose the entries of an archive that a restore takes, and find the roles that they need."""

import re
from collections.abc import Sequence
from dataclasses import replace

from stepvault.engines.postgres import tables
from stepvault.engines.postgres.toc import SECTION_PRE_DATA, SETTINGS, Entry, Toc
from stepvault.errors import ConfigInvalid

#: What belongs to a table and comes with it.
_COMPANIONS = {
    b"ACL",
    b"COMMENT",
    b"DEFAULT",
    b"SECURITY LABEL",
    b"SEQUENCE",
    b"SEQUENCE OWNED BY",
    b"TABLE ATTACH",
}
#: Made even where something of that name exists: the server's error then tells the person.
_OF_TABLES = _COMPANIONS | {b"TABLE"} | SETTINGS
_FOLLOWERS = {b"ACL", b"COMMENT", b"SECURITY LABEL", b"SEQUENCE SET"}
_GRANTEE = re.compile(rb'\bTO ("(?:[^"]|"")+"|[^\s";]+)(?: WITH GRANT OPTION)?;')


def choose(archive: Toc, only: Sequence[str]) -> list[Entry]:
    """Choose the entries to restore, in the archive's order: all, or some tables and what they need.

    Raises:
        ConfigInvalid: a pattern fits no table of the backup, or one whose rows need another.
    """
    entries = [e for e in archive.entries if not e.of_database]  # the target is one already
    if not only:
        return entries
    parents = _parents(entries)
    chosen = _tables(entries, only, parents)
    # Rows come after those of extensions' tables, and are as well without them.
    rows = {e.dump_id for e in entries if e.kind == b"TABLE DATA"}
    known = {e.dump_id: _alone(e, parents, chosen) for e in entries}
    for dump_id in rows & known.keys():
        entry = known[dump_id]
        others = [d for d in entry.dependencies if d not in rows]
        known[dump_id] = replace(entry, dependencies=others)
    unchosen = {e.dump_id for e in entries if e.kind == b"TABLE"} - chosen
    _require_dependencies(entries, chosen, unchosen, known)
    kept = {e.dump_id for e in entries if e.kind in SETTINGS} | chosen
    for dump_id in chosen:
        kept |= _needed(dump_id, known)
    growing = True
    while growing:
        growing = False
        for entry in entries:
            if entry.dump_id in kept or not kept.intersection(known[entry.dump_id].dependencies):
                continue
            if entry.section == SECTION_PRE_DATA and entry.kind not in _COMPANIONS:
                continue
            if entry.section != SECTION_PRE_DATA and not _about(entry, chosen, kept, known):
                continue
            needed = _needed(entry.dump_id, known)
            if not needed & unchosen:
                kept |= needed
                growing = True
    return [e for e in entries if e.dump_id in kept]


def missing_from(entries: Sequence[Entry], there: Sequence[Entry]) -> list[Entry]:
    """Drop from the chosen entries what the target has already.

    Those are schemas, types, functions and shared sequences, with their comments and privileges.
    Tables are always made.
    """
    existing = {(e.kind, e.namespace, e.tag) for e in there}
    owned = {d for e in entries if e.kind == b"SEQUENCE OWNED BY" for d in e.dependencies}
    skipped: set[int] = set()
    kept = []
    for entry in entries:
        shared = entry.section == SECTION_PRE_DATA and entry.kind not in _OF_TABLES
        if entry.kind == b"SEQUENCE":
            shared = entry.dump_id not in owned
        if (shared and (entry.kind, entry.namespace, entry.tag) in existing) or (
            entry.kind in _FOLLOWERS and skipped.intersection(entry.dependencies)
        ):
            skipped.add(entry.dump_id)
        else:
            kept.append(entry)
    return kept


def roles(entries: Sequence[Entry]) -> list[str]:
    """List the owners and grantees that must exist where these entries are restored."""
    names = {e.owner.decode(errors="replace") for e in entries if e.owner}
    for entry in entries:
        if entry.kind in (b"ACL", b"DEFAULT ACL"):
            for match in _GRANTEE.finditer(entry.definition or b""):
                name = match[1].decode(errors="replace")
                names.add(name[1:-1].replace('""', '"') if name.startswith('"') else name)
    return sorted(names - {"PUBLIC"})


def _alone(entry: Entry, parents: dict[int, int], chosen: set[int]) -> Entry:
    """Make a partition that is chosen without its parent a table like any other."""
    parent = parents.get(entry.dump_id)
    if parent is None or parent in chosen:
        return entry
    return replace(entry, dependencies=[d for d in entry.dependencies if d != parent])


def _require_dependencies(
    entries: Sequence[Entry], chosen: set[int], unchosen: set[int], known: dict[int, Entry]
) -> None:
    """Raise ConfigInvalid if a chosen table or its rows cannot be without another table."""
    for entry in entries:
        needed = set(entry.dependencies)
        if entry.kind == b"TABLE DATA" and needed & chosen and needed & unchosen:
            root = _label(known[min(needed & unchosen)])
            raise ConfigInvalid(
                f"rows of {_label(entry)} can be loaded through {root} alone, which sorts them by "
                "the hash of an enum",
                f"Name {root}: its partitions come with it",
            )
    for dump_id in sorted(chosen):
        if missing := _needed(dump_id, known) & unchosen:
            other = _label(known[min(missing)])
            raise ConfigInvalid(
                f"table {_label(known[dump_id])} cannot be made without {other}", "Name both"
            )


def _tables(entries: Sequence[Entry], only: Sequence[str], parents: dict[int, int]) -> set[int]:
    chosen: set[int] = set()
    for pattern in only:
        fitting = {
            e.dump_id
            for e in entries
            if e.kind == b"TABLE" and tables.matches(_label(e), [pattern])
        }
        if not fitting:
            raise ConfigInvalid(
                f"no table of the backup fits {pattern!r}",
                "Write schema.table, with * and ? as wildcards",
            )
        chosen |= fitting
    growing = True
    while growing:  # a partitioned table's rows are those of its partitions, and theirs
        more = {child for child, parent in parents.items() if parent in chosen}
        growing = not more <= chosen
        chosen |= more
    return chosen


def _parents(entries: Sequence[Entry]) -> dict[int, int]:
    """Map each partition to the table that it is attached to."""
    names = {e.dump_id: (e.namespace, e.tag) for e in entries if e.kind == b"TABLE"}
    parents: dict[int, int] = {}
    for entry in entries:
        if entry.kind == b"TABLE ATTACH":  # named after the partition
            involved = set(entry.dependencies) & names.keys()
            own = {d for d in involved if names[d] == (entry.namespace, entry.tag)}
            parents |= {child: parent for child in own for parent in involved - own}
    return parents


def _label(entry: Entry) -> str:
    return ((entry.namespace or b"") + b"." + entry.tag).decode(errors="replace")


def _needed(dump_id: int, known: dict[int, Entry]) -> set[int]:
    """Collect the entry and all that it depends on."""
    needed: set[int] = set()
    pending = [dump_id]
    while pending:
        current = pending.pop()
        if current in known and current not in needed:
            needed.add(current)
            pending += known[current].dependencies
    return needed


def _about(entry: Entry, chosen: set[int], kept: set[int], known: dict[int, Entry]) -> bool:
    """Tell whether an entry of data or post-data concerns a chosen table or something kept with it."""
    return any(
        d in chosen or (d in kept and known[d].kind not in (b"SCHEMA", b"FUNCTION", b"TYPE"))
        for d in entry.dependencies
    )
