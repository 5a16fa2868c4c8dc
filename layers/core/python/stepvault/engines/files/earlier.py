"""What an earlier backup already holds of a source: the heart of incremental backups.

Its indexes and the walk are in the same order, so one pass over both finds what is unchanged.
An unchanged entry keeps its index line, which points straight at the pack that holds it; no
line ever leads to another index. Decision 0004 says when a pack is written anew instead.
"""

from dataclasses import dataclass
from typing import Any

from stepvault.engines.base import Previous
from stepvault.engines.files import index
from stepvault.engines.files.spool import Records
from stepvault.engines.files.tree import walk_key
from stepvault.engines.files.walk import FILE, Entry
from stepvault.models import FilesSource, StoredObject

#: The unit of unchanged entries.
CARRIED = "carried"

#: A pack of which less than this share is still needed is given up and its rest stored anew.
_LIVE_AT_LEAST = 0.3
#: When more packs than the first number are leant on, the smallest are given up until the second
#: number is left, as long as they are small.
_PACKS_AT_MOST, _PACKS_AFTER = 128, 64
_SMALL_PACK = 64 << 20

#: Settings that change what is stored of a file; with others than before nothing is carried.
_DECISIVE = ("path", "follow_symlinks", "preserve_metadata")


@dataclass(slots=True)
class _Pack:
    """A pack of an earlier run."""

    number: int
    stored: StoredObject
    was_live: int
    """Raw bytes of it that the earlier backup needed."""
    live: int = 0
    used: bool = False


class Earlier:
    """The lines of the earlier backup, asked for in walk order."""

    def __init__(self, previous: Previous) -> None:
        """Read and verify its indexes.

        Raises:
            BackupTampered: an index is not what was stored.
        """
        self._packs: list[_Pack] = []
        streams = []
        objects = {
            (o.run_id if o.run_id != previous.run_id else None, o.name): o for o in previous.objects
        }
        for (run_id, name), stored in objects.items():
            if run_id is None and name.endswith(index.SUFFIX):
                streams.append(self._lay_aside(previous, objects, stored))
        self._given_up = _given_up(self._packs)
        self._lines = index.merged(streams) if streams else iter(())
        self._line: bytes = b""
        self._key: bytes | None = None
        self._next()

    def _lay_aside(
        self,
        previous: Previous,
        objects: dict[tuple[str | None, str], StoredObject],
        stored: StoredObject,
    ) -> Records:
        """An index on disk, verified, its packs numbered as in the index to come."""
        named, lines = index.read(previous.read(stored))
        numbers: dict[bytes, bytes] = {}
        for number, pack in named.items():
            run_id, name = pack.get("run_id"), pack["name"]
            held = objects.get((run_id if run_id != previous.run_id else None, name))
            if held is None:
                continue
            made = held.model_copy(update={"run_id": run_id or previous.run_id})
            numbers[b"%d" % number] = b"%d" % len(self._packs)
            self._packs.append(_Pack(len(self._packs), made, pack["live"]))
        records = Records(b"\n")
        for line in lines:
            entry, _, old = line.rpartition(b"\t")
            if old in numbers:
                records.add(b"%s\t%s\n" % (entry, numbers[old]))
        return records

    def _next(self) -> None:
        self._line = next(self._lines, b"")
        self._key = index.key_of(self._line) if self._line else None

    def _at(self, path: bytes) -> bool:
        """Go to the lines of that path; whether there are any."""
        key = walk_key(path)
        while self._key is not None and self._key < key:
            self._next()
        return self._key == key

    def unchanged(self, entry: Entry) -> list[bytes]:
        """The lines of that entry if its status is what it was, else none; several for pieces."""
        lines = self.lines(entry.path)
        if not lines:
            return lines
        status = entry.status
        begin = index.signature(
            entry.path,
            status.st_size if entry.kind == FILE else 0,
            status.st_mtime_ns,
            status.st_ctime_ns,
            b"%d" % status.st_ino,
        )
        return lines if all(line.startswith(begin) for line in lines) else []

    def lines(self, path: bytes) -> list[bytes]:
        """The lines of that path, out of packs that are kept."""
        found: list[bytes] = []
        if not self._at(path):
            return found
        key, whole = self._key, True
        while self._key == key:
            number = int(self._line[self._line.rindex(b"\t") + 1 :])
            whole = whole and not self._given_up[number]
            found.append(self._line)
            self._next()
        return found if whole else []

    def carry(self, lines: list[bytes], size: int) -> None:
        """Count these lines' packs as needed."""
        for line in lines:
            pack = self._packs[int(line[line.rindex(b"\t") + 1 :])]
            pack.used = True
            pack.live += size // len(lines) + 512

    def packs(self) -> dict[str, dict[str, Any]]:
        """The packs that carried lines point at, for the unit's head."""
        return {
            str(p.number): {"object": p.stored.model_dump(mode="json"), "live": p.live}
            for p in self._packs
            if p.used
        }


def _given_up(packs: list[_Pack]) -> list[bool]:
    """By number: whether nothing more is carried out of that pack."""
    given_up = [p.was_live < _LIVE_AT_LEAST * p.stored.raw_bytes for p in packs]
    kept = sorted((p.stored.raw_bytes, p.number) for p in packs if not given_up[p.number])
    if len(kept) > _PACKS_AT_MOST:
        for raw_bytes, number in kept[: len(kept) - _PACKS_AFTER]:
            given_up[number] = raw_bytes < _SMALL_PACK
    return given_up


def usable(previous: Previous | None, source: FilesSource) -> Previous | None:
    """The earlier backup, if this one may lean on it."""
    if previous is None or not source.incremental:
        return None
    now = source.model_dump(mode="json")
    same = all(previous.config.get(key) == now[key] for key in ("engine", *_DECISIVE))
    return previous if same else None
