"""Records in the vault that are not what Stepvault wrote: one error, and one source's loss."""

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from stepvault import catalog, keys, plan
from stepvault.backup import back_up
from stepvault.catalog import RECORD_BYTES, Vault
from stepvault.errors import BackupTampered, RunNotFound, SourcesFailed, StepvaultError
from stepvault.prune import prune
from stepvault.records import Failure, Manifest, Receipt, Record, StoredObject, Summary, Unit
from stepvault.restore import RestoreRequest, restore_here
from stepvault.seal import SealRequest, complain, seal
from stepvault.settings import TargetSettings
from tests.core.streams import Scripted, ScriptedEngine, read_object, unit
from tests.core.test_plan_and_seal import (
    CONFIG,
    request,
    run_all,
    run_unit,
    sealed,
    units_of,
)
from tests.planning import collected, whole_plan

CUTS: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda body: body[:-20],
    "emptied": lambda body: b"",
    "no JSON": lambda body: b"\xff\xfe\x00" * 30,
    "a list": lambda body: b"[" * 5000 + b"]" * 5000,
    "other fields": lambda body: b'{"something": "else", "altogether": [1, 2, 3]}',
    "wrong types": lambda body: body.replace(b'"objects":[', b'"objects":{"a":[').replace(
        b"]", b"]}"
    ),
}


def damage(vault: Vault, key: str, edit: Callable[[bytes], bytes]) -> None:
    vault.put(key, edit(read_object(vault, key)))


@pytest.fixture
def whole(vault: Vault, engines: dict[str, ScriptedEngine]) -> str:
    """A run whose units are all stored, not sealed yet."""
    state = whole_plan(CONFIG, vault, request())
    run_all(vault, engines, state)
    return str(state["run_id"])


def redriven(vault: Vault, run: str) -> dict[str, Any]:
    """Where the units are that a redrive of the failed seal does again."""
    summary, state = seal(vault, SealRequest(run_id=run, redrive_count=1))
    assert summary is None
    return collected(vault, state)


def statuses(summary: Summary) -> dict[str, str]:
    return {result.source: result.status for result in summary.sources}


def reasons(summary: Summary, source: str) -> str:
    (result,) = (r for r in summary.sources if r.source == source)
    return " ".join(failure.message for failure in result.failures)


# --- receipts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("edit", CUTS.values(), ids=CUTS)
def test_a_receipt_that_cannot_be_read_costs_its_own_source_and_a_redrive_mends_it(
    vault: Vault,
    engines: dict[str, ScriptedEngine],
    whole: str,
    edit: Callable[[bytes], bytes],
) -> None:
    damage(vault, keys.receipt("docs", whole, "0001"), edit)
    summary = sealed(vault, whole)
    assert statuses(summary) == {"app": "sealed", "docs": "failed"}
    assert vault.sealed_runs("docs") == []
    state = redriven(vault, whole)
    assert [u.id for u in units_of(vault, state, "files")] == ["0001"]
    assert state["databases"]["count"] == 0
    run_all(vault, engines, state)
    complain(sealed(vault, whole))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"run_id": "20250101T000000Z-other"}, "it is the receipt of docs/0001 in run 20250101"),
        ({"source": "app"}, "it is the receipt of app/0001"),
        ({"unit": "0000"}, "it is the receipt of docs/0000"),
        ({"objects": []}, "names no object"),
    ],
)
def test_a_receipt_of_something_else_proves_nothing(
    vault: Vault,
    engines: dict[str, ScriptedEngine],
    whole: str,
    changed: dict[str, Any],
    told: str,
) -> None:
    key = keys.receipt("docs", whole, "0001")
    damage(vault, key, lambda body: json.dumps(json.loads(body) | changed).encode())
    summary = sealed(vault, whole)
    assert statuses(summary) == {"app": "sealed", "docs": "failed"}
    assert told in reasons(summary, "docs")
    state = redriven(vault, whole)
    assert [u.id for u in units_of(vault, state, "files")] == ["0001"]
    run_all(vault, engines, state)  # the unit is stored again, not taken for stored
    complain(sealed(vault, whole))


