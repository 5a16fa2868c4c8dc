"""Compare what was restored with what was backed up."""

from stepvault.engines.base import RestoreJob
from stepvault.engines.mysql import definitions
from stepvault.engines.mysql.inventory import Table, tables
from stepvault.engines.mysql.rows import statements
from stepvault.engines.mysql.session import Session
from stepvault.engines.mysql.target import Chosen, choose, in_parallel, session_of
from stepvault.engines.row_digest import Sums


def differences(job: RestoreJob) -> list[str]:
    """Compare definitions and rows; return one line per difference."""
    chosen = choose(job)
    lines: list[str] = []
    expected: dict[tuple[str, str], Sums] = {}
    for stored in chosen.of("data"):
        key = (stored.facts["database"], stored.facts["name"])
        sums = Sums.parse(stored.rows or 0, stored.facts["hash"])
        expected[key] = expected.get(key, Sums()).plus(sums)
    with session_of(job) as session:
        in_target = {
            (original, t.name): t
            for original, target in chosen.databases.items()
            for t in tables(session, target)
        }
        lines += _compare_definitions(job, session, chosen, in_target)
    lines += [f"table {d}.{t} is missing" for d, t in expected if (d, t) not in in_target]

    def compare(reader: Session, key: tuple[str, str]) -> list[str]:
        return _compare_rows(reader, in_target[key], expected[key])

    present = [key for key in expected if key in in_target]
    return lines + [line for of_table in in_parallel(job, present, compare) for line in of_table]


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
    job: RestoreJob, session: Session, chosen: Chosen, in_target: dict[tuple[str, str], Table]
) -> list[str]:
    """Name what is missing and, on the same version of the server, what is defined differently."""
    same_version = all(
        f.get("version", "").split("-")[0] == session.version.split("-")[0] for f in job.facts
    )
    lines = []
    for kind in ("table", "view", "sequence"):
        for stored in chosen.of(kind):
            original, name = stored.facts["database"], stored.facts["name"]
            label = f"{kind} {chosen.target(stored)}.{name}"
            table = in_target.get((original, name))
            if stored.facts.get("broken"):
                continue
            if table is None or table.kind != kind:
                lines.append(f"{label} is missing")
                continue
            now = definitions.owned(definitions.create_table(session, table), "strip")
            if same_version and definitions.digest(now) != stored.facts["definition"]:
                lines.append(f"{label} is defined differently")
    for kind in ("triggers", "post"):
        for stored in chosen.of(kind):
            target = chosen.target(stored)
            programs = _programs(session, kind, target, stored.facts["name"])
            for label, digest in stored.facts["definitions"].items():
                if label not in programs:
                    lines.append(f"{label} of {target} is missing")
                elif same_version and programs[label] != digest:
                    lines.append(f"{label} of {target} is defined differently")
    return lines


def _programs(session: Session, kind: str, database: str, table: str) -> dict[str, str]:
    """Return digests of the triggers of a table, or of the routines and events of a database."""
    if kind == "triggers":
        return definitions.digests(definitions.triggers(session, Table(database, table, "table")))
    return definitions.digests(definitions.programs(session, database))
