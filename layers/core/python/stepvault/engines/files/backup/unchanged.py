"""What has not changed since the previous backup: found by the plan, stored by a unit of its own.

The unit stores an index whose lines point at packs of earlier runs. Where nothing at all has
changed, not even an index: the previous backup's objects are this one's.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from stepvault.engines.base import Buffer, EndFrame, Stored, Stream
from stepvault.engines.files.backup.hard_links import HardLinks
from stepvault.engines.files.backup.parent import Parent
from stepvault.engines.files.backup.same_content import SameContent
from stepvault.engines.files.format import index, listing
from stepvault.engines.files.spool import Records
from stepvault.engines.files.tree.walk import DIRECTORY, Entry
from stepvault.errors import OutOfTime
from stepvault.records import StoredObject

#: Name of the unit of unchanged entries, and so of its index.
UNCHANGED = "carried"


class Unchanged:
    """The index lines of the previous backup that still describe an entry, laid aside on disk."""

    def __init__(
        self, parent: Parent | None, content: SameContent | None, links: HardLinks
    ) -> None:
        self.files = 0
        """How many the lines describe, directories excluded."""
        self.parent = parent
        self._content = content
        self._links = links
        self._lines = Records(b"\n")

    def left_out_of(self, stretches: Iterable[list[Entry]]) -> Iterator[list[Entry]]:
        """Yield the entries that the previous backup does not hold; the lines of the others are kept."""
        if self.parent is None:
            yield from stretches
            return
        changed_of = self._content.changed if self._content else Parent.changed
        for stretch in stretches:
            changed, lines = changed_of(self.parent, stretch)
            if linked := [e for e in stretch if e.links > 1 and e.kind != DIRECTORY]:
                self._keep_linked(linked, lines)
            self._lines.extend(lines)
            self.files += _files(stretch) - _files(changed)
            yield changed

    def _keep_linked(self, linked: list[Entry], lines: list[bytes]) -> None:
        """Tell ``links`` which of these names have a line, and that line's number."""
        numbers = {line[: line.index(b"\t")]: number for number, line in enumerate(lines)}
        for entry in linked:
            number = numbers.get(index.escape(entry.path))
            if number is not None:
                place = index.place(lines[number])
                self._links.add(entry, place, self._lines.count + number)

    def withdraw(self, numbers: Iterator[int]) -> None:
        """Drop the lines of those numbers, ascending: their files are stored again."""
        withdrawn = next(numbers, None)
        if withdrawn is None or self.parent is None:
            return
        kept, self._lines = self._lines, Records(b"\n")
        for number, line in enumerate(kept):
            if number != withdrawn:
                self._lines.add(line + b"\n")
                continue
            withdrawn = next(numbers, None)
            self.parent.withdraw(line)
            self.files -= 1

    @property
    def count(self) -> int:
        """How many lines there are."""
        return self._lines.count

    def whole_backup(self, mounts: list[bytes]) -> list[StoredObject]:
        """Return the objects of the previous backup, if it describes the source as a whole; else none."""
        # What was compared by content may have other times.
        if self.parent is None or self._content or self.parent.mounts != set(mounts):
            return []
        return self.parent.whole(self.files)

    def packs(self) -> dict[str, dict[str, Any]]:
        """Return the packs that the lines point at, for the unit's head."""
        return self.parent.packs() if self.parent else {}

    def frames(self) -> Iterator[bytes]:
        """All lines, as zstd frames."""
        return self._lines.frames()


def _files(entries: list[Entry]) -> int:
    return len(entries) - [entry.kind for entry in entries].count(DIRECTORY)


class UnchangedUnit:
    """The snapshot of the unit of unchanged entries, which has no packs."""

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
        """Yield the index, unless that is an earlier run's."""
        if self._head.same:
            return
        packs = {
            number: {"run_id": stored.run_id, "name": stored.name, "live": live}
            for number, (stored, live) in self._packs.items()
        }
        name = self._head.unit + index.SUFFIX
        yield _Watched(
            name,
            index.head_line(packs, self._head.mounts),
            self._lines,
            self._head.files,
            self._stop,
        )

    def closing(self, stored: Sequence[Stored]) -> Iterator[Stream]:  # noqa: ARG002
        """Yield nothing: the index is all there is."""
        return iter(())

    def cancel(self) -> None:
        """Make the index's ``read`` raise at its next buffer."""
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