def test_a_unit_whose_object_was_written_over_runs_again_in_a_redrive(
    vault: Vault,
    engines: dict[str, ScriptedEngine],
    whole: str,
) -> None:
    vault.put(keys.data("docs", whole, "0000.tar.zst"), b"rubbish")
    summary = sealed(vault, whole)
    with pytest.raises(SourcesFailed, match=r"docs.*0000.tar.zst.*redrive this execution"):
        complain(summary)
    state = redriven(vault, whole)
    assert [u.id for u in units_of(vault, state, "files")] == ["0000"]
    run_all(vault, engines, state)
    complain(sealed(vault, whole))


def test_a_backup_sealed_before_and_damaged_since_asks_for_a_new_run(
    vault: Vault,
    engines: dict[str, ScriptedEngine],
    whole: str,
) -> None:
    complain(sealed(vault, whole))
    vault.put(keys.data("docs", whole, "0000.tar.zst"), b"rubbish")
    engines["files"].scripts = [Scripted("0000.tar.zst", lambda: iter([b"the files of today"]))]
    state = redriven(vault, whole)
    (again,) = units_of(vault, state, "files")
    back_up(again, vault)
    with pytest.raises(SourcesFailed, match="A redrive does not help: start a new run"):
        complain(sealed(vault, whole))


def test_an_object_under_a_claim_is_no_receipt(vault: Vault, whole: str) -> None:
    vault.delete([keys.receipt("docs", whole, "0001")])
    vault.claim("docs", whole, "0001", over=None)
    assert vault.receipt_ids("docs", whole) == {"0000"}
    assert vault.receipt("docs", whole, "0001") is None
    assert [r.unit for r in vault.receipts("docs", whole)] == ["0000"]
    summary = sealed(vault, whole)
    assert "left neither receipt nor error" in reasons(summary, "docs")


def test_a_source_of_which_one_unit_was_skipped_is_not_sealed(
    vault: Vault,
    engines: dict[str, ScriptedEngine],
    whole: str,
) -> None:
    key = keys.receipt("docs", whole, "0001")
    skipped = {"skipped": "/data/docs does not exist", "objects": []}
    damage(vault, key, lambda body: json.dumps(json.loads(body) | skipped).encode())
    summary = sealed(vault, whole)
    assert statuses(summary) == {"app": "sealed", "docs": "failed"}
    assert "/data/docs does not exist" in reasons(summary, "docs")
    assert vault.sealed_runs("docs") == []


# --- the plan, failures, summaries, manifests --------------------------------------------------


def test_an_empty_plan_is_no_success(vault: Vault) -> None:
    plan.hand_out(vault, "20261122T030000Z-x", [], attempt=0)
    vault.put_lines(keys.plan("20261122T030000Z-x", "files"), [])
    with pytest.raises(RunNotFound, match="names no unit: nothing was backed up"):
        seal(vault, SealRequest(run_id="20261122T030000Z-x"))
    assert vault.summary("20261122T030000Z-x") is None


@pytest.mark.parametrize("edit", CUTS.values(), ids=CUTS)
def test_a_plan_that_cannot_be_read_is_named(
    vault: Vault, whole: str, edit: Callable[[bytes], bytes]
) -> None:
    key = keys.plan(whole, "files")
    damage(vault, key, edit)
    if edit is CUTS["emptied"]:  # no line, no unit: of files there was nothing to do
        assert statuses(sealed(vault, whole)) == {"app": "sealed"}
        return
    with pytest.raises(BackupTampered, match=f"'{key}' is not what Stepvault wrote"):
        seal(vault, SealRequest(run_id=whole))


def test_a_line_of_another_runs_plan_is_refused(vault: Vault, whole: str) -> None:
    key = keys.plan(whole, "files")
    damage(vault, key, lambda body: body.replace(whole.encode(), b"20250101T000000Z-other"))
    with pytest.raises(BackupTampered, match="is of run '20250101T000000Z-other'"):
        seal(vault, SealRequest(run_id=whole))


