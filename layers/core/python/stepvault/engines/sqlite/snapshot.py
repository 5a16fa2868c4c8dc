"""One SQLite database held still while its pages stream out.

A read transaction freezes what SQLite shows; the pages are then read past SQLite, straight
from the files, because that needs no temporary space and no second pass:

* **overlay** (WAL mode). Pages found in the write-ahead log are laid over those of the file as
  it streams. While our transaction holds its read mark, checkpoints copy into the file only what
  the log up to our commit covers, and the log cannot start over. Which commit is ours is read
  from the ``-shm`` file just before and just after the transaction begins: if both say the same,
  so did it. The writer never waits.
* **file**. WAL mode with all of the log checkpointed: our transaction locks checkpoints out and
  the file alone is the database. Rollback journal: our shared lock makes writers wait.
* **copy**. Where the shared memory is not ours to write, what SQLite sees is not in files we can
  read: its backup API makes a copy in scratch space first.

Two traps shape this module. Closing *any* descriptor of a file drops *all* POSIX locks that the
process has on it, SQLite's too: ours stay open until the connection is closed, and no file is
frozen twice at a time. And locks can get lost (another library in this process, a network file
system), so a stream ends only after proof that nothing moved.
"""

import os
import shutil
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stepvault.engines.sqlite.errors import cancelled, reading
from stepvault.engines.sqlite.integrity import examine
from stepvault.engines.sqlite.session import Session, companion, connect, open_new
from stepvault.engines.sqlite.wal import BLOCK, Header, Wal
from stepvault.errors import SourceBusy, SourceChanged, SourceCorrupt, SourceUnsupported

MAGIC = b"SQLite format 3\0"
#: Databases up to this many bytes are checked page by page first, which takes under a second.
CHECKED_BYTES = 64 << 20
#: The page that holds this byte of the file is for locks; SQLite never writes it.
LOCK_BYTE = 0x40000000

_HEAD = 4_096
_ATTEMPTS = 1_000
_COPY_PAGES = 4_096
_PROGRESS_STEPS = 100_000


