"""What a backup holds: the tables to read, and the files of definitions."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from stepvault.engines.base import Counts
from stepvault.engines.mysql import definitions, meaning, programs
from stepvault.engines.mysql.inventory import Table, matches, tables
from stepvault.engines.mysql.programs import Program
from stepvault.engines.mysql.session import Session
from stepvault.errors import SourceMissing, SourceUnsupported
from stepvault.settings import MySqlSource

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")


class Names:
    """File names for databases and tables."""

    def __init__(self) -> None:
        self._given: dict[str, str] = {}
        self._taken: set[str] = set()

    def of(self, name: str, database: str = "") -> str:
        """Return a name's file name: itself if it is safe and unique in any case, else an alias."""
        key = f"{database}\0{name}"
        if key not in self._given:
            plain = _PLAIN_NAME.fullmatch(name) and "-schema" not in name
            plain = plain and not name.startswith("mydumper_")
            if not plain or f"{database}\0{name.casefold()}" in self._taken:
                self._given[key] = f"mydumper_{len(self._given)}"
            else:
                self._given[key] = name
            self._taken.add(f"{database}\0{self._given[key].casefold()}")
        return self._given[key]

    def table(self, table: Table) -> str:
        """Return the first part of the names of a table's files."""
        return f"{self.of(table.database)}.{self.of(table.name, table.database)}"


@dataclass
class Text:
    """A stream that is already in memory."""

    name: str
    content: bytes
    facts: dict[str, Any] = field(default_factory=dict)
    encoding: Literal["zstd", "none"] = "zstd"

    def read(self) -> Iterator[bytes]:
        """Yield the content."""
        yield self.content

    def result(self) -> Counts:
        """Return the facts."""
        return Counts(facts=self.facts)


