"""Keep where the sequences of extensions stand: pg_dump writes only those that are declared to it.

A restored extension would begin to count again, and give numbers that its tables have already.
"""

from psycopg import Connection as Session

from stepvault.engines.postgres.toc import SECTION_DATA, SECTION_POST_DATA, Entry, Toc

_SEQUENCES = """
SELECT pg_catalog.convert_to(e.extname, pg_catalog.getdatabaseencoding()),
       pg_catalog.convert_to(n.nspname, pg_catalog.getdatabaseencoding()),
       pg_catalog.convert_to(c.relname, pg_catalog.getdatabaseencoding()),
       pg_catalog.convert_to(pg_catalog.quote_literal(pg_catalog.quote_ident(n.nspname) || '.'
         || pg_catalog.quote_ident(c.relname)), pg_catalog.getdatabaseencoding()),
       CASE WHEN pg_catalog.has_sequence_privilege(c.oid, 'SELECT, USAGE')
         THEN pg_catalog.pg_sequence_last_value(c.oid) END
FROM pg_catalog.pg_extension e
JOIN pg_catalog.pg_depend d ON d.refobjid = e.oid AND d.deptype = 'e'
  AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
  AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
JOIN pg_catalog.pg_class c ON c.oid = d.objid AND c.relkind = 'S'
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid <> ALL (coalesce(e.extconfig, '{}'))
ORDER BY c.oid
"""
#: Nothing happens where the extension lacks the sequence, or the user may not set it: a restore
#: does not end there, and a comparison sees it.
_SET = (
    b"SELECT pg_catalog.setval(pg_catalog.to_regclass(%b), %d, true) "
    b"WHERE pg_catalog.has_sequence_privilege("
    b"pg_catalog.to_regclass(%b)::pg_catalog.oid, 'UPDATE');\n"
)


def add(archive: Toc, holder: Session) -> None:
    """Add to the archive where those sequences stand that have counted already."""
    extensions = {e.tag: e.dump_id for e in archive.entries if e.kind == b"EXTENSION"}
    next_id = max((e.dump_id for e in archive.entries), default=0) + 1
    added: list[Entry] = []
    for extension, schema, name, literal, value in holder.execute(_SEQUENCES):
        maker = extensions.get(bytes(extension))
        if value is None or maker is None:
            continue
        entry = Entry(
            dump_id=next_id + len(added),
            has_data=0,
            table_oid=b"0",
            oid=b"0",
            tag=bytes(name),
            kind=b"SEQUENCE SET",
            section=SECTION_DATA,
            definition=_SET % (literal, value, literal),
            drop=None,
            copy=None,
            namespace=bytes(schema),
            tablespace=None,
            access_method=None,
            relation_kind=0,
            owner=b"",
            dependencies=[maker],
            file=b"",  # pg_restore takes its length
        )
        added.append(entry)
    sections = [e.section for e in archive.entries]
    end = sections.index(SECTION_POST_DATA) if SECTION_POST_DATA in sections else len(sections)
    archive.entries[end:end] = added
