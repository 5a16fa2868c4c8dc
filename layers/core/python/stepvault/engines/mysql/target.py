"""The target of a restore, and which parts of the backup go there."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from queue import SimpleQueue

from stepvault.engines.base import RestoreJob
from stepvault.engines.mysql import definitions, progress
from stepvault.engines.mysql.inventory import matches, tables
from stepvault.engines.mysql.session import Session, connect, quote, server_of
from stepvault.errors import ConfigInvalid, TargetMissing, TargetNotEmpty
from stepvault.records import StoredObject, Unrestored

#: Seconds to wait for a lock: the loads of one table may block each other for a while.
_LOCK_WAIT = 120


_ROUTINES = ("function", "procedure", "package", "package body")
#: What ``options.without`` may name: all of a kind, or one by KIND:NAME.
_PLURAL = {
    "views": ("view",),
    "triggers": ("trigger",),
    "routines": _ROUTINES,
    "events": ("event",),
}
_SINGULAR = {**{k: v[0] for k, v in _PLURAL.items()}, "tables": "table", "procedures": "procedure"}


@dataclass(frozen=True)
class Chosen:
    """The objects to be restored, and the databases they go to."""

    objects: list[StoredObject]
    databases: dict[str, str]
    """The original name of each database, and its name in the target."""
    without: Sequence[str] = ()
    """``options.without``."""
    fingerprint: str = ""
    """A digest of the backup: the same for every attempt to restore it, or a part of it."""

    def of(self, kind: str) -> list[StoredObject]:
        """Return the objects of one kind."""
        return [o for o in self.objects if o.facts["kind"] == kind]

    def target(self, stored: StoredObject) -> str:
        """Return the database that the object goes to."""
        return self.databases[stored.facts["database"]]

    @staticmethod
    def program(stored: StoredObject, label: str) -> tuple[str, str]:
        """Return kind and name of the trigger, routine or event with that label."""
        if stored.facts["kind"] == "triggers":
            return "trigger", label
        kind = "package body" if label.startswith("package body ") else label.partition(" ")[0]
        return kind, label.removeprefix(kind + " ")

    def left_out(self, kind: str, stored: StoredObject, name: str) -> str:
        """Return the value of ``without`` that leaves a thing out; empty if none does."""
        for value in self.without:
            what, colon, pattern = value.partition(":")
            if colon and what == kind and matches(stored.facts["database"], name, [pattern]):
                return value
            if not colon and kind in _PLURAL.get(what, ()):
                return value
        return ""

    def names(self, database: str, *kinds: str) -> set[str]:
        """Return the names of the objects of these kinds in an original database."""
        return {
            o.facts["name"]
            for o in self.objects
            if o.facts["database"] == database and o.facts["kind"] in kinds
        }


def choose(job: RestoreJob) -> Chosen:
    """Apply ``options.only`` and ``options.without``, and decide the names of the databases.

    What ``without`` leaves out is reported.

    Raises:
        ConfigInvalid: nothing matches, a kind is unknown, or one name is given for several databases.
    """
    only = job.options.only
    _check_kinds(job.options.without)
    known = [o for o in job.objects if "database" in o.facts]
    objects = [
        o
        for o in known
        if not only
        or o.facts["kind"] == "database"
        or (o.facts["kind"] != "post" and matches(o.facts["database"], o.facts["name"], only))
    ]
    if only:
        used = {o.facts["database"] for o in objects if o.facts["kind"] != "database"}
        if not used:
            raise ConfigInvalid(
                f"nothing in the backup matches {', '.join(only)}",
                "Name tables as table or database.table, with * and ? as wildcards",
            )
        objects = [o for o in objects if o.facts["database"] in used]
    originals = {d: None for f in job.facts for d in f.get("databases", ())}
    if objects and only:
        originals = dict.fromkeys(o.facts["database"] for o in objects)
    renamed = job.options.database
    if renamed is None and len(originals) == 1 and job.connection is not None:
        renamed = job.connection.database
    if renamed is not None and len(originals) > 1:
        raise ConfigInvalid(
            f"database {renamed}: the backup holds {', '.join(originals)}",
            "Leave the name out, or choose the tables of one database with only",
        )
    parts = sorted(f"{o.name} {o.raw_sha256}" for o in job.objects)
    fingerprint = sha256("\n".join(parts).encode()).hexdigest()[:32]
    databases = {d: renamed or d for d in originals}
    chosen = Chosen(objects, databases, job.options.without, fingerprint)
    return replace(chosen, objects=_without(job, chosen))


def _check_kinds(without: Sequence[str]) -> None:
    for value in without:
        kind, colon, name = value.partition(":")
        if not (kind in _SINGULAR.values() and name if colon else kind in {*_SINGULAR, "accounts"}):
            raise ConfigInvalid(
                f"without {value!r}: MySQL has no such kind",
                f"Write {', '.join(_SINGULAR)} or, for a single one, KIND:NAME such as view:monthly",
            )


def _without(job: RestoreJob, chosen: Chosen) -> list[StoredObject]:
    """Take out tables and views that are to be left out, with all that belongs to them."""
    gone: set[tuple[str, str]] = set()
    for stored in chosen.objects:
        kind, name = stored.facts["kind"], stored.facts["name"]
        labels = stored.facts.get("definitions", {}) if kind in {"post", "triggers"} else {}
        things = [chosen.program(stored, label) for label in labels] or [(kind, name)]
        for what, called in things:
            if option := chosen.left_out(what, stored, called):
                label = f"{chosen.target(stored)}.{called}"
                reason = f"left out by --without {option}"
                job.unrestored(Unrestored(kind=what, name=label, reason=reason, asked=True))
                if (what, called) == (kind, name):
                    gone.add((stored.facts["database"], name))
    return [
        o
        for o in chosen.objects
        if o.facts["kind"] in {"database", "post"}
        or (o.facts["database"], o.facts["name"]) not in gone
    ]


def check_target(
    job: RestoreJob, session: Session, chosen: Chosen, original: str, target: str
) -> None:
    """Refuse a target that holds data in the way; create the database if it does not exist."""
    schemata = session.rows("SELECT schema_name FROM information_schema.schemata")
    if (session.fold(target),) not in schemata:
        _create_database(job, session, chosen, original, target)
    present = {t.name: t for t in tables(session, target)}
    begun = progress.begun(session, target, chosen.fingerprint)  # by an attempt that failed
    created = {session.fold(n) for n in chosen.names(original, "table", "view", "sequence")}
    data = {session.fold(n) for n in chosen.names(original, "data")}
    for name in sorted(data - created):  # a backup without definitions
        if name not in present:
            raise TargetMissing(
                f"table {target}.{name} does not exist and the backup holds no definitions",
                "Create the tables first, or restore a backup made with schema = true",
            )
        holds_rows = session.one(f"SELECT 1 FROM {present[name].sql} LIMIT 1")
        if holds_rows and not (job.options.overwrite or begun):
            raise TargetNotEmpty(f"table {target}.{name} holds rows", "Empty it, or pass overwrite")
    if job.options.overwrite or begun:
        return
    in_the_way = sorted(
        created & set(present) if job.options.only else set(present) if created else ()
    )
    if in_the_way:
        named = ", ".join(in_the_way[:5]) + (" …" if len(in_the_way) > 5 else "")
        raise TargetNotEmpty(
            f"database {target} of {session.address} already holds {named}",
            "Name another database, or pass overwrite to replace what the backup holds",
        )


def _create_database(
    job: RestoreJob, session: Session, chosen: Chosen, original: str, target: str
) -> None:
    statement = f"CREATE DATABASE {quote(target)}"
    for stored in chosen.of("database"):
        if stored.facts["database"] == original:  # with the original's character set
            text = definitions.split(b"".join(job.read(stored)))[0]
            statement = text.replace(quote(original), quote(target), 1)
    session.run(statement)


def in_parallel[T, R](
    job: RestoreJob, items: Sequence[T], work: Callable[[Session, T], R]
) -> list[R]:
    """Do the work on every item, on several sessions; the first error stops all.

    Args:
        job: the restore, which says how many connections.
        items: what to work on.
        work: called with a session that nobody else uses meanwhile, and an item.
    """
    sessions: SimpleQueue[Session] = SimpleQueue()
    opened = [open_session(job) for _ in range(max(1, min(job.connections, len(items))))]
    for session in opened:
        sessions.put(session)

    def one(item: T) -> R:
        session = sessions.get()
        try:
            return work(session, item)
        finally:
            sessions.put(session)

    pool = ThreadPoolExecutor(len(opened))
    try:
        return list(pool.map(one, items))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for session in opened:
            session.close()


def open_session(job: RestoreJob) -> Session:
    """Connect to the target, with foreign keys unchecked."""
    session = connect(server_of(job.connection), target=True)
    session.run("SET SESSION foreign_key_checks=0")
    session.wait_for_locks(_LOCK_WAIT)
    return session


@contextmanager
def session_of(job: RestoreJob) -> Iterator[Session]:
    """Connect to the target while the block lasts."""
    session = open_session(job)
    try:
        yield session
    finally:
        session.close()
