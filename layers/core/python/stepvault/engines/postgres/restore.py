"""Restore a backup: definitions, then rows in parallel, then indexes and constraints.

The definitions are pg_restore's own scripts, fed to psql in transactions; the rows go through COPY,
one transaction per object, committed only after the object's hash has been verified. ``plan`` cuts
the work into tasks; ``progress`` makes each of them safe to repeat.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psycopg
from psycopg import Connection as Session
from psycopg import sql

from stepvault.engines.base import Counts, RestoreJob
from stepvault.engines.postgres import (
    errors,
    finalize,
    large_objects,
    omit,
    post_data,
    preflight,
    progress,
    selection,
    target,
    toc,
)
from stepvault.engines.postgres.script import Script
from stepvault.errors import (
    BackupTampered,
    RunNotFound,
    StepvaultError,
    TargetMissing,
    TargetNotEmpty,
    Transient,
)
from stepvault.records import RestoreTask, StoredObject

#: A task loads small tables until it has this many raw bytes or objects.
TASK_BYTES = 256 << 20
TASK_OBJECTS = 200


def plan(job: RestoreJob) -> list[RestoreTask]:
    """Plan a restore; see ``engines.base.Engine.plan_restore``."""
    archive = read_toc(job)
    chosen = omit.asked(job, selection.choose(archive, job.options.only))
    new = not target.exists(job) and target.create(job, note=not job.options.only)
    try:
        with target.connect(job) as opened:
            return _plan(job, archive, chosen, opened, new=new)
    except (StepvaultError, psycopg.Error) as error:
        if new:
            target.drop(job)
        if isinstance(error, psycopg.Error):
            what = f"cannot look at database {target.name_of(job)}"
            raise errors.at_target(error, what) from error
        raise


def _plan(
    job: RestoreJob, archive: toc.Toc, chosen: list[toc.Entry], opened: Session, *, new: bool
) -> list[RestoreTask]:
    """Check the target, find what it cannot take, and cut the rest into tasks."""
    restore, begun = progress.token(job), progress.unfinished(opened)
    whole = not (job.options.only or rows_alone(archive))
    if begun is not None and begun != restore and not (whole and job.options.overwrite):
        raise TargetNotEmpty(
            f"database {opened.info.dbname} holds a restore of another backup, or of other tables, "
            "that has not ended",
            "Run that restore again until it ends, drop the database, or, if you want to keep what "
            f"it holds, DROP SCHEMA {progress.SCHEMA} CASCADE",
        )
    fresh = begun != restore
    if rows_alone(archive):
        if fresh:
            target.require_empty_tables(opened, [e for e in chosen if e.kind == b"TABLE DATA"])
        return list(_tasks(job, archive, chosen, restore, omit.Edits(), own=False))
    if job.options.only and not new:
        if fresh and not job.options.overwrite:
            target.require_absent(opened, [e for e in chosen if e.kind == b"TABLE"])
        chosen = selection.missing_from(chosen, target.contents(job))
    elif fresh and not new and not job.options.overwrite:
        target.require_empty(opened)
    facts = job.facts[0] if job.facts else {}
    done = progress.done(opened, restore)
    todo = [e for e in chosen if done.isdisjoint(progress.steps([e.dump_id]))]
    able, edits = preflight.prepare(job, opened, todo, facts)
    unable = {e.dump_id for e in todo} - {e.dump_id for e in able}
    chosen = [e for e in chosen if e.dump_id not in unable]
    own = not job.options.only and (job.options.overwrite or target.is_ours(opened))
    return list(_tasks(job, archive, chosen, restore, edits, own=own))


def do(job: RestoreJob, task: RestoreTask) -> Counts:
    """Do one task of a restore; see ``engines.base.Engine.restore``."""
    with tempfile.TemporaryDirectory(dir=job.scratch) as own:
        work = _Work(replace(job, scratch=Path(own)), task)
        steps = {
            "schema": work.make_schema,
            "rows": work.load_rows,
            "script": work.run_script,
            "finish": work.finish,
        }
        try:
            return steps[str(task.arguments["step"])]()
        except psycopg.Error as error:
            what = f"cannot restore into database {target.name_of(job)}"
            raise errors.at_target(error, what) from error


def read_toc(job: RestoreJob) -> toc.Toc:
    """Read the backup's table of contents."""
    archive = toc.read(b"".join(job.read(_object(job, "toc.dat"))))
    archive.drop_internal_options()
    return archive


def rows_alone(archive: toc.Toc) -> bool:
    """Tell whether the backup holds rows without definitions."""
    return all(e.needs_no_definitions for e in archive.entries)


def _object(job: RestoreJob, name: str) -> StoredObject:
    stored = next((o for o in job.objects if o.name == name), None)
    if stored is None:
        raise BackupTampered(f"the backup has no object {name}")
    return stored