class Contents:
    """The tables and definitions of a source's databases.

    ``add_numbers`` adds those of tables and sequences once the snapshot has been taken.

    Raises:
        SourceMissing: no table matches.
        SourceUnsupported: there are tables without transactions, and the source refuses them.
        SourceDenied, SourceChanged and others of ``errors``.
    """

    def __init__(
        self, session: Session, source: MySqlSource, databases: Sequence[str], names: Names
    ) -> None:
        self._session, self._source, self._names = session, source, names
        self.tables: list[Table] = []
        """Tables, views and sequences."""
        self.definitions: dict[str, str] = {}
        """Of tables, by label; without their counters."""
        self.texts: list[Text] = []
        self._sequences: list[tuple[Table, str, dict[str, Any]]] = []
        self._tables: list[tuple[Table, list[str], dict[str, Any]]] = []
        self.warnings: list[str] = []
        for database in databases:
            self._add_database(database)
        if source.tables and not self.tables:
            raise SourceMissing(
                f"no table of {', '.join(databases)} matches {', '.join(source.tables)}",
                "Check the source's tables and exclude_tables",
            )
        self._check_engines()

    @property
    def with_rows(self) -> list[Table]:
        """The tables whose rows are to be read."""
        tables = self.tables if self._source.with_data else []
        return [t for t in tables if t.kind == "table" and not t.elsewhere]

    def _add_database(self, database: str) -> None:
        matching = chosen(self._source, tables(self._session, database))
        if self._source.tables and not matching:
            return
        self.tables += matching
        if not self._source.with_schema:
            for table in matching:
                if table.kind == "table":
                    self._define(table)
            return
        text = definitions.create_database(self._session, database)
        facts = {"kind": "database", "database": database, "name": database}
        self._add(f"{self._names.of(database)}-schema-create", [text], facts)
        views = [t for t in matching if t.kind == "view"]
        for table in matching:
            if table.kind != "view":
                self._add_table(table)
        self._add_views(views)
        self._add_triggers(database, matching)
        if not self._source.tables:
            found = list(programs.routines_and_events(self._session, database))
            facts = {"kind": "post", "database": database, "name": database}
            self._add_programs(f"{self._names.of(database)}-schema-post", found, facts)

    def _add(self, file: str, statements: list[str], facts: dict[str, Any]) -> None:
        self.texts.append(Text(f"{file}.sql.zst", definitions.file(statements), facts))

    def _define(self, table: Table) -> str:
        definition = definitions.create_table(self._session, table)
        self.definitions[table.label] = meaning.normal(definition)
        return definition

    def _add_table(self, table: Table) -> None:
        """Add the file that defines a table, or note a sequence for later."""
        definition = self._define(table)
        facts: dict[str, Any] = {
            "kind": table.kind,
            "database": table.database,
            "name": table.name,
            **meaning.digests(self._session, table, definition),
        }
        if table.kind == "sequence":
            self._sequences.append((table, definition, facts))
            return
        facts["engine"], facts["key"] = table.engine, bool(table.key)
        facts["collations"] = meaning.collations(definition)
        more = definitions.drop_defaults(self._session, table, definition)
        self._tables.append((table, [definition, *more], facts))

    def add_numbers(self, later: Iterable[Table]) -> None:
        """Add sequences and tables with the numbers that they had reached after the snapshot.

        So the next numbers are above all that the snapshot's rows hold.

        Args:
            later: the tables as the server lists them after the snapshot.
        """
        for table, definition, facts in self._sequences:
            statements = definitions.sequence(self._session, table, definition)
            self._add(f"{self._names.table(table)}-schema-sequence", statements, facts)
        by_label = {t.label: t for t in later}
        for table, (definition, *more), facts in self._tables:
            now = by_label.get(table.label, table)
            counter = now.counter
            # ARCHIVE takes no row below its counter, and counts by itself.
            at_creation = 0 if now.engine == "archive" and now.rows else counter
            statements = [meaning.with_counter(definition, at_creation), *more]
            self._add(
                f"{self._names.table(table)}-schema", statements, {**facts, "counter": counter}
            )

    def _add_views(self, views: list[Table]) -> None:
        read = {t.label: definitions.view(self._session, t) for t in views}
        names = {t.label: t.name for t in views}
        order = definitions.in_order(names, {label: view.text for label, view in read.items()})
        for table in views:
            view = read[table.label]
            if view.broken:
                self.warnings.append(f"view {table.label} does not work: {view.broken}")
            facts = {
                "kind": "view",
                "database": table.database,
                "name": table.name,
                **meaning.view_digests(view),
                "needs": self._needs(view.text, view.collation),
                "broken": bool(view.broken),
                "order": order[table.label],
            }
            statements = view.statements(table.name, self._source.definer)
            self._add(f"{self._names.table(table)}-schema-view", statements, facts)

    def _add_triggers(self, database: str, tables: list[Table]) -> None:
        by_table: dict[str, list[Program]] = {}
        for trigger in programs.triggers(self._session, database):
            by_table.setdefault(trigger.table, []).append(trigger)
        for table in tables:
            triggers = by_table.get(table.name, [])
            facts: dict[str, Any] = {
                "kind": "triggers",
                "database": database,
                "name": table.name,
            }
            broken = []
            for trigger in triggers:
                if why := programs.broken(trigger, table):
                    self.warnings.append(f"trigger {database}.{trigger.name} does not work: {why}")
                    broken.append(trigger.label)
            if broken:
                facts["broken"] = broken
            self._add_programs(f"{self._names.table(table)}-schema-triggers", triggers, facts)

    def _add_programs(self, file: str, found: list[Program], facts: dict[str, Any]) -> None:
        """Add a file of triggers, or of routines and events, if there are any."""
        if found:
            statements = [s for program in found for s in program.statements(self._source.definer)]
            digests = {program.label: program.digests() for program in found}
            needs = {
                program.label: self._needs(program.text, program.collation) for program in found
            }
            self._add(
                file,
                statements,
                {
                    **facts,
                    "definitions": {label: digest[0] for label, digest in digests.items()},
                    "folded": {label: digest[1] for label, digest in digests.items()},
                    "needs": needs,
                },
            )

    def _needs(self, definition: str, collation: str) -> dict[str, str]:
        """Return what a target must have for a view or a program."""
        kept = definitions.owned(definition, self._source.definer)
        return {"definer": definitions.definer(kept), "collation": collation}

    def _check_engines(self) -> None:
        """Refuse or report tables of which the backup cannot hold everything exactly."""
        non_transactional = [t for t in self.with_rows if not t.transactional]
        if non_transactional:
            named = ", ".join(f"{t.label} ({t.engine})" for t in non_transactional[:20])
            if self._source.non_transactional == "refuse":
                raise SourceUnsupported(
                    f"no snapshot covers the non-transactional {named}",
                    "Convert with ALTER TABLE … ENGINE=InnoDB, exclude, or set non_transactional to warn",
                )
            self.warnings.append(f"not covered by the snapshot, read as they were: {named}")
        for table in self.tables:
            if table.elsewhere:
                self.warnings.append(
                    f"table {table.label} ({table.engine}) keeps its rows elsewhere: only its definition is here"
                )
            if table.versioned and self._source.with_data:
                self.warnings.append(
                    f"table {table.label} is system-versioned: its current rows are here, its history is not"
                )


def chosen(source: MySqlSource, candidates: list[Table]) -> list[Table]:
    """Return the tables that the source's filters let through."""
    only, never = source.tables, source.exclude_tables
    return [
        t
        for t in candidates
        if (not only or matches(t.database, t.name, only))
        and not matches(t.database, t.name, never)
    ]
