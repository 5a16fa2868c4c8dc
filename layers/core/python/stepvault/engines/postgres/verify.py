"""Compare a restored database with what the backup says of its content.

Definitions: pg_dump's table of contents of the database against the backup's. Rows: the same
COPY, counted and hashed, against the receipts. Sequences and large objects: value by value.
"""

import hashlib
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

from stepvault.compress import decompress
from stepvault.engines.base import RestoreJob
from stepvault.engines.postgres import (
    errors,
    extension_tables,
    omit,
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
from stepvault.engines.postgres.tables import Storage, Table
from stepvault.engines.row_digest import Sums, total
from stepvault.records import StoredObject

_SETVAL = re.compile(rb"setval\('((?:[^']|'')+)', (-?\d+), (true|false)\)")
_LARGE = re.compile(r"blob_(\d+)\.dat(\.zst)?")
_BLOCK = 1 << 20
#: Kinds that are not definitions, or that a restore is not asked to make.
_PASSED_OVER = {
    *(b"DATABASE", b"DATABASE PROPERTIES", b"TABLE DATA", b"SEQUENCE SET", b"BLOBS"),
    *(b"BLOB METADATA", b"MATERIALIZED VIEW DATA", b"ENCODING", b"STDSTRINGS", b"SEARCHPATH"),
}


def differences(job: RestoreJob) -> list[str]:
    """Compare; see ``engines.base.Engine.differences``."""
    with tempfile.TemporaryDirectory(dir=job.scratch) as own:
        return _differences(replace(job, scratch=Path(own)))


def _differences(job: RestoreJob) -> list[str]:
    archive = read_toc(job)
    chosen = omit.without(job, selection.choose(archive, job.options.only))
    with target.connect(job) as opened:
        try:
            found = _rows(job, opened, chosen)
            found += _sequences(opened, chosen)
            if not job.options.only:
                # Rows alone went into tables that were there.
                found += [] if rows_alone(archive) else _definitions(job, chosen)
                found += _large_objects(job, opened)
            found += extension_tables.differences(job, opened, archive, chosen)
        except psycopg.Error as error:
            raise errors.from_server(error, "cannot compare the database") from error
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
    roots = {there[k].oid: there[v] for k, v in root.items() if k in there and v in there}
    if job.options.only or job.options.without:
        made = {int(e.oid) for e in chosen if e.kind == b"TABLE DATA"}
        expected = {k: v for k, v in expected.items() if v[0].facts["oid"] in made}
        there = {k: v for k, v in there.items() if k in expected}
    found = [f"table {name} is missing" for name in sorted(expected.keys() - there.keys())]
    both = sorted(expected.keys() & there.keys())
    wanted = [there[name] for name in both]
    holding = _contents(job, opened, wanted, roots)
    seen: dict[str, Sums] = {}
    told: dict[str, list[StoredObject]] = {}
    for label in both:
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


def _contents(
    job: RestoreJob, opened: Session, wanted: Sequence[Table], roots: Mapping[int, Table]
) -> Mapping[str, Sums]:
    """Digest the tables over the job's connections; ``roots`` as in ``tables.storage``."""
    sizes = tables.storage(opened, wanted, roots)
    pending: SimpleQueue[Table] = SimpleQueue()
    for table in sorted(wanted, key=lambda t: -sizes[t.oid].size):
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
            for _ in reader.copy(_all_of(table, sizes[table.oid]), table.label, content):
                pass
            seen[table.label] = content.sums

    def work() -> None:
        where, database = target.address(job), target.name_of(job)
        try:
            with closing(Reader(children, where, job.scratch, script, database)) as reader:
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


def _all_of(table: Table, storage: Storage) -> bytes:
    return table.quoted + (b" (" + storage.columns + b")" if storage.columns else b"")


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


def _definitions(job: RestoreJob, chosen: Sequence[toc.Entry]) -> list[str]:
    """Compare what pg_dump writes of the database with what it wrote of the source."""
    found = _defined(target.contents(job), job)
    wanted = _defined(chosen, job)
    lines = [f"{label} is missing" for label in sorted(wanted.keys() - found.keys())]
    lines += [f"{label} is not in the backup" for label in sorted(found.keys() - wanted.keys())]
    lines += [
        f"{label} is defined otherwise"
        for label in sorted(wanted.keys() & found.keys())
        if sorted(wanted[label]) != sorted(found[label])
    ]
    return lines


def _defined(entries: Sequence[toc.Entry], job: RestoreJob) -> dict[str, list[bytes]]:
    """Map kind and name to definitions, and owners where they matter."""
    with_owner = job.options.owner == "keep"
    defined: dict[str, list[bytes]] = {}
    for entry in entries:
        if entry.kind in _PASSED_OVER or b"LARGE OBJECT" in entry.tag:
            continue
        if not with_owner and entry.kind in (b"ACL", b"DEFAULT ACL"):
            continue
        owner = (entry.owner or b"") if with_owner else b""
        defined.setdefault(entry.label, []).append((entry.definition or b"") + b"\0" + owner)
    return defined


def _large_objects(job: RestoreJob, opened: Session) -> list[str]:
    """Compare every large object by its bytes."""
    found = []
    for stored in job.objects:
        match = _LARGE.fullmatch(stored.name)
        if match is None:
            continue
        wanted = hashlib.sha256()
        stream = job.read(stored)
        for block in decompress(stream) if match[2] else stream:
            wanted.update(block)
        seen, offset = hashlib.sha256(), 0
        try:
            while block := _value(
                opened, f"SELECT pg_catalog.lo_get({match[1]}, {offset}, {_BLOCK})"
            ):
                seen.update(block)
                offset += len(block)
        except psycopg.errors.UndefinedObject:
            found.append(f"large object {match[1]} is missing")
            continue
        if seen.digest() != wanted.digest():
            found.append(f"large object {match[1]} holds other bytes")
    return found


def _value(opened: Session, query: str) -> Any:
    row = opened.execute(query).fetchone()
    return row[0] if row else None
