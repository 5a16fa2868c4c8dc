"""How the C library keeps memory that Python has freed: settings of glibc's malloc."""

import ctypes

#: Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


def settle_memory() -> None:
    """Have glibc keep little memory and hand out the same again and again.

    * Buffers of a MiB and more are mapped on their own, so that freeing returns them. Left alone,
      it raises that limit to 32 MiB once parts are freed, keeps them on the heap, and memory
      creeps up with the length of a stream (measured: 12 % from 200 MB to 2 GB).
    * What is free at the heap's end stays, up to some MiB. With 128 KiB, what that limit falls back
      to once the other is set, statements just below a MiB went back to the kernel and were faulted
      in again each time: half the CPU of reading blobs.
    * One heap serves all threads. A heap for each costs 8 MB more with three streams, and is no
      faster: Python's lock is held anyway.
    """
    _mallopt(_ARENA_MAX, 1)
    _mallopt(_MMAP_THRESHOLD, 1 << 20)
    _mallopt(_TRIM_THRESHOLD, 4 << 20)


def keep_buffers() -> None:
    """Have the compressed frames of a single stream reuse the memory of the last ones.

    They are some MiB, so that each was mapped and faulted in anew: three quarters of all page
    faults of a backup of files, 5 % of its time. Memory is no more. Three streams at once would
    take 28 MB more and be no faster.
    """
    _mallopt(_MMAP_THRESHOLD, 8 << 20)
    _mallopt(_TRIM_THRESHOLD, 18 << 20)


def _mallopt(parameter: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries have nothing to set
        mallopt(parameter, value)
