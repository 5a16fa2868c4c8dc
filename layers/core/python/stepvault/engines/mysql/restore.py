"""Putting back: tasks, what each does, and the proof that target and backup are equal.

A stored object becomes rows in one transaction, together with its name in a small table of
progress, and is committed when its last byte is proved: a task may be repeated at will.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from queue import SimpleQueue

from stepvault.engines.base import Counts, RestoreJob
from stepvault.engines.mysql import definitions
from stepvault.engines.mysql.connection import Session, connect, literal, quote, server_of
from stepvault.engines.mysql.inventory import Table, matches, tables
from stepvault.engines.mysql.rows import Sums, statements
from stepvault.errors import (
    BackupTampered,
    ConfigInvalid,
    OutOfTime,
    Permanent,
    SourceUnsupported,
    StepvaultError,
    TargetMissing,
    TargetNotEmpty,
)
from stepvault.models import RestoreTask, StoredObject

#: A data task takes about this many raw bytes.
_TASK_BYTES = 2 << 30
#: Names of objects whose rows are in; lives in the target while a restore is under way.
_PROGRESS = "stepvault_restore_progress"
_BEFORE = ("sequence", "table", "placeholder")
_AFTER = ("post", "triggers", "view")


@dataclass(frozen=True)
class _Chosen:
    """What of the backup is to be restored, and where to."""

    objects: list[StoredObject]
    databases: dict[str, str]
    """Original name to the target's."""

    def of(self, kind: str) -> list[StoredObject]:
        return [o for o in self.objects if o.facts["kind"] == kind]

    def target(self, stored: StoredObject) -> str:
        return self.databases[stored.facts["database"]]

    def names(self, database: str, *kinds: str) -> set[str]:
        """Of objects of these kinds in the original database."""
        return {
            o.facts["name"]
            for o in self.objects
            if o.facts["database"] == database and o.facts["kind"] in kinds
        }


def plan_restore(job: RestoreJob) -> list[RestoreTask]:
    chosen = _choose(job)
    with _session(job) as session:
        for original, target in chosen.databases.items():
            _check_target(job, session, chosen, original, target)
    definitions_first = [o.name for k in ("database", *_BEFORE) for o in chosen.of(k)]
    tasks = [RestoreTask(stage="before", id="schema", objects=definitions_first)]
    data = sorted(chosen.of("data"), key=lambda o: -o.raw_bytes)
    for number, group in enumerate(_groups(data)):
        tasks.append(RestoreTask(stage="data", id=f"data-{number:05d}", objects=group))
    last = [o.name for k in _AFTER for o in sorted(chosen.of(k), key=_order)]
    return [*tasks, RestoreTask(stage="after", id="programs", objects=last)]


def _order(stored: StoredObject) -> int:
    return int(stored.facts.get("order", 0))


def _groups(data: Sequence[StoredObject]) -> Iterator[list[str]]:
    group: list[str] = []
    size = 0
    for stored in data:
        if group and size + stored.raw_bytes > _TASK_BYTES:
            yield group
            group, size = [], 0
        group.append(stored.name)
        size += stored.raw_bytes
    if group:
        yield group


