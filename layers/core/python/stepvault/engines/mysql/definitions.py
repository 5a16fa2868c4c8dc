"""Definitions as SQL files in mydumper's layout, and how to read them back.

Every statement is followed by :data:`END` on a line of its own. It is a comment to any server; it
is the delimiter that we give to the plain client, so that the bodies of routines may hold ``;``; and
it ends a line with ``;``, where myloader cuts statements. For myloader's sake, a ``;`` at the end of
a line inside a statement is followed by an empty comment, which :func:`split` removes again.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256

from stepvault.engines.mysql.errors import fail
from stepvault.engines.mysql.inventory import Table
from stepvault.engines.mysql.session import SQL_MODE, Session, literal, quote
from stepvault.errors import ConfigInvalid, SourceChanged

END = "/*end*/;\n"
_LINE_END, _SHIELDED = ";\n", ";/**/\n"

_DEFINER = re.compile(
    r"(?P<before>CREATE\s+(?:OR REPLACE\s+)?(?:ALGORITHM=\w+\s+)?)"
    # In double quotes if the object was created in a mode with ANSI_QUOTES.
    r"""DEFINER=(?:`(?:[^`]|``)*`(?:@`(?:[^`]|``)*`)?|"(?:[^"]|"")*"(?:@"(?:[^"]|"")*")?)\s+"""
)
_COUNTER = re.compile(r" AUTO_INCREMENT=\d+")

#: The first lines of every file.
SETTINGS = (
    "/*!40101 SET NAMES utf8mb4*/",
    "/*!40014 SET FOREIGN_KEY_CHECKS=0*/",
    "/*!40014 SET UNIQUE_CHECKS=0*/",
    "/*!40103 SET TIME_ZONE='+00:00'*/",
    f"/*!40101 SET SQL_MODE='{SQL_MODE}'*/",
)
DATA_HEAD = "".join(f"{s};\n" for s in SETTINGS).encode()


def file(statements: list[str]) -> bytes:
    """Return the file of these statements."""
    lines = (f"{s}\n".replace(_LINE_END, _SHIELDED) + END for s in (*SETTINGS, *statements))
    return "".join(lines).encode("utf-8", "surrogateescape")


def split(content: bytes) -> list[str]:
    """Return the statements that :func:`file` was given, without the settings."""
    text = content.decode("utf-8", "surrogateescape")
    statements = [s.replace(_SHIELDED, _LINE_END).removesuffix("\n") for s in text.split(END)[:-1]]
    return statements[len(SETTINGS) :]


def normal(definition: str) -> str:
    """Return a definition without its counter, which changes with every row."""
    return _COUNTER.sub("", definition)


def digest(definition: str) -> str:
    """Return the SHA-256 of a definition, whatever its counter."""
    return sha256(normal(definition).encode("utf-8", "surrogateescape")).hexdigest()


def owned(definition: str, owner: str) -> str:
    """Keep, strip or replace the DEFINER of a definition.

    Args:
        definition: a CREATE statement.
        owner: ``keep``, ``strip`` (or ``none``) or ``user@host``.

    Raises:
        ConfigInvalid: owner is none of these.
    """
    if owner == "keep":
        return definition
    if owner in {"strip", "none"}:
        return _DEFINER.sub(r"\g<before>", definition, count=1)
    user, at, host = owner.rpartition("@")
    if not at:
        raise ConfigInvalid(f"definer {owner!r} is not a user", "Write keep, strip or user@host")
    who = f"{quote(user.strip('`'))}@{quote(host.strip('`'))}".replace("\\", "\\\\")
    return _DEFINER.sub(rf"\g<before>DEFINER={who} ", definition, count=1)


def create_database(session: Session, database: str) -> str:
    """Return the statement that creates the database unless it exists."""
    statement = str(session.one(f"SHOW CREATE DATABASE {quote(database)}")[1])
    if_needed = "/*!32312 IF NOT EXISTS*/"
    if if_needed in statement:
        return statement
    return statement.replace("CREATE DATABASE ", f"CREATE DATABASE {if_needed} ", 1)


def create_table(session: Session, table: Table) -> str:
    """Return the definition of a table, view or sequence in the server's words.

    Raises:
        SourceChanged: it no longer exists.
    """
    what = f"{table.kind} {table.label}"
    if table.kind == "view":
        session.run(f"USE {quote(table.database)}")  # most names then come without the database's
        return _local(str(session.one(f"SHOW CREATE VIEW {table.sql}", what)[1]), table.database)
    kind = "SEQUENCE" if table.kind == "sequence" else "TABLE"
    row = session.one(f"SHOW CREATE {kind} {table.sql}", what)
    if not row:
        raise SourceChanged(f"{what} no longer exists", "Try again")
    # A default such as nextval(`shop`.`numbers`) must use the restored sequence.
    here = re.escape(quote(table.database))
    return re.sub(rf"\b((?:next|last)val\(){here}\.", r"\1", str(row[1]))


def _local(text: str, database: str) -> str:
    """Remove a view's own database from the names in its text, but not from its strings.

    So the view can be created in a database of another name.
    """
    name = r"`(?:[^`]|``)*`"
    qualifier = re.compile(
        rf"'(?:[^'\\]|\\.|'')*'|{re.escape(quote(database))}\.(?={name}(?:\.`|\())", re.DOTALL
    )
    return qualifier.sub(lambda m: m[0] if m[0].startswith("'") else "", text)


def sequence(session: Session, table: Table, definition: str) -> list[str]:
    """Return the statements that create a sequence and set its next number.

    Sequences take no part in transactions: call this after the snapshot has been taken, so that the
    number is above those in the snapshot's rows.
    """
    following = session.one(f"SELECT next_not_cached_value FROM {table.sql}")[0]
    return [definition, f"DO SETVAL({quote(table.name)}, {following}, 0)"]


def placeholder(view: Table) -> list[str]:
    """Return a table with the view's columns that stands in for it until the view can be created."""
    columns = ",\n".join(f"{quote(c.name)} int" for c in view.columns)
    return [f"CREATE TABLE IF NOT EXISTS {quote(view.name)} (\n{columns}\n)"]


