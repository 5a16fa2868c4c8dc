"""Compare the definitions of a restored database with those of the backup, by their meaning.

pg_dump writes both. Text that is equal needs no second look. Text that differs may mean the same:
a server prints ``CHECK (state IN ('a', 'b'))`` in another way once it has read its own print back,
and each release prints some things in its own way. So the target's server prints both sides: the
backup's definitions are made once more in an empty database beside the target, which is dropped
afterwards.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from psycopg import Connection as Session
from psycopg import sql

from stepvault.engines.base import RestoreJob
from stepvault.engines.postgres import facts, programs, session, target, toc
from stepvault.errors import OutOfTime, StepvaultError, Transient

#: Kinds that no server prints in two ways, or that would act on their own.
_NOT_REPRINTED = {
    *(b"ACL", b"DEFAULT ACL", b"COMMENT", b"SECURITY LABEL", b"MATERIALIZED VIEW DATA"),
    *(b"EVENT TRIGGER", b"PUBLICATION", b"SUBSCRIPTION", b"USER MAPPING"),
}


@dataclass
class _Defined:
    """What pg_dump writes under one label; overloads of a name may share it."""

    definitions: list[bytes] = field(default_factory=list)
    owners: list[bytes] = field(default_factory=list)


def differences(
    job: RestoreJob, opened: Session, archive: toc.Toc, chosen: Sequence[toc.Entry]
) -> list[str]:
    """List where the target's definitions, owners and privileges differ from the backup's.

    Args:
        job: the restore.
        opened: a session in the target.
        archive: the backup's table of contents.
        chosen: the entries that were restored.
    """
    found, wanted = _defined(target.contents(job), job), _defined(chosen, job)
    both = sorted(wanted.keys() & found.keys())
    lines = [f"{label} is missing" for label in sorted(wanted.keys() - found.keys())]
    lines += [f"{label} is not in the backup" for label in sorted(found.keys() - wanted.keys())]
    if job.options.owner == "keep":
        lines += [
            f"{label} belongs to {_names(found[label].owners)}, not {_names(wanted[label].owners)}"
            for label in both
            if sorted(wanted[label].owners) != sorted(found[label].owners)
        ]
    unlike = [x for x in both if not _alike(wanted[x], found[x])]
    if not unlike:
        return lines
    note = ""
    try:
        reprinted = _defined(_reprinted(job, opened, archive, chosen), job)
        unlike = [x for x in unlike if not _alike(reprinted.get(x, wanted[x]), found[x])]
    except (Transient, OutOfTime):
        raise
    except StepvaultError as error:
        note = f", compared by its text alone: {error.message}"
    return lines + [f"{label} is defined otherwise{note}" for label in unlike]


def _defined(entries: Sequence[toc.Entry], job: RestoreJob) -> dict[str, _Defined]:
    """Sort definitions and owners by kind and name."""
    defined: dict[str, _Defined] = {}
    for entry in entries:
        if entry.needs_no_definitions or entry.of_database:
            continue
        if entry.kind == b"MATERIALIZED VIEW DATA":
            continue
        if job.options.owner != "keep" and entry.kind in (b"ACL", b"DEFAULT ACL"):
            continue
        one = defined.setdefault(entry.label, _Defined())
        one.definitions.append((entry.definition or b"") + b"\0" + (entry.access_method or b""))
        one.owners.append(entry.owner or b"")
    return defined


def _alike(one: _Defined, other: _Defined) -> bool:
    return sorted(one.definitions) == sorted(other.definitions)


def _names(owners: Sequence[bytes]) -> str:
    return ", ".join(sorted({o.decode(errors="replace") for o in owners}))


def _reprinted(
    job: RestoreJob, opened: Session, archive: toc.Toc, chosen: Sequence[toc.Entry]
) -> list[toc.Entry]:
    """Have the target's server print the backup's definitions.

    What cannot be made there is not among the result.

    Raises:
        StepvaultError: the server lets the user make no database.
    """
    # One name for one target: what a comparison that was killed has left is replaced by the next.
    number = hashlib.sha256((opened.info.dbname or "").encode()).hexdigest()[:12]
    options = {"database": f"stepvault_compare_{number}", "owner": "none"}
    beside = replace(
        job,
        options=job.options.model_copy(update=options),
        facts=[facts.of_source(opened, "", 0)],
    )
    target.drop(beside)
    target.create(beside)
    try:
        # Bounds of partitions are printed in the zone of the database.
        zone = sql.Literal(session.value(opened, "SHOW TimeZone"))
        with target.connect(beside) as made:
            name = sql.Identifier(target.name_of(beside))
            made.execute(sql.SQL("ALTER DATABASE {} SET TimeZone = {}").format(name, zone))
        _make(beside, archive, [e for e in chosen if e.kind not in _NOT_REPRINTED])
        return target.contents(beside)
    finally:
        target.drop(beside)


def _make(job: RestoreJob, archive: toc.Toc, entries: Sequence[toc.Entry]) -> None:
    """Make the entries that can be made, with stock pg_restore."""
    folder = job.scratch / "definitions"
    folder.mkdir()
    (folder / "toc.dat").write_bytes(toc.write(archive))
    ids = job.scratch / "definitions.ids"
    ids.write_text("".join(f"{e.dump_id};\n" for e in entries if e.section != toc.SECTION_DATA))
    dsn = programs.dsn(target.address(job), job.scratch, target.name_of(job))
    options = ["--no-owner", "--no-privileges", "--no-tablespaces", "--no-password"]
    arguments = ["pg_restore", *options, f"--use-list={ids}", "--dbname", dsn, str(folder)]
    try:
        programs.run(programs.Children(), target.address(job), arguments, job.remaining)
    except (Transient, OutOfTime):
        raise
    except StepvaultError:
        pass  # it goes on after an error, and ends with a code that tells of it
