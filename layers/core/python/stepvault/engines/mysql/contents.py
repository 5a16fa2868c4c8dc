"""What a backup will hold, as the server describes it: tables to read, definitions as files."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from stepvault.engines.base import Counts
from stepvault.engines.mysql import definitions
from stepvault.engines.mysql.connection import Session
from stepvault.engines.mysql.inventory import Table, matches, tables
from stepvault.errors import SourceMissing, SourceUnsupported
from stepvault.settings import MySqlSource

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")


class Names:
    """File names for databases and tables."""

    def __init__(self) -> None:
        self._given: dict[str, str] = {}
        self._taken: set[str] = set()

    def of(self, name: str, database: str = "") -> str:
        """The name itself if it is safe and nobody else's in another case, else an alias."""
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
        return f"{self.of(table.database)}.{self.of(table.name, table.database)}"


@dataclass
class Text:
    """A stream that is already in memory."""

    name: str
    content: bytes
    facts: dict[str, Any] = field(default_factory=dict)
    encoding: Literal["zstd", "none"] = "zstd"

    def read(self) -> Iterator[bytes]:
        yield self.content

    def result(self) -> Counts:
        return Counts(facts=self.facts)


class Contents:
    """Everything of a source's databases, taken at once; sequences' numbers follow by
    ``add_sequences``, once the snapshot is taken.

    Raises:
        SourceMissing: no table matches.
        SourceUnsupported: tables without transactions, where they are refused.
        SourceDenied, SourceChanged and others of ``connection``.
    """

    def __init__(
        self, session: Session, source: MySqlSource, databases: Sequence[str], names: Names
    ) -> None:
        self._session, self._source, self._names = session, source, names
        self.tables: list[Table] = []
        """Views and sequences too."""
        self.definitions: dict[str, str] = {}
        """By table's label."""
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
        """Those whose rows are to be read."""
        all_of_them = self.tables if self._source.with_data else []
        return [t for t in all_of_them if t.kind == "table" and not t.elsewhere]

    def _add_database(self, database: str) -> None:
        found = chosen(self._source, tables(self._session, database))
        if self._source.tables and not found:
            return
        self.tables += found
        if self._source.with_schema:
            text = definitions.create_database(self._session, database)
            facts = {"kind": "database", "database": database, "name": database}
            self._add(f"{self._names.of(database)}-schema-create", [text], facts)
        for table in found:
            definition = definitions.create_table(self._session, table)
            self.definitions[table.label] = definitions.normal(definition)
            if self._source.with_schema:
                self._add_table(table, definition)
        if self._source.with_schema and not self._source.tables:
            self._add_programs(database)

    def _add(self, file: str, statements: list[str], facts: dict[str, Any]) -> None:
        self.texts.append(Text(f"{file}.sql.zst", definitions.file(statements), facts))

    def _add_table(self, table: Table, definition: str) -> None:
        """The files that define one table, view or sequence."""
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
        """Read where the sequences stand: what the snapshot's rows hold is below that."""
        for table, definition, facts in self._sequences:
            statements = definitions.sequence(self._session, table, definition)
            self._add(f"{self._names.table(table)}-schema-sequence", statements, facts)

    def _add_view(self, view: Table, definition: str, facts: dict[str, Any]) -> None:
        file = self._names.table(view)
        if view.columns:  # hidden from users without EXECUTE on a function the view calls
            stand_in = {"kind": "placeholder", "database": view.database, "name": view.name}
            self._add(f"{file}-schema", definitions.placeholder(view), stand_in)
        broken = definitions.is_broken(self._session, view)
        if broken:
            self.warnings.append(f"view {view.label} does not work: {broken}")
        owned = definitions.owned(definition, self._source.definer)
        statements = definitions.view(view, owned)
        self._add(f"{file}-schema-view", statements, {**facts, "broken": bool(broken)})

    def _add_programs(self, database: str) -> None:
        """Routines and events."""
        found = list(definitions.programs(self._session, database))
        if found:
            facts = {"kind": "post", "database": database, "name": database}
            self._add_program_file(f"{self._names.of(database)}-schema-post", found, facts)

    def _add_program_file(
        self, file: str, programs: list[tuple[str, list[str]]], facts: dict[str, Any]
    ) -> None:
        """Triggers, routines or events; the last statement of each creates it."""
        lines: list[str] = []
        for _, parts in programs:
            lines += [*parts[:-1], definitions.owned(parts[-1], self._source.definer)]
        self._add(file, lines, {**facts, "definitions": definitions.digests(programs)})

    def _order_views(self) -> None:
        """Number the views so that each comes after those it uses."""
        views = {t.label: t.name for t in self.tables if t.kind == "view"}
        order = definitions.in_order(views, {label: self.definitions[label] for label in views})
        for text in self.texts:
            if text.facts["kind"] == "view":
                text.facts["order"] = order[f"{text.facts['database']}.{text.facts['name']}"]

    def _check_engines(self) -> None:
        """Refuse or report tables that a snapshot does not cover or that hold more than is read."""
        loose = [t for t in self.with_rows if not t.transactional]
        if loose:
            named = ", ".join(f"{t.label} ({t.engine})" for t in loose[:20])
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


def chosen(source: MySqlSource, found: list[Table]) -> list[Table]:
    """Those that the source's filters let through."""
    only, never = source.tables, source.exclude_tables
    return [
        t
        for t in found
        if (not only or matches(t.database, t.name, only))
        and not matches(t.database, t.name, never)
    ]
