"""The tar members of a pack, written and read by hand.

Format: POSIX pax, as GNU tar writes it with ``--format=pax --xattrs --sparse``. By hand because
``tarfile`` takes six times the CPU and drops nanoseconds, extended attributes and holes.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple
from zlib import adler32

from stepvault.errors import BackupTampered

BLOCK = 512
#: Two empty blocks end an archive.
END = bytes(2 * BLOCK)

FILE, HARD_LINK, LINK, DIRECTORY = b"0", b"1", b"2", b"5"
_PAX = b"x"

_MAX_SIZE = 0o77777777777
_MAX_ID = 0o7777777
_MAX_SECONDS = 0o77777777777
_NAME = 100
_TEN_DIGITS = 10**9

Xattrs = Sequence[tuple[bytes, bytes]]
#: (offset, length) of each run of data in a file with holes.
SparseMap = Sequence[tuple[int, int]]


class Metadata(NamedTuple):
    """What a header says of a member beside its name and size."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int


#: Bytes of a member's records at most: a file's extended attributes have 64 KiB on Linux, and XFS
#: allows a few times that.
_MOST_RECORDS = 16 << 20


def header(
    name: bytes,
    kind: bytes,
    meta: Metadata,
    *,
    size: int = 0,
    link: bytes = b"",
    xattrs: Xattrs = (),
    sparse_size: int | None = None,
) -> bytes:
    """Return a member's header blocks; ``size`` bytes of content and padding follow.

    ``sparse_size`` is the full size of a file with holes, whose content starts with its map.
    """
    records = b""
    if len(name) > _NAME or not name.isascii() or link:
        records = _name_records(name, link)
    seconds, nanoseconds = divmod(meta.mtime_ns, 10**9)
    if nanoseconds or not 0 <= seconds <= _MAX_SECONDS:
        if _TEN_DIGITS <= seconds <= _MAX_SECONDS:  # from 2001 to 2242: nearly every file
            records += b"30 mtime=%d.%09d\n" % (seconds, nanoseconds)
        else:
            records += record(b"mtime", _decimal(meta.mtime_ns))
            seconds = min(max(seconds, 0), _MAX_SECONDS)
    uid, gid, plain_size = meta.uid, meta.gid, size
    if uid > _MAX_ID:
        records += record(b"uid", b"%d" % uid)
        uid = 0
    if gid > _MAX_ID:
        records += record(b"gid", b"%d" % gid)
        gid = 0
    if size > _MAX_SIZE:
        records += record(b"size", b"%d" % size)
        plain_size = 0
    for key, value in xattrs:
        records += record(b"SCHILY.xattr." + _escaped(key), value)
    if sparse_size is not None:
        records += record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.minor", b"0")
        records += record(b"GNU.sparse.name", name)
        records += record(b"GNU.sparse.realsize", b"%d" % sparse_size)
        name = b"GNUSparseFile.0/" + name.rpartition(b"/")[2]
    block = _block(name, meta.mode, uid, gid, plain_size, seconds, kind, link)
    if not records:
        return block
    return _extended(len(records)) + records + padding(len(records)) + block


@lru_cache(maxsize=1024)
def _extended(size: int) -> bytes:
    """Return the header of extended records; nearly every file has some, of a few sizes."""
    return _block(b"PaxHeaders/x", 0o644, 0, 0, size, 0, _PAX, b"")


def padding(size: int) -> bytes:
    """Return the zeros that fill the last block."""
    return bytes(-size % BLOCK)


def record(key: bytes, value: bytes) -> bytes:
    """Return one ``length key=value`` line; the length counts its own digits."""
    text = b" " + key + b"=" + value + b"\n"
    length = len(text) + len(str(len(text)))
    if len(str(length)) + len(text) != length:
        length += 1
    return b"%d" % length + text


def _name_records(name: bytes, link: bytes) -> bytes:
    """Names too long for the header or not ASCII go into extended records.

    Bytes that are not UTF-8 stand there as they are: GNU tar, bsdtar and Python all take them.
    """
    records = b""
    if len(name) > _NAME or not name.isascii():
        records += record(b"path", name)
    if len(link) > _NAME or not link.isascii():
        records += record(b"linkpath", link)
    return records


def _decimal(nanoseconds: int) -> bytes:
    sign = b"-" if nanoseconds < 0 else b""
    seconds, rest = divmod(abs(nanoseconds), 10**9)
    return b"%s%d.%09d" % (sign, seconds, rest)


def _escaped(key: bytes) -> bytes:
    """As GNU tar does: an equals sign would end the key."""
    return key.replace(b"%", b"%25").replace(b"=", b"%3D")


