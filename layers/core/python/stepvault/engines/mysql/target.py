"""The target of a restore, and which parts of the backup go there."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue

from stepvault.engines.base import RestoreJob
from stepvault.engines.mysql import definitions
from stepvault.engines.mysql.inventory import matches, tables
from stepvault.engines.mysql.session import Session, connect, literal, quote, server_of
from stepvault.errors import ConfigInvalid, TargetMissing, TargetNotEmpty
from stepvault.records import StoredObject

#: Seconds to wait for a lock: the loads of one table may block each other for a while.
_LOCK_WAIT = 120


@dataclass(frozen=True)
class Chosen:
    """The objects to be restored, and the databases they go to."""

    objects: list[StoredObject]
    databases: dict[str, str]
    """The original name of each database, and its name in the target."""

    def of(self, kind: str) -> list[StoredObject]:
        """Return the objects of one kind."""
        return [o for o in self.objects if o.facts["kind"] == kind]

    def target(self, stored: StoredObject) -> str:
        """Return the database that the object goes to."""
        return self.databases[stored.facts["database"]]

    def names(self, database: str, *kinds: str) -> set[str]:
        """Return the names of the objects of these kinds in an original database."""
        return {
            o.facts["name"]
            for o in self.objects
            if o.facts["database"] == database and o.facts["kind"] in kinds
        }


def choose(job: RestoreJob) -> Chosen:
    """Apply ``options.only``, and decide the names of the databases.

    Raises:
        ConfigInvalid: nothing matches, or one name is given for several databases.
    """
    only = job.options.only
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
    return Chosen(objects, {d: renamed or d for d in originals})


def check_target(
    job: RestoreJob, session: Session, chosen: Chosen, original: str, target: str
) -> None:
    """Refuse a target that holds data in the way; create the database if it does not exist."""
    known = session.one(
        f"SELECT 1 FROM information_schema.schemata WHERE schema_name = {literal(target)}"
    )
    if not known:
        _create_database(job, session, chosen, original, target)
    present = {t.name: t for t in tables(session, target)}
    created = chosen.names(original, "table", "view", "sequence")
    for name in sorted(chosen.names(original, "data") - created):  # a backup without definitions
        if name not in present:
            raise TargetMissing(
                f"table {target}.{name} does not exist and the backup holds no definitions",
                "Create the tables first, or restore a backup made with schema = true",
            )
        if session.one(f"SELECT 1 FROM {present[name].sql} LIMIT 1") and not job.options.overwrite:
            raise TargetNotEmpty(f"table {target}.{name} holds rows", "Empty it, or pass overwrite")
    if job.options.overwrite:
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
    session = connect(server_of(job.connection))
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
