"""What the receipt says of a source, and what the person is warned of."""

from typing import Any

from psycopg import Connection as Session

from stepvault.engines.postgres import programs, session, tables
from stepvault.engines.postgres.toc import Toc
from stepvault.settings import PostgresSource

#: The newest release of each major version that the tests run with. A newer one may keep things in
#: its catalogs that pg_dump does not know yet.
TESTED = {14: 23, 15: 20, 16: 15, 17: 11, 18: 6}


def of_source(holder: Session, snapshot: str, table_count: int) -> dict[str, Any]:
    """Describe the source for the receipt."""
    standby = holder.execute("SELECT pg_catalog.pg_is_in_recovery()").fetchone() == (True,)
    lsn = "pg_last_wal_replay_lsn" if standby else "pg_current_wal_insert_lsn"
    version = holder.info.server_version
    locale = "datlocale" if version >= 170000 else "daticulocale"
    provider = f"datlocprovider::text, {locale}::text" if version >= 150000 else "'c', NULL"
    row = holder.execute(
        "SELECT datname::text, pg_catalog.pg_encoding_to_char(encoding)::text,"
        f" datcollate::text, datctype::text, pg_catalog.{lsn}()::text, {provider}"
        " FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()"
    ).fetchone()
    database, encoding, collate, ctype, position, provided_by, named = (
        None if value is None else session.text(value) for value in row or ()
    )
    extensions = holder.execute(
        "SELECT extname::text, extversion::text FROM pg_catalog.pg_extension ORDER BY 1"
    ).fetchall()
    return {
        "server": "PostgreSQL",
        "server_version": session.value(holder, "SHOW server_version"),
        "pg_dump": programs.client_release(),
        "database": database,
        "encoding": encoding,
        "collate": collate,
        "ctype": ctype,
        "locale_provider": provided_by,
        "locale": named,
        "snapshot": snapshot,
        "lsn": position,
        "standby": standby,
        "tables": table_count,
        "extensions": {session.text(n): session.text(v) for n, v in extensions},
    }


def warnings(holder: Session, source: PostgresSource, archive: Toc) -> list[str]:
    """List what is not in the archive, or is restored otherwise than it was."""
    lines = _untested(holder.info.server_version)
    foreign = [t.label for t in tables.listed(holder, ("f",))]
    if foreign:
        lines.append(f"rows of foreign tables stay where they are: {', '.join(foreign)}")
    # pg_dump writes them for a superuser alone, and warns of it otherwise.
    subscriptions = sum(e.kind == b"SUBSCRIPTION" for e in archive.entries)
    if subscriptions and source.with_schema:
        lines.append(f"{subscriptions} subscriptions will be restored switched off")
    if source.with_data and not source.large_objects:
        query = "SELECT pg_catalog.count(*) FROM pg_catalog.pg_largeobject_metadata"
        count = session.value(holder, query)
        if count != "0":
            lines.append(f"{count} large objects are left out by the source's settings")
    return lines


def _untested(server_version: int) -> list[str]:
    """Warn of a server that is newer than what the programs were tested with."""
    major, minor = divmod(server_version, 10000)
    if minor <= TESTED.get(major, -1):
        return []
    return [
        f"the server is PostgreSQL {major}.{minor}, which is newer than {major}.{TESTED[major]}, the "
        "newest that Stepvault was tested with: restore this backup once to see that all is well, "
        "and update Stepvault, or the postgres_client layer (docs/operations.md)"
        if major in TESTED
        else f"Stepvault was not tested with PostgreSQL {major}"
    ]
