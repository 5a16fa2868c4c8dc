"""Two invocations of one unit, as a stopped run's function and its successor: what comes of it."""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime

import pytest

from devtools.faults import Fault, Proxy, Request
from stepvault import engines, keys, multipart, storage
from stepvault.backup import back_up
from stepvault.catalog import Vault
from stepvault.errors import SourceBusy, SourceMissing, StorageUnavailable
from stepvault.plan import RunInput, RunRequest
from stepvault.records import Execution, Receipt, Unit
from stepvault.seal import SealRequest, seal
from stepvault.verify import verify
from tests.core.streams import Scripted, ScriptedEngine, read_object
from tests.core.test_plan_and_seal import CONFIG, request, units_of
from tests.planning import whole_plan

MIB = multipart.MIB


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ScriptedEngine:
    """Stands for every source's."""
    made = ScriptedEngine([])
    monkeypatch.setattr(engines, "find", lambda name: made)
    return made


@pytest.fixture
def unit(vault: Vault, engine: ScriptedEngine) -> Unit:
    """The one unit of a planned run."""
    state = whole_plan(CONFIG, vault, request(sources=["app"]))
    return units_of(vault, state, "databases")[0]


def packed(name: str, *chunks: bytes) -> Scripted:
    """A stream that is stored as it is, so that equal lengths make objects of equal size."""
    return Scripted(name, lambda: iter(chunks), encoding="none")


def sealed(vault: Vault, unit: Unit) -> tuple[str, str]:
    """What seal says of the source, and why if it is not sealed."""
    summary, _ = seal(vault, SealRequest(run_id=unit.run_id))
    assert summary is not None
    (result,) = summary.sources
    return result.status, " ".join(f.message for f in result.failures)


def damage(vault: Vault, unit: Unit) -> list[str]:
    return verify(vault, vault.manifest(unit.source.name, unit.run_id))


def write_over(vault: Vault, unit: Unit, name: str, body: bytes) -> None:
    vault.put(keys.data(unit.source.name, unit.run_id, name), body)


@pytest.mark.parametrize("size", [7, 11 * MIB], ids=["one put", "several parts"])
def test_an_object_written_over_by_one_of_its_size_keeps_the_source_unsealed(
    vault: Vault, engine: ScriptedEngine, unit: Unit, size: int
) -> None:
    engine.scripts = [packed("app.db", os.urandom(size))]
    back_up(unit, vault)
    write_over(vault, unit, "app.db", os.urandom(size))
    status, why = sealed(vault, unit)
    assert status == "failed"
    assert "app.db was written over after it was stored" in why
    assert vault.sealed_runs("app") == []


@pytest.mark.parametrize("size", [7, 11 * MIB], ids=["one put", "several parts"])
def test_what_is_as_it_was_stored_is_sealed_by_its_etag_too(
    vault: Vault, engine: ScriptedEngine, unit: Unit, size: int
) -> None:
    engine.scripts = [packed("app.db", os.urandom(size))]
    (stored,) = back_up(unit, vault).objects
    (listed,) = vault.entries(keys.data_prefix("app", unit.run_id))
    assert listed.etag == stored.etag
    assert stored.etag
    assert '"' not in stored.etag
    assert sealed(vault, unit) == ("sealed", "")


def test_a_receipt_whose_object_was_written_over_does_not_count(
    vault: Vault, engine: ScriptedEngine, unit: Unit
) -> None:
    engine.scripts = [packed("app.db", b"pages 1")]
    back_up(unit, vault)
    write_over(vault, unit, "app.db", b"pages 2")
    back_up(unit, vault)
    assert engine.opened == 2
    assert sealed(vault, unit) == ("sealed", "")
    assert damage(vault, unit) == []


def test_a_receipt_that_names_no_etag_counts_by_its_sizes(
    vault: Vault, engine: ScriptedEngine, unit: Unit
) -> None:
    engine.scripts = [packed("app.db", b"pages 1")]
    receipt = back_up(unit, vault)
    objects = [o.model_copy(update={"etag": None}) for o in receipt.objects]
    older = receipt.model_copy(update={"objects": objects})
    vault.put_receipt(older)
    assert back_up(unit, vault) == older
    assert engine.opened == 1
    assert sealed(vault, unit) == ("sealed", "")


