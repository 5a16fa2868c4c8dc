"""A table's rows as INSERT statements, read as fast as Python can.

The driver would make an object of every value. Instead, the server builds the text of a whole row,
so that a row is one field, which ``wire.py`` cuts out of the socket's bytes. Only rows with large
BLOB or TEXT values come as raw pieces and are escaped here: the server is slow at building their
text, and returns NULL when it exceeds ``max_allowed_packet``.

The content of a row is hashed as its text (``engines.row_digest``).
"""

from collections.abc import Iterator

from stepvault.engines.mysql.inventory import Column, Table
from stepvault.engines.mysql.session import Session, quote
from stepvault.engines.mysql.wire import RECEIVE, ROW_END, answer
from stepvault.engines.row_digest import Sums
from stepvault.errors import SourceUnsupported

#: Rows whose BLOB and TEXT values have more bytes in total come as raw pieces.
_RAW_ABOVE = 700
#: Bytes of rows in one statement: small enough for any server's max_allowed_packet.
_STATEMENT = 1_000_000
#: Bytes before a field's value, by the field's first byte (a length-encoded string).
_SKIP = {0xFC: 3, 0xFD: 4, 0xFE: 9}
_NULL = 0xFB

#: What to add to a column's name to get the number as text.
_NUMBERS = {
    **dict.fromkeys(("tinyint", "smallint", "mediumint", "int", "bigint", "decimal", "year"), ""),
    "bit": "+0",
}
#: The same so that every bit is kept: FLOAT itself prints 16777216 as 16777200. These go in quotes,
#: as MySQL reads a bare -0 as 0.
_FLOATS = {"float": "*1e0", "double": ""}
_GEOMETRY = {
    "geometry", "point", "linestring", "polygon",
    "multipoint", "multilinestring", "multipolygon", "geometrycollection", "geomcollection",
}  # fmt: skip
_BLOBS = {"tinyblob", "blob", "mediumblob", "longblob", "vector"} | _GEOMETRY
_BINARY = {"binary", "varbinary"} | _BLOBS
_TEXTS = {"tinytext", "text", "mediumtext", "longtext", "json"}
#: Character sets that convert to utf8mb4 and back without loss; others are written as hexadecimal.
_UTF8 = {"utf8", "utf8mb3", "utf8mb4"}
_CONVERTIBLE = {"ascii", "latin1", "ucs2", "utf16", "utf16le", "utf32"}


def statements(session: Session, table: Table, where: str, sums: Sums) -> Iterator[bytes]:
    """Yield the rows as INSERT statements of up to 1 MB, in pieces.

    Each statement ends with ``;`` and a newline. A larger row has a statement of its own.

    Args:
        session: the session to read with.
        table: the table to read.
        where: a condition; empty for all rows.
        sums: receives the count and the content; complete when the iterator has ended.

    Raises:
        SourceUnsupported: the server could not build a row's text.
        SourceChanged, SourceBusy, SourceUnreachable, SourceCorrupt, OutOfTime.
    """
    plan = _Plan(table)
    names = ",".join(quote(c.name) for c in table.stored)
    head = f"INSERT INTO {quote(table.name)} ({names}) VALUES\n(".encode()
    query = f"SELECT {plan.select} FROM {table.sql}" + (f" WHERE {where}" if where else "")
    lines: list[bytes] = []
    size = 0
    with session.errors(f"table {table.label}"):
        for batch in answer(session, query, plan):
            sums.add(batch)
            new, total = batch, sum(map(len, batch))
            if total > 2 * RECEIVE:  # there are large rows among them
                for line in batch:
                    if len(line) > RECEIVE:
                        yield from _statement(head, [line])
                new = [line for line in batch if len(line) <= RECEIVE]
                total = sum(map(len, new))
            if lines and size + total > _STATEMENT:
                yield from _statement(head, lines)
                lines, size = [], 0
            lines += new
            size += total
    if lines:
        yield from _statement(head, lines)


def _statement(head: bytes, lines: list[bytes]) -> tuple[bytes, bytes, bytes]:
    # Escape line breaks in all lines at once, joined by NUL, which no line holds. So every raw ";\n"
    # in a file ends a statement.
    text = b"\0".join(lines)
    if b"\n" in text:
        text = text.replace(b"\n", b"\\n")
    if b"\r" in text:
        text = text.replace(b"\r", b"\\r")
    return head, text.replace(b"\0", b"),\n("), b");\n"


