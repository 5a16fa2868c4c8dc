"""Compute how many locks a server has room for, and what a backup or a restore needs of them."""

from dataclasses import dataclass

from psycopg import Connection as Session

from stepvault.engines.postgres import session
from stepvault.errors import SourceUnsupported

#: Settings that say how many sessions the server is sized for; not all servers know all of them.
_SESSIONS = (
    *("max_connections", "max_prepared_transactions", "max_worker_processes", "max_wal_senders"),
    *("autovacuum_max_workers", "autovacuum_worker_slots"),
)
#: A session's lock on a table takes an entry of a list of twice the room, of which not quite all
#: can be had (measured: 1.7 to 2.2 times the room, with what the server keeps in reserve).
_SURE, _MOST = 1.2, 2.3


@dataclass(frozen=True)
class Room:
    """A server's room for locks."""

    per_transaction: int
    """The setting max_locks_per_transaction."""
    sessions: int
    """How many sessions the server is sized for; the room is the product of both."""

    @property
    def locks(self) -> int:
        """Locks for which there is room in any case."""
        return self.per_transaction * self.sessions

    def holds(self, needed: int) -> bool:
        """Tell whether that many locks fit in any case, others' locks beside them."""
        return needed <= self.locks * _SURE

    def advice(self, needed: int) -> str:
        """Say what to set for that many locks."""
        value = int(needed / _SURE / self.sessions) + 1
        return f"Set max_locks_per_transaction = {value} or more on the server and restart it"


def room(opened: Session) -> Room:
    """Ask the server for its settings."""
    rows = opened.execute(
        "SELECT name, setting::pg_catalog.int8 FROM pg_catalog.pg_settings WHERE name = ANY (%s)",
        [[*_SESSIONS, "max_locks_per_transaction"]],
    )
    settings = {session.text(name): int(value) for name, value in rows}
    per_transaction = settings.pop("max_locks_per_transaction")
    workers = max(
        settings.pop("autovacuum_worker_slots", 0), settings.pop("autovacuum_max_workers", 0)
    )
    return Room(per_transaction, sum(settings.values()) + workers + 1)


@dataclass(frozen=True)
class Need:
    """The locks that a backup takes."""

    tables: int
    sequences: int
    """Those that pg_dump locks: servers before 18 have it read each one."""
    ahead: int
    """Readers that lock all tables from the beginning; others lock what they read."""

    @property
    def locks(self) -> int:
        """The holder's, pg_dump's and the readers' locks together."""
        return self.tables * (2 + max(1, self.ahead)) + self.sequences

    def check(self, there: Room) -> list[str]:
        """Warn if the server might not have room for them.

        Raises:
            SourceUnsupported: it has none for certain. Nobody else on the server could lock
                anything while we try.
        """
        text = f"{self.tables} tables take {self.locks} locks, and the server has room for some"
        text += f" {there.locks}"
        if self.tables * 2 > there.locks * _MOST:
            raise SourceUnsupported(text, there.advice(self.locks))
        if there.holds(self.locks):
            return []
        return [f"{text}: the backup may fail soon. {there.advice(self.locks)}"]

    def failure(self, there: Room) -> SourceUnsupported:
        """Explain that the server had no room for them."""
        return SourceUnsupported(
            f"the server ran out of room for locks: {self.tables} tables take {self.locks}, and it "
            f"has room for some {there.locks}",
            there.advice(self.locks),
        )
