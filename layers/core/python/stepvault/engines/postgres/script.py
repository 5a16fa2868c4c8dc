"""Run parts of an archive: pg_restore writes them as SQL, psql runs them in transactions.

Entries are run in batches, each one transaction together with the note that it is done: a restore
that is repeated goes on with the first batch that is missing, and no transaction holds more locks
than the server has room for. With ``keep_going`` a batch that fails is halved until the entries
that fail are alone; these are reported, all others are restored.
"""

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from psycopg import Connection as Session

from stepvault.engines.base import RestoreJob
from stepvault.engines.postgres import errors, locks, omit, programs, progress, target, toc
from stepvault.engines.postgres.toc import SETTINGS, Entry
from stepvault.errors import OutOfTime, StepvaultError, Transient

#: Entries of one transaction, if the server has room for their locks.
MOST = 500
#: Of the server's room for locks, what one entry may need: a table with its index and TOAST, an
#: index, a sequence, and as much again for whoever else is there.
_SHARE = 8
#: Settings in a script's head that older servers do not know; they lack what it switches.
_NEWER = {b"SET transaction_timeout = 0;": 170000}
#: What a plain role cannot make; made by the connecting user even if another one owns all else.
PRIVILEGED = (b"EXTENSION", b"EVENT TRIGGER")
_STATEMENT = re.compile(r"^(?:psql:[^:]*:\d+: )?STATEMENT:\s*", re.MULTILINE)


