"""Definitions of databases, tables, views and sequences, and SQL files in mydumper's layout.

Every statement in a file is followed by an end mark on a line of its own. It is a comment to any
server; it is the delimiter that we give to the plain client, so that the bodies of routines may hold
``;``; and it ends a line with ``;``, where myloader cuts statements. For myloader's sake, a ``;`` at
the end of a line inside a statement is followed by a comment, which :func:`split` removes again.
Both comments hold a word that occurs in no statement of the file; the last line tells it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

from stepvault.engines.mysql.inventory import Table
from stepvault.engines.mysql.session import SQL_MODE, Session, literal, quote
from stepvault.errors import BackupTampered, ConfigInvalid, SourceChanged

NAME = r"`(?:[^`]|``)*`"
_STRING = r"'(?:[^'\\]|\\.|'')*'"
_DEFINER = re.compile(
    r"(?P<before>CREATE\s+(?:OR REPLACE\s+)?(?:ALGORITHM=\w+\s+)?)"
    # In double quotes if the object was created in a mode with ANSI_QUOTES.
    rf"""DEFINER=(?P<user>{NAME}(?:@{NAME})?|"(?:[^"]|"")*"(?:@"(?:[^"]|"")*")?)\s+"""
)
#: Client character sets, beside UTF-8, of one byte per character and with ASCII in it: a definition
#: in one of them is kept as bytes. Any other text is kept in UTF-8.
_ONE_BYTE = {
    "latin1", "latin2", "latin5", "latin7", "cp1250", "cp1251", "cp1256", "cp1257", "cp850", "cp852",
    "cp866", "dec8", "greek", "hebrew", "hp8", "keybcs2", "koi8r", "koi8u", "macce", "macroman",
    "armscii8", "geostd8", "tis620", "binary",
}  # fmt: skip
_UTF8 = {"utf8", "utf8mb3", "utf8mb4"}

#: The first lines of every file.
SETTINGS = (
    "/*!40101 SET NAMES utf8mb4*/",
    "/*!40014 SET FOREIGN_KEY_CHECKS=0*/",
    "/*!40014 SET UNIQUE_CHECKS=0*/",
    "/*!40103 SET TIME_ZONE='+00:00'*/",
    f"/*!40101 SET SQL_MODE='{SQL_MODE}'*/",
)
DATA_HEAD = "".join(f"{s};\n" for s in SETTINGS).encode()

_END = re.compile(r"/\*(?P<word>\w+)\*/;\n\Z")
#: The word of files written before there was a choice, whose other comment is empty.
_FIRST_WORD = "end"


def file(statements: list[str]) -> bytes:
    """Return the file of these statements."""
    lines = [f"{s}\n" for s in (*SETTINGS, *statements)]
    word = next(w for w in (f"end{n}" for n in count(1)) if not any(w in line for line in lines))
    text = "".join(line.replace(";\n", f";/*{word}*/\n") + f"/*{word}*/;\n" for line in lines)
    return text.encode("utf-8", "surrogateescape")


def split(content: bytes) -> list[str]:
    """Return the statements that :func:`file` was given, without the settings.

    Raises:
        BackupTampered: the content is no such file.
    """
    text = content.decode("utf-8", "surrogateescape")
    end = _END.search(text)
    if end is None:
        raise BackupTampered("a file of definitions does not end with its end mark")
    word = end["word"]
    shield = ";/**/\n" if word == _FIRST_WORD else f";/*{word}*/\n"
    statements = [
        s.replace(shield, ";\n").removesuffix("\n") for s in text.split(f"/*{word}*/;\n")[:-1]
    ]
    return statements[len(SETTINGS) :]


def definer(definition: str) -> str:
    """Return the DEFINER of a definition as ``user@host`` without quotes; empty if it has none."""
    match = _DEFINER.search(definition)
    return re.sub(r"[`\"]", "", match["user"]) if match else ""


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
    """Return the definition of a table or sequence in the server's words.

    Raises:
        SourceChanged: it no longer exists.
    """
    what = f"{table.kind} {table.label}"
    kind = "SEQUENCE" if table.kind == "sequence" else "TABLE"
    row = session.one(f"SHOW CREATE {kind} {table.sql}", what)
    if not row:
        raise SourceChanged(f"{what} no longer exists", "Try again")
    # A default such as nextval(`shop`.`numbers`) must use the restored sequence.
    here = re.escape(quote(table.database))
    return re.sub(rf"\b((?:next|last)val\(){here}\.", r"\1", str(row[1]))


#: A nullable column without the DEFAULT NULL that CREATE TABLE would give it.
_NO_DEFAULT = re.compile(
    rf"^  (?P<name>{NAME}) (?!\w*(?:blob|text)|json|geo|\w*point|\w*linestring|\w*polygon|vector)"
    rf"(?!(?:{_STRING}|[^'\n])*? (?:NOT NULL|DEFAULT|GENERATED|AUTO_INCREMENT)\b).*$",
    re.MULTILINE,
)


def drop_defaults(session: Session, table: Table, definition: str) -> list[str]:
    """Return the statement that takes the default from nullable columns that have none.

    In MySQL an INSERT must name such a column; CREATE TABLE cannot make one.
    """
    if session.mariadb or table.kind != "table":
        return []
    names = [match["name"] for match in _NO_DEFAULT.finditer(definition)]
    changes = ", ".join(f"ALTER COLUMN {name} DROP DEFAULT" for name in names)
    return [f"ALTER TABLE {quote(table.name)} {changes}"] if changes else []


def sequence(session: Session, table: Table, definition: str) -> list[str]:
    """Return the statements that create a sequence and set its next number.

    Sequences take no part in transactions: call this after the snapshot has been taken, so that the
    number is above those in the snapshot's rows.
    """
    following = session.one(f"SELECT next_not_cached_value FROM {table.sql}")[0]
    return [definition, f"DO SETVAL({quote(table.name)}, {following}, 0)"]


def shown(session: Session, query: str, text: int, client: int, what: str = "") -> list[str]:
    """Run a SHOW CREATE of a view or a program, and return its row with the text as it is kept.

    The server decodes a text by the client character set of its creation, and by that again when it
    is created anew. So the text is read in that character set and kept as bytes, where a file can
    hold it; else it is kept in UTF-8, and the character set in the row says so.

    Args:
        session: the server.
        query: the statement.
        text: the position of the CREATE statement in the row.
        client: the position of the client character set; the collation follows it.
        what: the thing it is about, for the messages of errors.
    """
    row = list(session.one(query, what))
    if row[text] is None or row[text].isascii() or row[client] in _UTF8:
        return row
    if row[client] not in _ONE_BYTE:
        return [*row[:client], "utf8mb4", *row[client + 1 :]]
    session.run(f"SET CHARACTER_SET_RESULTS={row[client]}")
    try:
        row[text] = session.one(query, what)[text]
    finally:
        session.run("SET CHARACTER_SET_RESULTS=utf8mb4")
    return row


def context(client: str, collation: str) -> str:
    """Return the statement that sets the character set and collation that are kept with an object."""
    return f"SET CHARACTER_SET_CLIENT={client}, COLLATION_CONNECTION={literal(collation)}"


@dataclass(frozen=True)
class View:
    """A view's definition."""

    text: str
    client: str
    """Client character set at its creation."""
    collation: str
    """Collation of strings at its creation."""
    broken: str
    """Why it does not work; empty if it does."""

    def statements(self, name: str, owner: str) -> list[str]:
        """Return the statements that create the view."""
        return [
            f"DROP VIEW IF EXISTS {quote(name)}",
            context(self.client, self.collation),
            owned(self.text, owner),
        ]


