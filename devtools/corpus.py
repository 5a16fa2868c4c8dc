"""Application schemas as a test of restores: back up, restore in two ways, compare from outside.

``python -m devtools.corpus`` prints the table of all schemas under tests/corpus, in Markdown.
"""

import difflib
import os
import subprocess
import tempfile
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from devtools.servers.postgres import PostgresServer
from stepvault.engines.base import Connection, RestoreJob
from stepvault.engines.postgres import engine
from stepvault.errors import StepvaultError
from stepvault.settings import PostgresSource
from tests.engines.driver import Result, back_up, restore_job, run_restore

SCHEMAS = sorted((Path(__file__).resolve().parents[1] / "tests/corpus").glob("*.sql"))
_RELATIONS = """
SELECT quote_ident(nspname) || '.' || quote_ident(relname), relkind <> 'm' OR relispopulated
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind IN ('r', 'm') AND nspname !~ '^pg_' AND nspname <> 'information_schema'
"""


@dataclass
class Outcome:
    """What became of one schema."""

    schema: str
    tables: int
    stock: list[str]
    """What stock pg_restore printed and what its copy lacks of the source; empty is equal."""
    ours: list[str]
    """Why Stepvault's restore failed; empty when it did not."""
    losses: list[str] = field(default_factory=list)
    """What Stepvault's copy lacks of the source, seen from outside."""
    false_alarms: list[str] = field(default_factory=list)
    """What Stepvault's comparison calls different in a copy that is equal, ours or stock's."""

    @property
    def row(self) -> str:
        """A row of the table in Markdown."""
        ours = "failed" if self.ours else "equal" if not self.losses else "different"
        stock = f"{len(self.stock)} errors" if self.stock else "equal"
        return (
            f"| {self.schema} | {self.tables} | {stock} | {ours} "
            f"| {len(self.false_alarms)} | {len(self.losses)} |"
        )


HEADER = (
    "| schema | tables | stock pg_restore | our restore | false alarms | losses |\n"
    "|---|---|---|---|---|---|"
)


def try_schema(server: PostgresServer, script: Path, folder: Path) -> Outcome:
    """Make the schema's database, back it up, restore it with stock pg_restore and with ours.

    Args:
        server: gets four databases named after the schema.
        script: SQL that fills an empty database.
        folder: where to keep the backup.
    """
    name = script.stem
    for database in (name, f"{name}_reference", f"{name}_stock", f"{name}_ours"):
        server.psql(f"CREATE DATABASE {database} TEMPLATE template0")
    server.psql(script, database=name)
    content = contents(server, name)
    # What a definition looks like changes once when it is dumped and read back ("IN (...)" becomes
    # "= ANY ((ARRAY[...])::text[])"), so copies are compared with a copy made by stock tools alone.
    server.run("pg_dump", "-Fc", "-f", folder / "reference.dump", database=name)
    _pg_restore(server, folder / "reference.dump", f"{name}_reference")
    reference = definitions(server, f"{name}_reference")

    source = PostgresSource.model_validate(
        {"name": name, "engine": "postgres", "connection": {"url_env": "UNUSED"}}
    )
    vault = folder / "vault"
    vault.mkdir()
    where = _connection(server, name)
    backup = back_up(engine, source, vault, connection=where, connections=2)

    def lost(database: str) -> list[str]:
        restored = contents(server, database)
        lines = [f"{key}: content differs" for key in content if content[key] != restored.get(key)]
        lines += [f"{key}: not in the source" for key in restored if key not in content]
        return lines + _changed(reference, definitions(server, database))

    outcome = Outcome(name, sum(key.startswith("table ") for key in content), [], [])
    outcome.stock = _pg_restore(server, vault, f"{name}_stock") or lost(f"{name}_stock")
    try:
        job = _job(server, backup, vault, source, f"{name}_ours")
        run_restore(engine, job)
    except StepvaultError as error:
        outcome.ours = [str(error)]
        return outcome
    outcome.losses = lost(f"{name}_ours")
    for database, different in ((f"{name}_ours", outcome.losses), (f"{name}_stock", outcome.stock)):
        if not different:
            alarms = engine.differences(_job(server, backup, vault, source, database))
            outcome.false_alarms += [f"{database}: {line}" for line in alarms]
    return outcome


def contents(server: PostgresServer, database: str) -> dict[str, Any]:
    """Return what a database holds: rows of each table, sequences, large objects.

    Rows are hashed as JSON, whose keys are sorted, so the order of rows and columns does not count.
    """
    content: dict[str, Any] = {}
    with closing(psycopg.connect(server.url(database), autocommit=True)) as session:
        for relation, filled in session.execute(_RELATIONS).fetchall():
            rows = sql.SQL(
                "SELECT count(*), sum(hashtextextended(to_jsonb(t)::text, 0)::numeric) FROM ONLY {} t"
            ).format(sql.SQL(relation))
            content[f"table {relation}"] = session.execute(rows).fetchone() if filled else None
        for sequence, last in session.execute(
            "SELECT format('%I.%I', schemaname, sequencename), last_value FROM pg_sequences"
        ):
            content[f"sequence {sequence}"] = last
        for number, digest in session.execute(
            "SELECT oid, md5(lo_get(oid)) FROM pg_largeobject_metadata"
        ):
            content[f"large object {number}"] = digest
    return content


def definitions(server: PostgresServer, database: str) -> list[str]:
    """Return pg_dump's definitions of a database, a line each, without its random key."""
    lines = server.run("pg_dump", "--schema-only", database=database).splitlines()
    return [x for x in lines if not x.startswith(("\\restrict", "\\unrestrict"))]


def _changed(before: list[str], after: list[str]) -> list[str]:
    lines = difflib.unified_diff(before, after, lineterm="", n=0)
    return [x for x in lines if not x.startswith(("---", "+++", "@@"))]


def _pg_restore(server: PostgresServer, archive: Path, database: str) -> list[str]:
    """Restore with stock pg_restore; return its error messages."""
    done = subprocess.run(
        [server.home / "bin/pg_restore", "-d", database, archive],
        env=server.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    return [x for x in done.stderr.splitlines() if "error:" in x]


def _job(
    server: PostgresServer, backup: list[Result], vault: Path, source: PostgresSource, database: str
) -> RestoreJob:
    where = _connection(server, database)
    return restore_job(backup, vault, source, connection=where, connections=2)


def _connection(server: PostgresServer, database: str) -> Connection:
    return Connection(server.host, server.port, server.user, server.password, database)


def main() -> None:
    """Print the table, and beneath it what is not as it should be."""
    print(HEADER)
    notes = []
    with PostgresServer() as server, tempfile.TemporaryDirectory() as name:
        os.environ["PATH"] = f"{server.home / 'bin'}:{os.environ['PATH']}"
        for script in SCHEMAS:
            folder = Path(name, script.stem)
            folder.mkdir()
            outcome = try_schema(server, script, folder)
            print(outcome.row, flush=True)
            for kind in ("stock", "ours", "losses", "false_alarms"):
                notes += [f"{script.stem}, {kind}: {line}" for line in getattr(outcome, kind)]
    print("\n".join(["", *notes]))


if __name__ == "__main__":
    main()