def _tasks(
    job: RestoreJob,
    archive: toc.Toc,
    chosen: Sequence[toc.Entry],
    restore: str,
    edits: omit.Edits,
    *,
    own: bool,
) -> Iterator[RestoreTask]:
    """Cut into definitions; rows and large objects; what depends on them.

    ``own`` tells the last task that the database is the restore's own, to get its settings.
    """
    stored = {o.name: o for o in job.objects}

    def task(stage: Any, number: str, step: str, names: Sequence[str], **more: Any) -> RestoreTask:
        arguments = {"restore": restore, "step": step, "edits": asdict(edits), **more}
        return RestoreTask(stage=stage, id=number, objects=list(names), arguments=arguments)

    before, after = _around_rows(chosen)
    rows: list[RestoreTask] = []
    batch: list[str] = []
    size = 0
    # Rows of extensions' tables come before all others, which may need them.
    of_extensions: list[toc.Entry] = []
    others: list[int] = []
    for entry in (e for e in chosen if e.section == toc.SECTION_DATA):
        name = archive.data_file(entry)
        if entry.kind == b"TABLE DATA" and name in stored and "fingerprint" in stored[name].facts:
            batch.append(name)
            size += stored[name].raw_bytes
            if size >= TASK_BYTES or len(batch) >= TASK_OBJECTS:
                rows.append(task("data", f"rows-{len(rows):04}", "rows", ["toc.dat", *batch]))
                batch, size = [], 0
        elif entry.kind == b"TABLE DATA":
            of_extensions.append(entry)
        elif entry.kind in (b"BLOBS", large_objects.PACKED) and entry.file:
            rows.append(_large_objects(job, archive, entry, task))
        elif entry.kind != b"BLOB METADATA":
            others.append(entry.dump_id)
    if batch:
        rows.append(task("data", f"rows-{len(rows):04}", "rows", ["toc.dat", *batch]))
    if others:
        rows.append(task("data", "others", "script", ["toc.dat"], ids=others))
    files = [name for e in of_extensions if (name := archive.data_file(e))]
    first = {"ids": before, "rows": [e.dump_id for e in of_extensions]}
    yield task("before", "schema", "schema", ["toc.dat", *files], **first)
    yield from rows
    yield task("after", "finish", "finish", ["toc.dat"], ids=after, own=own)


def _around_rows(chosen: Sequence[toc.Entry]) -> tuple[list[int], list[int]]:
    """Split off what comes before the rows and what comes after them.

    Comments and privileges have no section of their own: they follow what they are about.
    """
    before: list[toc.Entry] = []
    after: list[int] = []
    section = toc.SECTION_PRE_DATA
    for entry in chosen:
        section = section if entry.section == toc.SECTION_NONE else entry.section
        if section == toc.SECTION_PRE_DATA:
            before.append(entry)
        elif entry.section != toc.SECTION_DATA:
            after.append(entry.dump_id)
    return [e.dump_id for e in toc.privileges_last(before)], after


def _large_objects(
    job: RestoreJob, archive: toc.Toc, entry: toc.Entry, task: Callable[..., RestoreTask]
) -> RestoreTask:
    """Restore a group of large objects in one transaction."""
    listing = (entry.file or b"").decode()
    if entry.kind == large_objects.PACKED:
        pieces = [listing + archive.suffix]
    else:
        pieces = [listing, *_pieces_of(job, listing, archive.suffix)]
    data = {e.dump_id for e in archive.entries if e.section == toc.SECTION_DATA}
    ids = [*(i for i in entry.dependencies if i in data), entry.dump_id]
    names = ["toc.dat", *pieces]
    return task("data", f"large-{entry.dump_id}", "script", names, ids=ids, together=True)


def _pieces_of(job: RestoreJob, listing: str, suffix: str) -> list[str]:
    """List the objects that a list of large objects names, one ``oid file`` per line."""
    text = b"".join(job.read(_object(job, listing))).decode()
    return [line.split()[1] + suffix for line in text.splitlines() if line]


