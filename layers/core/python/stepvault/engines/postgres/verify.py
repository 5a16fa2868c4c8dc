"""Compare a restored database with what the backup says of its content.

Definitions: pg_dump's table of contents of the database against the backup's. Rows: the same
COPY, counted and hashed, against the receipts. Sequences and large objects: value by value.
"""

import re
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import psycopg
from psycopg import Connection as Session

from stepvault.engines.base import RestoreJob
from stepvault.engines.postgres import (
    definitions,
    errors,
    extension_tables,
    large_objects,
    not_compared,
    omit,
    preflight,
    programs,
    progress,
    selection,
    session,
    tables,
    target,
    toc,
)
from stepvault.engines.postgres.reader import Content, Reader
from stepvault.engines.postgres.restore import read_toc, rows_alone
from stepvault.engines.postgres.tables import Table
from stepvault.engines.row_digest import Sums, total
from stepvault.records import StoredObject

_NAME = rb'(?:"(?:[^"]|"")+"|[^\s".,]+)'
_SETVAL = re.compile(
    rb"setval\((?:pg_catalog\.to_regclass\()?'((?:[^']|'')+)'\)?, (-?\d+), (true|false)\)"
)
#: How the archive loads a table; what is in the brackets are its columns.
_COPY = re.compile(rb"COPY %b\.%b (?:\((.*)\))? ?FROM stdin;\n" % ((_NAME,) * 2), re.DOTALL)
_COLUMN = re.compile(_NAME)


def differences(job: RestoreJob) -> list[str]:
    """Compare; see ``engines.base.Engine.differences``."""
    with tempfile.TemporaryDirectory(dir=job.scratch) as own:
        return _differences(replace(job, scratch=Path(own)))


def _differences(job: RestoreJob) -> list[str]:
    archive = read_toc(job)
    chosen = omit.without(job, selection.choose(archive, job.options.only))
    with target.connect(job) as opened:
        try:
            not_compared.tell(job, opened, archive, chosen)
            found = _rows(job, opened, chosen)
            found += _sequences(opened, chosen)
            if not job.options.only:
                # Rows alone went into tables that were there.
                found += (
                    []
                    if rows_alone(archive)
                    else definitions.differences(job, opened, archive, chosen)
                )
                found += large_objects.differences(job, opened)
            found += extension_tables.differences(job, opened, archive, chosen)
        except psycopg.Error as error:
            raise errors.at_target(error, "cannot compare the database") from error
    return found


def _rows(job: RestoreJob, opened: Session, chosen: Sequence[toc.Entry]) -> list[str]:
    """Compare counts and digests of every table.

    Partitions whose rows were sorted into them again are compared all together.
    """
    expected: dict[str, list[StoredObject]] = {}
    for stored in job.objects:
        if "fingerprint" in stored.facts:
            expected.setdefault(str(stored.facts["table"]), []).append(stored)
    there = {t.label: t for t in tables.listed(opened) if t.schema != progress.SCHEMA.encode()}
    root = {k: str(v[0].facts["root"]) for k, v in expected.items() if "root" in v[0].facts}
    copied = {int(e.oid): _columns_of(e) for e in chosen if e.kind == b"TABLE DATA"}
    expected = {k: v for k, v in expected.items() if v[0].facts["oid"] in copied}
    found = [f"table {name} is missing" for name in sorted(expected.keys() - there.keys())]
    wanted = [there[name] for name in sorted(expected.keys() & there.keys())]
    sizes = tables.storage(opened, wanted, {})
    columns = {t.oid: copied[expected[t.label][0].facts["oid"]] for t in wanted}
    for table in wanted:
        had, has = _names(columns[table.oid]), _names(sizes[table.oid].columns)
        more = "has a column {}, which the backup has not"
        found += [f"table {table.label} has no column {c}" for c in sorted(had - has)]
        found += [f"table {table.label} {more.format(c)}" for c in sorted(has - had)]
        if had - has:
            del columns[table.oid]
    wanted = [t for t in wanted if t.oid in columns]
    holding = _contents(job, opened, sorted(wanted, key=lambda t: -sizes[t.oid].size), columns)
    seen: dict[str, Sums] = {}
    told: dict[str, list[StoredObject]] = {}
    for label in (t.label for t in wanted):
        name = root.get(label, label)
        seen[name] = seen.get(name, Sums()).plus(holding[label])
        told.setdefault(name, []).extend(expected[label])
    for name, sums in sorted(seen.items()):
        wanted_sums = total(Sums.parse(o.rows, o.facts["fingerprint"]) for o in told[name])
        if sums.rows != wanted_sums.rows:
            found.append(f"table {name} holds {sums.rows} rows instead of {wanted_sums.rows}")
        elif sums != wanted_sums:
            found.append(f"table {name} holds other values in its {wanted_sums.rows} rows")
    return found


def _columns_of(entry: toc.Entry) -> bytes:
    """Give the columns, quoted, in the order in which the backup has them: the target's may differ."""
    match = _COPY.fullmatch(entry.copy or b"")
    if match is None:
        raise AssertionError(f"{entry.label} is loaded in another way: {entry.copy!r}")
    return match[1] or b""


def _names(columns: bytes) -> set[str]:
    """List columns; releases differ in what they quote."""
    return {preflight.plain(c) for c in _COLUMN.findall(columns)}


def _contents(
    job: RestoreJob, opened: Session, wanted: Sequence[Table], columns: Mapping[int, bytes]
) -> Mapping[str, Sums]:
    """Digest the tables' columns, given by oid, over the job's connections."""
    pending: SimpleQueue[Table] = SimpleQueue()
    for table in wanted:
        pending.put(table)
    seen: dict[str, Sums] = {}
    raised: list[BaseException] = []
    children = programs.Children()
    encoding = session.text(_value(opened, "SHOW server_encoding"))
    script = session.script(opened.info.server_version, encoding)

    def read(reader: Reader) -> None:
        while not raised:
            try:
                table = pending.get_nowait()
            except Empty:
                return
            content = Content()
            its = columns[table.oid]
            query = table.quoted + (b" (" + its + b")" if its else b"")
            for _ in reader.copy(query, table.label, content):
                pass
            seen[table.label] = content.sums

    def work() -> None:
        where, database = target.address(job), target.name_of(job)
        try:
            reader = Reader(children, where, job.scratch, script, database, target=True)
            with closing(reader):
                read(reader)
        except BaseException as error:  # raised again below
            raised.append(error)

    threads = [threading.Thread(target=work) for _ in range(max(1, job.connections))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]
    return seen


def _sequences(opened: Session, chosen: Sequence[toc.Entry]) -> list[str]:
    """Compare where each sequence stands."""
    found = []
    for entry in chosen:
        match = _SETVAL.search(entry.definition or b"") if entry.kind == b"SEQUENCE SET" else None
        if match is None:
            continue
        name = match[1].replace(b"''", b"'")
        try:
            row = opened.execute(b"SELECT last_value, is_called FROM " + name).fetchone()
        except psycopg.errors.UndefinedTable:
            found.append(f"{entry.label} is missing")
            continue
        if row != (int(match[2]), match[3] == b"true"):
            found.append(f"{entry.label} stands at {row[0] if row else None}, not {int(match[2])}")
    return found


def _value(opened: Session, query: str) -> Any:
    row = opened.execute(query).fetchone()
    return row[0] if row else None