def _choose(job: RestoreJob) -> _Chosen:
    """Filter by ``options.only`` and settle the databases' names.

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
    return _Chosen(objects, {d: renamed or d for d in originals})


def _check_target(
    job: RestoreJob, session: Session, chosen: _Chosen, original: str, target: str
) -> None:
    """Refuse a target with data in the way; create a database that is not there."""
    known = session.one(
        f"SELECT 1 FROM information_schema.schemata WHERE schema_name = {literal(target)}"
    )
    if not known:
        _create_database(job, session, chosen, original, target)
    there = {t.name: t for t in tables(session, target)}
    made = chosen.names(original, "table", "view", "sequence")
    for name in sorted(chosen.names(original, "data") - made):  # a backup without definitions
        if name not in there:
            raise TargetMissing(
                f"table {target}.{name} does not exist and the backup holds no definitions",
                "Create the tables first, or restore a backup made with schema = true",
            )
        if session.one(f"SELECT 1 FROM {there[name].sql} LIMIT 1") and not job.options.overwrite:
            raise TargetNotEmpty(f"table {target}.{name} holds rows", "Empty it, or pass overwrite")
    if job.options.overwrite:
        return
    in_the_way = sorted(made & set(there) if job.options.only else set(there) if made else ())
    if in_the_way:
        named = ", ".join(in_the_way[:5]) + (" …" if len(in_the_way) > 5 else "")
        raise TargetNotEmpty(
            f"database {target} of {session.address} already holds {named}",
            "Name another database, or pass overwrite to replace what the backup holds",
        )


def _create_database(
    job: RestoreJob, session: Session, chosen: _Chosen, original: str, target: str
) -> None:
    statement = f"CREATE DATABASE {quote(target)}"
    for stored in chosen.of("database"):
        if stored.facts["database"] == original:  # with the original's character set
            text = definitions.split(b"".join(job.read(stored)))[0]
            statement = text.replace(quote(original), quote(target), 1)
    session.run(statement)


def restore(job: RestoreJob, task: RestoreTask) -> Counts:
    chosen = _choose(job)
    wanted = set(task.objects)
    objects = {o.name: o for o in chosen.objects if o.name in wanted}
    in_order = [objects[name] for name in task.objects]
    if task.stage == "data":
        return _load_all(job, chosen, in_order)
    with _session(job) as session:
        if task.stage == "before":
            _prepare(job, session, chosen, in_order)
        else:
            _finish(job, session, chosen, in_order)
    return Counts()


def _prepare(
    job: RestoreJob, session: Session, chosen: _Chosen, objects: list[StoredObject]
) -> None:
    """Sequences, tables and the views' placeholders, in place of what has their names."""
    session.run("SET SESSION foreign_key_checks=0")
    for original, target in chosen.databases.items():
        session.run(f"USE {quote(target)}")
        made = chosen.names(original, "table", "view", "sequence")
        for table in tables(session, target):
            if table.name in made or table.name == _PROGRESS:
                session.run(f"DROP {table.kind.upper()} {table.sql}")
        session.run(
            f"CREATE TABLE {_PROGRESS} (object VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin"
            " PRIMARY KEY) ENGINE=InnoDB"
        )
        if job.options.overwrite:
            for name in chosen.names(original, "data") - made:
                session.run(f"TRUNCATE TABLE {quote(name)}")
    for stored in objects:
        if stored.facts["kind"] != "database":
            _define(job, session, chosen, stored)


def _finish(
    job: RestoreJob, session: Session, chosen: _Chosen, objects: list[StoredObject]
) -> None:
    """Routines, events, triggers and views; then the traces of the restore go."""
    for stored in objects:
        with suppress(StepvaultError) if stored.facts.get("broken") else nullcontext():
            _define(job, session, chosen, stored)
    for target in chosen.databases.values():
        session.run(f"DROP TABLE IF EXISTS {quote(target)}.{_PROGRESS}")


def _define(job: RestoreJob, session: Session, chosen: _Chosen, stored: StoredObject) -> None:
    session.run(f"USE {quote(chosen.target(stored))}")
    for setting in definitions.SETTINGS:
        session.run(setting)
    content = b"".join(job.read(stored))  # whole and proved before the first statement runs
    for statement in definitions.split(content):
        owned = definitions.owned(statement, job.options.owner)
        session.run(owned.encode("utf-8", "surrogateescape"), stored.name)
    job.progress(stored.name, stored.raw_bytes)


def _load_all(job: RestoreJob, chosen: _Chosen, objects: list[StoredObject]) -> Counts:
    """Load objects over several connections."""

    def load(session: Session, stored: StoredObject) -> int:
        return _load(job, session, chosen.target(stored), stored)

    return Counts(rows=sum(_in_parallel(job, objects, load)))


