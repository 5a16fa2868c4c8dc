"""Read, change and write ``toc.dat``, the table of contents of a pg_dump directory archive.

Versions 1.14 (pg_dump 12 to 15), 1.15 (16) and 1.16 (17 and 18) are known; what is read and
not changed is written back byte for byte. Strings stay bytes: they are in the database's
encoding.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from stepvault.errors import BackupTampered

SECTION_NONE, SECTION_PRE_DATA, SECTION_DATA, SECTION_POST_DATA = 1, 2, 3, 4

#: How the rows of a table end in an archive's data file.
TRAILER = b"\\.\n\n\n"

_MAGIC = b"PGDMP"
_DIRECTORY = 3
_SUFFIXES = {0: "", 1: ".gz", 2: ".lz4", 3: ".zst"}
#: Kinds that even an archive of rows alone begins with.
SETTINGS = frozenset((b"ENCODING", b"STDSTRINGS", b"SEARCHPATH"))
#: Kinds that are about another thing; the tag begins with that thing's kind.
_REMARKS = (b"ACL", b"COMMENT", b"SECURITY LABEL")
_PRIVILEGES = (b"ACL", b"DEFAULT ACL")
_NAME = rb'(?:"(?:[^"]|"")+"|[^\s".]+)'
#: How pg_dump writes options of a column.
_COLUMN_OPTIONS = re.compile(
    rb"^ALTER (?:FOREIGN )?TABLE ONLY %b\.%b ALTER COLUMN %b SET \((.*)\);\n?"
    % (_NAME, _NAME, _NAME),
    re.MULTILINE,
)
#: A TABLE DATA entry marked so is loaded without a TRUNCATE before it, even in parallel.
_NO_TRUNCATE = b"-- load via partition root "


@dataclass
class Entry:
    """One thing of the archive: how to make it, and what must be there before."""

    dump_id: int
    has_data: int
    table_oid: bytes
    oid: bytes
    tag: bytes
    kind: bytes
    section: int
    definition: bytes | None
    drop: bytes | None
    copy: bytes | None
    namespace: bytes | None
    tablespace: bytes | None
    access_method: bytes | None
    relation_kind: int
    owner: bytes | None
    dependencies: list[int]
    file: bytes | None

    @property
    def label(self) -> str:
        """Kind, schema and name, for people."""
        where = f"{self.namespace.decode(errors='replace')}." if self.namespace else ""
        return f"{self.kind.decode()} {where}{self.tag.decode(errors='replace')}"

    @property
    def of_database(self) -> bool:
        """Whether it concerns the database as such, which pg_restore makes with -C alone."""
        return self.kind in (b"DATABASE", b"DATABASE PROPERTIES") or (
            self.kind in _REMARKS and self.tag.startswith(b"DATABASE ")
        )

    @property
    def needs_no_definitions(self) -> bool:
        """Whether it has a place in an archive of rows alone, as remarks on large objects have."""
        return (
            self.section == SECTION_DATA
            or self.kind in SETTINGS
            or (self.kind in _REMARKS and self.tag.startswith(b"LARGE OBJECT"))
        )


@dataclass(frozen=True)
class TableData:
    """Rows of a table, to be one entry of the archive per piece."""

    oid: int
    schema: bytes
    name: bytes
    owner: bytes | None
    copy: bytes
    pieces: int = 1
    root: tuple[int, bytes] | None = None
    """Oid and quoted name of the partitioned table that sorts the rows into partitions again."""


@dataclass
class Toc:
    """The whole table of contents."""

    version: tuple[int, int, int]
    offset_size: int
    compression: int
    level: int | None
    created: list[int]
    database: bytes | None
    server: bytes | None
    dumper: bytes | None
    entries: list[Entry] = field(default_factory=list)

    @property
    def suffix(self) -> str:
        """What the names of the data files end with after ``.dat``."""
        return _SUFFIXES[self.compression]

    def data_file(self, entry: Entry) -> str | None:
        """Name the file with the entry's rows, if it has any."""
        return entry.file.decode() + self.suffix if entry.file else None

    def tables(self) -> dict[int, Entry]:
        """Find the entries that make tables, by the table's oid."""
        return {
            int(e.oid): e for e in self.entries if e.kind == b"TABLE" and e.table_oid == b"1259"
        }

    def add_table_data(self, tables: Sequence[TableData]) -> list[list[str]]:
        """Add entries for the rows of these tables; returns the file names of each table's pieces.

        One piece becomes what pg_dump writes. Several become several entries for one table:
        none of them truncates the table, and all that is made after the table's rows waits
        for all of them. The same holds for the partitions of a table that sorts their rows again.
        """
        makers = self.tables()
        next_id = max((e.dump_id for e in self.entries), default=0) + 1
        added: list[Entry] = []
        names: list[list[str]] = []
        siblings: dict[int, list[int]] = {}
        trees: dict[int, list[int]] = {}
        for table in tables:
            maker = makers.get(table.oid)
            above = makers.get(table.root[0]) if table.root else None
            needed = [e.dump_id for e in (maker, above) if e is not None]
            marker = _NO_TRUNCATE + table.root[1] if table.root else None
            if table.pieces > 1 and marker is None:
                marker = _NO_TRUNCATE + table.schema + b"." + table.name
            ids = list(range(next_id, next_id + table.pieces))
            next_id += table.pieces
            for dump_id in ids:
                added.append(
                    Entry(
                        dump_id=dump_id,
                        has_data=1,
                        table_oid=b"0",
                        oid=b"%d" % table.oid,
                        tag=table.name,
                        kind=b"TABLE DATA",
                        section=SECTION_DATA,
                        definition=marker,
                        drop=None,
                        copy=table.copy,
                        namespace=table.schema,
                        tablespace=None,
                        access_method=None,
                        relation_kind=0,
                        owner=table.owner if maker is None else maker.owner,
                        dependencies=list(needed),
                        file=b"%d.dat" % dump_id,
                    )
                )
            names.append([f"{dump_id}.dat{self.suffix}" for dump_id in ids])
            if above is not None:
                tree = trees.setdefault(above.dump_id, [])
                tree += ids
                siblings |= dict.fromkeys(needed, tree)
            elif maker is not None and table.pieces > 1:
                siblings[maker.dump_id] = ids
        first = next(
            (i for i, e in enumerate(self.entries) if e.section >= SECTION_DATA), len(self.entries)
        )
        # Rows of extensions' tables come before all others, which may need them: pg_dump does
        # not know it, and pg_restore -j loads both at once.
        extensions = [i for i, e in enumerate(self.entries) if e.kind == b"TABLE DATA"]
        if extensions:
            first = extensions[-1] + 1
            for entry in added:
                entry.dependencies.append(self.entries[extensions[-1]].dump_id)
        # A foreign key locks its table, then all partitions' indexes; an index attached to its
        # parent's at that moment locks them the other way round, and pg_restore -j deadlocks
        # (13 times in 57 here; what pg_dump writes is spared only by the order of sizes).
        attached = [e.dump_id for e in self.entries if e.kind == b"INDEX ATTACH"]
        for entry in self.entries[first:]:
            if entry.section == SECTION_POST_DATA:
                needed = [i for d in entry.dependencies for i in siblings.get(d, ())]
                needed += attached if entry.kind == b"FK CONSTRAINT" else []
                entry.dependencies += [i for i in needed if i not in entry.dependencies]
        self.entries[first:first] = added
        return names

    def load_in_turn(self) -> None:
        """Have ``pg_restore -j``, too, load the tables added so far one after the other."""
        rows = [e for e in self.entries if e.kind == b"TABLE DATA"]
        for earlier, entry in pairwise(rows):
            entry.dependencies.append(earlier.dump_id)

    def drop_internal_options(self) -> None:
        """Drop options of columns that are the server's own and that no other server knows.

        A server may keep options that begin with ``pg_`` where users keep theirs; a pg_dump that
        is older than the server writes them as if they were the user's.
        """
        for entry in self.entries:
            if b"pg_" in (entry.definition or b""):
                entry.definition = _COLUMN_OPTIONS.sub(_users_options, entry.definition or b"")


