"""Restore a backup: definitions, then rows in parallel, then indexes and constraints.

The definitions are pg_restore's own scripts, fed to psql within one transaction each; the rows
go through COPY, one transaction per object, committed only after the object's hash has been
verified. The tasks are those of ``plan``; see ``target`` for how they stay idempotent.
"""

import secrets
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
from psycopg import Connection as Session

from stepvault.engines.base import Counts, RestoreJob
from stepvault.engines.postgres import (
    errors,
    post_data,
    programs,
    progress,
    selection,
    target,
    toc,
)
from stepvault.errors import BackupTampered, OutOfTime, RunNotFound, TargetMissing
from stepvault.records import RestoreTask, StoredObject

#: A task loads small tables until it has this many raw bytes or objects.
TASK_BYTES = 256 << 20
TASK_OBJECTS = 200
#: Lines in which a script's settings stand.
_HEAD = 30


def plan(job: RestoreJob) -> list[RestoreTask]:
    """Plan a restore; see ``engines.base.Engine.plan_restore``."""
    archive = read_toc(job)
    chosen = selection.choose(archive, job.options.only)
    new = not target.exists(job)
    if new:
        with target.elsewhere(job) as maintenance:
            target.require_roles(maintenance, _roles(job, chosen))
        target.create(job, note=not job.options.only)
    with target.connect(job) as opened:
        if rows_alone(archive):
            target.require_empty_tables(opened, [e for e in chosen if e.kind == b"TABLE DATA"])
        elif job.options.only and not new:
            if not job.options.overwrite:
                target.require_absent(opened, [e for e in chosen if e.kind == b"TABLE"])
            chosen = selection.missing_from(chosen, target.contents(job))
        elif not new and not job.options.overwrite:
            target.require_empty(opened)
        if not new:
            target.require_roles(opened, _roles(job, chosen))
        own = not job.options.only and (job.options.overwrite or target.is_ours(opened))
    return list(_tasks(job, archive, chosen, secrets.token_hex(8), own=own))


def do(job: RestoreJob, task: RestoreTask) -> Counts:
    """Do one task of a restore; see ``engines.base.Engine.restore``."""
    with tempfile.TemporaryDirectory(dir=job.scratch) as own:
        work = _Work(replace(job, scratch=Path(own)), task)
        match task.arguments["step"]:
            case "schema":
                return work.make_schema()
            case "rows":
                return work.load_rows()
            case "script":
                return work.run_script()
            case _:
                return work.finish()


def read_toc(job: RestoreJob) -> toc.Toc:
    """Read the backup's table of contents."""
    return toc.read(b"".join(job.read(_object(job, "toc.dat"))))


def rows_alone(archive: toc.Toc) -> bool:
    """Tell whether the backup holds rows without definitions."""
    return all(e.needs_no_definitions for e in archive.entries)


def _roles(job: RestoreJob, chosen: Sequence[toc.Entry]) -> list[str]:
    """List the roles that must be there to restore these entries."""
    if job.options.owner == "keep":
        return selection.roles(chosen)
    return [] if job.options.owner == "none" else [job.options.owner]


def _object(job: RestoreJob, name: str) -> StoredObject:
    stored = next((o for o in job.objects if o.name == name), None)
    if stored is None:
        raise BackupTampered(f"the backup has no object {name}")
    return stored


def _tasks(
    job: RestoreJob, archive: toc.Toc, chosen: Sequence[toc.Entry], restore: str, *, own: bool
) -> Iterator[RestoreTask]:
    """Cut into definitions; rows and large objects; what depends on them.

    ``own`` tells the last task that the database is the restore's own, to get its settings.
    """
    stored = {o.name: o for o in job.objects}

    def task(stage: Any, number: str, step: str, names: Sequence[str], **more: Any) -> RestoreTask:
        arguments = {"restore": restore, "step": step, **more}
        return RestoreTask(stage=stage, id=number, objects=list(names), arguments=arguments)

    # Comments and privileges have no section of their own: they follow what they are about.
    before: list[int] = []
    after: list[int] = []
    section = toc.SECTION_PRE_DATA
    for entry in chosen:
        section = section if entry.section == toc.SECTION_NONE else entry.section
        if section == toc.SECTION_PRE_DATA:
            before.append(entry.dump_id)
        elif entry.section != toc.SECTION_DATA:
            after.append(entry.dump_id)
    yield task("before", "schema", "schema", ["toc.dat"], ids=before)

    batch: list[str] = []
    size = number = 0
    others: list[int] = []
    files: list[str] = []
    for entry in (e for e in chosen if e.section == toc.SECTION_DATA):
        name = archive.data_file(entry)
        if entry.kind == b"TABLE DATA" and name in stored and "fingerprint" in stored[name].facts:
            batch.append(name)
            size += stored[name].raw_bytes
            if size >= TASK_BYTES or len(batch) >= TASK_OBJECTS:
                yield task("data", f"rows-{number:04}", "rows", ["toc.dat", *batch])
                batch, size, number = [], 0, number + 1
        elif entry.kind == b"BLOBS" and entry.file:
            listing = entry.file.decode()
            pieces = [listing, *_pieces_of(job, listing, archive.suffix)]
            ids = [*(i for i in entry.dependencies if _is_data(archive, i)), entry.dump_id]
            yield task("data", f"large-{entry.dump_id}", "script", ["toc.dat", *pieces], ids=ids)
        elif entry.kind != b"BLOB METADATA":
            others.append(entry.dump_id)
            files += [name] if name else []
    if batch:
        yield task("data", f"rows-{number:04}", "rows", ["toc.dat", *batch])
    if others:
        yield task("data", "others", "script", ["toc.dat", *files], ids=others)

    yield task("after", "finish", "finish", ["toc.dat"], ids=after, own=own)


