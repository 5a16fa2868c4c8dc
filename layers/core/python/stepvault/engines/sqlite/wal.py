"""SQLite's write-ahead log, read without SQLite (https://www.sqlite.org/walformat.html)."""

import os
import struct
from array import array
from dataclasses import dataclass

from stepvault.errors import SourceChanged, SourceCorrupt

#: Bytes of the database that the index of the log is cut into; a multiple of every page size.
BLOCK = 1 << 20

_WAL_HEADER, _FRAME_HEADER = 32, 24
_PAGE_SIZES = {1 << power for power in range(9, 17)}
_INDEX_VERSION = 3_007_000
_INDEX_BYTES = 100  # two copies of the header, then how many frames are checkpointed


@dataclass(frozen=True)
class Header:
    """The ``-shm`` file's view of the log: its last commit and how far it is checkpointed."""

    commit: bytes
    """The header's bytes; every commit and every restart of the log changes them."""
    page_size: int
    last_frame: int
    pages: int
    """Pages of the database at that commit."""
    checksum: bytes
    """As it stands in the last frame."""
    salts: bytes
    """As they stand in the log's header and each of its frames."""
    checkpointed: int
    """Frames that are in the database file already."""

    @classmethod
    def read(cls, shm: int, name: str) -> "Header | None":
        """Read the header; None while a writer changes it, or if its version is not the known one.

        Raises:
            SourceCorrupt: a page size that cannot be; ``name`` is that of the database.
        """
        data = os.pread(shm, _INDEX_BYTES, 0)
        if len(data) < _INDEX_BYTES or data[:48] != data[48:96]:
            return None
        if os.pread(shm, _INDEX_BYTES, 0) != data:  # all of it is of one moment
            return None
        version, initialised, page_size, last_frame, pages = struct.unpack_from("=I8xBxHII", data)
        if version != _INDEX_VERSION or not initialised:
            return None
        page_size = 65_536 if page_size == 1 else page_size
        if last_frame and page_size not in _PAGE_SIZES:  # an empty log has none yet
            raise SourceCorrupt(
                f"the log index of SQLite file {name} gives a page size of {page_size}",
                "close all programs that use it: the next one makes the index anew",
            )
        return cls(
            commit=data[:48],
            page_size=page_size,
            last_frame=last_frame,
            pages=pages,
            checksum=struct.pack(">II", *struct.unpack_from("=II", data, 24)),
            salts=data[32:40],
            checkpointed=struct.unpack_from("=I", data, 96)[0],
        )


class Wal:
    """The log up to one commit, which a read transaction of SQLite holds in place."""

    def __init__(self, file: int, shm: int, header: Header, name: str) -> None:
        self.file, self._shm, self._header, self._name = file, shm, header, name
        #: Per BLOCK of the database, the last frame that holds each of its pages, or 0:
        #: at most four bytes a page, and none for blocks the log does not touch.
        self.frames: dict[int, array[int]] = {}
        self._index()

    def page_at(self, frame: int) -> int:
        """Return the offset in the log of the page of a frame (counted from 1)."""
        step = _FRAME_HEADER + self._header.page_size
        return _WAL_HEADER + (frame - 1) * step + _FRAME_HEADER

    def _index(self) -> None:
        per_block = BLOCK // self._header.page_size
        untouched = array("I", bytes(4 * per_block))
        head = b""
        for frame in range(1, self._header.last_frame + 1):
            head = os.pread(self.file, _FRAME_HEADER, self.page_at(frame) - _FRAME_HEADER)
            if head[8:16] != self._header.salts:
                raise SourceChanged(
                    f"the write-ahead log of SQLite file {self._name} was replaced while it "
                    f"was read (frame {frame} of {self._header.last_frame})",
                    "try again; if it comes back, something other than SQLite writes the log",
                )
            page = int.from_bytes(head[:4])
            if not 0 < page <= self._header.pages:  # cut off by a later commit
                continue
            block, slot = divmod(page - 1, per_block)
            if block not in self.frames:
                self.frames[block] = untouched[:]
            self.frames[block][slot] = frame
        if head[16:24] != self._header.checksum:
            raise SourceChanged(
                f"the write-ahead log of SQLite file {self._name} does not end as its index says",
                "try again; if it comes back, run PRAGMA integrity_check on the database",
            )

    def check_held(self) -> None:
        """Prove that SQLite's lock still holds the log.

        Raises:
            SourceChanged: the log started over or was checkpointed past our commit, which the
                lock forbids.
        """
        salts = os.pread(self.file, 24, 0)[16:24]
        checkpointed = struct.unpack("=I", os.pread(self._shm, 4, 96))[0]
        if salts != self._header.salts or checkpointed > self._header.last_frame:
            raise SourceChanged(
                f"SQLite's lock on {self._name} was lost while it was read",
                "back it up on the host that writes it, from a local file system",
            )