class _Plan:
    """How a table's rows are selected, and how a row's line is put together from the answer.

    The first field that ``select`` yields is the whole line. For rows with large values it is NULL,
    and the other fields are the line's pieces: raw values and, between them, text built by the
    server.
    """

    def __init__(self, table: Table) -> None:
        self.what = f"table {table.label}"
        columns = table.stored
        if not columns:
            raise SourceUnsupported(
                f"{self.what} has computed columns only", "Leave it out with exclude_tables"
            )
        large = [c for c in columns if c.type in _BLOBS | _TEXTS]
        self.pieces: list[_Raw | None] = []
        whole: list[str] = []
        fields: list[str] = []
        parts: list[str] = []
        for index, column in enumerate(columns):
            if index:
                whole.append("','")
                parts.append("','")
            whole.append(as_text(column))
            if column not in large:
                parts.append(as_text(column))
                continue
            if parts:
                fields.append(f"CONCAT({','.join(parts)})")
                self.pieces.append(None)
                parts = []
            fields.append(_raw(column))
            self.pieces.append(_Raw(column))
        if parts:
            fields.append(f"CONCAT({','.join(parts)})")
            self.pieces.append(None)
        if not large:
            self.pieces = []
            self.select = f"CONCAT({','.join(whole)},x'{ROW_END.hex()}')"
            return
        self.select = f"CONCAT({','.join(whole)})"
        sizes = "+".join(f"IFNULL(LENGTH({quote(c.name)}),0)" for c in large)
        small = f"{sizes}<={_RAW_ABOVE}"
        pieces = ",".join(f"IF({small},NULL,{f})" for f in fields)
        self.select = f"IF({small},{self.select},NULL),{pieces}"

    @property
    def single(self) -> bool:
        return not self.pieces

    def lines(self, packets: list[bytes]) -> list[bytes]:
        """Return the lines of rows."""
        if self.pieces:
            row = self._row
            return [p[1 : 1 + p[0]] if p[0] < 251 else row(p) for p in packets]
        end = -len(ROW_END)
        try:
            return [p[1:end] if p[0] < _NULL else p[_SKIP[p[0]] : end] for p in packets]
        except KeyError:
            raise self._too_large() from None

    def _row(self, packet: bytes) -> bytes:
        """Return the line of a row that is a long text or comes in pieces."""
        first = packet[0]
        if first != _NULL:
            start = _SKIP[first]
            return packet[start : start + int.from_bytes(packet[1:start], "little")]
        line = []
        at = 1
        for piece in self.pieces:
            first = packet[at]
            if first == _NULL:
                if piece is None:
                    raise self._too_large()
                line.append(b"NULL")
                at += 1
                continue
            start = at + _SKIP.get(first, 1)
            length = first if first < 251 else int.from_bytes(packet[at + 1 : start], "little")
            at = start + length
            if piece is None:
                line.append(packet[start:at])
            else:
                line += piece.prefix, piece.escaped(packet[start:at]), b"'"
        return b"".join(line)

    def _too_large(self) -> SourceUnsupported:
        return SourceUnsupported(
            f"{self.what}: a row's text is larger than the server's max_allowed_packet",
            "Raise max_allowed_packet on the server above twice the size of its largest row",
        )


class _Raw:
    """A column whose values come raw."""

    def __init__(self, column: Column) -> None:
        binary = column.type in _BINARY
        self.hexadecimal = not binary and not _converts(column)
        self.prefix = b"_binary '" if binary else b"'"
        if self.hexadecimal:
            self.prefix = f"_{column.charset} x'".encode()

    def escaped(self, value: bytes) -> bytes:
        """Return the text between the quotes."""
        if self.hexadecimal:
            return value.hex().encode()
        # As QUOTE() does on the server: a line is the same whoever built it.
        for raw, escaped in _ESCAPES:
            if raw in value:
                value = value.replace(raw, escaped)
        return value


_ESCAPES = ((b"\\", b"\\\\"), (b"'", b"\\'"), (b"\0", b"\\0"), (b"\x1a", b"\\Z"))


def _converts(column: Column) -> bool:
    return column.charset is None or column.charset in _UTF8 | _CONVERTIBLE


def as_text(column: Column) -> str:
    """Return an expression for the value as SQL text, which is NULL only for a value too large."""
    name = quote(column.name)
    if column.type in _NUMBERS:
        return f"IFNULL({name}{_NUMBERS[column.type]},'NULL')"
    if column.type in _FLOATS:
        return f"IFNULL(CONCAT('''',{name}{_FLOATS[column.type]},''''),'NULL')"
    if column.type in _BINARY:  # not IFNULL: a value that is too large must not become NULL
        return f"IF({name} IS NULL,'NULL',CONCAT('x''',HEX({name}),''''))"
    if column.charset in _UTF8 or column.charset is None:
        return f"QUOTE({name})"
    if _converts(column) or column.type in {"enum", "set"}:
        return f"QUOTE(CONVERT({name} USING utf8mb4))"
    return f"IF({name} IS NULL,'NULL',CONCAT('_{column.charset} x''',HEX({name}),''''))"


def _raw(column: Column) -> str:
    """Return an expression for the value as bytes, to be escaped here."""
    name = quote(column.name)
    if column.charset is None or column.charset in _UTF8:
        return name
    if _converts(column):
        return f"CONVERT({name} USING utf8mb4)"
    return f"CAST({name} AS BINARY)"
