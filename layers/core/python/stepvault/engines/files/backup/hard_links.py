"""Names of files that have several, brought together by inode, on disk."""

import sqlite3
import struct
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter

from stepvault.engines.files.format import listing
from stepvault.engines.files.tree.walk import Entry

#: Of one name: inode, record, bytes of the file; place and number of its line, if it is unchanged.
_Name = tuple[bytes, bytes, int, bytes | None, int | None]


class HardLinks:
    """The names met so far.

    All names of a file are taken as unchanged or none: one that is stored again would be another
    file than the rest when they are restored.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(
            "CREATE TABLE names (inode BLOB, record BLOB, size INTEGER, place BLOB, number INTEGER)"
        )
        self._database.execute("CREATE TABLE withdrawn (number INTEGER PRIMARY KEY)")
        self._held: list[_Name] = []

    def add(self, entry: Entry, place: bytes | None = None, number: int | None = None) -> None:
        """Take a name; ``place`` and ``number`` are those of its unchanged line, if it has one."""
        inode = struct.pack(">QQ", entry.device, entry.inode)
        self._held.append((inode, listing.entry_record(entry), entry.stored_bytes, place, number))
        if len(self._held) == 1000:
            self._flush()

    def _flush(self) -> None:
        self._database.executemany("INSERT INTO names VALUES (?, ?, ?, ?, ?)", self._held)
        self._held = []

    def groups(self) -> Iterator[tuple[int, list[bytes]]]:
        """Yield bytes and records of each inode that is to be stored."""
        self._flush()
        rows = self._database.execute("SELECT * FROM names ORDER BY inode, rowid")
        for _, names in groupby(rows, key=itemgetter(0)):
            group = list(names)
            if not _unchanged_together(group):
                self._withdraw(group)
                yield group[0][2], [record for _, record, *_ in group]

    def _withdraw(self, group: list[_Name]) -> None:
        numbers = [(number,) for *_, number in group if number is not None]
        self._database.executemany("INSERT INTO withdrawn VALUES (?)", numbers)

    def withdrawn(self) -> Iterator[int]:
        """Return the numbers of unchanged lines whose files are stored after all, ascending.

        Only after ``groups`` has ended.
        """
        rows = self._database.execute("SELECT number FROM withdrawn ORDER BY number")
        return (number for (number,) in rows)

    def close(self) -> None:
        """Remove what lies on disk."""
        self._database.close()


def _unchanged_together(group: list[_Name]) -> bool:
    """Whether all names of a file in this walk are unchanged, and their content is in one place."""
    places = {place for *_, place, _ in group}
    return len(places) == 1 and None not in places