def _is_data(archive: toc.Toc, dump_id: int) -> bool:
    return any(e.dump_id == dump_id and e.section == toc.SECTION_DATA for e in archive.entries)


def _pieces_of(job: RestoreJob, listing: str, suffix: str) -> list[str]:
    """List the objects that a list of large objects names, one ``oid file`` per line."""
    text = b"".join(job.read(_object(job, listing))).decode()
    return [line.split()[1] + suffix for line in text.splitlines() if line]


class _Work:
    """One task of a restore."""

    def __init__(self, job: RestoreJob, task: RestoreTask) -> None:
        self.job, self.task = job, task
        self.restore = str(task.arguments["restore"])
        self.children = programs.Children()

    def make_schema(self) -> Counts:
        """Make the definitions, in one transaction."""
        folder = self._fetch()
        archive = toc.read((folder / "toc.dat").read_bytes())
        whole = not (self.job.options.only or rows_alone(archive))
        first = progress.begin(self.restore)
        there = target.exists(self.job)
        if there:
            with target.connect(self.job) as opened:
                if progress.is_done(opened, self.restore, "schema"):
                    return Counts()
                if whole and not self.job.options.overwrite:
                    target.require_empty(opened)
            if whole and self.job.options.overwrite:
                target.drop(self.job)
                there = False
            elif self.job.options.overwrite:
                ids = set(self.task.arguments["ids"])
                first = target.drop_tables([e for e in archive.entries if e.dump_id in ids]) + first
        if not there:  # to ask for it takes a right that restoring does not
            target.create(self.job)
        with target.connect(self.job) as opened:
            self._apply(opened, first, self.task.arguments["ids"], folder)
        return Counts()

    def load_rows(self) -> Counts:
        """Load the rows of one or more tables, a transaction each."""
        archive = read_toc(self.job)
        entries = {archive.data_file(e): e for e in archive.entries if e.kind == b"TABLE DATA"}
        rows = 0
        with target.connect(self.job) as opened:
            self._require_begun(opened)
            opened.execute(f"SET client_encoding = '{self._encoding()}'")
            if self.job.options.owner not in ("keep", "none"):
                opened.execute(f"SET ROLE {_quoted(self.job.options.owner)}")
            if rows_alone(archive):
                target.switch_off_triggers(opened)
            for name in self.task.objects:
                if name != "toc.dat":
                    rows += self._load(opened, _object(self.job, name), entries[name])
        return Counts(rows=rows)

    def run_script(self) -> Counts:
        """Run what pg_dump wrote itself: sequences' values, large objects, extensions' own tables."""
        step = self.task.id
        with target.connect(self.job) as opened:
            self._require_begun(opened)
            if not progress.is_done(opened, self.restore, step):
                first = progress.note(self.restore, step)
                self._apply(opened, first, self.task.arguments["ids"], self._fetch())
        return Counts()

    def finish(self) -> Counts:
        """Make indexes and constraints in parallel; then triggers, views' contents and the like."""
        with target.connect(self.job) as opened:
            if progress.begun(opened):
                archive = read_toc(self.job)
                if not progress.is_done(opened, self.restore, "rest"):
                    self._rest(opened, archive)
                own = bool(self.task.arguments.get("own"))
                about = [e for e in archive.entries if e.of_database] if own else None
                target.end(opened, about, self.job.options.owner)
        return Counts()

    # ------------------------------------------------------------ inside

    def _rest(self, opened: Session, archive: toc.Toc) -> None:
        """Make all that follows the rows."""
        folder = self._fetch()
        alone, rest = post_data.split(archive.entries, set(self.task.arguments["ids"]))
        post_data.Builder(self.job, self.restore, folder, self._options()).build(alone)
        first = progress.note(self.restore, "rest")
        self._apply(opened, first, [e.dump_id for e in rest], folder)

    def _require_begun(self, opened: Session) -> None:
        if not progress.is_done(opened, self.restore, "schema"):
            raise TargetMissing(
                f"database {opened.info.dbname} has no definitions from this restore",
                "Run the restore again from its beginning",
            )

    def _encoding(self) -> str:
        for facts in self.job.facts:
            if facts.get("encoding"):
                return str(facts["encoding"])
        raise RunNotFound("the backup does not say in which encoding its rows are")

    def _load(self, opened: Session, stored: StoredObject, entry: toc.Entry) -> int:
        """COPY one object's rows into its table; returns how many."""
        if progress.is_done(opened, self.restore, stored.name):
            return stored.rows or 0
        table = str(stored.facts.get("table", entry.label))
        try:
            with opened.transaction():
                opened.execute(progress.note(self.restore, stored.name))
                with opened.cursor() as cursor:
                    with cursor.copy(entry.copy or b"") as copy:
                        for block in without_trailer(self.job.read(stored), stored.name):
                            copy.write(block)
                            self.job.progress(table, len(block))
                    if stored.rows is not None and cursor.rowcount != stored.rows:
                        raise BackupTampered(
                            f"{stored.name} holds {cursor.rowcount} rows of {table}, its receipt "
                            f"says {stored.rows}"
                        )
        except psycopg.Error as error:
            raise errors.from_server(error, f"cannot load {table}") from error
        return stored.rows or 0

    def _fetch(self) -> Path:
        """Write the task's objects to files; each one's hash is verified when its bytes end."""
        folder = self.job.scratch / "archive"
        folder.mkdir()
        for name in self.task.objects:
            with (folder / name).open("wb") as file:
                for block in self.job.read(_object(self.job, name)):
                    file.write(block)
        return folder

    def _apply(self, opened: Session, first: str, ids: Sequence[int], folder: Path) -> None:
        """Run the task's part of the archive through psql, all of it or nothing.

        The script's own COMMIT is the last thing that pg_restore writes: when it fails before,
        psql meets the end of its input within the transaction, which is rolled back.
        """
        chosen = folder / "ids"
        chosen.write_text("".join(f"{i};\n" for i in ids))
        connection, scratch = target.address(self.job), self.job.scratch
        dsn = programs.dsn(connection, scratch, target.name_of(self.job))
        options = ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose"]
        psql = [programs.find("psql"), *options, "--no-password", "-d", dsn]
        pg_restore = self._pg_restore(folder, chosen)
        with (
            tempfile.TemporaryFile(dir=scratch) as of_reader,
            tempfile.TemporaryFile(dir=scratch) as of_writer,
            self.children.within(self.job.remaining()),
        ):
            reader = self.children.start(pg_restore, read=True, buffer=1 << 20, stderr=of_reader)
            writer = self.children.start(psql, feed=True, stderr=of_writer)
            try:
                self._pipe(reader, writer, first, opened.info.server_version)
                if self.children.cancelled:
                    raise OutOfTime(
                        f"the script of {self.task.id} was still running when the time ran out",
                        "Run the same restore again",
                    )
                for child, stderr in ((writer, of_writer), (reader, of_reader)):
                    if child.returncode:
                        stderr.seek(0)
                        text = stderr.read().decode(errors="replace")
                        raise errors.from_program("pg_restore", text, connection)
            finally:
                self.children.forget(reader)
                self.children.forget(writer)

    def _pipe(self, reader: Any, writer: Any, first: str, server_version: int) -> None:
        """Feed psql with the script until both have ended."""
        try:
            # IF EXISTS gives a notice for each thing that does not exist.
            _feed(writer, f"SET client_min_messages = warning;\nBEGIN;\n{first}".encode())
            for block in _known_to(server_version, reader.stdout):
                _feed(writer, block)
        except BrokenPipeError:  # psql has left: nobody reads what pg_restore still writes
            writer.wait()
            reader.kill()
        if not reader.wait() or writer.poll() is not None:
            writer.stdin.close()
            writer.wait()

    def _pg_restore(self, folder: Path, ids: Path) -> list[str]:
        options = [f"--use-list={ids}", "--file=-", "--single-transaction", *self._options()]
        return [programs.find("pg_restore"), *options, str(folder)]

    def _options(self) -> list[str]:
        owner = self.job.options.owner
        if owner == "keep":
            return []
        role = [] if owner == "none" else [f"--role={owner}"]
        return ["--no-owner", "--no-privileges", *role]


def _feed(child: Any, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[child.stdin.write(view) :]


def _known_to(server_version: int, script: Any) -> Iterator[bytes]:
    """Yield the script, without settings at its head that the server is too old for."""
    for _ in range(_HEAD):
        line = script.readline()
        if post_data.known_to(server_version, line) and line != b"BEGIN;\n":
            yield line
    while block := script.read(1 << 20):
        yield block


def without_trailer(blocks: Iterator[bytes], name: str) -> Iterator[bytes]:
    """Yield the rows without COPY's end mark, which closes every data file of an archive."""
    held = b""
    for block in blocks:
        data = held + block
        held = data[-len(toc.TRAILER) :]
        if len(data) > len(toc.TRAILER):
            yield data[: -len(toc.TRAILER)]
    if held != toc.TRAILER:
        raise BackupTampered(f"{name} does not end as the rows of a table do")


def _quoted(role: str) -> str:
    return '"' + role.replace('"', '""') + '"'
