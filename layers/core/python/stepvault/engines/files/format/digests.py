"""The hashes that an index states: of content, of content with holes, of extended attributes."""

import hashlib
import os
from collections.abc import Iterable

from stepvault.engines.base import Buffer
from stepvault.engines.files.format import index
from stepvault.engines.files.format.index import Line
from stepvault.engines.files.tree.holes import runs_of

_BUFFER = 1 << 20
_BLOCK = 64 << 10
_ZEROS = bytes(_BLOCK)


def content_hash(descriptor: int, line: Line) -> bytes:
    """Return the hash of the file, or of the piece of it, that the line describes."""
    if line.kind in (index.FILE, index.HARD_LINK):
        digest, at = hashlib.sha256(), 0
        while data := os.pread(descriptor, _BUFFER, at):
            digest.update(data)
            at += len(data)
        return digest.hexdigest().encode()
    start, end = 0, line.size
    if line.kind == index.PIECE:
        start, end = map(int, line.link.split(b"-"))
    holes = HoleDigest()
    for offset, length in runs_of(descriptor, start, end):
        at = offset
        while at < offset + length:
            data = os.pread(descriptor, min(_BUFFER, offset + length - at), at)
            if not data:
                break
            holes.update(at, data)
            at += len(data)
    return holes.hexdigest()


class HoleDigest:
    """SHA-256 over every 64 KiB block that is not all zeros, each after its offset in 8 bytes.

    So a hole and written zeros are the same, and a terabyte of hole costs nothing. Blocks are
    counted from the start of the file; offsets must ascend.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._block = bytearray(_BLOCK)
        self._number = 0

    def update(self, offset: int, data: Buffer) -> None:
        """Take data that lies at offset."""
        view = memoryview(data)
        while view:
            number, at = divmod(offset, _BLOCK)
            if number != self._number:
                self._finish()
                self._number = number
            piece = view[: _BLOCK - at]
            self._block[at : at + len(piece)] = piece
            offset += len(piece)
            view = view[len(piece) :]

    def hexdigest(self) -> bytes:
        """Return the hash, in ASCII; nothing may follow."""
        self._finish()
        return self._digest.hexdigest().encode()

    def _finish(self) -> None:
        if self._block != _ZEROS:
            self._digest.update((self._number * _BLOCK).to_bytes(8, "big"))
            self._digest.update(self._block)
            self._block = bytearray(_BLOCK)


def xattrs_digest(xattrs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return what tells whether two sets of extended attributes are equal."""
    digest = hashlib.sha256()
    for name, value in sorted(xattrs):
        digest.update(b"%d %d %s%s" % (len(name), len(value), name, value))
    return digest.hexdigest()[:16].encode()