def privileges_last(entries: Sequence[Entry]) -> list[Entry]:
    """Sort privileges behind all else, as pg_restore does: they may take rights from ourselves."""
    return sorted(entries, key=lambda e: e.kind in _PRIVILEGES)


def read(data: bytes) -> Toc:
    """Parse the table of contents in these bytes.

    Raises:
        BackupTampered: they are no toc.dat that this version knows.
    """
    try:
        return _Reader(data).toc()
    except (IndexError, ValueError) as error:
        raise BackupTampered(f"toc.dat cannot be read: {error}") from error


def write(toc: Toc) -> bytes:
    """Serialize to the bytes of ``toc.dat``."""
    out = bytearray(_MAGIC + bytes(toc.version) + bytes([4, toc.offset_size, _DIRECTORY]))
    if toc.version >= (1, 15, 0):
        out.append(toc.compression)
    else:
        _put_int(out, toc.level or 0)
    for number in toc.created:
        _put_int(out, number)
    for text in (toc.database, toc.server, toc.dumper):
        _put_text(out, text)
    _put_int(out, len(toc.entries))
    for entry in toc.entries:
        _put_entry(out, entry, toc.version)
    return bytes(out)


def _users_options(statement: re.Match[bytes]) -> bytes:
    """Write the statement without the server's own options, or nothing if it has no others."""
    kept = [o for o in statement[1].split(b", ") if not o.startswith(b"pg_")]
    if not kept:
        return b""
    whole = statement[0]
    start = statement.start(1) - statement.start()
    return whole[:start] + b", ".join(kept) + whole[start + len(statement[1]) :]