class Script:
    """Runs entries of an archive in a folder against the target.

    Args:
        job: the restore.
        restore: the restore's token, under which finished entries are noted.
        folder: where toc.dat and the data files are.
        archive: that table of contents.
        task: what to call the work if the time runs out.
    """

    def __init__(
        self, job: RestoreJob, restore: str, folder: Path, archive: toc.Toc, task: str
    ) -> None:
        self._job = job
        self._restore = restore
        self._folder = folder
        self._archive = archive
        self._task = task
        self._children = programs.Children()
        self._first = ""

    def run(
        self, opened: Session, entries: Sequence[Entry], first: str = "", most: int | None = None
    ) -> None:
        """Run the entries that are not noted yet.

        Args:
            opened: a session in the target.
            entries: what to restore, in this order.
            first: SQL to run before, in the first transaction.
            most: entries of one transaction; ``MOST`` unless given.

        Raises:
            StepvaultError: an entry failed, and the restore is not to keep going.
        """
        self._first = first
        done = set() if first else progress.done(opened, self._restore)
        todo = [e for e in entries if progress.steps([e.dump_id])[0] not in done]
        limit = max(1, min(most or MOST, locks.room(opened).locks // _SHARE))
        version = opened.info.server_version
        for _, group in groupby(todo, key=_privileged):
            alike = list(group)
            for start in range(0, len(alike), limit):
                self._run(alike[start : start + limit], version)
        if self._first:
            self._transaction([], version)

    def run_together(self, opened: Session, entries: Sequence[Entry]) -> None:
        """Run entries in one transaction, unless they are noted already.

        Raises:
            StepvaultError: it failed, and the restore is not to keep going.
        """
        done = progress.done(opened, self._restore)
        if not done.issuperset(progress.steps(e.dump_id for e in entries)):
            self._run(entries, opened.info.server_version, divisible=False)

    def text_of(self, entry: Entry, server_version: int) -> bytes:
        """Write what pg_restore would run for that entry alone, without psql's commands."""
        with tempfile.TemporaryDirectory(dir=self._job.scratch) as part:
            text = programs.run(
                self._children,
                target.address(self._job),
                self._pg_restore([entry], Path(part), whole=False),
                self._job.remaining,
            )
        return b"".join(for_server(server_version, text))

    # ------------------------------------------------------------ inside

    def _run(self, entries: Sequence[Entry], version: int, *, divisible: bool = True) -> None:
        """Run a batch; halve it if it fails and that can help."""
        going = self._job.options.keep_going
        try:
            self._transaction(entries, version)
        except (Transient, OutOfTime):
            raise
        except StepvaultError as error:
            crowded = "out of shared memory" in error.message
            if divisible and len(entries) > 1 and (going or crowded):
                middle = len(entries) // 2
                self._run(entries[:middle], version)
                self._run(entries[middle:], version)
                return
            if not going:
                raise
            for entry in entries:
                self._job.unrestored(omit.unrestored(entry, *_parts(error)))

    def _transaction(self, entries: Sequence[Entry], version: int) -> None:
        """Run entries through psql, all of them or nothing.

        The script's own COMMIT is the last thing that pg_restore writes: when it fails before,
        psql meets the end of its input within the transaction, which is rolled back.
        """
        ids = [e.dump_id for e in entries]
        first = self._first + (progress.note(self._restore, *progress.steps(ids)) if ids else "")
        connection, scratch = target.address(self._job), self._job.scratch
        dsn = programs.dsn(connection, scratch, target.name_of(self._job))
        options = ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose"]
        options += ["-v", "ECHO=errors", "--no-password"]
        psql = [programs.find("psql"), *options, "-d", dsn]
        with (
            tempfile.TemporaryDirectory(dir=scratch) as part,
            tempfile.TemporaryFile(dir=scratch) as of_reader,
            tempfile.TemporaryFile(dir=scratch) as of_writer,
            self._children.within(self._job.remaining()),
        ):
            arguments = self._pg_restore(entries, Path(part), whole=True)
            reader = self._children.start(
                [programs.find(arguments[0]), *arguments[1:]],
                read=True,
                buffer=1 << 20,
                stderr=of_reader,
            )
            writer = self._children.start(psql, feed=True, stderr=of_writer)
            try:
                _pipe(reader, writer, first, version)
                if self._children.cancelled:
                    raise OutOfTime(
                        f"the script of {self._task} was still running when the time ran out",
                        "Run the same restore again",
                    )
                for child, stderr in ((writer, of_writer), (reader, of_reader)):
                    if child.returncode:
                        stderr.seek(0)
                        raise _failure(stderr.read().decode(errors="replace"), connection)
            finally:
                self._children.forget(reader)
                self._children.forget(writer)
        self._first = ""

    def _pg_restore(self, entries: Sequence[Entry], part: Path, *, whole: bool) -> list[str]:
        """Write the command that prints these entries as SQL.

        Without data files it reads a table of contents of its own in ``part``: to read the whole
        one each time would take time by the square of the number of tables.
        """
        folder = self._folder
        options = ["--file=-"] + ["--single-transaction"] * whole
        if any(e.file for e in entries):
            listing = part / "list"
            listing.write_text("".join(f"{e.dump_id};\n" for e in entries))
            options.append(f"--use-list={listing}")
        else:
            folder = part
            settings = [e for e in self._archive.entries if e.kind in SETTINGS]
            others = [e for e in entries if e.kind not in SETTINGS]
            reduced = replace(self._archive, entries=settings + others)
            (part / "toc.dat").write_bytes(toc.write(reduced))
        owner = self._job.options.owner
        if owner != "keep":
            options += ["--no-owner", "--no-privileges"]
            if owner != "none" and not any(map(_privileged, entries)):
                options.append(f"--role={owner}")
        return ["pg_restore", *options, str(folder)]


def for_server(server_version: int, text: bytes) -> Iterator[bytes]:
    """Yield a script's lines without psql's own commands and what an older server does not know.

    psql's commands stand around the script with a random key.
    """
    lines = iter(text.splitlines(keepends=True))
    key = None
    for line in _head(lambda: next(lines, b""), server_version):
        if line.startswith(b"\\restrict "):
            key = line.split()[1]
        else:
            yield line
    for line in lines:
        if key is None or line.split() != [b"\\unrestrict", key]:
            yield line


def _head(next_line: Callable[[], bytes], server_version: int) -> Iterator[bytes]:
    """Yield a script's head, up to the end of its settings, for a transaction of our own."""
    in_settings = False
    while line := next_line():
        in_settings = in_settings or line.startswith(b"SET ")
        if server_version >= _NEWER.get(line.strip(), 0) and line != b"BEGIN;\n":
            yield line
        if in_settings and line == b"\n":
            return


def _privileged(entry: Entry) -> bool:
    return entry.kind in PRIVILEGED or (
        entry.kind == b"COMMENT" and entry.tag.startswith(b"EXTENSION ")
    )


def _failure(stderr: str, connection: Any) -> StepvaultError:
    """Make an error whose cause holds the statement that failed."""
    message, *statement = _STATEMENT.split(stderr, maxsplit=1)
    error = errors.from_program("pg_restore", message, connection)
    error.__cause__ = _Statement(statement[0].strip()) if statement else None
    return error


class _Statement(Exception):
    """The statement that the server refused."""


def _parts(error: StepvaultError) -> tuple[str, str]:
    """Take apart why an entry failed, and with which statement."""
    statement = str(error.__cause__) if isinstance(error.__cause__, _Statement) else ""
    return error.message.removeprefix("pg_restore failed: "), statement


def _pipe(reader: Any, writer: Any, first: str, server_version: int) -> None:
    """Feed psql with the script until both have ended."""
    try:
        # IF EXISTS gives a notice for each thing that does not exist.
        _feed(writer, f"SET client_min_messages = warning;\nBEGIN;\n{first}".encode())
        for line in _head(reader.stdout.readline, server_version):
            _feed(writer, line)
        while block := reader.stdout.read(1 << 20):
            _feed(writer, block)
    except BrokenPipeError:  # psql has left: nobody reads what pg_restore still writes
        writer.wait()
        reader.kill()
    if not reader.wait() or writer.poll() is not None:
        writer.stdin.close()
        writer.wait()


def _feed(child: Any, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[child.stdin.write(view) :]