def view(session: Session, table: Table) -> View:
    """Read a view's definition."""
    session.run(f"USE {quote(table.database)}")  # most names then come without the database's
    query = f"SHOW CREATE VIEW {table.sql}"
    _, text, client, collation = shown(session, query, 1, 2, f"view {table.label}")
    broken = _broken(session, table, text)
    return View(_local(text, table.database), client, collation, broken)


def _broken(session: Session, view: Table, text: str) -> str:
    """Return why the view that SHOW CREATE has just named does not work; empty if it does."""
    warnings = [(number, str(message)) for _, number, message in session.rows("SHOW WARNINGS")]
    invalid = [message for number, message in warnings if number == 1356]
    no_definer = [message for number, message in warnings if number == 1449]
    own = f"({definer(text)})"
    # A view without its definer can be created, one over such a view cannot. MariaDB looks no further
    # when the definer is missing, but then it lists no columns.
    others = [m for m in no_definer if own not in m.replace("'", "")]
    blind = no_definer if session.mariadb and not view.columns else []
    return next(iter((*invalid, *others, *blind)), "")


def _local(text: str, database: str) -> str:
    """Remove a view's own database from the names in its text, but not from its strings.

    So the view can be created in a database of another name.
    """
    qualifier = re.compile(
        rf"{_STRING}|{re.escape(quote(database))}\.(?={NAME}(?:\.`|\())", re.DOTALL
    )
    return qualifier.sub(lambda m: m[0] if m[0].startswith("'") else "", text)


_SOURCE = re.compile(rf"\b(?:from|join|straight_join)[\s(]+(?:{NAME}\.)?({NAME})")


def in_order(names: Mapping[str, str], texts: Mapping[str, str]) -> dict[str, int]:
    """Assign numbers to views, by label, so that each comes after those that it reads.

    Args:
        names: the views' names, by label.
        texts: the views' definitions, by label.
    """
    labels: dict[str, list[str]] = {}
    for label, name in names.items():
        labels.setdefault(quote(name), []).append(label)
    reads = {
        label: [n for name in _SOURCE.findall(text) for n in labels.get(name, ()) if n != label]
        for label, text in texts.items()
    }
    numbers: dict[str, int] = {}
    begun: set[str] = set()
    stack = list(names)[::-1]
    while stack:
        label = stack.pop()
        if label in numbers:
            continue
        waits = [] if label in begun else [n for n in reads[label] if n not in begun]
        begun.add(label)
        if waits:
            stack += [label, *waits]
        else:
            numbers[label] = len(numbers)
    return numbers
