"""Definitions as SQL files in mydumper's layout, and how to take them apart again.

Every statement ends with :data:`END`: a comment that any server skips, that the plain client
takes as its delimiter (so that the bodies of routines need no care) and that ends a line with
``;`` as myloader wants it. It has a line of its own, as a routine may end with a comment. Inside a
statement myloader would stumble over ``;`` at a line's end, so an empty comment stands there, which
:func:`split` takes out again.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256

from stepvault.engines.mysql.connection import SQL_MODE, Session, fail, literal, quote
from stepvault.engines.mysql.inventory import Table
from stepvault.errors import ConfigInvalid, SourceChanged

END = "/*end*/;\n"
_LINE_END, _SHIELDED = ";\n", ";/**/\n"

_DEFINER = re.compile(
    r"(?P<before>CREATE\s+(?:OR REPLACE\s+)?(?:ALGORITHM=\w+\s+)?)"
    # In double quotes where the object was made in a mode with ANSI_QUOTES.
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
    """Statements as a file's bytes."""
    lines = (f"{s}\n".replace(_LINE_END, _SHIELDED) + END for s in (*SETTINGS, *statements))
    return "".join(lines).encode("utf-8", "surrogateescape")


def split(content: bytes) -> list[str]:
    """The statements that :func:`file` was given, without the settings."""
    text = content.decode("utf-8", "surrogateescape")
    found = [s.replace(_SHIELDED, _LINE_END).removesuffix("\n") for s in text.split(END)[:-1]]
    return found[len(SETTINGS) :]


def normal(definition: str) -> str:
    """A definition without what changes by itself."""
    return _COUNTER.sub("", definition)


def digest(definition: str) -> str:
    return sha256(normal(definition).encode("utf-8", "surrogateescape")).hexdigest()


def owned(definition: str, owner: str) -> str:
    """The definition with its DEFINER kept, stripped or replaced.

    Args:
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
    said = session.one(f"SHOW CREATE DATABASE {quote(database)}")[1]
    return str(said).replace("CREATE DATABASE ", "CREATE DATABASE /*!32312 IF NOT EXISTS*/ ", 1).replace("IF NOT EXISTS*/ /*!32312 IF NOT EXISTS*/", "IF NOT EXISTS*/")  # fmt: skip


def create_table(session: Session, table: Table) -> str:
    """The table's, view's or sequence's definition, as the server words it.

    Raises:
        SourceChanged: it is gone.
    """
    what = f"{table.kind} {table.label}"
    if table.kind == "view":
        session.run(f"USE {quote(table.database)}")  # most names then come without it
        return _local(str(session.one(f"SHOW CREATE VIEW {table.sql}", what)[1]), table.database)
    kind = "SEQUENCE" if table.kind == "sequence" else "TABLE"
    said = session.one(f"SHOW CREATE {kind} {table.sql}", what)
    if not said:
        raise SourceChanged(f"{what} has gone", "Try again")
    # A default such as nextval(`shop`.`numbers`) has to mean the restored sequence.
    here = re.escape(quote(table.database))
    return re.sub(rf"\b((?:next|last)val\(){here}\.", r"\1", str(said[1]))


def _local(text: str, database: str) -> str:
    """A view's text without its own database before columns and functions, so that it works
    under another name; strings stay as they are."""
    name = r"`(?:[^`]|``)*`"
    qualifier = re.compile(
        rf"'(?:[^'\\]|\\.|'')*'|{re.escape(quote(database))}\.(?={name}(?:\.`|\())", re.DOTALL
    )
    return qualifier.sub(lambda m: m[0] if m[0].startswith("'") else "", text)


def sequence(session: Session, table: Table, definition: str) -> list[str]:
    """A sequence that goes on where the original stands: read once the rows that hold its numbers
    are settled, as it takes no part in transactions."""
    following = session.one(f"SELECT next_not_cached_value FROM {table.sql}")[0]
    return [definition, f"DO SETVAL({quote(table.name)}, {following}, 0)"]


def placeholder(view: Table) -> list[str]:
    """A table that stands for the view until all that it needs is there."""
    columns = ",\n".join(f"{quote(c.name)} int" for c in view.columns)
    return [f"CREATE TABLE IF NOT EXISTS {quote(view.name)} (\n{columns}\n)"]


def view(table: Table, definition: str) -> list[str]:
    name = quote(table.name)
    return [f"DROP TABLE IF EXISTS {name}", f"DROP VIEW IF EXISTS {name}", definition]


def is_broken(session: Session, view: Table) -> str:
    """Why the view does not work, or nothing."""
    session.run(f"SHOW CREATE VIEW {view.sql}")
    said = [text for _, number, text in session.rows("SHOW WARNINGS") if number == 1356]
    return str(said[0]) if said else ""


def in_order(names: Mapping[str, str], texts: Mapping[str, str]) -> dict[str, int]:
    """Numbers for views, by label, such that each comes after those it mentions.

    Args:
        names: the view's name, by label.
        texts: its definition, by label.
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
    """``(name, statements)`` of each of the table's triggers, in the order they fire."""
    for (name,) in session.rows(
        "SELECT trigger_name FROM information_schema.triggers"
        f" WHERE trigger_schema = {literal(table.database)}"
        f" AND event_object_table = {literal(table.name)}"
        " ORDER BY event_manipulation, action_timing, action_order"
    ):
        # trigger, sql_mode, statement, character_set_client, collation_connection, …
        said = session.one(f"SHOW CREATE TRIGGER {quote(table.database)}.{quote(name)}")
        text = _unqualified(said[2], table.database)
        yield name, [*_modes(said[1], said[4]), f"DROP TRIGGER IF EXISTS {quote(name)}", text]


