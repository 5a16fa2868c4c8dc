"""Compare what was restored with what was backed up."""

from stepvault.engines.base import RestoreJob
from stepvault.engines.mysql import definitions, meaning, programs
from stepvault.engines.mysql.inventory import Table, tables
from stepvault.engines.mysql.programs import Program
from stepvault.engines.mysql.rows import comparable, statements
from stepvault.engines.mysql.session import Session
from stepvault.engines.mysql.target import Chosen, choose, in_parallel, session_of
from stepvault.engines.row_digest import Sums
from stepvault.records import StoredObject

#: The tables of the target, by the original database and the name in the target.
_Present = dict[tuple[str, str], Table]


def differences(job: RestoreJob) -> list[str]:
    """Compare definitions, counters and rows; return one line per difference."""
    chosen = choose(job)
    lines: list[str] = []
    expected: dict[tuple[str, str], Sums] = {}
    forms: dict[tuple[str, str], int] = {}
    with session_of(job) as session:
        present = {
            (original, t.name): t
            for original, target in chosen.databases.items()
            for t in tables(session, target)
        }
        for stored in chosen.of("data"):
            key = (stored.facts["database"], session.fold(stored.facts["name"]))
            sums = Sums.parse(stored.rows or 0, stored.facts["hash"])
            expected[key] = expected.get(key, Sums()).plus(sums)
            forms[key] = stored.facts.get("form", 1)
        lines += _compare_definitions(job, session, chosen, present)
    lines += [f"table {d}.{t} is missing" for d, t in expected if (d, t) not in present]

    def compare(reader: Session, key: tuple[str, str]) -> list[str]:
        return _compare_rows(job, reader, present[key], expected[key], forms[key])

    to_read = [key for key in expected if key in present]
    job.not_compared("default character sets of databases")
    job.not_compared("accounts and grants")
    return lines + [line for of_table in in_parallel(job, to_read, compare) for line in of_table]


def _compare_rows(
    job: RestoreJob, session: Session, table: Table, wanted: Sums, form: int
) -> list[str]:
    sums = Sums()
    for _ in statements(session, table, "", sums):
        pass
    if sums.rows != wanted.rows:
        return [f"table {table.label} holds {sums.rows:,} rows instead of {wanted.rows:,}"]
    if not comparable(table, form):
        job.not_compared(f"content of table {table.label}: an older version has hashed it")
    elif sums != wanted:
        return [
            f"table {table.label} has the same number of rows ({sums.rows:,}), but other content"
        ]
    return []


def _compare_definitions(
    job: RestoreJob, session: Session, chosen: Chosen, present: _Present
) -> list[str]:
    """Name what is missing and, on the same version of the server, what is defined differently."""
    same_version = all(
        f.get("version", "").split("-")[0] == session.version.split("-")[0] for f in job.facts
    )
    if not same_version:
        job.not_compared("definitions, as the target has another version than the source")
    lines = []
    for kind in ("table", "view", "sequence"):
        for stored in chosen.of(kind):
            name = stored.facts["name"]
            table = present.get((stored.facts["database"], session.fold(name)))
            label = f"{kind} {chosen.target(stored)}.{name}"
            if table is None and stored.facts.get("broken"):
                job.not_compared(f"{label}, which did not work when it was backed up")
                continue
            if table is None or table.kind != kind:
                lines.append(f"{label} is missing")
                continue
            if same_version and not _same(session, table, stored):
                lines.append(f"{label} is defined differently")
            counter = stored.facts.get("counter", table.counter)
            if counter != table.counter:
                lines.append(
                    f"{label} has the AUTO_INCREMENT {table.counter or 1:,} instead of {counter or 1:,}"
                )
    return lines + _compare_programs(job, session, chosen, same_version)


def _same(session: Session, table: Table, stored: StoredObject) -> bool:
    """Tell whether a table, view or sequence is what the backup holds."""
    if table.kind == "view":
        view = definitions.view(session, table)
        now = meaning.view_digests(view)
        older = meaning.digest(definitions.owned(view.text, "strip"))
    else:
        text = definitions.create_table(session, table)
        now, older = meaning.digests(session, table, text), meaning.digest(text)
    if session.folds and "folded" in stored.facts:
        return bool(now["folded"] == stored.facts["folded"])
    return stored.facts["definition"] in {now["definition"], older}


def _compare_programs(
    job: RestoreJob, session: Session, chosen: Chosen, same_version: bool
) -> list[str]:
    """Compare triggers, routines and events."""
    found: dict[str, dict[tuple[str, str], Program]] = {}
    for original, target in chosen.databases.items():
        name = session.fold(target)
        of_database = {("", p.label): p for p in programs.routines_and_events(session, name)}
        of_database |= {(p.table, p.label): p for p in programs.triggers(session, name)}
        found[original] = of_database
    lines = []
    for stored in (*chosen.of("triggers"), *chosen.of("post")):
        target, is_triggers = chosen.target(stored), stored.facts["kind"] == "triggers"
        table = session.fold(stored.facts["name"]) if is_triggers else ""
        for label, digest in stored.facts["definitions"].items():
            kind, name = chosen.program(stored, label)
            if chosen.left_out(kind, stored, name):
                continue
            program = found[stored.facts["database"]].get((table, label))
            if program is None and label in stored.facts.get("broken", ()):
                job.not_compared(f"{label} of {target}, which did not work when it was backed up")
            elif program is None:
                lines.append(f"{label} of {target} is missing")
            elif same_version and not _same_program(session, program, stored, digest):
                lines.append(f"{label} of {target} is defined differently")
    return lines


def _same_program(session: Session, program: Program, stored: StoredObject, digest: str) -> bool:
    now, folded, older = program.digests()
    if session.folds and "folded" in stored.facts:
        return bool(folded == stored.facts["folded"][program.label])
    return digest in {now, older}
