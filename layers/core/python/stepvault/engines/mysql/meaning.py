"""What a definition means, apart from how the server words it: two tables are the same if this is.

The server does not print a definition that it was given itself in the same words. A column with the
table's character set is printed with it or without it, depending on how it was created.
"""

import re
from collections.abc import Mapping
from hashlib import sha256

from stepvault.engines.mysql.definitions import NAME, View, owned
from stepvault.engines.mysql.inventory import Table
from stepvault.engines.mysql.session import Session

_STRING = r"'(?:[^'\\]|\\.|'')*'"
_COUNTER = re.compile(r" AUTO_INCREMENT=\d+")
_COLUMN = re.compile(rf"  {NAME} (?P<type>\w+)")
_TEXT_TYPES = {"char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set"}
_CHARACTERS = re.compile(
    rf"{_STRING}|{NAME}| CHARACTER SET (?P<charset>\w+)| COLLATE (?P<collation>\w+)"
)
_TABLE_CHARACTERS = re.compile(
    r"^\).* DEFAULT CHARSET=(?P<charset>\w+)(?: COLLATE=(?P<collation>\w+))?", re.MULTILINE
)


def normal(definition: str) -> str:
    """Return a definition without its counter, which changes with every row."""
    return _COUNTER.sub("", definition)


def table(definition: str, collations: Mapping[str, str]) -> str:
    """Return a table's definition with the collation of each text column spelled out.

    Args:
        definition: as SHOW CREATE TABLE words it.
        collations: the default collation of each character set.
    """
    default = _TABLE_CHARACTERS.search(definition)
    of_table = _collation(default["charset"], default["collation"], collations) if default else ""
    return "\n".join(_line(line, of_table, collations) for line in normal(definition).split("\n"))


def _collation(charset: str | None, collation: str | None, collations: Mapping[str, str]) -> str:
    return collation or collations.get(charset or "", charset or "")


def _line(line: str, of_table: str, collations: Mapping[str, str]) -> str:
    column = _COLUMN.match(line)
    if column is None or column["type"] not in _TEXT_TYPES:
        return line
    named: dict[str, str] = {}

    def take(match: re.Match[str]) -> str:
        named.update({k: v for k, v in match.groupdict().items() if v})
        return match[0] if match[0][0] in "'`" else ""

    rest = _CHARACTERS.sub(take, line)
    own = _collation(named.get("charset"), named.get("collation"), collations)
    return f"{rest} COLLATE {own or of_table}"


def collations(definition: str) -> list[str]:
    """Return the collations and character sets that a table's definition names."""
    names = [
        match.group(*match.groupdict())
        for pattern in (_CHARACTERS, _TABLE_CHARACTERS)
        for match in pattern.finditer(definition)
    ]
    return sorted({name for pair in names for name in pair if name})


def with_counter(definition: str, counter: int) -> str:
    """Return a table's definition with another counter; 0 for none."""
    head, sep, tail = definition.rpartition("\n) ENGINE=")
    if not sep:
        return definition
    tail = normal(tail)
    if counter:
        engine, _, rest = tail.partition(" ")
        tail = f"{engine} AUTO_INCREMENT={counter} {rest}"
    return head + sep + tail


def digests(session: Session, of: Table, definition: str) -> dict[str, str]:
    """Return the digests of a table or sequence, as facts.

    The second one is for servers that write names in lower case.
    """
    text = table(definition, session.collations) if of.kind == "table" else definition
    return {"definition": digest(text), "folded": digest(text.lower())[:16]}


def view_digests(view: View) -> dict[str, str]:
    """Return the digests of a view, as facts, whoever its definer is."""
    text = "\n".join((owned(view.text, "strip"), view.client, view.collation))
    return {"definition": digest(text), "folded": digest(text.lower())[:16]}


def digest(definition: str) -> str:
    """Return the SHA-256 of a definition, whatever its counter."""
    return sha256(normal(definition).encode("utf-8", "surrogateescape")).hexdigest()
