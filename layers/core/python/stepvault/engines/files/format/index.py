"""The index of a unit: one line per entry, in walk order, beside the packs.

After a JSON line that names the packs, tab-separated columns (``COLUMNS``), one line per entry,
so that ``zstd -dc … | grep`` answers questions. In paths a tab, a line feed and a percent sign
stand as ``%09``, ``%0A`` and ``%25``; all other bytes as they are.

One file comes back by a Range request for the stored bytes ``start`` to ``end`` of its pack:
they are whole zstd frames; the file's tar member begins ``skip`` bytes into what they hold.
"""

import bisect
import hashlib
import heapq
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Literal, NamedTuple

from stepvault.engines.base import Buffer, Counts, EndFrame, Stored
from stepvault.engines.files.paths import walk_key
from stepvault.engines.files.spool import cut
from stepvault.errors import BackupTampered
from stepvault.records import StoredObject

SUFFIX = ".index.tsv.zst"
VERSION = 1

COLUMNS = (
    "path", "size", "mtime_ns", "ctime_ns", "inode", "kind", "mode", "uid", "gid",
    "xattrs", "sha256", "link", "offset", "start", "end", "skip", "pack",
)  # fmt: skip

DIRECTORY, FILE, SPARSE, PIECE, LINK = b"d", b"f", b"s", b"p", b"l"
#: Another name of a file, and of a file with holes. Its place is that of the file itself, so that
#: it can be read back even where the first name is not wanted.
HARD_LINK, SPARSE_HARD_LINK = b"h", b"H"
#: Another name of a symbolic link; its hash is ``link_digest`` of where that points.
LINK_HARD_LINK = b"L"
HARD_LINKS = (HARD_LINK, SPARSE_HARD_LINK, LINK_HARD_LINK)
KINDS = frozenset((DIRECTORY, FILE, SPARSE, PIECE, LINK, *HARD_LINKS))
NONE = b"-"

_FLUSH = 256 << 10

#: A file changed this shortly before it was read may change again under the same time stamp
#: (file systems tick every few milliseconds, some every one or two seconds).
_TICK_NS, _COARSE_TICK_NS = 50_000_000, 2_000_000_000

_AWKWARD = re.compile(rb"[%\t\n]")


class Line(NamedTuple):
    """One entry."""

    path: bytes
    size: int
    """Bytes of the file; 0 for all but files."""
    mtime_ns: int
    ctime_ns: int
    """0 when the entry changed so shortly before it was read that a later change might not show."""
    inode: int
    """Inode number; of an S3 object one that is another when its ETag is."""
    kind: bytes
    """f file, s file with holes, p piece of a file, d directory, l symbolic link; h, H and L
    hard link to a file, to one with holes, to a symbolic link."""
    mode: int
    uid: int
    gid: int
    xattrs: bytes
    """Digest of the extended attributes, ``-`` if there are none."""
    sha256: bytes
    """Of the member's content (of a file with holes: the map and the data), ``-`` if it has none."""
    link: bytes
    """Where a link points; of a hard link the file's first name; of a piece its range; else empty."""
    offset: int
    """Where the member begins in the unpacked pack."""
    start: int
    end: int
    skip: int
    pack: int
    """Number in the head's ``packs``."""


def escape(path: bytes) -> bytes:
    """Return the path as it stands in a line."""
    return _AWKWARD.sub(lambda m: b"%%%02X" % ord(m[0]), path) if _AWKWARD.search(path) else path


def unescape(text: bytes) -> bytes:
    """Return the path that stands in a line like that."""
    if b"%" not in text:
        return text
    return text.replace(b"%0A", b"\n").replace(b"%09", b"\t").replace(b"%25", b"%")


def signature(path: bytes, size: int, mtime_ns: int, ctime_ns: int, inode: int) -> bytes:
    """Return how the line of an entry begins as long as the entry does not change."""
    return b"%s\t%d\t%d\t%d\t%d\t" % (escape(path), size, mtime_ns, ctime_ns, inode)


def key_of(line: bytes) -> bytes:
    """Return a key that sorts raw lines in walk order."""
    return walk_key(unescape(line[: line.index(b"\t")]))


def place(line: bytes) -> bytes:
    """Return offset and pack out of a raw line: what identifies content among the lines of one index."""
    offset, _, _, _, pack = line.rsplit(b"\t", 5)[1:]
    return offset + b"\t" + pack


def parse(line: bytes) -> Line:
    """Parse a line that has lost its line feed.

    Raises:
        BackupTampered: no backup has such a line.
    """
    f = line.split(b"\t")
    if len(f) != len(COLUMNS):
        raise BackupTampered(f"an index has a line of {len(f)} columns instead of {len(COLUMNS)}")
    try:
        parsed = Line(
            unescape(f[0]), int(f[1]), int(f[2]), int(f[3]), int(f[4]), f[5], int(f[6], 8),
            int(f[7]), int(f[8]), f[9], f[10], unescape(f[11]), int(f[12]), int(f[13]), int(f[14]),
            int(f[15]), int(f[16]),
        )  # fmt: skip
    except ValueError as error:
        raise BackupTampered(f"an index has a line that makes no sense: {line[:200]!r}") from error
    if f[5] not in KINDS or b"-" in f[1] or b"-" in b"".join(f[12:17]):
        raise BackupTampered(
            f"an index has an entry of unknown kind or size: {line[:200]!r}",
            "Use the newer Stepvault that wrote it, if one did",
        )
    return parsed


