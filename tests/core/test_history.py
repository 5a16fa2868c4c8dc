"""Backups whose size is unlike that of those before them."""

import pytest

from stepvault import keys
from stepvault.catalog import Vault
from stepvault.history import unusual, with_unusual
from stepvault.records import SourceResult


def sealed(size: int, status: str = "sealed") -> SourceResult:
    return SourceResult.model_validate(
        {
            "source": "shop",
            "engine": "postgres",
            "status": status,
            "units": 1,
            "units_done": 1,
            "raw_bytes": size,
        }
    )


@pytest.mark.parametrize("size", [50, 100, 200])
def test_growth_and_shrinking_within_a_factor_of_two_are_usual(size: int) -> None:
    assert unusual(sealed(size), [90, 100, 110]) is None


@pytest.mark.parametrize("size", [0, 49, 201, 10**12])
def test_beyond_it_they_are_named_with_what_was_usual(size: int) -> None:
    sentence = unusual(sealed(size * 10**6), [90 * 10**6, 100 * 10**6, 110 * 10**6])

    assert sentence is not None
    assert "shop" in sentence
    assert "100.0 MB" in sentence


def test_one_odd_backup_in_the_past_does_not_make_the_next_unusual() -> None:
    assert unusual(sealed(100), [100, 100, 5000, 100]) is None


def test_a_young_source_and_a_failed_one_are_never_unusual() -> None:
    assert unusual(sealed(5), [100, 100]) is None
    assert unusual(sealed(5, "failed"), [100, 100, 100]) is None


def test_an_earlier_summary_that_cannot_be_read_stops_no_seal(vault: Vault) -> None:
    vault.put(keys.summary("20260101T030000Z-x"), b"{")

    assert with_unusual(vault, "20260102T030000Z-x", [sealed(5)]) == [sealed(5)]
