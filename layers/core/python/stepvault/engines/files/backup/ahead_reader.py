"""Reading ahead on file systems that make one wait for every file, as EFS does."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from stepvault.engines.files.backup.directory_reader import DirectoryReader, NotSmall
from stepvault.engines.files.backup.pack import Member
from stepvault.engines.files.format import listing
from stepvault.engines.files.tree.warnings import Warnings
from stepvault.settings import FilesSource

#: Threads that read ahead on network file systems, and the files of up to a MiB they may hold.
_THREADS, _AHEAD = 8, 16


class AheadReader(DirectoryReader):
    """Reads small files ahead, several at a time, for file systems that make one wait for each.

    On EFS an open and a read take milliseconds, nearly all of it waiting. Order, hard links and
    large files are as with one thread: only what stands by itself is read ahead.
    """

    def __init__(self, source: FilesSource, warnings: Warnings) -> None:
        super().__init__(source, warnings)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="read-ahead")
        self._own = threading.local()
        self._readers: list[DirectoryReader] = []

    def close(self) -> None:
        """Stop reading ahead and close what is open."""
        self._pool.shutdown(cancel_futures=True)
        for reader in self._readers:
            reader.close()
        super().close()

    def members(self, records: Iterable[bytes]) -> Iterator[Member]:
        """See ``DirectoryReader.members``."""
        coming: deque[tuple[bytes, Callable[[], Member | None]]] = deque()
        for record in records:
            alone = record[:1] not in (listing.PIECE, listing.LINKED, listing.LINKED_LINK)
            read = self._pool.submit(self._read, record).result if alone else None
            coming.append((record, read or partial(self.member, record)))
            if len(coming) > _AHEAD and (member := self._next(*coming.popleft())) is not None:
                yield member
        while coming:
            if (member := self._next(*coming.popleft())) is not None:
                yield member

    def _next(self, record: bytes, read: Callable[[], Member | None]) -> Member | None:
        try:
            try:
                return read()
            except NotSmall:
                return self.member(record)
        except OSError as error:
            self._failed(listing.path_of(record), error)
            return None

    def _read(self, record: bytes) -> Member | None:
        reader: DirectoryReader | None = getattr(self._own, "reader", None)
        if reader is None:
            reader = self._own.reader = DirectoryReader(
                self._source, self._warnings, small_only=True
            )
            self._readers.append(reader)
        member = reader.member(record)
        if member is not None and isinstance(member.content, memoryview):
            member.content = bytes(member.content)  # the thread's memory is used for its next file
        return member
