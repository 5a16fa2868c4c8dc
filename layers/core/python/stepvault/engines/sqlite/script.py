"""A database as a portable SQL script, and back.

What the ``sqlite3`` shell's ``.dump`` writes, plus what it loses: text after a NUL character,
row numbers that no column holds, ``user_version``, ``application_id``, encoding and page size.
The script of a database restored from a script is that script again, byte for byte.
"""

import sqlite3
import struct
from collections.abc import Iterable, Iterator
from itertools import batched
from typing import Any

from stepvault.engines.sqlite import literals
from stepvault.engines.sqlite.literals import identifier
from stepvault.errors import SourceUnsupported

#: Bytes of script per buffer.
_BUFFER = 256 << 10
#: SQLite refuses longer statements.
_MAX_STATEMENT = 1_000_000_000
_SETTINGS_BEFORE = ("page_size", "auto_vacuum")
_SETTINGS_AFTER = ("user_version", "application_id")
#: Rows of more columns share statements, as SQLite searches all names for each column of one.
_WIDE = 100
#: Numbers whose literals SQLite reads back in one query.
_CHECKED_TOGETHER = 500
_ROW_NUMBERS = ("rowid", "_rowid_", "oid")


class _Text(bytes):
    """A TEXT value as stored, told apart from a BLOB."""


