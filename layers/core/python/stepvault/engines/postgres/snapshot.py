"""A frozen database: what ``open`` gives to the path. ``freeze`` makes it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import Connection as Session

from stepvault.engines.base import Stored, Stream
from stepvault.engines.postgres import errors, programs, session, tables, toc
from stepvault.engines.postgres.streams import BytesStream
from stepvault.engines.postgres.tables import Table
from stepvault.errors import ShortRead, SourceChanged
from stepvault.records import StoredObject


@dataclass(frozen=True)
class Watch:
    """Checks that locks and names have stayed as they were at the snapshot."""

    holder: Session
    """Holds the locks and the snapshot."""
    observer: Session
    """Sees the catalogs as they are now."""
    names: frozenset[tuple[int, bytes]]
    """The tables' oids and quoted names at the snapshot."""
    labels: dict[int, bytes]
    """The values of enum types at the snapshot."""

    def check_locks(self) -> None:
        """Raise SourceUnreachable or SourceChanged unless locks and snapshot are still held."""
        try:
            self.holder.execute("SELECT 1")
        except psycopg.Error as error:
            what = "the session that held the locks ended before all was read"
            raise errors.from_server(error, what) from error

    def check_names(self) -> None:
        """Raise SourceChanged if something that is read by its name has another one by now.

        Locks hold tables, but neither schemas nor types; a snapshot holds rows, but no names.
        """
        try:
            names = names_of(tables.listed(self.observer))
            labels = tables.enum_labels(self.observer)
        except psycopg.Error as error:
            what = "the session that watches the tables' names ended before all was read"
            raise errors.from_server(error, what) from error
        moved = [quoted for oid, quoted in self.names - names]
        if moved:
            raise SourceChanged(
                f"{session.text(min(moved))} was renamed, or its schema, while it was read",
                "Try again",
            )
        renamed = [label for oid, label in self.labels.items() if labels.get(oid, label) != label]
        if renamed:
            raise SourceChanged(
                f"the enum value {session.text(min(renamed))} was renamed while tables were read",
                "Try again",
            )


@dataclass
class PostgresSnapshot:
    """A consistent view of a database; see ``engines.base.Snapshot``."""

    parallel: int
    facts: dict[str, Any]
    warnings: list[str]
    children: programs.Children
    watch: Watch
    archive: toc.Toc
    to_read: Sequence[Stream]
    """The streams, largest first."""
    references: Sequence[StoredObject] = field(default=())

    def streams(self) -> Iterator[Stream]:
        """Yield the rows of each table, then what pg_dump wrote."""
        return iter(self.to_read)

    def closing(self, stored: Sequence[Stored]) -> Iterator[Stream]:
        """Yield the archive's table of contents, once all that it names is stored."""
        self.watch.check_locks()
        self.watch.check_names()
        names = {s.object.name for s in stored}
        missing = [
            e.label
            for e in self.archive.entries
            if e.kind != b"BLOBS" and e.file and self.archive.data_file(e) not in names
        ]
        if missing:
            raise ShortRead(f"no object was stored for {', '.join(missing[:5])}")
        yield BytesStream("toc.dat", toc.write(self.archive))

    def cancel(self) -> None:
        """End every program that is still running."""
        self.children.cancel()


def names_of(listed: Sequence[Table]) -> frozenset[tuple[int, bytes]]:
    """Collect the tables' oids with their quoted names."""
    return frozenset((t.oid, t.quoted) for t in listed)
