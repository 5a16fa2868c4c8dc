"""Files with holes: where their data lies."""

import errno
import os
from collections.abc import Sequence

#: (offset, length) of each run of data, ascending.
Runs = Sequence[tuple[int, int]]


def runs_of(descriptor: int, start: int, end: int) -> Runs:
    """Return where data lies between start and end of an open file."""
    runs: list[tuple[int, int]] = []
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
        runs.append((data, min(hole, end) - data))
        at = hole
    return runs
