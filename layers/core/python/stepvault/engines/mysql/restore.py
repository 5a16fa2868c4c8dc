"""The tasks of a restore, and how each is done.

The rows of one stored object are one transaction, together with the object's name in a small
progress table. It is committed once the object's last byte has been verified, so a task may be
repeated at any time, and a restore that failed can be begun again and goes on.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from stepvault.engines.base import Counts, RestoreJob
from stepvault.engines.mysql import definitions, load, preflight, progress
from stepvault.engines.mysql.inventory import Table, tables
from stepvault.engines.mysql.session import Session, quote
from stepvault.engines.mysql.target import Chosen, check_target, choose, in_parallel, session_of
from stepvault.errors import BackupTampered, OutOfTime, Permanent
from stepvault.records import RestoreTask, StoredObject, Unrestored

#: A data task takes about this many raw bytes.
_TASK_BYTES = 2 << 30
_BEFORE = ("sequence", "table")
_AFTER = ("post", "triggers", "view")
#: Of a statement in a report.
_CHARACTERS = 400


def plan_restore(job: RestoreJob) -> list[RestoreTask]:
    """Check the target and cut the restore into tasks.

    Raises:
        TargetUnsupported: the target cannot take all of the backup; names all that it cannot.
        TargetNotEmpty, TargetMissing, ConfigInvalid and others of ``errors``.
    """
    chosen = choose(job)
    with session_of(job) as session:
        without = preflight.check(job, session, chosen)
        for original, target in chosen.databases.items():
            check_target(job, session, chosen, original, target)
    definitions_first = _names(chosen, ("database", *_BEFORE), without)
    tasks = [RestoreTask(stage="before", id="schema", objects=definitions_first)]
    left_out = {
        (o.facts["database"], o.facts["name"]) for o in chosen.of("table") if o.name in without
    }
    data = [o for o in chosen.of("data") if (o.facts["database"], o.facts["name"]) not in left_out]
    for number, group in enumerate(_groups(sorted(data, key=lambda o: -o.raw_bytes))):
        tasks.append(RestoreTask(stage="data", id=f"data-{number:05d}", objects=group))
    last = RestoreTask(
        stage="after",
        id="programs",
        objects=_names(chosen, _AFTER, without),
        arguments={"without": sorted(without)},
    )
    return [*tasks, last]


def _names(chosen: Chosen, kinds: Sequence[str], without: set[str]) -> list[str]:
    return [
        o.name
        for kind in kinds
        for o in sorted(chosen.of(kind), key=lambda o: int(o.facts.get("order", 0)))
        if o.name not in without
    ]


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


def restore(job: RestoreJob, task: RestoreTask) -> Counts:
    """Do one task; the counts are those of the rows that it loaded."""
    chosen = choose(job)
    wanted = set(task.objects)
    objects = {o.name: o for o in chosen.objects if o.name in wanted}
    in_order = [objects[name] for name in task.objects]
    if task.stage == "data":
        return _load_all(job, chosen, in_order)
    with session_of(job) as session:
        if task.stage == "before":
            _prepare(job, session, chosen, in_order)
        else:
            _finish(job, session, chosen, in_order, set(task.arguments.get("without", ())))
    return Counts()


def _prepare(
    job: RestoreJob, session: Session, chosen: Chosen, objects: list[StoredObject]
) -> None:
    """Create sequences and tables; whatever has their names, or a view's, is dropped first.

    Nothing is dropped before all definitions have been read and verified. What an earlier attempt
    of this restore created and loaded stays.
    """
    texts = {o.name: b"".join(job.read(o)) for o in objects}
    for original, target in chosen.databases.items():
        of_database = [o for o in objects if o.facts["database"] == original]
        created = {session.fold(o.facts["name"]) for o in of_database if o.facts["kind"] in _BEFORE}
        replaced = created | {session.fold(n) for n in chosen.names(original, "view")}
        present = {t.name: t for t in tables(session, target)}
        session.run(f"USE {quote(target)}")
        if not progress.defined(session, target, chosen.fingerprint):
            for table in present.values():
                if table.name in replaced or table.name == progress.TABLE:
                    session.run(f"DROP {table.kind.upper()} {table.sql}")
            progress.begin(session, chosen.fingerprint)
            present = {n: t for n, t in present.items() if n not in replaced}
            if job.options.overwrite:
                for name in chosen.names(original, "data") - chosen.names(original, *_BEFORE):
                    load.clear(session, present[session.fold(name)])
        _settle(session)
        for stored in of_database:
            kind, name = stored.facts["kind"], stored.facts["name"]
            if kind != "database" and session.fold(name) not in present:
                statements = definitions.split(texts[stored.name])
                run = _runner(job, session, statements, stored.name)
                _attempt(job, kind, f"{target}.{name}", statements, run)
            job.progress(stored.name, stored.raw_bytes)
        progress.set_defined(session)


def _settle(session: Session) -> None:
    """Set the session as the statements of a file of definitions expect it."""
    for setting in definitions.SETTINGS:
        session.run(setting)


def _runner(
    job: RestoreJob, session: Session, statements: Sequence[str], what: str
) -> Callable[[], None]:
    def run() -> None:
        for statement in statements:
            owned = definitions.owned(statement, job.options.owner)
            session.run(owned.encode("utf-8", "surrogateescape"), what)

    return run


def _attempt(
    job: RestoreJob,
    kind: str,
    name: str,
    statements: Sequence[str],
    run: Callable[[], Any],
    broken: bool = False,
) -> None:
    """Restore one thing; report a failure when told to keep going, or when it was broken before.

    Raises:
        StepvaultError: the restore must stop, or is to be tried again.
    """
    try:
        run()
    except (BackupTampered, OutOfTime):
        raise
    except Permanent as error:
        if not (job.options.keep_going or broken):
            raise
        reason = f"{error.message}. {error.fix}" if error.fix else error.message
        if broken:
            reason = f"it did not work when it was backed up; {reason}"
        statement = statements[-1][:_CHARACTERS] if statements else ""
        job.unrestored(Unrestored(kind=kind, name=name, reason=reason, statement=statement))


def _finish(
    job: RestoreJob,
    session: Session,
    chosen: Chosen,
    objects: list[StoredObject],
    without: set[str],
) -> None:
    """Create routines, events, triggers and views, then drop the progress table."""
    views: list[tuple[StoredObject, list[str]]] = []
    for stored in objects:
        content = b"".join(job.read(stored))  # verified as a whole before the first statement runs
        statements = definitions.split(content)
        if stored.facts["kind"] == "view":
            views.append((stored, statements))
        else:
            _create_programs(job, session, chosen, stored, statements, without)
        job.progress(stored.name, stored.raw_bytes)
    _create_views(job, session, chosen, views)
    for target in chosen.databases.values():
        progress.end(session, target)


def _create_programs(
    job: RestoreJob,
    session: Session,
    chosen: Chosen,
    stored: StoredObject,
    statements: list[str],
    without: set[str],
) -> None:
    """Create the triggers of a table, or the routines and events of a database, one by one."""
    target = chosen.target(stored)
    session.run(f"USE {quote(target)}")
    _settle(session)
    labels = list(stored.facts["definitions"])
    for label, program in zip(labels, _by_program(statements), strict=True):
        kind, name = chosen.program(stored, label)
        if f"{stored.name}:{label}" in without or chosen.left_out(kind, stored, name):
            continue
        broken = label in stored.facts.get("broken", ())
        run = _runner(job, session, program, stored.name)
        _attempt(job, kind, f"{target}.{name}", program, run, broken)


def _by_program(statements: list[str]) -> Iterator[list[str]]:
    """Group statements by the CREATE that ends each group."""
    program: list[str] = []
    for statement in statements:
        program.append(statement)
        if statement.lstrip().upper().startswith("CREATE"):
            yield program
            program = []


def _create_views(
    job: RestoreJob,
    session: Session,
    chosen: Chosen,
    views: list[tuple[StoredObject, list[str]]],
) -> None:
    """Create views; those that fail are tried again as long as others have been created since.

    The order in the backup is found in the views' texts, and may be wrong for unusual names.
    """
    while views:
        failed = []
        for stored, statements in views:
            session.run(f"USE {quote(chosen.target(stored))}")
            _settle(session)
            try:
                _runner(job, session, statements, stored.name)()
            except Permanent:
                failed.append((stored, statements))
        if len(failed) == len(views):
            break
        views = failed
    for stored, statements in views:
        session.run(f"USE {quote(chosen.target(stored))}")
        _settle(session)
        name = f"{chosen.target(stored)}.{stored.facts['name']}"
        run = _runner(job, session, statements, stored.name)
        _attempt(job, "view", name, statements, run, bool(stored.facts.get("broken")))


def _load_all(job: RestoreJob, chosen: Chosen, objects: list[StoredObject]) -> Counts:
    """Load objects on several connections."""
    databases = {o.facts["database"] for o in objects}
    present = {database: _present(job, chosen.databases[database]) for database in databases}
    shared = load.shared(job.objects)

    def one(session: Session, stored: StoredObject) -> int:
        database, name = stored.facts["database"], stored.facts["name"]
        target = chosen.target(stored)
        table = present[database].get(session.fold(name))
        rows: list[int] = []
        _attempt(
            job,
            "table" if table is None else "rows",
            f"{target}.{name}",
            [],
            lambda: rows.append(load.load(job, session, target, name, table, stored, shared)),
        )
        return sum(rows)

    return Counts(rows=sum(in_parallel(job, objects, one)))


def _present(job: RestoreJob, database: str) -> dict[str, Table]:
    with session_of(job) as session:
        return {t.name: t for t in tables(session, database)}
