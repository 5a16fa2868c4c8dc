import pytest

from stepvault import governor
from stepvault.governor import Governor, resident_bytes


def governed(
    monkeypatch: pytest.MonkeyPatch, percent: int
) -> tuple[Governor, list[tuple[int, int]]]:
    monkeypatch.setattr(governor, "_SAMPLE_EVERY", 0.0)
    warnings: list[tuple[int, int]] = []
    made = Governor(100, lambda used, limit: warnings.append((used, limit)), lambda: percent)
    return made, warnings


def test_below_80_percent_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    made, warnings = governed(monkeypatch, 79)
    assert made.inflight(4) == 4
    assert warnings == []


def test_at_80_percent_it_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made, warnings = governed(monkeypatch, 80)
    assert [made.inflight(4), made.inflight(4)] == [4, 4]
    assert warnings == [(80, 100)]


def test_at_90_percent_one_upload_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = governed(monkeypatch, 90)
    assert made.inflight(4) == 1
    assert made.throttled == 1


def test_without_a_limit_it_only_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(governor, "_SAMPLE_EVERY", 0.0)
    made = Governor()
    assert made.inflight(4) == 4
    assert made.peak > 1_000_000


def test_resident_memory_grows_with_what_is_held() -> None:
    before = resident_bytes()
    held = bytearray(b"x") * (64 << 20)
    assert resident_bytes() - before > 48 << 20
    del held
