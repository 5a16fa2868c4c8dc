"""End a restore: the database's own settings, the progress forgotten, event triggers at last."""

import logging
import re
from collections.abc import Sequence

import psycopg
from psycopg import Connection as Session
from psycopg import sql

from stepvault.engines.base import RestoreJob
from stepvault.engines.postgres import errors, omit, progress, target
from stepvault.engines.postgres.script import Script
from stepvault.engines.postgres.toc import Entry

log = logging.getLogger(__name__)

#: Where statements about a database name it, quoted or not.
_ABOUT_DATABASE = (
    rb"^((?:ALTER|ALTER ROLE .+? IN|COMMENT ON|SECURITY LABEL FOR .+? ON|(?:GRANT|REVOKE) [A-Z, ]+ ON)"
    rb' DATABASE) (?:%b|"%b")(?= )'
)
_STATEMENTS = re.compile(rb"(?<=;)\n+(?=(?:ALTER|COMMENT|SECURITY|GRANT|REVOKE) )")
_ROLES = re.compile(rb"ALTER ROLE |GRANT |REVOKE ")


def end(
    job: RestoreJob,
    opened: Session,
    about: Sequence[Entry] | None,
    script: Script,
    event_triggers: Sequence[Entry],
) -> None:
    """End a restore: ``describe`` the database, forget the progress, make event triggers.

    One transaction, as what is set for the database could keep another attempt from its work, and
    as event triggers would see, or forbid, the progress being forgotten.
    """
    version = opened.info.server_version
    texts = [(entry, script.text_of(entry, version)) for entry in event_triggers]
    try:
        with opened.transaction():
            if about is not None:
                describe(job, opened, about)
            progress.end(opened)
            for entry, text in texts:
                _make_event_trigger(job, opened, entry, text)
    except psycopg.Error as error:
        what = f"cannot end the restore of database {opened.info.dbname}"
        raise errors.at_target(error, what) from error


def _make_event_trigger(job: RestoreJob, opened: Session, entry: Entry, text: bytes) -> None:
    """Make an event trigger, or what belongs to one; report it if that fails."""
    try:
        with opened.transaction():
            opened.execute(text)
    except psycopg.Error as error:
        if opened.closed or not job.options.keep_going:
            raise
        reason = error.diag.message_primary or str(error)
        statement = (entry.definition or b"").decode(errors="replace")
        job.unrestored(omit.unrestored(entry, reason, statement))


def describe(job: RestoreJob, opened: Session, entries: Sequence[Entry]) -> None:
    """Give a database that the restore made its settings, comment and grants of the backup.

    What cannot be set here (a role that is not there, a setting that takes a superuser) is logged
    and left: the database is whole without it.

    Args:
        job: the restore; statements that name roles are run with the owner ``keep`` only.
        opened: a session in it.
        entries: those about the database as such.
    """
    new = sql.Identifier(opened.info.dbname).as_bytes(opened)
    if target.is_ours(opened):
        opened.execute(b"COMMENT ON DATABASE %b IS NULL" % new)
    for entry in entries:
        plain = entry.kind in (b"DATABASE", b"DATABASE PROPERTIES")
        old = re.escape(entry.tag if plain else entry.tag.removeprefix(b"DATABASE "))
        names = re.compile(_ABOUT_DATABASE % (old, old.replace(b'"', b'""')), re.MULTILINE)
        for statement in _STATEMENTS.split(entry.definition or b""):
            if _ROLES.match(statement) and job.options.owner != "keep":
                continue
            renamed = names.sub(lambda m: m[1] + b" " + new, statement, count=1)
            if entry.kind == b"DATABASE" or renamed == statement:
                continue
            try:
                with opened.transaction():
                    opened.execute(renamed)
            except psycopg.Error as error:
                if opened.closed:
                    raise
                reason = str(error).splitlines()[0]
                log.warning(
                    "postgres: not restored: %s (%s)", statement.decode(errors="replace"), reason
                )
                if job.options.keep_going:
                    job.unrestored(
                        omit.unrestored(entry, reason, statement.decode(errors="replace"))
                    )
