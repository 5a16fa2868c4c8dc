"""Find what a source's filters leave out, and what cannot stay without it.

A table that is left out takes along what depends on it: views, foreign keys that point to it,
functions that return its rows. These are left out too and named in a warning, so that the
archive restores as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import Connection as Session

from stepvault.engines.postgres.session import text
from stepvault.engines.postgres.tables import Table
from stepvault.engines.postgres.toc import Entry, Toc
from stepvault.errors import ConfigInvalid
from stepvault.settings import PostgresSource

#: Everything that depends on these tables according to pg_depend. A view depends on its _RETURN
#: rule the wrong way round, a table's row type depends on the table. A sequence that another
#: table's default uses stays, though it is owned by one of these. A foreign key to a partitioned
#: table needs all its partitions: the keys that lead to these have it as their parent.
_DEPENDENTS = """
WITH RECURSIVE gone (classid, objid) AS (
  SELECT 'pg_catalog.pg_class'::pg_catalog.regclass::oid, oid
  FROM pg_catalog.unnest(%(left_out)s::oid[]) AS oid
  UNION
  SELECT found.classid, found.objid FROM gone, LATERAL (
    SELECT d.classid, d.objid FROM pg_catalog.pg_depend d
    WHERE d.refclassid = gone.classid AND d.refobjid = gone.objid AND d.deptype <> 'e'
      AND NOT (d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype = 'a'
               AND (EXISTS (SELECT FROM pg_catalog.pg_inherits i
                            JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
                            WHERE i.inhrelid = d.objid AND c.relispartition)
                    OR EXISTS (SELECT FROM pg_catalog.pg_depend u
                               JOIN pg_catalog.pg_attrdef a ON a.oid = u.objid
                               JOIN pg_catalog.pg_class s ON s.oid = u.refobjid
                               WHERE u.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
                                 AND u.refclassid = d.classid AND u.refobjid = d.objid
                                 AND s.relkind = 'S' AND a.adrelid <> ALL (%(left_out)s::oid[]))))
    UNION ALL
    SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, r.ev_class FROM pg_catalog.pg_rewrite r
    WHERE gone.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND r.oid = gone.objid
      AND r.rulename = '_RETURN'
    UNION ALL
    SELECT gone.classid, k.conparentid FROM pg_catalog.pg_constraint k
    WHERE gone.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND k.oid = gone.objid
      AND k.contype = 'f' AND k.conparentid <> 0 AND k.conrelid <> ALL (%(left_out)s::oid[])
  ) AS found
)
SELECT gone.classid::pg_catalog.int8, gone.objid::pg_catalog.int8,
  coalesce(c.relkind::pg_catalog.text, ''),
  CASE WHEN c.relkind IN ('v', 'm', 'f') THEN
    pg_catalog.convert_to(pg_catalog.quote_ident(n.nspname) || '.'
      || pg_catalog.quote_ident(c.relname), pg_catalog.getdatabaseencoding()) END,
  pg_catalog.pg_describe_object(gone.classid, gone.objid, 0),
  coalesce(k.conrelid, i.indrelid, p.polrelid, r.ev_class, t.tgrelid, a.adrelid, x.stxrelid, 0)
    ::pg_catalog.int8,
  coalesce(NOT p.polpermissive, false), coalesce(a.oid IS NOT NULL OR k.contype = 'c', false)
FROM gone
LEFT JOIN pg_catalog.pg_class c ON c.oid = gone.objid
  AND gone.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
LEFT JOIN pg_catalog.pg_constraint k ON k.oid = gone.objid
  AND gone.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass
  AND k.conparentid = 0 AND NOT (k.contype = 'c' AND k.coninhcount > 0)
LEFT JOIN pg_catalog.pg_policy p ON p.oid = gone.objid
  AND gone.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass
LEFT JOIN pg_catalog.pg_rewrite r ON r.oid = gone.objid AND r.rulename <> '_RETURN'
  AND gone.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
LEFT JOIN pg_catalog.pg_trigger t ON t.oid = gone.objid AND NOT t.tgisinternal
  AND gone.classid = 'pg_catalog.pg_trigger'::pg_catalog.regclass
LEFT JOIN pg_catalog.pg_attrdef a ON a.oid = gone.objid
  AND gone.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
LEFT JOIN pg_catalog.pg_statistic_ext x ON x.oid = gone.objid
  AND gone.classid = 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass
"""

#: Partitioned tables that are left out, and their indexes: what partitions attach to.
_PARENTS = """
SELECT pg_catalog.convert_to(pg_catalog.quote_ident(n.nspname) || '.'
         || pg_catalog.quote_ident(c.relname), pg_catalog.getdatabaseencoding())
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
WHERE coalesce(i.indrelid, c.oid) = ANY (%s)
"""
_PG_CLASS, _PG_PROC = 1259, 1255
#: What has no oid of its own and goes with the thing it is about.
_COMPANIONS = {b"ACL", b"COMMENT", b"SECURITY LABEL", b"SEQUENCE OWNED BY", b"SEQUENCE SET"}


@dataclass(frozen=True)
class Losses:
    """What goes with the tables that are left out."""

    views: list[bytes]
    """Quoted names, to be excluded from pg_dump."""
    objects: frozenset[tuple[bytes, bytes]]
    """Catalog and oid of what must leave the table of contents."""
    attached: tuple[bytes, ...]
    """How definitions begin that attach partitions to what is left out."""
    needed: dict[tuple[bytes, bytes], str]
    """What may stand within a wanted table's own definition, and the error message for it."""
    warnings: list[str]


def losses(
    opened: Session, kept: Sequence[Table], left_out: Sequence[Table], source: PostgresSource
) -> Losses:
    """Find what cannot be restored without the tables that the filters leave out.

    Raises:
        ConfigInvalid: a table that is wanted inherits from one that is not, or hides its rows
            by one that is not.
    """
    if not left_out:
        return Losses([], frozenset(), (), {}, [])
    settings = f"tables = {source.tables} and exclude_tables = {source.exclude_tables}"
    by_oid = {t.oid: t for t in kept}
    views: list[bytes] = []
    objects: set[tuple[bytes, bytes]] = set()
    named: list[str] = []
    needed: dict[tuple[bytes, bytes], str] = {}
    rows = opened.execute(_DEPENDENTS, {"left_out": [t.oid for t in left_out]}).fetchall()
    relations = {oid for classid, oid, *_ in rows if classid == _PG_CLASS}
    for classid, oid, kind, quoted, description, owner, restricts, inline in rows:
        if classid == _PG_CLASS and oid in by_oid:
            raise ConfigInvalid(
                f"table {by_oid[oid].label} inherits from one that the filters leave out",
                "Take both or leave out both",
            )
        if restricts and owner in by_oid and source.with_schema:
            raise ConfigInvalid(
                f"{text(description)} hides rows by a table that {settings} leave out",
                "Take both or leave out both",
            )
        objects.add((b"%d" % classid, b"%d" % oid))
        if inline and owner in by_oid and source.with_schema:
            needed[b"%d" % classid, b"%d" % oid] = (
                f"{text(description)} depends on a table that {settings} leave out"
            )
        if quoted is not None:
            views.append(bytes(quoted))
        if kind in ("v", "m", "f") or classid == _PG_PROC or (owner and owner not in relations):
            named.append(text(description))
    attached: list[bytes] = []
    for (parent,) in opened.execute(_PARENTS, [[t.oid for t in left_out]]):
        attached += [b"ALTER TABLE ONLY %b ATTACH" % parent, b"ALTER INDEX %b ATTACH" % parent]
    warnings = [f"{len(left_out)} tables are left out by the source's filters"]
    warnings += [
        f"left out because it depends on a table left out: {name}" for name in sorted(named)
    ]
    return Losses(views, frozenset(objects), tuple(attached), needed, warnings)


def apply(archive: Toc, lost: Losses) -> None:
    """Take out of the archive what cannot be restored, with its comments and privileges.

    Raises:
        ConfigInvalid: it stands within the definition of a table that is wanted.
    """
    there = {(e.table_oid, e.oid) for e in archive.entries}
    inseparable = sorted(text for key, text in lost.needed.items() if key not in there)
    if inseparable:
        raise ConfigInvalid(
            inseparable[0], "Take both or leave out both, or alter the table that is taken"
        )
    gone: set[int] = set()
    kept: list[Entry] = []
    for entry in archive.entries:
        companion = entry.kind in _COMPANIONS
        if (
            (entry.table_oid, entry.oid) in lost.objects
            or (companion and gone.intersection(entry.dependencies))
            or (bool(lost.attached) and (entry.definition or b"").startswith(lost.attached))
        ):
            gone.add(entry.dump_id)
        else:
            kept.append(entry)
    archive.entries = kept


def data_only(archive: Toc) -> None:
    """Leave only rows, sequences' values and large objects."""
    archive.entries = [e for e in archive.entries if e.needs_no_definitions]