def _unqualified(trigger: str, database: str) -> str:
    """A trigger's text as it was typed, without the database's name in its head."""
    here = rf"(?:{re.escape(quote(database))}|{re.escape(database)})\s*\.\s*"
    head = re.compile(
        rf"(?P<one>TRIGGER\s+(?:IF\s+NOT\s+EXISTS\s+)?)(?:{here})?"
        r"(?P<two>(?:`(?:[^`]|``)*`|[^\s`]+)\s+(?:BEFORE|AFTER)\s+(?:INSERT|UPDATE|DELETE)\s+ON\s+)"
        rf"(?:{here})?",
        re.IGNORECASE,
    )
    return head.sub(r"\g<one>\g<two>", trigger, count=1)


def routines(session: Session, database: str) -> Iterator[tuple[str, str, list[str]]]:
    """``(kind, name, statements)`` of each function, procedure and package.

    Raises:
        SourceDenied: the user may not read a routine's body.
    """
    for kind, name in session.rows(
        "SELECT routine_type, routine_name FROM information_schema.routines"
        f" WHERE routine_schema = {literal(database)}"
        # A package needs its head before its body; both before what calls them.
        " ORDER BY routine_type NOT LIKE 'PACKAGE%', routine_type, routine_name"
    ):
        # name, sql_mode, statement, character_set_client, collation_connection, …
        said = session.one(f"SHOW CREATE {kind} {quote(database)}.{quote(name)}")
        if said[2] is None:
            fail(1370, f"the body of {kind.lower()} {name} is hidden from this user", session.address, f"database {database}")  # fmt: skip
        drop = f"DROP {kind} IF EXISTS {quote(name)}"
        # DROP PACKAGE is only known in the package's own SQL mode.
        yield kind, name, [*_modes(said[1], said[4]), drop, said[2]]


def events(session: Session, database: str) -> Iterator[tuple[str, list[str]]]:
    """``(name, statements)`` of each event."""
    for (name,) in session.rows(
        "SELECT event_name FROM information_schema.events"
        f" WHERE event_schema = {literal(database)} ORDER BY event_name"
    ):
        # event, sql_mode, time_zone, statement, character_set_client, collation_connection, …
        said = session.one(f"SHOW CREATE EVENT {quote(database)}.{quote(name)}")
        zone = f"SET TIME_ZONE={literal(said[2])}"
        drop = f"DROP EVENT IF EXISTS {quote(name)}"
        yield name, [zone, *_modes(said[1], said[5]), drop, said[3]]


def programs(session: Session, database: str) -> Iterator[tuple[str, list[str]]]:
    """``(label, statements)`` of each routine and event."""
    for kind, name, statements in routines(session, database):
        yield f"{kind.lower()} {name}", statements
    for name, statements in events(session, database):
        yield f"event {name}", statements


def digests(found: Iterable[tuple[str, list[str]]]) -> dict[str, str]:
    """Short digests of what programs' last statements create, by label, whoever owns them."""
    return {label: digest(owned(parts[-1], "strip"))[:16] for label, parts in found}


def _modes(sql_mode: str, collation: str) -> list[str]:
    """What the server remembers with a stored program beside its text."""
    return [f"SET SQL_MODE={literal(sql_mode)}", f"SET COLLATION_CONNECTION={literal(collation)}"]
