"""An engine whose streams are written down in the test: bytes, errors and waits in order."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from stepvault.catalog import Vault
from stepvault.engines.base import (
    WHOLE,
    Buffer,
    Counts,
    Job,
    PlanJob,
    Snapshot,
    Stored,
    UnitDraft,
)
from stepvault.errors import SourceUnreachable
from stepvault.records import StoredObject, Unit
from stepvault.settings import SqliteSource

RUN = "20261122T010203Z-test"


def unit(unit_id: str = WHOLE, name: str = "shop", **settings: Any) -> Unit:
    source = SqliteSource(name=name, engine="sqlite", path="/nowhere", **settings)
    return Unit(run_id=RUN, id=unit_id, source=source)


def read_object(vault: Vault, key: str) -> bytes:
    """The bytes of an object that is there."""
    body = vault.get(key)
    assert body is not None, key
    return body


@dataclass
class Scripted:
    """A stream that yields what the script yields; exceptions in it are raised."""

    name: str
    script: Callable[[], Iterator[Buffer]]
    encoding: str = "zstd"
    rows: int | None = None

    def read(self) -> Iterator[Buffer]:
        yield from self.script()

    def result(self) -> Counts:
        return Counts(rows=self.rows)


@dataclass
class ScriptedEngine:
    """Satisfies ``engines.base.Engine`` for backups; its snapshot is itself."""

    scripts: Sequence[Scripted]
    last: Sequence[Scripted] = ()
    parallel: int = 1
    facts: dict[str, Any] = field(default_factory=lambda: {"version": "1"})
    warnings: list[str] = field(default_factory=list)
    references: Sequence[StoredObject] = ()
    cancelled: threading.Event = field(default_factory=threading.Event)
    opened: int = 0
    seen: Mapping[str, Any] = field(default_factory=dict)
    fails_to_open: Exception | None = None
    planned: Sequence[UnitDraft] = (UnitDraft(WHOLE),)

    def plan(self, job: PlanJob) -> Iterator[UnitDraft]:
        yield from self.planned

    @contextmanager
    def open(self, job: Job) -> Iterator[Snapshot]:
        self.opened += 1
        if self.fails_to_open:
            raise self.fails_to_open
        yield self  # type: ignore[misc]

    def streams(self) -> Iterator[Scripted]:
        return iter(self.scripts)

    def closing(self, stored: Sequence[Stored]) -> Iterator[Scripted]:
        return iter(self.last)

    def cancel(self) -> None:
        self.cancelled.set()

    def until_cancelled(self) -> Iterator[Buffer]:
        """A read that blocks, as on a dead network, until ``cancel`` is called."""
        yield b"x" * 1000
        if not self.cancelled.wait(20):
            raise AssertionError("nobody cancelled")
        raise SourceUnreachable("the connection was closed")