@pytest.mark.parametrize("edit", CUTS.values(), ids=CUTS)
def test_a_failure_record_that_cannot_be_read_stops_nothing(
    vault: Vault,
    engines: dict[str, ScriptedEngine],
    edit: Callable[[bytes], bytes],
) -> None:
    state = whole_plan(CONFIG, vault, request())
    run = state["run_id"]
    run_unit(vault, engines, units_of(vault, state, "databases")[0])
    vault.put_failure(run, failure := Failure.model_validate(FAILURE))
    damage(vault, keys.failure(run, failure.source, failure.unit), edit)
    summary = sealed(vault, run)
    assert statuses(summary) == {"app": "sealed", "docs": "failed"}


FAILURE = {
    "source": "docs",
    "unit": "0000",
    "error": "SourceBusy",
    "message": "it is busy",
    "at": "2026-11-22T03:00:00Z",
}


@pytest.mark.parametrize("edit", CUTS.values(), ids=CUTS)
def test_a_manifest_that_cannot_be_read_is_named_and_stops_no_other_source(
    vault: Vault,
    engines: dict[str, ScriptedEngine],
    whole: str,
    edit: Callable[[bytes], bytes],
) -> None:
    sealed(vault, whole)
    key = keys.manifest("docs", whole)
    damage(vault, key, edit)
    target = TargetSettings(name="back", path="/nowhere")
    reads: list[Callable[[], object]] = [
        lambda: vault.manifest("docs", whole),
        lambda: vault.latest("docs"),
        lambda: restore_here(vault, RestoreRequest(source="docs", target=target)),
    ]
    for read in reads:
        with pytest.raises(BackupTampered, match=f"'{key}' is not what Stepvault wrote"):
            read()
    later = whole_plan(CONFIG, vault, request(day=23))  # a plan needs nothing of it
    assert later["files"]["count"] == 2
    again = sealed(vault, whole)
    assert statuses(again) == {"app": "sealed", "docs": "failed"}


def test_a_manifest_of_another_backup_is_refused(
    vault: Vault,
    engines: dict[str, ScriptedEngine],
    whole: str,
) -> None:
    sealed(vault, whole)
    vault.put(keys.manifest("docs", whole), read_object(vault, keys.manifest("app", whole)))
    with pytest.raises(BackupTampered, match="it is of 'app'"):
        vault.manifest("docs", whole)


def test_prune_leaves_a_source_alone_whose_manifest_cannot_be_read_and_does_the_others(
    vault: Vault,
    engines: dict[str, ScriptedEngine],
) -> None:
    runs = []
    for day in (1, 2, 3):
        state = whole_plan(CONFIG, vault, request(day=day))
        run_all(vault, engines, state)
        sealed(vault, state["run_id"])
        runs.append(state["run_id"])
    damage(vault, keys.manifest("docs", runs[-1]), CUTS["cut"])
    config = CONFIG.model_copy(
        update={"retention": CONFIG.retention.model_copy(update={"keep_last": 1})}
    )
    app, docs = prune(vault, config, dry_run=False)
    assert app.removed == runs[:2]
    assert docs.removed == []
    assert docs.left_alone
    assert keys.manifest("docs", runs[-1]) in docs.left_alone
    assert vault.sealed_runs("docs") == runs


@pytest.mark.parametrize("name", ["summary", "plan"])
def test_prune_goes_on_though_a_runs_record_cannot_be_read(
    vault: Vault,
    engines: dict[str, ScriptedEngine],
    whole: str,
    name: str,
) -> None:
    sealed(vault, whole)
    if name == "summary":
        damage(vault, keys.summary(whole), CUTS["cut"])
    else:
        vault.delete([keys.summary(whole)])
        damage(vault, keys.plan(whole, "files"), CUTS["cut"])
    assert [p.source for p in prune(vault, CONFIG, dry_run=False)] == ["app", "docs"]


# --- sizes -------------------------------------------------------------------------------------


def test_an_absurd_size_in_a_record_takes_no_memory(vault: Vault) -> None:
    stored = StoredObject(
        name="a.zst",
        raw_bytes=10**18,
        stored_bytes=10**18,
        raw_sha256="",
        stored_sha256="",
        encoding="zstd",
    )
    run = "20261122T030000Z-x"
    vault.put(keys.data("shop", run, "a.zst"), b"small")
    with pytest.raises(BackupTampered, match="missing or shorter"):
        next(vault.read("shop", run, stored))