def view(table: Table, definition: str) -> list[str]:
    """Return the statements that put a view in place of its stand-in."""
    name = quote(table.name)
    return [f"DROP TABLE IF EXISTS {name}", f"DROP VIEW IF EXISTS {name}", definition]


def is_broken(session: Session, view: Table) -> str:
    """Return why the view does not work; empty if it does."""
    session.run(f"SHOW CREATE VIEW {view.sql}")
    reasons = [text for _, number, text in session.rows("SHOW WARNINGS") if number == 1356]
    return str(reasons[0]) if reasons else ""


def in_order(names: Mapping[str, str], texts: Mapping[str, str]) -> dict[str, int]:
    """Assign numbers to views, by label, so that each comes after those that it mentions.

    Args:
        names: the views' names, by label.
        texts: the views' definitions, by label.
    """
    numbers: dict[str, int] = {}

    def visit(label: str, above: frozenset[str]) -> None:
        if label in numbers:
            return
        for other, name in names.items():
            if other not in above and other != label and quote(name) in texts[label]:
                visit(other, above | {label})
        numbers[label] = len(numbers)

    for label in names:
        visit(label, frozenset())
    return numbers


def triggers(session: Session, table: Table) -> Iterator[tuple[str, list[str]]]:
    """Yield ``(name, statements)`` of each trigger of a table, in the order in which they fire."""
    for (name,) in session.rows(
        "SELECT trigger_name FROM information_schema.triggers"
        f" WHERE trigger_schema = {literal(table.database)}"
        f" AND event_object_table = {literal(table.name)}"
        " ORDER BY event_manipulation, action_timing, action_order"
    ):
        # trigger, sql_mode, statement, character_set_client, collation_connection, …
        row = session.one(f"SHOW CREATE TRIGGER {quote(table.database)}.{quote(name)}")
        text = _unqualified(row[2], table.database)
        yield name, [*_modes(row[1], row[4]), f"DROP TRIGGER IF EXISTS {quote(name)}", text]


def _unqualified(trigger: str, database: str) -> str:
    """Remove the database's name from the head of a trigger, whose text is as it was typed."""
    here = rf"(?:{re.escape(quote(database))}|{re.escape(database)})\s*\.\s*"
    head = re.compile(
        rf"(?P<one>TRIGGER\s+(?:IF\s+NOT\s+EXISTS\s+)?)(?:{here})?"
        r"(?P<two>(?:`(?:[^`]|``)*`|[^\s`]+)\s+(?:BEFORE|AFTER)\s+(?:INSERT|UPDATE|DELETE)\s+ON\s+)"
        rf"(?:{here})?",
        re.IGNORECASE,
    )
    return head.sub(r"\g<one>\g<two>", trigger, count=1)


def routines(session: Session, database: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield ``(kind, name, statements)`` of each function, procedure and package.

    Raises:
        SourceDenied: the user may not read a routine's body.
    """
    for kind, name in session.rows(
        "SELECT routine_type, routine_name FROM information_schema.routines"
        f" WHERE routine_schema = {literal(database)}"
        # A package needs its head before its body, and both come before their callers.
        " ORDER BY routine_type NOT LIKE 'PACKAGE%', routine_type, routine_name"
    ):
        # name, sql_mode, statement, character_set_client, collation_connection, …
        row = session.one(f"SHOW CREATE {kind} {quote(database)}.{quote(name)}")
        if row[2] is None:
            hidden = f"the body of {kind.lower()} {name} is hidden from this user"
            fail(1370, hidden, session.address, f"database {database}")
        drop = f"DROP {kind} IF EXISTS {quote(name)}"
        # The modes come first: DROP PACKAGE is known only in the package's own SQL mode.
        yield kind, name, [*_modes(row[1], row[4]), drop, row[2]]


def events(session: Session, database: str) -> Iterator[tuple[str, list[str]]]:
    """Yield ``(name, statements)`` of each event."""
    for (name,) in session.rows(
        "SELECT event_name FROM information_schema.events"
        f" WHERE event_schema = {literal(database)} ORDER BY event_name"
    ):
        # event, sql_mode, time_zone, statement, character_set_client, collation_connection, …
        row = session.one(f"SHOW CREATE EVENT {quote(database)}.{quote(name)}")
        zone = f"SET TIME_ZONE={literal(row[2])}"
        drop = f"DROP EVENT IF EXISTS {quote(name)}"
        yield name, [zone, *_modes(row[1], row[5]), drop, row[3]]


def programs(session: Session, database: str) -> Iterator[tuple[str, list[str]]]:
    """Yield ``(label, statements)`` of each routine and event."""
    for kind, name, statements in routines(session, database):
        yield f"{kind.lower()} {name}", statements
    for name, statements in events(session, database):
        yield f"event {name}", statements


def digests(programs: Iterable[tuple[str, list[str]]]) -> dict[str, str]:
    """Return short digests of triggers, routines or events by label, whoever their definer is."""
    return {label: digest(owned(parts[-1], "strip"))[:16] for label, parts in programs}


def _modes(sql_mode: str, collation: str) -> list[str]:
    """Return statements that set what the server keeps with a program beside its text."""
    return [f"SET SQL_MODE={literal(sql_mode)}", f"SET COLLATION_CONNECTION={literal(collation)}"]
