import hashlib
import random
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from stepvault.compress import FRAME, Compressor, Plain, decompress
from stepvault.engines.base import END_FRAME, Buffer, EndFrame


def packed(chunks: Sequence[Buffer | EndFrame], level: int = 3) -> tuple[bytes, Compressor]:
    compressor = Compressor(level)
    return b"".join(chain(*map(compressor.feed, chunks), compressor.finish())), compressor


@given(st.lists(st.binary(max_size=2000) | st.just(END_FRAME), max_size=12))
def test_what_goes_in_comes_out_whatever_the_frames(chunks: Sequence[Buffer | EndFrame]) -> None:
    stored, _ = packed(chunks)
    raw = b"".join(chunk for chunk in chunks if not isinstance(chunk, EndFrame))
    assert b"".join(decompress([stored])) == raw


def test_the_zstd_command_reads_it_and_finds_a_checksum() -> None:
    stored, _ = packed([b"a" * 100_000, END_FRAME, b"b" * 5])
    out = subprocess.run(["zstd", "-dc"], input=stored, capture_output=True, check=True).stdout
    assert out == b"a" * 100_000 + b"b" * 5
    damaged = stored[:-1] + bytes([stored[-1] ^ 1])
    refused = subprocess.run(["zstd", "-tq"], input=damaged, capture_output=True)
    assert refused.returncode != 0


def test_an_empty_stream_is_one_valid_frame() -> None:
    stored, compressor = packed([])
    assert stored
    assert compressor.frames == [(0, 0)]
    assert zstandard.ZstdDecompressor().decompress(stored) == b""


def test_each_frame_can_be_read_on_its_own_from_where_it_starts() -> None:
    members = [b"one" * 1000, b"two" * 50, b"three" * 7000]
    chunks = [piece for member in members for piece in (member, END_FRAME)]
    stored, compressor = packed(chunks)
    assert [raw for raw, _ in compressor.frames] == [0, 3000, 3150]
    ends = [start for _, start in compressor.frames[1:]] + [len(stored)]
    for member, (_, start), end in zip(members, compressor.frames, ends, strict=True):
        assert b"".join(decompress([stored[start:end]])) == member


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_kind_of_buffer_is_taken(kind: type[bytes]) -> None:
    stored, _ = packed([kind(b"x" * 300_000)])
    assert b"".join(decompress([stored])) == b"x" * 300_000


def test_plain_streams_pass_unchanged() -> None:
    plain = Plain()
    assert [*plain.feed(b"as is"), *plain.feed(END_FRAME), *plain.finish()] == [b"as is"]


@pytest.fixture
def helpers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as pool:
        yield pool


def test_helpers_make_the_same_frames_in_the_same_order(helpers: ThreadPoolExecutor) -> None:
    rng = random.Random(1)
    chunks: list[Buffer | EndFrame] = []
    for _ in range(60):
        chunks.append(rng.randbytes(rng.randrange(1 << 10)) * rng.randrange(1, 900))
        if rng.random() < 0.2:
            chunks.append(END_FRAME)
    alone, one = packed(chunks)
    beside = Compressor(3, helpers, ahead=2)
    stored = b"".join(chain(*map(beside.feed, chunks), beside.finish()))
    assert stored == alone
    assert beside.frames == one.frames
    assert len(one.frames) > 3


def test_a_buffer_may_be_used_again_at_once(helpers: ThreadPoolExecutor) -> None:
    block = bytearray(1 << 20)
    compressor, raw, stored = Compressor(1, helpers, ahead=2), hashlib.sha256(), b""
    for number in range(20):
        block[:] = bytes([number]) * len(block)
        raw.update(block)
        stored += b"".join(compressor.feed(block))
    stored += b"".join(compressor.finish())
    assert hashlib.sha256(b"".join(decompress([stored]))).digest() == raw.digest()


def test_no_frame_holds_more_than_its_limit_and_a_stretch_may_be_many() -> None:
    stored, compressor = packed([bytes(FRAME + 5), END_FRAME, b"next"])
    sizes = []
    at = 0
    while at < len(stored):
        sizes.append(zstandard.get_frame_parameters(stored[at : at + 18]).content_size)
        frame = zstandard.ZstdDecompressor().decompressobj()
        frame.decompress(stored[at:])
        at = len(stored) - len(frame.unused_data)
    assert sizes == [FRAME, 5, 4]
    assert [raw for raw, _ in compressor.frames] == [0, FRAME + 5]


def test_an_error_in_a_helper_comes_out(helpers: ThreadPoolExecutor) -> None:
    compressor = Compressor(1, helpers, ahead=1)
    helpers.shutdown()
    with pytest.raises(RuntimeError):
        compressor.feed(bytes(2 * FRAME))


def test_what_was_compressed_ten_thousandfold_comes_out_in_small_pieces() -> None:
    stored, _ = packed([bytes(16 << 20)] * 4)
    assert len(stored) < 20_000
    pieces = [len(piece) for piece in decompress([stored])]
    assert max(pieces) <= 1 << 20
    assert sum(pieces) == 64 << 20
