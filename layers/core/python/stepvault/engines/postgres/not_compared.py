"""Name what a comparison does not look at, as far as the backup or the target has any of it."""

from collections.abc import Sequence

from psycopg import Connection as Session

from stepvault.engines.base import RestoreJob
from stepvault.engines.postgres import session
from stepvault.engines.postgres.toc import Entry, Toc

#: Tables of extensions with rows that pg_dump does not read, or not all.
_OF_EXTENSIONS = """
SELECT e.extname::pg_catalog.text,
       pg_catalog.array_agg(c.oid::pg_catalog.regclass::pg_catalog.text ORDER BY c.relname)
FROM pg_catalog.pg_extension e
JOIN pg_catalog.pg_depend d ON d.refobjid = e.oid AND d.deptype = 'e'
  AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
  AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
JOIN pg_catalog.pg_class c ON c.oid = d.objid AND c.relkind = 'r'
WHERE pg_catalog.pg_relation_size(c.oid) > 0 AND NOT EXISTS (
  SELECT FROM ROWS FROM (pg_catalog.unnest(e.extconfig), pg_catalog.unnest(e.extcondition))
    AS u (oid, condition) WHERE u.oid = c.oid AND u.condition = '')
GROUP BY 1 ORDER BY 1
"""
_MOST = 3


def tell(job: RestoreJob, opened: Session, archive: Toc, chosen: Sequence[Entry]) -> None:
    """Tell the job of each kind of thing that is not compared.

    Args:
        job: the restore.
        opened: a session in the target.
        archive: the backup's table of contents.
        chosen: its entries that are compared.
    """
    kinds = {e.kind for e in chosen}
    definitions = not (job.options.only or all(e.needs_no_definitions for e in archive.entries))
    if not definitions:
        job.not_compared("definitions, as rows alone were restored")
    elif job.options.owner != "keep":
        job.not_compared("owners and privileges")
    if definitions and any(e.of_database and e.kind != b"DATABASE" for e in archive.entries):
        job.not_compared("settings, comment and privileges of the database itself")
    if any(o.name == "globals.sql" for o in job.objects):
        job.not_compared("roles and tablespaces of the server (globals.sql)")
    if definitions and any(e.tablespace for e in chosen):
        job.not_compared("in which tablespace a table or an index is")
    if b"MATERIALIZED VIEW DATA" in kinds:
        job.not_compared("contents of materialized views")
    if b"FOREIGN TABLE" in kinds:
        job.not_compared("rows of foreign tables")
    if job.options.only or not job.source.large_objects:
        job.not_compared("large objects")
    elif b"BLOB METADATA" in kinds:
        job.not_compared("owners, privileges and comments of large objects")
    for extension, names in opened.execute(_OF_EXTENSIONS):
        tables = [session.text(name) for name in names]
        some = ", ".join(tables[:_MOST]) + (", …" if tables[_MOST:] else "")
        job.not_compared(
            f"rows of extension {session.text(extension)} that it does not declare to be the "
            f"user's ({some}); no backup holds them"
        )
