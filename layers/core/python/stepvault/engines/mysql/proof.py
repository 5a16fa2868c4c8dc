"""The proof that what was restored equals what was backed up."""

from stepvault.engines.base import RestoreJob
from stepvault.engines.mysql import definitions
from stepvault.engines.mysql.connection import Session
from stepvault.engines.mysql.inventory import Table, tables
from stepvault.engines.mysql.rows import statements
from stepvault.engines.mysql.target import Chosen, choose, in_parallel, session_of
from stepvault.engines.row_digest import Sums


def differences(job: RestoreJob) -> list[str]:
    chosen = choose(job)
    found: list[str] = []
    expected: dict[tuple[str, str], Sums] = {}
    for stored in chosen.of("data"):
        key = (stored.facts["database"], stored.facts["name"])
        sums = Sums.parse(stored.rows or 0, stored.facts["hash"])
        expected[key] = expected.get(key, Sums()).plus(sums)
    with session_of(job) as session:
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
    return found + [line for lines in in_parallel(job, present, compare) for line in lines]


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
    job: RestoreJob, session: Session, chosen: Chosen, there: dict[tuple[str, str], Table]
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
    """Short digests of the triggers of a table, or of a database's routines and events."""
    if kind == "triggers":
        return definitions.digests(definitions.triggers(session, Table(database, table, "table")))
    return definitions.digests(definitions.programs(session, database))