class Script:
    """Writes the script of one database, inside the connection's read transaction."""

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        self.rows = 0
        self.warnings: list[str] = []
        self._name = name
        self._connection = connection
        connection.text_factory = _Text
        self._encoding: literals.Encoding = self._strings("PRAGMA encoding")[0][0]
        self._unchecked: list[tuple[float, str]] = []
        self._without_rowid: set[str] = set()

    def read(self) -> Iterator[bytes]:
        """Write the script in buffers of about 256 KiB."""
        buffer: list[bytes] = []
        size = 0
        for statement in self._statements():
            line = statement.encode()
            if len(line) > _MAX_STATEMENT:
                raise SourceUnsupported(
                    f"SQLite file {self._name} has a row of {len(line) >> 20} MiB as SQL, "
                    "more than SQLite reads back",
                    'set format = "file"',
                )
            buffer.append(line)
            size += len(line)
            if size >= _BUFFER:
                yield b"".join(buffer)
                buffer, size = [], 0
        yield b"".join(buffer)

    def _statements(self) -> Iterator[str]:
        yield f"PRAGMA encoding = '{self._encoding}';\n"
        for setting in _SETTINGS_BEFORE:
            yield f"PRAGMA {setting} = {self._number(setting)};\n"
        yield "PRAGMA foreign_keys = OFF;\nBEGIN TRANSACTION;\n"
        yield from self._tables()
        yield from self._others()
        for setting in _SETTINGS_AFTER:
            yield f"PRAGMA {setting} = {self._number(setting)};\n"
        yield "COMMIT;\n"

    def _tables(self) -> Iterator[str]:
        self._check_schema()
        kinds: dict[str, str] = {}
        for schema_name, name, kind, _, without_rowid, _ in self._strings("PRAGMA table_list"):
            if schema_name == "main":
                kinds[name] = kind
                if without_rowid:
                    self._without_rowid.add(name)
        schema = self._strings(
            "SELECT name, sql FROM sqlite_schema WHERE type = 'table' ORDER BY rowid"
        )
        names = {name for name, _ in schema}
        virtual = [(name, sql) for name, sql in schema if kinds[name] == "virtual"]
        for name, sql in schema:
            if not name.startswith("sqlite_") and kinds[name] != "virtual":
                yield _ended(sql)
                yield from self._rows(name)
        if virtual:
            # Their data is in the ordinary tables above, which CREATE VIRTUAL TABLE would make.
            yield "PRAGMA writable_schema = ON;\n"
            for name, sql in virtual:
                values = [self._string_literal(v) for v in ("table", name, name, sql)]
                yield (
                    "INSERT INTO sqlite_schema(type, name, tbl_name, sql, rootpage) "
                    f"VALUES({', '.join(values)}, 0);\n"
                )
            yield "PRAGMA writable_schema = OFF;\n"
        if "sqlite_sequence" in names and any("AUTOINCREMENT" in s.upper() for _, s in schema):
            yield "DELETE FROM sqlite_sequence;\n"
            yield from self._rows("sqlite_sequence")
        if "sqlite_stat1" in names:
            yield "ANALYZE sqlite_master;\nDELETE FROM sqlite_stat1;\n"
            yield from self._rows("sqlite_stat1")

    def _check_schema(self) -> None:
        """Raise SourceUnsupported if UTF-8 cannot hold a definition as it is stored."""
        if self._encoding == "UTF-8":
            return
        codec = literals.CODECS[self._encoding]
        for text, stored in self._connection.execute(
            "SELECT sql, CAST(sql AS BLOB) FROM sqlite_schema WHERE sql IS NOT NULL"
        ):
            if text.decode(errors="replace").encode(codec) != stored:
                raise SourceUnsupported(
                    f"the schema of SQLite file {self._name} holds text that is not UTF-16: "
                    f"{text[:80]!r}",
                    'set format = "file"',
                )

    def _others(self) -> Iterator[str]:
        """Write indexes and views, then triggers, which so do not fire for the rows above."""
        for (sql,) in self._strings(
            "SELECT sql FROM sqlite_schema WHERE type <> 'table' AND sql IS NOT NULL "
            "ORDER BY type = 'trigger', rowid"
        ):
            yield _ended(sql)

    def _rows(self, table: str) -> Iterator[str]:
        columns, order = self._columns(table)
        names = ", ".join(identifier(c) for c in columns)
        start = f"INSERT INTO {identifier(table)}({names}) VALUES"
        wide, rows, size = len(columns) > _WIDE, list[str](), 0
        read = ", ".join(self._as_stored(c) for c in columns)
        query = f"SELECT {read} FROM {identifier(table)} {order}"
        for row in self._connection.execute(query):
            self.rows += 1
            rows.append(f"({', '.join([self._literal(value) for value in row])})")
            size += len(rows[-1])
            if not wide or size >= _BUFFER:
                yield f"{start}{',\n'.join(rows)};\n"
                rows, size = [], 0
            if len(self._unchecked) >= _CHECKED_TOGETHER:
                self._check_numbers(table)
        if rows:
            yield f"{start}{',\n'.join(rows)};\n"
        self._check_numbers(table)

    def _as_stored(self, column: str) -> str:
        """Return an expression for a column that keeps every byte of its texts.

        SQLite gives text as UTF-8, which cannot hold each text of a UTF-16 database: such a text
        is read as the hexadecimal form of its bytes.
        """
        name = identifier(column)
        if self._encoding == "UTF-8":
            return name
        return f"CASE typeof({name}) WHEN 'text' THEN hex(CAST({name} AS BLOB)) ELSE {name} END"

    def _columns(self, table: str) -> tuple[list[str], str]:
        """Return the columns to write (with the row number, if no column holds it) and the order."""
        quoted = identifier(table)
        info = self._strings(f"PRAGMA table_xinfo({quoted})")
        columns = [name for _, name, *_, hidden in info if not hidden]  # no generated ones
        lowered = {name.lower() for name in columns}
        number = next((n for n in _ROW_NUMBERS if n not in lowered), None)
        if table in self._without_rowid:
            return columns, ""
        key = [(name, kind) for _, name, kind, _, _, pk, _ in info if pk]
        in_index = any(row[3] == "pk" for row in self._strings(f"PRAGMA index_list({quoted})"))
        if len(key) == 1 and key[0][1].upper() == "INTEGER" and not in_index:
            return columns, f"ORDER BY {identifier(key[0][0])}"
        if table.startswith("sqlite_"):
            return columns, "ORDER BY rowid"
        if number is None:
            self.warnings.append(
                f"{self._name}: the row numbers of table {table} are hidden by its columns "
                "and were not kept"
            )
            return columns, ""
        return [number, *columns], f"ORDER BY {number}"

    def _literal(self, value: Any) -> str:
        match value:
            case None:
                return "NULL"
            case _Text():
                stored = (
                    bytes(value) if self._encoding == "UTF-8" else bytes.fromhex(value.decode())
                )
                return literals.text(stored, self._encoding)
            case bytes():
                return f"X'{value.hex()}'"
            case float():
                self._unchecked.append((value, literal := literals.real(value)))
                return literal
            case _:
                return repr(value)

    def _string_literal(self, characters: str) -> str:
        return literals.text(characters.encode(literals.CODECS[self._encoding]), self._encoding)

    def _check_numbers(self, table: str) -> None:
        """Have SQLite read the literals of numbers, and compare bit by bit.

        Raises:
            SourceUnsupported: one is read as another number.
        """
        for batch in batched(self._unchecked, _CHECKED_TOGETHER, strict=False):
            numbers, texts = zip(*batch, strict=True)
            (read,) = self._connection.execute(f"SELECT {', '.join(texts)}").fetchall()
            if _bits(*numbers) == _bits(*read):
                continue
            for number, as_read in zip(numbers, read, strict=True):
                if _bits(number) != _bits(as_read):
                    raise SourceUnsupported(
                        f"SQLite file {self._name}, table {table}: SQLite "
                        f"{sqlite3.sqlite_version} would read {number!r} in a script as {as_read!r}",
                        'set format = "file"',
                    )
        self._unchecked.clear()

    def _number(self, setting: str) -> int:
        return int(self._strings(f"PRAGMA {setting}")[0][0])

    def _strings(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query for names and definitions, with text as str."""
        try:
            return [
                tuple(bytes(v).decode() if isinstance(v, _Text) else v for v in row)
                for row in self._connection.execute(query)
            ]
        except UnicodeDecodeError as error:
            raise SourceUnsupported(
                f"the schema of SQLite file {self._name} holds text that is not UTF-8: {error}",
                'set format = "file"',
            ) from error


def replay(connection: sqlite3.Connection, script: Iterable[bytes]) -> None:
    """Run a script in an empty database.

    If a statement fails, the rest of the script is read all the same: if the script is not what
    was stored, its reader raises that at the end.
    """
    pieces = iter(script)
    try:
        for statement in _split(pieces):
            connection.execute(statement)
    except (sqlite3.Error, sqlite3.Warning, UnicodeDecodeError):
        for _ in pieces:
            pass
        raise


def _split(script: Iterator[bytes]) -> Iterator[str]:
    """Cut a script into statements; each ends with a semicolon at the end of a line."""
    rest, statement = b"", ""
    for piece in script:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            statement += line.decode() + "\n"
            if statement.endswith(";\n") and sqlite3.complete_statement(statement):
                yield statement
                statement = ""
    if rest or statement:
        raise sqlite3.ProgrammingError("the script ends within a statement")


def _ended(sql: str) -> str:
    last = sql.rpartition("\n")[2]
    return f"{sql}\n;\n" if "--" in last else f"{sql};\n"


def _bits(*numbers: float) -> bytes:
    return struct.pack(f"{len(numbers)}d", *numbers)
