"""What a backup holds: the tables to read, and the files of definitions."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from stepvault.engines.base import Counts
from stepvault.engines.mysql import definitions
from stepvault.engines.mysql.inventory import Table, matches, tables
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

    ``add_sequences`` adds the sequences' numbers once the snapshot has been taken.

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
        """By the table's label."""
        self.texts: list[Text] = []
        self._sequences: list[tuple[Table, str, dict[str, Any]]] = []
        self.warnings: list[str] = []
        for database in databases:
            self._add_database(database)
        if source.tables and not self.tables:
            raise SourceMissing(
                f"no table of {', '.join(databases)} matches {', '.join(source.tables)}",
                "Check the source's tables and exclude_tables",
            )
        self._check_engines()
        self._order_views()

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
        if self._source.with_schema:
            text = definitions.create_database(self._session, database)
            facts = {"kind": "database", "database": database, "name": database}
            self._add(f"{self._names.of(database)}-schema-create", [text], facts)
        for table in matching:
            definition = definitions.create_table(self._session, table)
            self.definitions[table.label] = definitions.normal(definition)
            if self._source.with_schema:
                self._add_table(table, definition)
        if self._source.with_schema and not self._source.tables:
            self._add_programs(database)

    def _add(self, file: str, statements: list[str], facts: dict[str, Any]) -> None:
        self.texts.append(Text(f"{file}.sql.zst", definitions.file(statements), facts))

    def _add_table(self, table: Table, definition: str) -> None:
        """Add the files that define one table, view or sequence."""
        file = self._names.table(table)
        where = {"database": table.database, "name": table.name}
        digest = definitions.digest(definitions.owned(definition, "strip"))
        facts = {"kind": table.kind, **where, "definition": digest}
        if table.kind == "view":
            self._add_view(table, definition, facts)
        elif table.kind == "sequence":
            self._sequences.append((table, definition, facts))
        else:
            self._add(f"{file}-schema", [definition], facts)
            triggers = list(definitions.triggers(self._session, table))
            if triggers:
                facts = {"kind": "triggers", **where}
                self._add_program_file(f"{file}-schema-triggers", triggers, facts)

    def add_sequences(self) -> None:
        """Read the sequences' next numbers, which are above those in the snapshot's rows."""
        for table, definition, facts in self._sequences:
            statements = definitions.sequence(self._session, table, definition)
            self._add(f"{self._names.table(table)}-schema-sequence", statements, facts)

    def _add_view(self, view: Table, definition: str, facts: dict[str, Any]) -> None:
        file = self._names.table(view)
        if view.columns:  # the server hides them from users who may not call a function of the view
            stand_in = {"kind": "placeholder", "database": view.database, "name": view.name}
            self._add(f"{file}-schema", definitions.placeholder(view), stand_in)
        broken = definitions.is_broken(self._session, view)
        if broken:
            self.warnings.append(f"view {view.label} does not work: {broken}")
        owned = definitions.owned(definition, self._source.definer)
        statements = definitions.view(view, owned)
        self._add(f"{file}-schema-view", statements, {**facts, "broken": bool(broken)})

    def _add_programs(self, database: str) -> None:
        """Add the file of a database's routines and events."""
        programs = list(definitions.programs(self._session, database))
        if programs:
            facts = {"kind": "post", "database": database, "name": database}
            self._add_program_file(f"{self._names.of(database)}-schema-post", programs, facts)

    def _add_program_file(
        self, file: str, programs: list[tuple[str, list[str]]], facts: dict[str, Any]
    ) -> None:
        """Add a file of triggers, routines or events; the last statement of each creates it."""
        lines: list[str] = []
        for _, parts in programs:
            lines += [*parts[:-1], definitions.owned(parts[-1], self._source.definer)]
        self._add(file, lines, {**facts, "definitions": definitions.digests(programs)})

    def _order_views(self) -> None:
        """Give each view a number above those of the views that it uses."""
        views = {t.label: t.name for t in self.tables if t.kind == "view"}
        order = definitions.in_order(views, {label: self.definitions[label] for label in views})
        for text in self.texts:
            if text.facts["kind"] == "view":
                text.facts["order"] = order[f"{text.facts['database']}.{text.facts['name']}"]

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
