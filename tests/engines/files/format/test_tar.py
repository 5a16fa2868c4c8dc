"""Headers and maps, read back by us and by Python's tarfile."""

import io
import os
import subprocess
import tarfile
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepvault.engines.files.format import tar
from stepvault.errors import BackupTampered
from tests.engines.files.names import names

metas = st.builds(
    tar.Metadata,
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 2**32 - 1),
    gid=st.integers(0, 2**32 - 1),
    mtime_ns=st.integers(-(10**18), 10**19),
)
xattrs = st.dictionaries(
    st.from_regex(rb"\Auser\.[a-z=%]{1,8}\Z"), st.binary(max_size=40), max_size=3
)


@given(st.lists(names, min_size=1, max_size=4).map(b"/".join), metas, xattrs, st.binary(max_size=9))
def test_headers_are_read_back_by_us_and_by_python(
    path: bytes, meta: tar.Metadata, attributes: dict[bytes, bytes], content: bytes
) -> None:
    made = tar.header(path, tar.FILE, meta, size=len(content), xattrs=sorted(attributes.items()))
    stream = io.BytesIO(made)
    header = tar.read_header(stream.read)
    assert header.size == len(content)
    assert dict(header.xattrs) == attributes
    assert stream.read() == b""

    whole = made + content + tar.padding(len(content)) + tar.END
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        (member,) = archive.getmembers()
        assert os.fsencode(member.name) == path.rstrip(b"/")
        assert member.mode == meta.mode
        assert (member.uid, member.gid) == (meta.uid, meta.gid)
        assert abs(float(member.mtime) - meta.mtime_ns / 1e9) < 1e-3
        reader = archive.extractfile(member)
        assert reader is not None
        assert reader.read() == content


def test_a_member_over_8_gib_has_its_size_in_an_extended_header() -> None:
    meta = tar.Metadata(0o644, 0, 0, 0)
    made = tar.header(b"big", tar.FILE, meta, size=9 << 30)
    assert tar.read_header(io.BytesIO(made).read).size == 9 << 30
    listed = subprocess.run(
        ["tar", "-tvf", "-"], input=made, capture_output=True
    ).stdout  # the content is missing, but the listing comes first
    assert str(9 << 30).encode() in listed


@given(st.lists(st.tuples(st.integers(0, 2**63), st.integers(0, 2**40)), max_size=200))
def test_the_map_of_a_file_with_holes_is_read_back(runs: list[tuple[int, int]]) -> None:
    made = tar.sparse_map(runs)
    stream = io.BytesIO(made + b"what follows")
    assert tar.read_sparse_map(stream.read) == (runs, len(made))
    assert stream.read() == b"what follows"


def test_a_map_is_cut_once_when_all_of_it_is_read() -> None:
    """Cut after each block, a map of 200,000 runs takes most of a minute: no time is measured
    here, but what there is in memory beside the text."""
    made = tar.sparse_map([(n * 8192, 4096) for n in range(5000)])
    stream, held = io.BytesIO(made), list[int]()

    def read(size: int) -> bytes:
        held.append(tracemalloc.get_traced_memory()[0])
        return stream.read(size)

    tracemalloc.start()
    try:
        runs, _ = tar.read_sparse_map(read)
    finally:
        tracemalloc.stop()
    assert len(runs) == 5000
    assert max(held) < 2 * len(made)


@pytest.mark.parametrize("text", [b"no map", b"2\n0\n512\nx\n512\n", bytes(tar.BLOCK)])
def test_what_is_no_map_is_said_to_be_tampered_with(text: bytes) -> None:
    stream = io.BytesIO(text.ljust(tar.BLOCK, b"\n"))
    with pytest.raises(BackupTampered, match="no map"):
        tar.read_sparse_map(stream.read)