def _in_parallel[T, R](
    job: RestoreJob, items: Sequence[T], work: Callable[[Session, T], R]
) -> list[R]:
    """Do the work on every item, each with a session of its own; the first error stops all."""
    sessions: SimpleQueue[Session] = SimpleQueue()
    opened = [_open(job) for _ in range(max(1, min(job.connections, len(items))))]
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


def _load(job: RestoreJob, session: Session, database: str, stored: StoredObject) -> int:
    """One object's rows, in one transaction; nothing if an earlier attempt put them there."""
    name, label = stored.facts["name"], f"{database}.{stored.facts['name']}"
    session.run(f"USE {quote(database)}")
    transactional = _transactional(session, database, name)
    session.run("START TRANSACTION")
    if session.one(f"SELECT 1 FROM {_PROGRESS} WHERE object = {literal(stored.name)}"):
        session.run("ROLLBACK")
        return stored.rows or 0
    if not transactional:  # its rows cannot be taken back, but all of them are in this object
        session.run(f"TRUNCATE TABLE {quote(name)}")
        session.run("START TRANSACTION")
    try:
        rows = _insert_all(job, session, stored, label)
        session.run(f"INSERT INTO {_PROGRESS} VALUES ({literal(stored.name)})")
        session.run("COMMIT")
    except BaseException:
        _undo(session, None if transactional else name)
        raise
    return rows


def _insert_all(job: RestoreJob, session: Session, stored: StoredObject, label: str) -> int:
    """Run an object's statements; returns the rows they made, as many as the backup counted."""
    chunks = iter(job.read(stored))
    try:
        return _run_all(job, session, stored, label, chunks)
    except Permanent:
        for _ in chunks:  # a damaged object makes bad SQL: read on, so that it says so by itself
            pass
        raise


def _run_all(
    job: RestoreJob, session: Session, stored: StoredObject, label: str, chunks: Iterator[bytes]
) -> int:
    limit = int(session.one("SELECT @@max_allowed_packet")[0])
    insert = f"INSERT INTO {quote(stored.facts['name'])} ".encode()
    rows = done = 0
    for statement in _statements(chunks, stored.name):
        if not statement.startswith(insert):
            if statement.decode("utf-8", "replace") not in definitions.SETTINGS:
                raise BackupTampered(f"{stored.name} holds a statement that no backup writes")
            session.run(statement)
            continue
        if len(statement) >= limit:
            raise SourceUnsupported(
                f"a row of {label} needs {len(statement):,} bytes, the target's max_allowed_packet is {limit:,}",
                "Raise max_allowed_packet on the target",
            )
        if job.remaining() <= 0:
            raise OutOfTime(
                f"time ran out in {stored.name} after {rows:,} of {stored.rows:,} rows",
                "Restore from a terminal or a container, or raise connections",
            )
        rows += session.run(statement, f"table {label}")
        done += len(statement)
        job.progress(stored.name, done)
    if rows != stored.rows:
        raise BackupTampered(f"{stored.name} gave {rows:,} rows instead of {stored.rows:,}")
    return rows


def _undo(session: Session, table: str | None) -> None:
    with suppress(StepvaultError):
        session.run("ROLLBACK")
        if table is not None:
            session.run(f"TRUNCATE TABLE {quote(table)}")


def _transactional(session: Session, database: str, name: str) -> bool:
    said = session.one(
        "SELECT e.transactions FROM information_schema.tables t JOIN information_schema.engines e"
        f" ON e.engine = t.engine WHERE table_schema = {literal(database)} AND table_name = {literal(name)}"
    )
    return bool(said) and said[0] == "YES"