def test_a_copy_of_an_earlier_runs_object_is_still_leaned_on(
    vault: Vault, engine: ScriptedEngine, unit: Unit
) -> None:
    engine.scripts = [packed("app.db", os.urandom(11 * MIB))]
    (earlier,) = back_up(unit, vault).objects
    key = keys.data("app", unit.run_id, "app.db")
    vault.put(key, read_object(vault, key))  # as it comes back from elsewhere: in one part, not two
    next_day = Execution(name="next", started=datetime(2026, 11, 23, 3, tzinfo=UTC))
    state = whole_plan(
        CONFIG, vault, RunRequest(execution=next_day, input=RunInput(sources=["app"]))
    )
    (later,) = units_of(vault, state, "databases")
    engine.scripts = []
    engine.references = [earlier.model_copy(update={"run_id": unit.run_id})]
    back_up(later, vault)
    assert sealed(vault, later) == ("sealed", "")


def test_a_sealed_backup_whose_object_was_made_anew_is_not_called_sealed(
    vault: Vault, engine: ScriptedEngine, unit: Unit
) -> None:
    engine.scripts = [packed("app.db", b"pages 1")]
    back_up(unit, vault)
    assert sealed(vault, unit) == ("sealed", "")
    vault.delete([keys.data("app", unit.run_id, "app.db")])
    engine.scripts = [packed("app.db", b"pages 2")]
    back_up(unit, vault)
    status, why = sealed(vault, unit)
    assert status == "failed"
    assert "app.db was written over after it was stored" in why


def overtaken(
    unit: Unit,
    vault: Vault,
    engine: ScriptedEngine,
    name: str,
    late: Iterable[bytes],
    *theirs: Scripted,
) -> Scripted:
    """A stream during whose reading another invocation stores the unit."""

    def script() -> Iterator[bytes]:
        engine.scripts = theirs
        back_up(unit, vault)
        yield from late

    return Scripted(name, script, encoding="none")


@pytest.mark.parametrize("size", [7, 11 * MIB], ids=["one put", "several parts"])
def test_the_slower_of_two_leaves_the_sealed_backup_of_the_faster_alone(
    vault: Vault, engine: ScriptedEngine, unit: Unit, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multipart, "FIRST_PART", 5 * MIB)
    first = packed("app.db", os.urandom(size))

    def late() -> Iterator[bytes]:
        assert sealed(vault, unit) == ("sealed", "")
        yield os.urandom(size)

    engine.scripts = [overtaken(unit, vault, engine, "app.db", late(), first)]
    slower = back_up(unit, vault)
    assert slower == vault.receipt("app", unit.run_id, unit.id)
    assert slower == back_up(unit, vault)
    assert engine.opened == 2
    assert vault.open_uploads("") == []
    assert vault.failures(unit.run_id) == []
    assert sealed(vault, unit) == ("sealed", "")
    assert damage(vault, unit) == []


def test_the_slower_of_two_goes_on_if_it_had_written_over_an_object_of_the_faster(
    vault: Vault, engine: ScriptedEngine, unit: Unit
) -> None:
    def faster() -> Iterator[bytes]:
        write_over(vault, unit, "a.db", b"a, slower")  # what the slower one had stored comes last
        yield b"b, faster"

    theirs = packed("a.db", b"a, faster"), Scripted("b.db", faster, encoding="none")
    engine.scripts = [
        packed("a.db", b"a, slower"),
        overtaken(unit, vault, engine, "b.db", [b"b, slower"], *theirs),
    ]
    receipt = back_up(unit, vault)
    assert vault.receipt("app", unit.run_id, unit.id) == receipt
    assert sealed(vault, unit) == ("sealed", "")
    assert damage(vault, unit) == []
    assert vault.get(keys.data("app", unit.run_id, "b.db")) == b"b, slower"


def test_a_source_that_is_gone_for_the_slower_of_two_is_not_skipped(
    vault: Vault, engine: ScriptedEngine, unit: Unit
) -> None:
    optional = unit.model_copy(update={"source": unit.source.model_copy(update={"optional": True})})

    def gone() -> Iterator[bytes]:
        raise SourceMissing("/data/app.db does not exist")
        yield b""

    pages = packed("app.db", b"pages")
    engine.scripts = [overtaken(optional, vault, engine, "app.db", gone(), pages)]
    receipt = back_up(optional, vault)
    assert receipt.skipped is None
    assert vault.receipt("app", unit.run_id, unit.id) == receipt
    assert sealed(vault, unit) == ("sealed", "")


def test_siblings_of_a_stream_that_is_overtaken_stop_too(
    vault: Vault, engine: ScriptedEngine, unit: Unit
) -> None:
    engine.parallel = 2
    pages = packed("a.db", b"pages"), packed("b.db", b"more")
    engine.scripts = [
        overtaken(unit, vault, engine, "a.db", [b"late"], *pages),
        Scripted("b.db", engine.until_cancelled, encoding="none"),
    ]
    receipt = back_up(unit, vault)
    assert vault.receipt("app", unit.run_id, unit.id) == receipt
    assert engine.cancelled.is_set()
    assert vault.open_uploads("") == []
    assert sealed(vault, unit) == ("sealed", "")
    assert damage(vault, unit) == []


