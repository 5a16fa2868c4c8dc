"""Files with holes: where their data lies, and a hash that does not depend on it."""

import errno
import hashlib
import os
from collections.abc import Sequence

from stepvault.engines.base import Buffer

#: (offset, length) of each run of data, ascending.
Runs = Sequence[tuple[int, int]]

_BLOCK = 64 << 10
_ZEROS = bytes(_BLOCK)


def runs_of(descriptor: int, start: int, end: int) -> Runs:
    """Where data lies between start and end of an open file."""
    found: list[tuple[int, int]] = []
    at = start
    while at < end:
        try:
            data = os.lseek(descriptor, at, os.SEEK_DATA)
            hole = os.lseek(descriptor, data, os.SEEK_HOLE) if data < end else end
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole from here on
                break
            return [(start, end - start)]  # a file system that does not say
        if data >= end or hole <= data:
            break
        found.append((data, min(hole, end) - data))
        at = hole
    return found


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
        """Data that lies at offset."""
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
        """The hash, in ASCII; nothing may follow."""
        self._finish()
        return self._digest.hexdigest().encode()

    def _finish(self) -> None:
        if self._block != _ZEROS:
            self._digest.update((self._number * _BLOCK).to_bytes(8, "big"))
            self._digest.update(self._block)
            self._block = bytearray(_BLOCK)
