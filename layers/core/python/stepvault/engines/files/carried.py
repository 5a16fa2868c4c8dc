"""The unit of what has not changed: an index, and the packs of earlier runs that it leans on.

Where nothing at all has changed, not even an index: the earlier backup's objects are this one's.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from stepvault.engines.base import Buffer, EndFrame, Stored, Stream
from stepvault.engines.files import index, listing
from stepvault.errors import OutOfTime
from stepvault.records import StoredObject


class CarriedUnit:
    """A snapshot without packs."""

    parallel = 1

    def __init__(self, head: listing.Head, lines: Iterable[bytes]) -> None:
        self._head = head
        self._lines = lines
        self._stop = threading.Event()
        self._packs = {
            int(number): (StoredObject.model_validate(pack["object"]), pack["live"])
            for number, pack in head.packs.items()
        }
        self.references: Sequence[StoredObject] = [
            *(stored for stored, _ in self._packs.values()),
            *map(StoredObject.model_validate, head.same),
        ]
        self.facts: dict[str, Any] = {}
        self.warnings = list(head.warnings)

    def streams(self) -> Iterator[Stream]:
        """The index, unless that is an earlier run's."""
        if self._head.same:
            return
        packs = {
            number: {"run_id": stored.run_id, "name": stored.name, "live": live}
            for number, (stored, live) in self._packs.items()
        }
        name = self._head.unit + index.SUFFIX
        yield _Watched(name, index.head(packs), self._lines, self._head.files, self._stop)

    def closing(self, stored: Sequence[Stored]) -> Iterator[Stream]:  # noqa: ARG002
        return iter(())

    def cancel(self) -> None:
        self._stop.set()


class _Watched(index.Index):
    """Ends with an error when the unit is cancelled."""

    def __init__(
        self, name: str, head: bytes, lines: Iterable[bytes], files: int, stop: threading.Event
    ) -> None:
        super().__init__(name, head, lines, files)
        self._stop = stop

    def read(self) -> Iterator[Buffer | EndFrame]:
        for buffer in super().read():
            if self._stop.is_set():
                raise OutOfTime(f"reading was stopped in {self.name}", "Make the batches smaller")
            yield buffer
