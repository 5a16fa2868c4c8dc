"""A table's rows as INSERT statements, read as fast as Python can.

The driver would make an object of every value. Instead, the server builds the text of a whole row,
so that a row is one field, which ``wire.py`` cuts out of the socket's bytes. Only long BLOB and TEXT
values come raw and are escaped here: the server is slow at building their text, and returns NULL
when it exceeds ``max_allowed_packet``.

The content of a row is hashed as its text (``engines.row_digest``).
"""

from collections.abc import Iterator

from stepvault.engines.mysql.inventory import Column, Table
from stepvault.engines.mysql.session import Session, quote
from stepvault.engines.mysql.wire import RECEIVE, ROW_END, answer
from stepvault.engines.row_digest import Sums
from stepvault.errors import SourceUnsupported

#: BLOB and TEXT values of more bytes come raw, in a table of many such columns those of fewer: so
#: the text of a row stays small. A part of the hash: see FORM.
_RAW_ABOVE, _RAW_ABOVE_IN_ALL, _RAW_ABOVE_LEAST = 700, 70_000, 16
#: Which form of lines the content is hashed in; kept with each hash, as only equal forms compare.
FORM = 2
#: Stands in a line for a value that comes raw; no line holds it otherwise.
_GAP = b"\0"
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
    plan = Plan(table)
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


def comparable(table: Table, form: int) -> bool:
    """Tell whether the table's content may be compared with a hash of lines in that form."""
    return form == FORM or not any(
        c.empty_member or c.type in _BLOBS or (c.type in _TEXTS and not _converts(c))
        for c in table.stored
    )


def _statement(head: bytes, lines: list[bytes]) -> tuple[bytes, bytes, bytes]:
    # Escape line breaks in all lines at once, joined by NUL, which no line holds. So every raw ";\n"
    # in a file ends a statement.
    text = b"\0".join(lines)
    if b"\n" in text:
        text = text.replace(b"\n", b"\\n")
    if b"\r" in text:
        text = text.replace(b"\r", b"\\r")
    return head, text.replace(b"\0", b"),\n("), b");\n"


class Plan:
    """How a table's rows are selected, and how a row's line is put together from the answer.

    The first field that ``select`` yields is the line. Where a BLOB or TEXT value is long, the line
    holds a NUL instead, and the value comes raw in a field of its own, which is NULL otherwise. So
    the statement grows with the number of columns, and the server works on each value once.
    """

    def __init__(self, table: Table) -> None:
        self.what = f"table {table.label}"
        self._raw = [_Raw(c) for c in table.stored if c.type in _BLOBS | _TEXTS]
        each = _RAW_ABOVE_IN_ALL // max(1, len(self._raw))
        raw_above = max(_RAW_ABOVE_LEAST, min(_RAW_ABOVE, each))
        parts: list[str] = []
        fields: list[str] = []
        for column in table.stored:
            parts += ["','"] if parts else []
            if column.type not in _BLOBS | _TEXTS:
                parts.append(as_text(column))
                continue
            long = f"LENGTH({quote(column.name)})>{raw_above}"
            parts.append(f"IF({long},x'{_GAP.hex()}',{as_text(column)})")
            fields.append(f",IF({long},{_raw(column)},NULL)")
        end = [] if self._raw else [f"x'{ROW_END.hex()}'"]
        self.select = f"CONCAT({','.join([*parts, *end])})" + "".join(fields)

    @property
    def single(self) -> bool:
        """True if a row is a single field, which ends with ROW_END."""
        return not self._raw

    def lines(self, packets: list[bytes]) -> list[bytes]:
        """Return the lines of rows."""
        if self._raw:
            # Most rows have a short line and NULL in all other fields, a byte for each.
            short, row = 1 + len(self._raw), self._row
            return [
                p[1 : 1 + p[0]] if p[0] < _NULL and len(p) == p[0] + short else row(p)
                for p in packets
            ]
        end = -len(ROW_END)
        try:
            return [p[1:end] if p[0] < _NULL else p[_SKIP[p[0]] : end] for p in packets]
        except KeyError:
            raise self._too_large() from None

    def _row(self, packet: bytes) -> bytes:
        """Return the line of a row that is a long text or has gaps."""
        text, at = _field(packet, 0)
        if text is None:
            raise self._too_large()
        if len(packet) - at == len(self._raw):
            return text
        pieces = text.split(_GAP)
        line = [pieces[0]]
        for raw in self._raw:
            value, at = _field(packet, at)
            if value is not None:
                line += raw.literal(value), pieces[len(line) // 2 + 1]
        if len(line) != 2 * len(pieces) - 1:  # a gap whose value was too large to convert
            raise self._too_large()
        return b"".join(line)

    def _too_large(self) -> SourceUnsupported:
        return SourceUnsupported(
            f"{self.what}: a row's text is larger than the server's max_allowed_packet",
            "Raise max_allowed_packet on the server above twice the size of its largest row",
        )


def _field(packet: bytes, at: int) -> tuple[bytes | None, int]:
    """Return the value of the field that begins there, None for NULL, and where the next begins."""
    first = packet[at]
    if first == _NULL:
        return None, at + 1
    start = at + _SKIP.get(first, 1)
    length = first if first < _NULL else int.from_bytes(packet[at + 1 : start], "little")
    return packet[start : start + length], start + length


class _Raw:
    """A column whose long values come raw."""

    def __init__(self, column: Column) -> None:
        self.prefix = b"_binary '" if column.type in _BINARY else b"'"
        self.hexadecimal = column.type not in _BINARY and not _converts(column)
        if self.hexadecimal:
            self.prefix = f"_{column.charset} x'".encode()

    def literal(self, value: bytes) -> bytes:
        """Return the value as SQL."""
        if self.hexadecimal:
            return self.prefix + value.hex().encode() + b"'"
        # As QUOTE() does on the server.
        for raw, escaped in _ESCAPES:
            if raw in value:
                value = value.replace(raw, escaped)
        return self.prefix + value + b"'"


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
    if column.empty_member:  # '' would be the member, not the error value
        return f"IF({name}+0=0,'0',QUOTE(CONVERT({name} USING utf8mb4)))"
    if _converts(column) or column.type in {"enum", "set"}:
        plain = column.charset in _UTF8 or column.charset is None
        return f"QUOTE({name})" if plain else f"QUOTE(CONVERT({name} USING utf8mb4))"
    return f"IF({name} IS NULL,'NULL',CONCAT('_{column.charset} x''',HEX({name}),''''))"


def _raw(column: Column) -> str:
    """Return an expression for the value as bytes, to be escaped here."""
    name = quote(column.name)
    if column.charset is None or column.charset in _UTF8:
        return name
    if _converts(column):
        return f"CONVERT({name} USING utf8mb4)"
    return f"CAST({name} AS BINARY)"