@dataclass
class DatabaseSnapshot:
    """A database that does not change while this object exists."""

    name: str
    connection: sqlite3.Connection
    """Inside the read transaction, for queries that must see the same commit."""
    method: Literal["overlay", "file", "copy"]
    journal_mode: str
    page_size: int
    pages: int
    file: int
    """Descriptor of the file with the pages."""
    stop: threading.Event
    wal: Wal | None = None
    schema_readable: bool = True
    remark: str | None = None
    """Why a script of it might not run, though its pages are whole."""

    def __post_init__(self) -> None:
        self._before = os.fstat(self.file)
        self._holes = 0

    @property
    def size(self) -> int:
        """Return the size of the database in bytes."""
        return self.page_size * self.pages

    def read(self) -> Iterator[memoryview]:
        """Read the database file as of the frozen commit; the buffer is used again.

        Raises:
            SourceChanged: the file was changed or cut past SQLite, or the lock was lost.
            SourceCorrupt: pages are missing.
            OutOfTime: cancelled.
        """
        block = memoryview(bytearray(BLOCK))
        for start in range(0, self.size, BLOCK):
            if self.stop.is_set():
                raise cancelled(self.name)
            part = block[: min(BLOCK, self.size - start)]
            with reading(self.name):
                self._fill(part, start)
            yield part
        self._check()

    def _fill(self, part: memoryview, start: int) -> None:
        """Read one block from the file and lay the log's pages over it."""
        in_file = max(0, min(len(part), self._before.st_size - start))
        self._read_exactly(self.file, part[:in_file], start)
        part[in_file:] = bytes(len(part) - in_file)
        frames = self.wal.frames.get(start // BLOCK) if self.wal else None
        if frames is None and in_file == len(part):
            return
        for at in range(0, len(part), self.page_size):
            frame = frames[at // self.page_size] if frames else 0
            if frame and self.wal:
                page = part[at : at + self.page_size]
                self._read_exactly(self.wal.file, page, self.wal.page_at(frame))
            elif at + self.page_size > in_file and start + at != LOCK_BYTE:
                self._holes += 1

    def _read_exactly(self, file: int, into: memoryview, offset: int) -> None:
        done = 0
        while done < len(into):
            count = os.preadv(file, [into[done:]], offset + done)
            if not count:
                raise SourceChanged(
                    f"SQLite file {self.name} was cut short while it was read",
                    "find out what truncates it: SQLite does not while somebody reads",
                )
            done += count

    def _check(self) -> None:
        """Prove that what was read is one commit."""
        with reading(self.name):
            now = os.fstat(self.file)
            if self.wal:
                self.wal.check_held()
            elif (now.st_size, now.st_mtime_ns) != (self._before.st_size, self._before.st_mtime_ns):
                raise SourceChanged(
                    f"SQLite file {self.name} was written while it was locked for reading",
                    "find out what writes it past SQLite's locks (cp, rsync, another host)",
                )
            # SQLite may leave out pages that are free; any other that is missing was lost.
            if self._holes > _pragma(self.connection, "freelist_count"):
                raise SourceCorrupt(
                    f"SQLite file {self.name} lacks {self._holes} of its {self.pages} pages",
                    "it was truncated: restore an earlier backup, or save what .recover finds",
                )


_held: set[tuple[int, int]] = set()
_held_lock = threading.Lock()


@contextmanager
def freeze(
    path: Path, name: str, scratch: Path, stop: threading.Event, warnings: list[str]
) -> Iterator[DatabaseSnapshot]:
    """Freeze one database file.

    Args:
        path: the file.
        name: what messages call it.
        scratch: a folder for the copy that few files need.
        stop: set by another thread, makes everything here raise OutOfTime.
        warnings: takes what a person should know.

    Raises:
        SourceMissing, SourceDenied, SourceBusy, SourceChanged, SourceCorrupt,
        SourceUnsupported, SourceUnreachable, OutOfTime.
    """
    with ExitStack() as stack:
        with reading(name):  # for what fails here, not for what the caller does inside
            snapshot = _open_snapshot(stack, path, name, scratch, stop, warnings)
        yield snapshot


def _open_snapshot(
    stack: ExitStack,
    path: Path,
    name: str,
    scratch: Path,
    stop: threading.Event,
    warnings: list[str],
) -> DatabaseSnapshot:
    identity = _identity(path, name)
    stack.enter_context(_alone(identity, name))
    files: list[int] = []
    stack.callback(_close, files)
    files.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    head = os.pread(files[0], _HEAD, 0)
    check_is_database(head, os.fstat(files[0]).st_size, name)
    session = connect(path, name, head, identity[0])
    stack.callback(session.connection.close)  # called before the files close: last in, first out
    session.connection.set_progress_handler(stop.is_set, _PROGRESS_STEPS)
    if _identity(path, name) != identity:
        raise SourceChanged(f"SQLite file {name} was replaced while it was opened", "try again")
    warnings += session.warnings
    snapshot = _begin(session, path, name, files, scratch, stop)
    if snapshot.journal_mode != "wal":
        warnings.append(
            f"{name}: in journal mode {snapshot.journal_mode} writers had to wait while it was read; "
            "PRAGMA journal_mode=WAL lets them go on"
        )
    _check_content(snapshot, warnings)
    return snapshot


def _identity(path: Path, name: str) -> tuple[int, int]:
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise SourceUnsupported(
            f"SQLite path {name} is a folder", f"name the file, or a pattern such as {name}/**/*.db"
        )
    if not stat.S_ISREG(status.st_mode):
        raise SourceUnsupported(f"SQLite path {name} is not a regular file", "name the database")
    return status.st_dev, status.st_ino


def _close(files: list[int]) -> None:
    for file in files:
        os.close(file)


@contextmanager
def _alone(identity: tuple[int, int], name: str) -> Iterator[None]:
    """Keep this process from freezing a file twice: closing the one drops the other's locks."""
    with _held_lock:
        if identity in _held:
            raise SourceBusy(
                f"SQLite file {name} is being backed up by another source of this process",
                "name each database in one source only",
            )
        _held.add(identity)
    try:
        yield
    finally:
        with _held_lock:
            _held.discard(identity)


def head_of(path: Path, name: str) -> bytes | None:
    """Read the first bytes of a file; None if this process holds it as a database.

    Then it must not be opened and closed here: that would drop the locks on it.

    Raises:
        OSError: it cannot be read.
        SourceUnsupported: it is not a regular file.
    """
    with _held_lock:
        if _identity(path, name) in _held:
            return None
        with path.open("rb") as file:
            return file.read(_HEAD)


def check_is_database(head: bytes, size: int, name: str) -> None:
    """Refuse what is not an SQLite database, by its first bytes (up to a page); an empty file is one.

    Raises:
        SourceUnsupported, SourceCorrupt: naming the file.
    """
    if not size or head.startswith(MAGIC):
        return
    if size % 512 == 0 and len(set(head)) > 200:  # whole pages of what looks random
        raise SourceUnsupported(
            f"SQLite file {name} is encrypted, or no SQLite database at all",
            "back it up through the application that has the key, or with the files engine "
            "while nothing writes to it",
        )
    raise SourceCorrupt(
        f"{name} is not an SQLite database: it begins with {head[:16]!r}",
        "check the path, narrow the pattern, or restore an earlier backup of a damaged file",
    )


def _begin(
    session: Session, path: Path, name: str, files: list[int], scratch: Path, stop: threading.Event
) -> DatabaseSnapshot:
    """Begin the read transaction and find out where the pages of its commit are."""
    connection, mode = session.connection, _pragma(session.connection, "journal_mode")
    shared_wal = mode == "wal" and session.sharing == "shared"
    if shared_wal:
        try:
            files.append(os.open(companion(path.resolve(), "-shm"), os.O_RDWR | os.O_CLOEXEC))
        except OSError:
            return _copied(session, name, mode, files, scratch, stop)
        files.append(os.open(companion(path.resolve(), "-wal"), os.O_RDONLY | os.O_CLOEXEC))
        header = _begin_at_known_commit(connection, name, files[1], stop)
    else:
        _begin_reading(connection)
    if _pragma(connection, "journal_mode") != mode:
        raise SourceChanged(f"the journal mode of SQLite file {name} was changed", "try again")
    in_log = shared_wal and header.checkpointed < header.last_frame
    snapshot = DatabaseSnapshot(
        name=name,
        connection=connection,
        method="overlay" if in_log else "file",
        journal_mode=mode,
        page_size=_pragma(connection, "page_size"),
        pages=_pragma(connection, "page_count"),
        file=files[0],
        stop=stop,
        wal=Wal(files[2], files[1], header, name) if in_log else None,
        schema_readable=session.schema_readable,
    )
    if in_log and (snapshot.page_size, snapshot.pages) != (header.page_size, header.pages):
        raise SourceChanged(
            f"the log index of SQLite file {name} is not the one in use", "try again"
        )
    return snapshot


def _begin_reading(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN")
    connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()


def _begin_at_known_commit(
    connection: sqlite3.Connection, name: str, shm: int, stop: threading.Event
) -> Header:
    """Begin the read transaction at a commit whose place in the log is known.

    If frames are not checkpointed afterwards, they were not when it began: SQLite then holds the
    log for us. If all are, the file is complete, and held whichever way SQLite began.
    """
    for _ in range(_ATTEMPTS):
        before = Header.read(shm, name)
        _begin_reading(connection)
        after = Header.read(shm, name)
        if before and after and before.commit == after.commit:
            return after
        connection.execute("ROLLBACK")
        if stop.wait(0.0005):
            raise cancelled(name)
    raise SourceBusy(
        f"SQLite file {name} is written so often that no moment between two commits was found",
        "try again at a quieter time",
    )


def _copied(
    session: Session, name: str, mode: str, files: list[int], scratch: Path, stop: threading.Event
) -> DatabaseSnapshot:
    """Let SQLite copy the database into scratch space."""
    connection = session.connection
    _begin_reading(connection)
    page_size, pages = _pragma(connection, "page_size"), _pragma(connection, "page_count")
    free = shutil.disk_usage(scratch).free
    if free < page_size * pages:
        raise SourceUnsupported(
            f"SQLite file {name} can only be read through a temporary copy of "
            f"{page_size * pages >> 20} MiB, and scratch space has {free >> 20} MiB",
            "let the function write the database's folder, so that it is read in place, "
            "or give it more ephemeral storage",
        )

    def step(*_: int) -> None:
        if stop.is_set():
            raise cancelled(name)

    copy = scratch / f"copy-{files[0]}.sqlite"
    target = open_new(copy)
    try:
        connection.backup(target, pages=_COPY_PAGES, progress=step)
    finally:
        target.close()
    files.append(os.open(copy, os.O_RDONLY | os.O_CLOEXEC))
    copy.unlink()
    return DatabaseSnapshot(
        name, connection, "copy", mode, page_size, pages, files[-1], stop,
        schema_readable=session.schema_readable,
    )  # fmt: skip


def _check_content(snapshot: DatabaseSnapshot, warnings: list[str]) -> None:
    """Check the pages of a database that is small enough to do so in passing."""
    if snapshot.size > CHECKED_BYTES or not snapshot.schema_readable:
        return
    verdict = examine(snapshot.connection, "quick_check", 1)
    if verdict.damage:
        raise SourceCorrupt(
            f"SQLite file {snapshot.name} is damaged: {verdict.damage[0]}",
            "restore an earlier backup, or save what the sqlite3 shell's .recover finds",
        )
    snapshot.remark = verdict.remark
    if snapshot.remark:
        warnings.append(f"{snapshot.name}: {snapshot.remark}; it was copied as it is")


def _pragma(connection: sqlite3.Connection, name: str) -> Any:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]