def test_a_record_larger_than_any_is_refused_before_it_is_read(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "RECORD_BYTES", 1000)
    vault.put(keys.summary("20261122T030000Z-x"), b" " * 2000)
    with pytest.raises(BackupTampered, match="it has 2,000 bytes"):
        vault.summary("20261122T030000Z-x")
    assert RECORD_BYTES >= 100 << 20  # a manifest of a million objects


# --- fuzzed ------------------------------------------------------------------------------------

_VALUES: list[Any] = [
    None, True, -1, 10**18, 10**400, 1e308, "", "\x00", "\ud800", "../..", [], {}, [[]], "x" * 10_000,
]  # fmt: skip


def mutated(rng: random.Random, body: bytes) -> bytes:
    """A record that differs from a valid one in its bytes or its values."""
    match rng.randrange(4):
        case 0:
            return body[: rng.randrange(len(body))]
        case 1:
            at = rng.randrange(len(body))
            return body[:at] + rng.randbytes(rng.randrange(1, 8)) + body[at + rng.randrange(8) :]
        case 2:
            at = rng.randrange(len(body))
            return body[:at] + body[at:] * 2
    value = json.loads(body)
    holder, part = value, rng.choice([*value])
    while isinstance(holder[part], dict | list) and holder[part] and rng.random() < 0.7:
        holder = holder[part]
        part = rng.choice([*holder]) if isinstance(holder, dict) else rng.randrange(len(holder))
    holder[part] = rng.choice(_VALUES)
    return json.dumps(value).encode(errors="surrogatepass")


def valid_records(vault: Vault, run: str) -> dict[type[Record], bytes]:
    summary = sealed(vault, run)
    assert summary
    return {
        Manifest: read_object(vault, keys.manifest("docs", run)),
        Summary: read_object(vault, keys.summary(run)),
        Receipt: read_object(vault, keys.receipt("docs", run, "0000")),
        Unit: read_object(vault, keys.plan(run, "files")).splitlines()[0],
        Failure: json.dumps(FAILURE).encode(),
    }


def test_a_fuzzed_record_is_read_or_refused_by_our_error(vault: Vault, whole: str) -> None:
    rng, refused = random.Random(13), 0
    records = valid_records(vault, whole)
    for _ in range(4000):
        model, body = rng.choice([*records.items()])
        try:
            catalog._parse("key", model, mutated(rng, body))
        except BackupTampered:
            refused += 1
    assert 1000 < refused < 3900


def test_a_fuzzed_receipt_never_stops_the_other_source(
    vault: Vault,
    engines: dict[str, ScriptedEngine],
    whole: str,
) -> None:
    rng, key = random.Random(14), keys.receipt("docs", whole, "0001")
    body = read_object(vault, key)
    for _ in range(40):
        vault.put(key, mutated(rng, body))
        summary = sealed(vault, whole)
        assert statuses(summary)["app"] == "sealed"
        assert (statuses(summary)["docs"] == "failed") == bool(reasons(summary, "docs"))
        vault.delete([keys.manifest("docs", whole)])


def test_a_fuzzed_manifest_is_restored_verified_or_refused(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ScriptedEngine([Scripted("a.zst", lambda: iter([b"rows"]))])
    monkeypatch.setattr("stepvault.engines.find", lambda name: engine)
    state = plan.hand_out(vault, unit().run_id, [unit()], attempt=0)
    vault.put_lines(keys.plan(unit().run_id, "files"), [])
    back_up(unit(), vault)
    sealed(vault, state["run_id"])
    key = keys.manifest("shop", unit().run_id)
    rng, body = random.Random(15), read_object(vault, key)
    for _ in range(100):
        vault.put(key, mutated(rng, body))
        try:
            manifest = vault.manifest("shop", unit().run_id)
            for stored in manifest.objects:
                b"".join(vault.read("shop", manifest.run_id, stored))
        except StepvaultError:
            pass