def whole(vault: Vault, unit: Unit) -> None:
    """The unit can be sealed, is as it was stored, and has no open upload."""
    assert sealed(vault, unit) == ("sealed", "")
    assert damage(vault, unit) == []
    assert vault.open_uploads("") == []


def noise(name: str, size: int) -> Scripted:
    """A stream that is another one each time it is read."""
    return Scripted(name, lambda: iter([os.urandom(size)]), encoding="none")


def requests_of_one(vault: Vault, proxy: Proxy, unit: Unit) -> int:
    """How many requests one invocation makes; leaves nothing in the vault."""
    proxy.reset()
    back_up(unit, vault)
    asked = len(proxy.log)
    vault.delete([e.key for e in vault.entries(keys.backup_prefix("app", unit.run_id))])
    proxy.reset()
    return asked


@pytest.mark.parametrize("parallel", [1, 2])
def test_another_invocation_may_run_from_end_to_end_at_any_moment(
    vault: Vault,
    proxy: Proxy,
    engine: ScriptedEngine,
    unit: Unit,
    parallel: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(multipart, "FIRST_PART", 5 * MIB)
    engine.scripts = [noise("large", 6 * MIB), noise("a", 9), noise("b", 9)]
    engine.parallel = parallel
    for moment in range(requests_of_one(vault, proxy, unit)):
        inner: list[Receipt] = []

        def choose(request: Request, moment: int = moment, done: list[Receipt] = inner) -> None:
            if request.number == moment:
                done.append(back_up(unit, vault))

        proxy.choose = choose
        outer = None
        with suppress(SourceBusy):
            outer = back_up(unit, vault)
        proxy.choose = lambda _: None
        stored = vault.receipt("app", unit.run_id, unit.id)
        assert stored in (outer, *inner)
        assert outer in (stored, None)
        whole(vault, unit)
        vault.delete([e.key for e in vault.entries(keys.backup_prefix("app", unit.run_id))])
        proxy.reset()


def test_an_invocation_may_be_killed_at_any_moment_and_the_next_one_stores_the_unit(
    vault: Vault,
    proxy: Proxy,
    engine: ScriptedEngine,
    unit: Unit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(multipart, "FIRST_PART", 5 * MIB)
    monkeypatch.setattr(storage, "_ATTEMPTS", 1)  # a dead process asks nothing again
    storage.client.cache_clear()
    engine.scripts = [noise("large", 6 * MIB), noise("a", 9)]
    for moment in range(requests_of_one(vault, proxy, unit)):

        def choose(request: Request, moment: int = moment) -> Fault | None:
            if request.number == moment:
                return "lost"
            return "refused" if request.number > moment else None

        proxy.choose = choose
        with pytest.raises(StorageUnavailable):
            back_up(unit, vault)
        proxy.choose = lambda _: None
        back_up(unit, vault)
        whole(vault, unit)
        vault.delete([e.key for e in vault.entries(keys.backup_prefix("app", unit.run_id))])
        proxy.reset()


def test_one_whose_claim_was_taken_writes_nothing_more(
    vault: Vault, engine: ScriptedEngine, unit: Unit
) -> None:
    def late() -> Iterator[bytes]:
        yield b"first"
        there = vault.receipt_or_claim("app", unit.run_id, unit.id)
        assert there.is_claim
        assert vault.claim("app", unit.run_id, unit.id, over=there.etag)
        write_over(vault, unit, "app.db", b"the successor's")
        yield b"second"

    engine.scripts = [Scripted("app.db", late, encoding="none")]
    with pytest.raises(SourceBusy, match="Another invocation began to store app/0000 later"):
        back_up(unit, vault)
    assert vault.get(keys.data("app", unit.run_id, "app.db")) == b"the successor's"
    assert vault.receipt("app", unit.run_id, unit.id) is None
    (failure,) = vault.failures(unit.run_id)
    assert failure.error == "SourceBusy"


def test_what_a_failed_attempt_left_is_written_over_by_the_next(
    vault: Vault, engine: ScriptedEngine, unit: Unit
) -> None:
    def fails() -> Iterator[bytes]:
        yield b""
        raise SourceBusy("locked")

    engine.scripts = [packed("a", b"old"), Scripted("b", fails, encoding="none")]
    with pytest.raises(SourceBusy):
        back_up(unit, vault)
    assert vault.get(keys.data("app", unit.run_id, "a")) == b"old"
    engine.scripts = [packed("a", b"new"), packed("b", b"rows")]
    back_up(unit, vault)
    whole(vault, unit)
    assert vault.get(keys.data("app", unit.run_id, "a")) == b"new"