class Head(NamedTuple):
    """The first line of an index."""

    packs: dict[int, dict[str, Any]]
    """By number the name, the run if that is an earlier one, and the live bytes of each."""
    mounts: frozenset[bytes] = frozenset()
    """Directories of the source where another file system began; in one index of a backup only."""


def head_line(packs: Mapping[int, Mapping[str, Any]], mounts: Iterable[str] = ()) -> bytes:
    """Return the first line; ``packs`` and ``mounts`` (escaped) are those of ``Head``."""
    fields = {
        "stepvault_index": VERSION,
        "columns": COLUMNS,
        "packs": {str(n): p for n, p in packs.items()},
    }
    if mounts := list(mounts):
        fields["mounts"] = mounts
    return json.dumps(fields).encode() + b"\n"


def read(chunks: Iterable[bytes]) -> tuple[dict[int, dict[str, Any]], Iterator[bytes]]:
    """Return the packs that an index names, and its lines without their line feeds."""
    head, rest = read_chunks(chunks)
    return head.packs, cut(rest, b"\n")


def read_chunks(chunks: Iterable[bytes]) -> tuple[Head, Iterator[bytes]]:
    """Return the head of an index, and the text that follows, in chunks of any size."""
    first, stream = b"", iter(chunks)
    for chunk in stream:
        first += chunk
        if b"\n" in chunk:
            break
    line, _, rest = first.partition(b"\n")
    try:
        parsed = json.loads(line)
        version = parsed["stepvault_index"]
        packs = {int(number): pack for number, pack in parsed["packs"].items()}
        mounts = frozenset(as_bytes(path) for path in parsed.get("mounts", ()))
    except (ValueError, KeyError, TypeError) as error:
        raise BackupTampered("an index does not begin with its head") from error
    if version > VERSION:
        raise BackupTampered(
            f"the index has format {version}; this Stepvault reads up to {VERSION}",
            "Use the newer Stepvault that wrote it",
        )
    return Head(packs, mounts), chain([rest] if rest else [], stream)


def as_text(path: bytes) -> str:
    """Return a path for JSON."""
    return path.decode("utf-8", "surrogateescape")


def as_bytes(text: str) -> bytes:
    """Return the path that JSON holds as that text."""
    return text.encode("utf-8", "surrogateescape")


def pack_named(pack: Mapping[str, Any], by: StoredObject) -> tuple[str | None, str]:
    """Return run and name of a pack out of that index's head; the index's run if it names none."""
    return pack.get("run_id") or by.run_id, pack["name"]


def link_digest(target: bytes) -> bytes:
    """Return the hash of where a symbolic link points."""
    return hashlib.sha256(target).hexdigest().encode()


class Places:
    """Where the members of a pack lie in the stored object. Asked in ascending order."""

    def __init__(self, stored: Stored) -> None:
        frames: Sequence[tuple[int, int]] = stored.frames or [(0, 0)]
        self._raw = [raw for raw, _ in frames]
        self._stored = [place for _, place in frames] + [stored.object.stored_bytes]

    def of(self, offset: int) -> tuple[int, int, int]:
        """Return ``start``, ``end`` and ``skip`` of the member at that raw offset."""
        frame = bisect.bisect_right(self._raw, offset) - 1
        return self._stored[frame], self._stored[frame + 1], offset - self._raw[frame]


def finished(drafts: Iterable[bytes], places: Places, number: int) -> Iterator[bytes]:
    """Yield lines that lack their last four columns, completed and with line feeds."""
    for draft in drafts:
        start, end, skip = places.of(int(draft[draft.rindex(b"\t") + 1 :]))
        yield b"%s\t%d\t%d\t%d\t%d\n" % (draft, start, end, skip, number)


def merged(streams: Sequence[Iterable[bytes]]) -> Iterator[bytes]:
    """Return the lines of several indexes in one walk order."""
    if len(streams) == 1:
        return iter(streams[0])
    return heapq.merge(*streams, key=key_of)


class Index:
    """The stream of an index."""

    encoding: Literal["zstd", "none"] = "zstd"

    def __init__(
        self, name: str, head: bytes, lines: Iterable[bytes], files: int | None = None
    ) -> None:
        """``lines`` are chunks of whole or broken lines; ``files`` is told as the stream's count."""
        self.name = name
        self._head = head
        self._lines = lines
        self._files = files

    def read(self) -> Iterator[Buffer | EndFrame]:
        """Yield the head and the lines."""
        held, size = [self._head], 0
        for line in self._lines:
            held.append(line)
            size += len(line)
            if size >= _FLUSH:
                yield b"".join(held)
                held, size = [], 0
        yield b"".join(held)

    def result(self) -> Counts:
        """Return how many files the lines describe, if that was told."""
        return Counts(files=self._files)


def settled(ctime_ns: int) -> int:
    """Return the time of change, or 0 when it is so recent that it may not tell of the next change."""
    tick = _TICK_NS if ctime_ns % 10**9 else _COARSE_TICK_NS
    return 0 if time.time_ns() - ctime_ns < tick else ctime_ns
