"""The hash of an open file's content, as the index states it."""

import hashlib
import os

from stepvault.engines.files import index
from stepvault.engines.files.holes import HoleDigest, runs_of
from stepvault.engines.files.index import Line

_BUFFER = 1 << 20


def content_hash(descriptor: int, line: Line) -> bytes:
    """Of the file, or of the piece of it, that the line describes."""
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
