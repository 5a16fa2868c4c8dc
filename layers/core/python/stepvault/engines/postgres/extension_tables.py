"""Compare extensions' configuration tables: the user's rows in tables of CREATE EXTENSION.

The extension declares in a condition which rows are not of its own script; pg_dump writes those.
"""

import re
from collections.abc import Mapping, Sequence

import psycopg
from psycopg import Connection as Session

from stepvault.compress import decompress
from stepvault.engines.base import RestoreJob
from stepvault.engines.postgres import errors, restore, target
from stepvault.engines.postgres.reader import Content
from stepvault.engines.postgres.toc import Entry, Toc
from stepvault.engines.row_digest import Sums
from stepvault.records import StoredObject

_NAME = rb'(?:"(?:[^"]|"")+"|[^\s".]+)'
_COPY = re.compile(rb"COPY (%b\.%b) (?:\((.*)\) )?FROM stdin;\n" % (_NAME, _NAME), re.DOTALL)


def differences(
    job: RestoreJob, opened: Session, archive: Toc, chosen: Sequence[Entry]
) -> list[str]:
    """List where the target's configuration tables differ from the backup."""
    stored = {o.name: o for o in job.objects}
    conditions = target.conditions(opened)
    lines = []
    for entry in chosen:
        data = stored.get(archive.data_file(entry) or "")
        if entry.kind == b"TABLE DATA" and data and "fingerprint" not in data.facts:
            lines += _difference(job, opened, entry, data, conditions)
    return lines


def _difference(
    job: RestoreJob,
    opened: Session,
    entry: Entry,
    stored: StoredObject,
    conditions: Mapping[tuple[bytes, bytes], bytes],
) -> list[str]:
    name = entry.label.removeprefix("TABLE DATA ")
    condition = conditions.get((entry.namespace or b"", entry.tag), b"")
    try:
        there = _there(opened, entry, condition)
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return [f"table {name} is missing"]
    except psycopg.Error as error:
        raise errors.at_target(error, f"cannot compare {name}") from error
    wanted = _wanted(job, stored)
    if there.rows != wanted.rows:
        return [f"table {name} holds {there.rows} rows of the user's instead of {wanted.rows}"]
    if there != wanted:
        return [f"table {name} holds other values in its {wanted.rows} rows of the user's"]
    return []


def _there(opened: Session, entry: Entry, condition: bytes) -> Sums:
    """Digest the target's rows, as pg_dump would write them."""
    match = _COPY.fullmatch(entry.copy or b"")
    if match is None:
        raise AssertionError(f"pg_dump loads {entry.label} in another way: {entry.copy!r}")
    table, columns = match.groups()
    content = Content()
    query = b"COPY (SELECT %b FROM ONLY %b %b) TO STDOUT" % (columns or b"", table, condition)
    with opened.cursor() as cursor, cursor.copy(query) as rows:
        for row in rows:
            content.add(bytes(row))
    return content.sums


def _wanted(job: RestoreJob, stored: StoredObject) -> Sums:
    """Digest the backup's rows."""
    content = Content()
    blocks = job.read(stored)
    if stored.name.endswith(".zst"):
        blocks = decompress(blocks)
    for block in restore.without_trailer(blocks, stored.name):
        content.add(block)
    return content.sums
