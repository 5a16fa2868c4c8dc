"""The streams of a source: one per database, read from its file, as a script, or from S3."""

import sqlite3
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from stepvault.engines.base import Counts
from stepvault.engines.sqlite.discovery import DatabaseFile, DatabaseObject
from stepvault.engines.sqlite.errors import cancelled, reading
from stepvault.engines.sqlite.paths import quoted
from stepvault.engines.sqlite.script import Script
from stepvault.engines.sqlite.snapshot import DatabaseSnapshot, check_is_database, freeze
from stepvault.errors import (
    ShortRead,
    SourceChanged,
    SourceCorrupt,
    SourceMissing,
    SourceUnsupported,
)


@dataclass
class FileStream:
    """A database file, frozen while it is read; ``held`` if the caller has frozen it already."""

    name: str
    database: DatabaseFile
    form: Literal["file", "sql"]
    scratch: Path
    stop: threading.Event
    warnings: list[str]
    held: DatabaseSnapshot | None = None
    encoding: Literal["zstd", "none"] = "zstd"
    _rows: int | None = None
    _facts: dict[str, Any] = field(default_factory=dict)

    def read(self) -> Iterator[bytes | memoryview]:
        """Read the database file, or a script of it."""
        if self.held:
            yield from self._read(self.held)
            return
        try:
            with freeze(
                self.database.path, self.database.name, self.scratch, self.stop, self.warnings
            ) as snapshot:
                yield from self._read(snapshot)
        except SourceMissing as error:
            raise SourceChanged(
                f"SQLite file {self.database.name} was deleted after it was listed", "try again"
            ) from error

    def _read(self, snapshot: DatabaseSnapshot) -> Iterator[bytes | memoryview]:
        with reading(snapshot.name):
            status = self.database.path.stat()
        self._facts = {
            "path": quoted(self.database.relative),
            "mode": f"{stat.S_IMODE(status.st_mode) & 0o777:04o}",
            "uid": status.st_uid,
            "gid": status.st_gid,
            "format": self.form,
            "journal_mode": snapshot.journal_mode,
            "method": snapshot.method,
            "page_size": snapshot.page_size,
            "pages": snapshot.pages,
        }
        if self.form == "file":
            yield from snapshot.read()
            return
        if not snapshot.schema_readable:
            raise SourceUnsupported(
                f"SQLite {sqlite3.sqlite_version} cannot read the schema of {snapshot.name}, which a "
                "newer SQLite wrote, so it cannot write a script of it",
                'set format = "file", which copies the pages as they are',
            )
        if snapshot.remark:
            raise SourceUnsupported(
                f"SQLite file {snapshot.name}: {snapshot.remark}, so a script of it might not run",
                'set format = "file", which copies the pages as they are',
            )
        script = Script(snapshot.connection, snapshot.name)
        pieces = script.read()
        while True:
            with reading(snapshot.name):
                piece = next(pieces, None)
            if piece is None:
                break
            if self.stop.is_set():
                raise cancelled(snapshot.name)
            yield piece
        self.warnings += script.warnings
        self._rows = script.rows

    def result(self) -> Counts:
        """Return rows (of a script) and what is known of the database."""
        return Counts(rows=self._rows, files=1, facts=self._facts)


@dataclass
class ObjectStream:
    """A database that is an object in S3; objects are never written in place, so it stays as it is."""

    name: str
    database: DatabaseObject
    stop: threading.Event
    warnings: list[str]
    encoding: Literal["zstd", "none"] = "zstd"

    def read(self) -> Iterator[bytes]:
        """Read the object and check what its header says."""
        entry = self.database.entry
        head, done = b"", 0
        for piece in self.database.buckets.read(self.database.bucket, entry.key, entry.etag):
            if self.stop.is_set():
                raise cancelled(self.database.name)
            if len(head) < 4_096:
                head += piece[:4_096]
            done += len(piece)
            yield piece
        check_is_database(head, entry.size, self.database.name)
        if done != entry.size:
            raise ShortRead(
                f"{self.database.name} ended after {done} of {entry.size} bytes", "try again"
            )
        self._check_size(head, entry.size)
        if head[19:20] == b"\2":
            self.warnings.append(
                f"{self.database.name} is in WAL mode: commits that were still in its -wal file "
                "when it was uploaded are not in it"
            )

    def _check_size(self, head: bytes, size: int) -> None:
        """Compare the size with that in the header, if the last writer kept that up to date."""
        if head[24:28] != head[92:96]:
            return
        page_size = int.from_bytes(head[16:18])
        expected = int.from_bytes(head[28:32]) * (65_536 if page_size == 1 else page_size)
        if size < expected:
            raise SourceCorrupt(
                f"{self.database.name} holds {size} bytes; its header says {expected}",
                "upload the database again: it was cut short",
            )

    def result(self) -> Counts:
        """Return what is known of the database."""
        return Counts(files=1, facts={"path": quoted(self.database.relative), "format": "file"})