def _statements(chunks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """The statements of a data file: a ``;`` at a line's end is always one's end."""
    pending = bytearray()
    searched = 0
    for chunk in chunks:
        pending += chunk
        while (end := pending.find(b";\n", searched)) >= 0:
            yield bytes(pending[:end])
            del pending[: end + 2]
            searched = 0
        searched = max(0, len(pending) - 1)
    if pending:
        raise BackupTampered(f"{name} ends in the middle of a statement")


def differences(job: RestoreJob) -> list[str]:
    chosen = _choose(job)
    found: list[str] = []
    expected: dict[tuple[str, str], Sums] = {}
    for stored in chosen.of("data"):
        key = (stored.facts["database"], stored.facts["name"])
        sums = Sums.parse(stored.rows or 0, stored.facts["hash"])
        expected[key] = expected.get(key, Sums()).plus(sums)
    with _session(job) as session:
        there = {
            (original, t.name): t
            for original, target in chosen.databases.items()
            for t in tables(session, target)
        }
        found += _compare_definitions(job, session, chosen, there)
    found += [f"table {d}.{t} is missing" for d, t in expected if (d, t) not in there]

    def compare(reader: Session, key: tuple[str, str]) -> list[str]:
        return _compare_rows(reader, there[key], expected[key])

    present = [key for key in expected if key in there]
    return found + [line for lines in _in_parallel(job, present, compare) for line in lines]


def _compare_rows(session: Session, table: Table, wanted: Sums) -> list[str]:
    sums = Sums()
    for _ in statements(session, table, "", sums):
        pass
    if sums.rows != wanted.rows:
        return [f"table {table.label} holds {sums.rows:,} rows instead of {wanted.rows:,}"]
    if sums != wanted:
        return [
            f"table {table.label} has the same number of rows ({sums.rows:,}), but other content"
        ]
    return []


def _compare_definitions(
    job: RestoreJob, session: Session, chosen: _Chosen, there: dict[tuple[str, str], Table]
) -> list[str]:
    """What is missing, and on the server's own version also what reads differently."""
    same_version = all(
        f.get("version", "").split("-")[0] == session.version.split("-")[0] for f in job.facts
    )
    found = []
    for kind in ("table", "view", "sequence"):
        for stored in chosen.of(kind):
            original, name = stored.facts["database"], stored.facts["name"]
            label = f"{kind} {chosen.target(stored)}.{name}"
            table = there.get((original, name))
            if stored.facts.get("broken"):
                continue
            if table is None or table.kind != kind:
                found.append(f"{label} is missing")
                continue
            now = definitions.owned(definitions.create_table(session, table), "strip")
            if same_version and definitions.digest(now) != stored.facts["definition"]:
                found.append(f"{label} is defined differently")
    for kind in ("triggers", "post"):
        for stored in chosen.of(kind):
            target = chosen.target(stored)
            now_there = _programs(session, kind, target, stored.facts["name"])
            for label, digest in stored.facts["definitions"].items():
                if label not in now_there:
                    found.append(f"{label} of {target} is missing")
                elif same_version and now_there[label] != digest:
                    found.append(f"{label} of {target} is defined differently")
    return found


def _programs(session: Session, kind: str, database: str, table: str) -> dict[str, str]:
    """Short digests of what a file of triggers or routines and events creates, by name."""
    if kind == "triggers":
        programs = list(definitions.triggers(session, Table(database, table, "table")))
    else:
        programs = [
            *((f"{k.lower()} {n}", s) for k, n, s in definitions.routines(session, database)),
            *((f"event {n}", s) for n, s in definitions.events(session, database)),
        ]
    return {
        label: definitions.digest(definitions.owned(parts[-1], "strip"))[:16]
        for label, parts in programs
    }


def _open(job: RestoreJob) -> Session:
    session = connect(server_of(job.connection))
    session.run("SET SESSION foreign_key_checks=0, unique_checks=0")
    return session


@contextmanager
def _session(job: RestoreJob) -> Iterator[Session]:
    session = _open(job)
    try:
        yield session
    finally:
        session.close()
