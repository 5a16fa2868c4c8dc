"""Triggers, routines and events: their text, and what the server keeps with it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

from stepvault.engines.mysql.definitions import NAME, context, owned, shown
from stepvault.engines.mysql.errors import fail
from stepvault.engines.mysql.inventory import Table
from stepvault.engines.mysql.session import Session, literal, quote


@dataclass(frozen=True)
class Program:
    """A trigger, routine or event."""

    kind: str
    """trigger, function, procedure, package, package body or event"""
    name: str
    text: str
    sql_mode: str
    client: str
    """Client character set at its creation."""
    collation: str
    """Collation of strings at its creation."""
    zone: str = ""
    """Time zone of an event."""
    table: str = ""
    """Table of a trigger."""

    @property
    def label(self) -> str:
        """The name that tells it from others of its file."""
        return self.name if self.kind == "trigger" else f"{self.kind} {self.name}"

    def statements(self, owner: str) -> list[str]:
        """Return the statements that create it; the last one is the CREATE."""
        return [
            "SET NAMES utf8mb4",
            *([f"SET TIME_ZONE={literal(self.zone)}"] if self.zone else []),
            # DROP PACKAGE is known only in the package's own SQL mode.
            f"SET SQL_MODE={literal(self.sql_mode)}",
            f"DROP {self.kind.upper()} IF EXISTS {quote(self.name)}",
            context(self.client, self.collation),
            owned(self.text, owner),
        ]

    def digests(self) -> tuple[str, str, str]:
        """Return short digests, whoever the definer is: of all, of all in lower case, of the text.

        The second is for servers that write names in lower case, the third is in older backups.
        """
        text = owned(self.text, "strip")
        parts = "\n".join((self.sql_mode, self.client, self.collation, self.zone, text))
        older = re.sub(r" AUTO_INCREMENT=\d+", "", text)
        return _short(parts), _short(parts.lower()), _short(older)


def _short(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def triggers(session: Session, database: str) -> Iterator[Program]:
    """Yield the triggers of a database, those of a table in the order in which they fire."""
    for schema, name, table in session.rows(
        "SELECT trigger_schema, trigger_name, event_object_table FROM information_schema.triggers"
        f" WHERE trigger_schema = {literal(database)}"
        " ORDER BY event_object_table, event_manipulation, action_timing, action_order"
    ):
        if schema != database:  # the server compares without case and accents
            continue
        query = f"SHOW CREATE TRIGGER {quote(database)}.{quote(name)}"
        _, mode, text, client, collation, *_ = shown(session, query, 2, 3)
        yield Program(
            "trigger", name, _unqualified(text, database), mode, client, collation, table=table
        )


def _unqualified(trigger: str, database: str) -> str:
    """Remove the database's name from the head of a trigger, whose text is as it was typed."""
    here = rf"(?:{re.escape(quote(database))}|{re.escape(database)})\s*\.\s*"
    head = re.compile(
        rf"(?P<one>TRIGGER\s+(?:IF\s+NOT\s+EXISTS\s+)?)(?:{here})?"
        rf"(?P<two>(?:{NAME}|[^\s`]+)\s+(?:BEFORE|AFTER)\s+(?:INSERT|UPDATE|DELETE)\s+ON\s+)"
        rf"(?:{here})?",
        re.IGNORECASE,
    )
    return head.sub(r"\g<one>\g<two>", trigger, count=1)


#: Names, strings and comments.
_NO_CODE = re.compile(
    rf"""{NAME}|'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*"|--\s[^\n]*|#[^\n]*|/\*.*?\*/""", re.DOTALL
)
_OLD_OR_NEW = re.compile(rf"\b(?:NEW|OLD)\s*\.\s*(?:({NAME})|([\w$]+))", re.IGNORECASE)


def broken(trigger: Program, table: Table) -> str:
    """Return why a trigger does not work: it names a column that its table lacks; else empty."""
    columns = {c.name.lower() for c in table.columns}
    text = _NO_CODE.sub(lambda m: m[0] if m[0].startswith("`") else " ", trigger.text)
    for quoted, plain in _OLD_OR_NEW.findall(text):
        column = quoted[1:-1].replace("``", "`") if quoted else plain
        if column.lower() not in columns:
            return f"it names column {column}, which table {table.label} does not have"
    return ""


def routines_and_events(session: Session, database: str) -> Iterator[Program]:
    """Yield the functions, procedures, packages and events of a database.

    Raises:
        SourceDenied: the user may not read a routine's body.
    """
    yield from _routines(session, database)
    for schema, name in session.rows(
        "SELECT event_schema, event_name FROM information_schema.events"
        f" WHERE event_schema = {literal(database)} ORDER BY event_name"
    ):
        if schema == database:
            query = f"SHOW CREATE EVENT {quote(database)}.{quote(name)}"
            _, mode, zone, text, client, collation, *_ = shown(session, query, 3, 4)
            yield Program("event", name, text, mode, client, collation, zone)


def _routines(session: Session, database: str) -> Iterator[Program]:
    for schema, kind, name in session.rows(
        "SELECT routine_schema, routine_type, routine_name FROM information_schema.routines"
        f" WHERE routine_schema = {literal(database)}"
        # A package needs its head before its body, and both come before their callers.
        " ORDER BY routine_type NOT LIKE 'PACKAGE%', routine_type, routine_name"
    ):
        if schema != database:
            continue
        query = f"SHOW CREATE {kind} {quote(database)}.{quote(name)}"
        _, mode, text, client, collation, *_ = shown(session, query, 2, 3)
        if text is None:
            hidden = f"the body of {kind.lower()} {name} is hidden from this user"
            fail(1370, hidden, session.address, f"database {database}", session.target)
        yield Program(kind.lower(), name, text, mode, client, collation)
