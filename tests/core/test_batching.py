"""Batches: nothing lost, caps kept, loads even."""

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from stepvault.batching import FINENESS, Item, balance, consecutive

MAX_BYTES, MAX_FILES = 10_000, 100

sizes = st.lists(
    st.one_of(st.just(0), st.integers(0, 300), st.integers(0, 3 * MAX_BYTES)), max_size=400
)
items = st.lists(
    st.builds(Item, bytes=st.integers(0, 2 * MAX_BYTES), files=st.integers(1, 2 * MAX_FILES)),
    max_size=200,
)


@given(sizes)
def test_consecutive_keeps_every_entry_in_order(entries: list[int]) -> None:
    made = list(consecutive(((size, n) for n, size in enumerate(entries)), MAX_BYTES, MAX_FILES))
    assert [n for _, members in made for n in members] == list(range(len(entries)))
    for item, members in made:
        assert item == Item(sum(entries[n] for n in members), len(members))


@given(sizes)
def test_an_item_is_a_fraction_of_a_batch_or_one_large_entry(entries: list[int]) -> None:
    for item, members in consecutive(((s, s) for s in entries), MAX_BYTES, MAX_FILES):
        assert item.files <= MAX_FILES // FINENESS or len(members) == 1
        assert item.bytes <= MAX_BYTES // FINENESS or len(members) == 1


@given(sizes)
def test_neighbouring_items_could_not_have_been_one(entries: list[int]) -> None:
    made = [i for i, _ in consecutive(((s, s) for s in entries), MAX_BYTES, MAX_FILES)]
    for one, two in pairwise(made):
        assert (
            one.files + two.files > MAX_FILES // FINENESS
            or one.bytes + two.bytes > MAX_BYTES // FINENESS
        )


@given(items)
def test_every_item_is_in_exactly_one_batch(given_items: list[Item]) -> None:
    batches = balance(given_items, MAX_BYTES, MAX_FILES)
    dealt = Counter(p for b in batches for p in b.items)
    assert dealt == Counter(range(len(given_items)))
    for batch in batches:
        assert batch.bytes == sum(given_items[p].bytes for p in batch.items)
        assert batch.files == sum(given_items[p].files for p in batch.items)
        assert list(batch.items) == sorted(batch.items)


@given(items)
def test_only_a_single_item_may_be_over_a_cap(given_items: list[Item]) -> None:
    for batch in balance(given_items, MAX_BYTES, MAX_FILES):
        assert len(batch.items) == 1 or (batch.bytes <= MAX_BYTES and batch.files <= MAX_FILES)


@given(items)
def test_the_fullest_batch_comes_first(given_items: list[Item]) -> None:
    loads = [
        max(b.bytes / MAX_BYTES, b.files / MAX_FILES)
        for b in balance(given_items, MAX_BYTES, MAX_FILES)
    ]
    assert loads == sorted(loads, reverse=True)


@given(st.lists(st.integers(0, 40 * MAX_BYTES // FINENESS // 40), min_size=1, max_size=2000))
def test_batches_of_small_items_differ_by_little_and_are_few(entries: list[int]) -> None:
    made = [i for i, _ in consecutive(((s, s) for s in entries), MAX_BYTES, MAX_FILES)]
    batches = balance(made, MAX_BYTES, MAX_FILES)
    loads = [max(b.bytes / MAX_BYTES, b.files / MAX_FILES) for b in batches]
    total = max(sum(entries) / MAX_BYTES, len(entries) / MAX_FILES)
    assert max(loads) - min(loads) <= 3 / FINENESS
    assert len(batches) <= 2 * (sum(entries) / MAX_BYTES + len(entries) / MAX_FILES) + 2
    assert max(loads) <= 1
    assert len(batches) >= total


def test_a_million_equal_files_fill_equal_batches() -> None:
    made = [i for i, _ in consecutive(((2_000, n) for n in range(1_000_000)), 1 << 30, 50_000)]
    batches = balance(made, 1 << 30, 50_000)
    assert 20 <= len(batches) <= 21
    assert max(b.files for b in batches) - min(b.files for b in batches) <= 50_000 // FINENESS


def test_nothing_makes_no_batch() -> None:
    assert balance([], MAX_BYTES, MAX_FILES) == []