class _Work:
    """One task of a restore."""

    def __init__(self, job: RestoreJob, task: RestoreTask) -> None:
        self.job, self.task = job, task
        self.restore = str(task.arguments["restore"])
        edits = task.arguments["edits"]
        tablespaces = edits["tablespaces"]
        self.edits = omit.Edits(
            roles=tuple(edits["roles"]),
            owners=tuple(edits["owners"]),
            tablespaces=None if tablespaces is None else tuple(tablespaces),
        )

    def make_schema(self) -> Counts:
        """Make the definitions, then load the rows of extensions' tables."""
        folder, archive = self._fetch()
        entries = self._entries(archive, "ids")
        whole = not (self.job.options.only or rows_alone(archive))
        begun = None
        there = target.exists(self.job)
        if there:
            with target.connect(self.job) as opened:
                if progress.is_done(opened, self.restore, "schema"):
                    return Counts()
                begun = progress.unfinished(opened)
                if whole and begun != self.restore and not self.job.options.overwrite:
                    target.require_empty(opened)
            if whole and begun != self.restore and self.job.options.overwrite:
                target.drop(self.job)
                there = False
        if not there:  # to ask for it takes a right that restoring does not
            target.create(self.job)
        with target.connect(self.job) as opened:
            first = ""
            if begun != self.restore:
                first = progress.begin(opened, self.restore)
                if self.job.options.overwrite and not whole:
                    first = target.drop_tables(entries) + first
            script = Script(self.job, self.restore, folder, archive, self.task.id)
            script.run(opened, entries, first)
            script.run(opened, self._entries(archive, "rows"))
            opened.execute(progress.note(self.restore, "schema").encode())
        return Counts()

    def load_rows(self) -> Counts:
        """Load the rows of one or more tables, a transaction each."""
        archive = read_toc(self.job)
        entries = {archive.data_file(e): e for e in archive.entries if e.kind == b"TABLE DATA"}
        rows = 0
        with target.connect(self.job) as opened:
            self._require_begun(opened)
            opened.execute(f"SET client_encoding = '{self._encoding()}'")
            if rows_alone(archive):
                target.switch_off_triggers(opened)
            for name in self.task.objects:
                if name != "toc.dat":
                    rows += self._load(opened, _object(self.job, name), entries[name])
        return Counts(rows=rows)

    def run_script(self) -> Counts:
        """Run what pg_dump wrote itself: sequences' values, large objects."""
        with target.connect(self.job) as opened:
            self._require_begun(opened)
            folder, archive = self._fetch()
            script = Script(self.job, self.restore, folder, archive, self.task.id)
            entries = self._entries(archive, "ids")
            if self.task.arguments.get("together"):
                script.run_together(opened, entries)
            else:
                script.run(opened, entries)
        return Counts()

    def finish(self) -> Counts:
        """Make indexes and constraints in parallel; then triggers, views' contents and the like."""
        with target.connect(self.job) as opened:
            if progress.unfinished(opened) is not None:
                folder, archive = self._fetch()
                script = Script(self.job, self.restore, folder, archive, self.task.id)
                parts = post_data.split(archive.entries, set(self.task.arguments["ids"]))
                post_data.Builder(self.job, self.restore, script).build(parts.parallel)
                for entries, most in parts.in_turn:
                    script.run(opened, entries, most=most)
                own = bool(self.task.arguments.get("own"))
                about = [e for e in archive.entries if e.of_database] if own else None
                finalize.end(self.job, opened, about, script, parts.event_triggers)
        return Counts()

    # ------------------------------------------------------------ inside

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

    def _entries(self, archive: toc.Toc, argument: str) -> list[toc.Entry]:
        """Look up the entries whose ids the task names, in the task's order."""
        by_id = {e.dump_id: e for e in archive.entries}
        return [by_id[i] for i in self.task.arguments[argument]]

    def _load(self, opened: Session, stored: StoredObject, entry: toc.Entry) -> int:
        """Load one object's rows into its table; returns how many."""
        if progress.is_done(opened, self.restore, stored.name):
            return stored.rows or 0
        table = str(stored.facts.get("table", entry.label))
        try:
            self._copy(opened, stored, entry, table)
        except psycopg.Error as error:
            known = errors.at_target(error, f"cannot load {table}")
            if isinstance(known, Transient) or opened.closed or not self.job.options.keep_going:
                raise known from error
            statement = (entry.copy or b"").decode(errors="replace")
            self.job.unrestored(omit.unrestored(entry, known.message, statement))
            return 0
        return stored.rows or 0

    def _copy(self, opened: Session, stored: StoredObject, entry: toc.Entry, table: str) -> None:
        """Copy rows in one transaction, as the role that owns the table."""
        with opened.transaction():
            opened.execute(progress.note(self.restore, stored.name).encode())
            if self.job.options.owner not in ("keep", "none"):
                role = sql.Identifier(self.job.options.owner)
                opened.execute(sql.SQL("SET LOCAL ROLE {}").format(role))
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

    def _fetch(self) -> tuple[Path, toc.Toc]:
        """Write the task's objects to files; each one's hash is verified when its bytes end."""
        folder = self.job.scratch / "archive"
        folder.mkdir()
        for name in self.task.objects:
            if name != "toc.dat":
                stored = _object(self.job, name)
                # What we have compressed is read as it was before.
                plain = name.removesuffix(".zst") if stored.encoding == "zstd" else name
                with (folder / plain).open("wb") as file:
                    for block in self.job.read(stored):
                        file.write(block)
        archive = read_toc(self.job)
        archive.entries = [self.edits.apply(e) for e in archive.entries]
        (folder / "toc.dat").write_bytes(toc.write(archive))
        return folder, archive


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