_MAGIC = b"ustar\x0000"
_DEVICES = b"0000000\x000000000\x00"
#: User and group name (empty), device numbers, prefix.
_TAIL = bytes(64) + _DEVICES + bytes(167)
#: Of all that is the same in each header: 256 for the checksum's eight spaces, less adler's one.
_MAGIC_SUM = sum(_MAGIC) + sum(_TAIL) + 256 - 1


def _block(
    name: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, kind: bytes, link: bytes
) -> bytes:
    name, link = name[:_NAME], link[:_NAME]
    fields = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode, uid, gid, size, mtime)
    # Only what is not zero is summed. Adler-32's lower half is that sum and one: so few bytes stay
    # below its modulus.
    checksum = (adler32(name + fields + kind + link) & 0xFFFF) + _MAGIC_SUM
    return b"%s%s%06o\0 %s%s%s%s" % (
        name.ljust(_NAME, b"\0"),
        fields,
        checksum,
        kind,
        link.ljust(_NAME, b"\0"),
        _MAGIC,
        _TAIL,
    )


def sparse_map(runs: SparseMap) -> bytes:
    """Return the map in front of the content of a file with holes, padded to blocks."""
    text = b"%d\n" % len(runs) + b"".join(b"%d\n%d\n" % run for run in runs)
    return text + padding(len(text))


@dataclass(slots=True)
class Header:
    """A member as read back."""

    kind: bytes
    size: int
    """Bytes of content that follow, padding excluded."""
    xattrs: list[tuple[bytes, bytes]] = field(default_factory=list)
    sparse_size: int | None = None
    link: bytes = b""
    """Where a link points."""


def read_header(read: Callable[[int], bytes]) -> Header:
    """Read the header that ``read`` stands at; ``read(n)`` gives the next n bytes.

    Raises:
        BackupTampered: that is no header.
    """
    try:
        return _read_header(read)
    except ValueError as error:  # numbers that are none, records that do not end
        raise BackupTampered("a pack holds a member whose header makes no sense") from error


def _read_header(read: Callable[[int], bytes]) -> Header:
    header = _plain_header(_checked(read(BLOCK)))
    if header.kind != _PAX:
        return header
    if header.size > _MOST_RECORDS:
        raise ValueError("more records than a member has")
    records = list(_records(read(header.size + -header.size % BLOCK)[: header.size]))
    header = _plain_header(_checked(read(BLOCK)))
    for key, value in records:
        if key == b"size":
            header.size = _natural(value)
        elif key == b"linkpath":
            header.link = value
        elif key == b"GNU.sparse.realsize":
            header.sparse_size = _natural(value)
        elif key.startswith(b"SCHILY.xattr."):
            name = key.removeprefix(b"SCHILY.xattr.")
            header.xattrs.append((name.replace(b"%3D", b"=").replace(b"%25", b"%"), value))
    return header


def _plain_header(block: bytes) -> Header:
    kind = block[156:157]
    link = block[157 : 157 + _NAME].rstrip(b"\0") if kind == LINK else b""
    return Header(kind=kind, size=_octal(block[124:136]), link=link)


def read_sparse_map(read: Callable[[int], bytes]) -> tuple[list[tuple[int, int]], int]:
    """Read the map that ``read`` stands at; return it and its size in bytes.

    Raises:
        BackupTampered: that is no map.
    """
    blocks = [read(BLOCK)]
    try:
        count = 2 * int(blocks[0].partition(b"\n")[0])
        # Cut once, at the end: a map may have hundreds of thousands of runs.
        ends = blocks[0].count(b"\n")
        while ends <= count:
            blocks.append(read(BLOCK))
            ends += blocks[-1].count(b"\n")
        text = b"".join(blocks)
        numbers = [int(line) for line in text.split(b"\n", count + 1)[1 : count + 1]]
    except ValueError as error:
        raise BackupTampered("a pack holds no map where a file with holes begins") from error
    return list(zip(numbers[::2], numbers[1::2], strict=True)), len(text)


def _checked(block: bytes) -> bytes:
    if len(block) == BLOCK:
        checksum = sum(block) - sum(block[148:156]) + 256
        if block[257:262] == b"ustar" and _octal(block[148:156]) == checksum:
            return block
    raise BackupTampered("a pack holds no member where its index says there is one")


def _octal(text: bytes) -> int:
    return _natural(text.strip(b"\0 ") or b"0", 8)


def _natural(text: bytes, base: int = 10) -> int:
    number = int(text, base)
    if number < 0:
        raise ValueError("a size below zero")
    return number


def _records(text: bytes) -> Iterable[tuple[bytes, bytes]]:
    at = 0
    while at < len(text):
        length = int(text[at : text.index(b" ", at, at + 20)])
        record = text[at : at + length]
        if length < 1 or len(record) < length or not record.endswith(b"\n"):
            raise ValueError("a record that does not end where it says")
        key, _, value = record[:-1].partition(b" ")[2].partition(b"=")
        yield key, value
        at += length