def _put_entry(out: bytearray, e: Entry, version: tuple[int, int, int]) -> None:
    _put_int(out, e.dump_id)
    _put_int(out, e.has_data)
    for name in (e.table_oid, e.oid, e.tag, e.kind):
        _put_text(out, name)
    _put_int(out, e.section)
    for text in (e.definition, e.drop, e.copy, e.namespace, e.tablespace, e.access_method):
        _put_text(out, text)
    if version >= (1, 16, 0):
        _put_int(out, e.relation_kind)
    _put_text(out, e.owner)
    _put_text(out, b"false")  # tables WITH OIDS, gone since PostgreSQL 12
    for dependency in e.dependencies:
        _put_text(out, b"%d" % dependency)
    _put_text(out, None)
    _put_text(out, e.file)


def _put_int(out: bytearray, number: int) -> None:
    out.append(1 if number < 0 else 0)
    out += abs(number).to_bytes(4, "little")


def _put_text(out: bytearray, text: bytes | None) -> None:
    if text is None:
        _put_int(out, -1)
    else:
        _put_int(out, len(text))
        out += text


class _Reader:
    """A cursor over the bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def toc(self) -> Toc:
        if self.take(5) != _MAGIC:
            raise ValueError("it does not begin with PGDMP")
        major, minor, revision = self.take(3)
        version = (major, minor, revision)
        if not (1, 14, 0) <= version < (1, 17, 0):
            raise ValueError(f"its archive version {major}.{minor} is not known")
        integer_size, offset_size, archive_format = self.take(3)
        if integer_size != 4 or archive_format != _DIRECTORY:
            raise ValueError("it does not belong to a directory archive")
        level = None
        if version >= (1, 15, 0):
            compression = self.take(1)[0]
        else:
            level = self.integer()
            compression = 1 if level else 0
        created = [self.integer() for _ in range(7)]
        database, server, dumper = self.text(), self.text(), self.text()
        toc = Toc(version, offset_size, compression, level, created, database, server, dumper)
        toc.entries = [self.entry(version) for _ in range(self.integer())]
        if self.at != len(self.data):
            raise ValueError(f"{len(self.data) - self.at} bytes follow its end")
        return toc

    def entry(self, version: tuple[int, int, int]) -> Entry:
        dump_id, has_data = self.integer(), self.integer()
        table_oid, oid, tag, kind = (self.text() or b"" for _ in range(4))
        section = self.integer()
        definition, drop, copy = (self.text() for _ in range(3))
        namespace, tablespace, access_method = (self.text() for _ in range(3))
        relation_kind = self.integer() if version >= (1, 16, 0) else 0
        owner = self.text()
        if self.text() != b"false":
            raise ValueError("it holds a table WITH OIDS")
        dependencies: list[int] = []
        while (needed := self.text()) is not None:
            dependencies.append(int(needed))
        return Entry(
            dump_id,
            has_data,
            table_oid,
            oid,
            tag,
            kind,
            section,
            definition,
            drop,
            copy,
            namespace,
            tablespace,
            access_method,
            relation_kind,
            owner,
            dependencies,
            self.text(),
        )

    def integer(self) -> int:
        sign, *rest = self.take(5)
        number = int.from_bytes(bytes(rest), "little")
        return -number if sign else number

    def text(self) -> bytes | None:
        length = self.integer()
        return None if length < 0 else self.take(length)

    def take(self, count: int) -> bytes:
        piece = self.data[self.at : self.at + count]
        if len(piece) != count:
            raise ValueError("it ends too early")
        self.at += count
        return piece
