"""Names of files that have several, brought together by inode, on disk."""

import sqlite3
import struct
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter

from stepvault.engines.files.format import listing
from stepvault.engines.files.tree.walk import Entry

#: Of one name: inode, record, bytes of the file; place and number of its line, if it is carried.
_Name = tuple[bytes, bytes, int, bytes | None, int | None]


class HardLinks:
    """The names met so far.

    All that a file has are carried or none: one that is stored anew would be another file than
    the rest when they are restored.
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
        """``place`` and ``number`` are those of the carried line, if the name has one."""
        inode = struct.pack(">QQ", entry.device, entry.inode)
        self._held.append((inode, listing.entry_record(entry), entry.stored_bytes, place, number))
        if len(self._held) == 1000:
            self._flush()

    def _flush(self) -> None:
        self._database.executemany("INSERT INTO names VALUES (?, ?, ?, ?, ?)", self._held)
        self._held = []

    def groups(self) -> Iterator[tuple[int, list[bytes]]]:
        """Bytes and records of each inode that is to be stored."""
        self._flush()
        rows = self._database.execute("SELECT * FROM names ORDER BY inode, rowid")
        for _, names in groupby(rows, key=itemgetter(0)):
            group = list(names)
            if not _carried_as_one(group):
                self._withdraw(group)
                yield group[0][2], [record for _, record, *_ in group]

    def _withdraw(self, group: list[_Name]) -> None:
        numbers = [(number,) for *_, number in group if number is not None]
        self._database.executemany("INSERT INTO withdrawn VALUES (?)", numbers)

    def withdrawn(self) -> Iterator[int]:
        """Numbers of the carried lines of files that are stored, ascending; once those are known."""
        rows = self._database.execute("SELECT number FROM withdrawn ORDER BY number")
        return (number for (number,) in rows)

    def close(self) -> None:
        self._database.close()


def _carried_as_one(group: list[_Name]) -> bool:
    """Whether all names of a file found in this walk are carried, out of the same place."""
    places = {place for *_, place, _ in group}
    return len(places) == 1 and None not in places
