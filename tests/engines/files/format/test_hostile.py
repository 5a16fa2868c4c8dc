"""Headers and index lines that nobody of ours wrote: one error, and no endless loop."""

import io
import random

import pytest

from stepvault.engines.files.format import index, tar
from stepvault.errors import BackupTampered

LINE = b"\t".join(
    [
        *(b"a/file", b"5", b"1", b"2", b"3", b"f", b"644", b"0", b"0"),
        *(b"-", b"0" * 64, b"", b"0", b"0", b"512", b"0", b"1"),
    ]
)


def read(data: bytes) -> tar.Header:
    stream = io.BytesIO(data)

    def exactly(count: int) -> bytes:
        assert count < 1 << 30, "asked for more than any header has"
        return stream.read(count)

    return tar.read_header(exactly)


def with_records(records: bytes) -> bytes:
    """A pax header with those records, and the member that it describes."""
    meta = tar.Metadata(mode=0o644, uid=0, gid=0, mtime_ns=1)
    made = tar.header(b"x" * 200, tar.FILE, meta, size=3)
    block = bytearray(made[:512])
    block[124:136] = b"%011o\0" % len(records)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    member = made[-512:]
    return bytes(block) + records + bytes(-len(records) % 512) + member


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "records",
    [
        b"0 size=3\n",
        b"00 size=3\n",
        b"-9 size=3\n",
        b"1 \n",
        b"9999 size=3\n",
        b"nine size=3\n",
        b"size=3\n",
        b"10 size=x\n",
        b"11 size=-3\n",
        b"10 size=3",
        b"9" * 4000 + b" size=3\n",
    ],
    ids=lambda records: repr(records[:20]),
)
def test_a_forged_pax_record_is_tampering(records: bytes) -> None:
    with pytest.raises(BackupTampered):
        read(with_records(records))


def test_a_pax_record_of_ours_is_read() -> None:
    assert read(with_records(b"14 size=12345\n")).size == 12345


@pytest.mark.timeout(20)
def test_a_fuzzed_header_is_read_or_refused() -> None:
    rng, whole = random.Random(7), with_records(b"14 size=12345\n21 linkpath=somewhere\n")
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.5:  # a checksum that is right again
            for at in (0, len(data) - 512):
                data[at + 148 : at + 156] = b" " * 8
                data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
        try:
            assert read(bytes(data)).size >= 0
        except BackupTampered:
            continue


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("kind", b"x"),
        ("kind", b""),
        ("kind", b"ff"),
        ("size", b"-1"),
        ("size", b"many"),
        ("mode", b"9"),
        ("uid", b"1e3"),
        ("offset", b"-512"),
        ("end", b"-1"),
        ("pack", b""),
    ],
)
def test_a_line_that_no_backup_has_is_tampering(column: str, value: bytes) -> None:
    fields = LINE.split(b"\t")
    fields[index.COLUMNS.index(column)] = value
    with pytest.raises(BackupTampered, match="index"):
        index.parse(b"\t".join(fields))


def test_a_line_of_ours_is_read() -> None:
    assert index.parse(LINE).path == b"a/file"
    for kind in b"fspdlhHL":
        assert index.parse(LINE.replace(b"\tf\t", b"\t%c\t" % kind)).kind == b"%c" % kind
