"""Plan and seal are the two ends of one run: what one writes down, the other makes true."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NoReturn

import pytest

from stepvault import keys, plan
from stepvault.backup import back_up
from stepvault.catalog import Vault
from stepvault.engines.base import PlanJob, UnitDraft
from stepvault.errors import (
    ConfigInvalid,
    OutOfTime,
    RunNotFound,
    SourceDenied,
    SourceMissing,
    SourcesFailed,
    SourceUnreachable,
    StorageUnavailable,
)
from stepvault.objects import Listed
from stepvault.plan import RunInput, RunRequest
from stepvault.records import Execution, Manifest, StoredObject, Summary, Unit
from stepvault.seal import SealRequest, complain, seal
from stepvault.settings import Config, PostgresSource
from tests.core.streams import Scripted, ScriptedEngine, read_object
from tests.planning import collected, whole_plan

CONFIG = Config.model_validate(
    {
        "sources": [
            {"name": "app", "engine": "sqlite", "path": "/data/app.db"},
            {"name": "docs", "engine": "files", "path": "/data/docs"},
        ]
    }
)


def request(day: int = 22, **run_input: Any) -> RunRequest:
    execution = Execution(name="nightly", started=datetime(2026, 11, day, 3, tzinfo=UTC))
    return RunRequest(execution=execution, input=RunInput(**run_input))


def units_of(vault: Vault, state: dict[str, Any], kind: str) -> list[Unit]:
    lines = read_object(vault, state[kind]["key"]).splitlines()
    assert len(lines) == state[kind]["count"]
    return [Unit.model_validate_json(line) for line in lines]


def run_unit(vault: Vault, engines: dict[str, ScriptedEngine], unit: Unit) -> None:
    if unit.source.engine == "files":
        listing = b"".join(vault.listing(unit.listing)) if unit.listing else b"all\0"
        engines["files"].scripts = [Scripted(f"{unit.id}.tar.zst", lambda: iter([listing]))]
    back_up(unit, vault)


def run_all(vault: Vault, engines: dict[str, ScriptedEngine], state: dict[str, Any]) -> None:
    if "files" not in state:  # what seal hands out again
        state = collected(vault, state)
    for kind in plan.KINDS:
        for unit in units_of(vault, state, kind):
            run_unit(vault, engines, unit)


def sealed(vault: Vault, run: str, **more: Any) -> Summary:
    """The run's summary, written now."""
    summary, state = seal(vault, SealRequest(run_id=run, **more))
    assert state["status"] == "sealed"
    assert summary is not None
    return summary


def latest(vault: Vault, source: str) -> Manifest:
    manifest = vault.latest(source)
    assert manifest is not None
    return manifest


def test_the_plan_has_one_line_per_unit_for_each_map(
    vault: Vault, engines: dict[str, ScriptedEngine]
) -> None:
    state = whole_plan(CONFIG, vault, request())
    assert state["run_id"] == "20261122T030000Z-nightly"
    assert state["attempt"] == 0
    assert [u.source.name for u in units_of(vault, state, "databases")] == ["app"]
    batches = units_of(vault, state, "files")
    assert [(u.id, u.estimated_bytes, u.estimated_files) for u in batches] == [
        ("0000", 20, 2),
        ("0001", 10, 1),
    ]
    assert b"".join(vault.listing(batches[0].listing or "")) == b"a\0b\0"


def test_a_plan_that_was_cut_off_is_made_again(
    vault: Vault, engines: dict[str, ScriptedEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    put = vault.put

    def cut_off(key: str, *args: Any, **more: Any) -> None:
        if key.endswith("plan/files.jsonl"):
            raise StorageUnavailable("S3 answers SlowDown")
        put(key, *args, **more)

    with monkeypatch.context() as patched:
        patched.setattr(vault, "put", cut_off)
        with pytest.raises(StorageUnavailable):
            whole_plan(CONFIG, vault, request())
    state = whole_plan(CONFIG, vault, request())
    assert (state["databases"]["count"], state["files"]["count"]) == (1, 2)


def test_a_source_that_cannot_be_reached_stops_no_other(
    vault: Vault, engines: dict[str, ScriptedEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(job: PlanJob) -> NoReturn:
        raise SourceUnreachable("bucket far-away cannot be read")

    monkeypatch.setattr(engines["files"], "plan", unreachable)
    state = whole_plan(CONFIG, vault, request())
    assert state["databases"]["count"] == 1
    assert [u.id for u in units_of(vault, state, "files")] == ["0000"]


@pytest.mark.parametrize("mistyped", ["20251122T030000Z-nightly", "20261131T030000Z-nightly"])
def test_a_run_to_finish_must_have_begun(
    vault: Vault, engines: dict[str, ScriptedEngine], mistyped: str
) -> None:
    with pytest.raises((RunNotFound, ConfigInvalid), match=mistyped):
        whole_plan(CONFIG, vault, request(run_id=mistyped))
    assert vault.runs() == []


def test_only_the_sources_asked_for_are_planned(
    vault: Vault, engines: dict[str, ScriptedEngine]
) -> None:
    state = whole_plan(CONFIG, vault, request(sources=["docs"]))
    assert (state["databases"]["count"], state["files"]["count"]) == (0, 2)
    assert vault.get(state["databases"]["key"]) == b""


def test_an_unknown_source_names_the_nearest(vault: Vault) -> None:
    with pytest.raises(ConfigInvalid, match=r"'dosc' is configured\. Did you mean 'docs'"):
        whole_plan(CONFIG, vault, request(sources=["dosc"]))


def test_a_run_id_that_is_none_is_refused(vault: Vault) -> None:
    with pytest.raises(ConfigInvalid, match="'yesterday' is not a run id"):
        whole_plan(CONFIG, vault, request(run_id="yesterday"))


@pytest.mark.parametrize(("own", "planned"), [(None, 7), (2, 2)])
def test_a_database_that_names_no_connections_gets_those_of_the_limits(
    vault: Vault, engines: dict[str, ScriptedEngine], own: int | None, planned: int
) -> None:
    source = {"name": "shop", "engine": "postgres", "connection": {"secret": "prod/shop"}}
    config = Config.model_validate(
        {"sources": [source | ({"connections": own} if own else {})], "limits": {"connections": 7}}
    )
    engines["postgres"] = ScriptedEngine([])
    state = whole_plan(config, vault, request())
    (unit,) = units_of(vault, state, "databases")
    assert isinstance(unit.source, PostgresSource)
    assert unit.source.connections == planned


def test_a_source_that_cannot_be_planned_stops_no_sibling(
    vault: Vault, engines: dict[str, ScriptedEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(job: PlanJob) -> Iterator[UnitDraft]:
        raise SourceMissing("/data/docs does not exist")
        yield

    monkeypatch.setattr(engines["files"], "plan", missing)
    state = whole_plan(CONFIG, vault, request())
    assert state["databases"]["count"] == 1
    (whole,) = units_of(vault, state, "files")
    assert whole.listing is None


def test_a_whole_run_is_sealed_with_one_manifest_per_source(
    vault: Vault, engines: dict[str, ScriptedEngine]
) -> None:
    state = whole_plan(CONFIG, vault, request(schedule="nightly"))
    run_all(vault, engines, state)
    summary = sealed(vault, state["run_id"], input=RunInput(schedule="nightly"))
    complain(summary)
    assert {(r.source, r.status, r.units_done) for r in summary.sources} == {
        ("app", "sealed", 1),
        ("docs", "sealed", 2),
    }
    manifest = vault.manifest("docs", state["run_id"])
    assert [o.name for o in manifest.objects] == ["0000.tar.zst", "0001.tar.zst"]
    assert manifest.raw_bytes == sum(o.raw_bytes for o in manifest.objects) == 6
    assert manifest.config["path"] == "/data/docs"
    assert latest(vault, "app").rows == 3
    assert vault.summary(state["run_id"]) == summary
    assert summary.schedule == "nightly"


def test_what_has_no_manifest_is_not_a_backup(
    vault: Vault, engines: dict[str, ScriptedEngine]
) -> None:
    state = whole_plan(CONFIG, vault, request())
    run_all(vault, engines, state)
    assert vault.latest("docs") is None
    assert vault.sealed_runs("docs") == []
    with pytest.raises(RunNotFound, match="No sealed backup of 'docs'"):
        vault.manifest("docs", state["run_id"])


def test_a_failed_source_is_named_while_the_others_are_sealed(
    vault: Vault, engines: dict[str, ScriptedEngine]
) -> None:
    state = whole_plan(CONFIG, vault, request())
    run_unit(vault, engines, units_of(vault, state, "databases")[0])
    first, second = units_of(vault, state, "files")
    run_unit(vault, engines, first)
    engines["files"].fails_to_open = SourceDenied("/data/docs/key may not be read")
    with pytest.raises(SourceDenied):
        back_up(second, vault)
    summary = sealed(vault, state["run_id"])
    with pytest.raises(
        SourcesFailed, match=r"1 of 2 .*docs \(1 of 2 units done\).*SourceDenied.*may not be read"
    ):
        complain(summary)
    assert vault.latest("app") is not None
    assert vault.latest("docs") is None


def test_a_killed_function_is_reported_and_its_open_upload_aborted(
    vault: Vault, engines: dict[str, ScriptedEngine]
) -> None:
    from stepvault import storage

    state = whole_plan(CONFIG, vault, request())
    key = keys.data("app", state["run_id"], "app.zst")
    storage.client().create_multipart_upload(Bucket=vault.bucket, Key=key)
    summary = sealed(vault, state["run_id"])
    app = next(r for r in summary.sources if r.source == "app")
    assert [f.error for f in app.failures] == ["Killed"]
    assert vault.open_uploads("") == []


def test_an_object_that_vanished_after_its_receipt_keeps_the_source_unsealed(
    vault: Vault, engines: dict[str, ScriptedEngine]
) -> None:
    state = whole_plan(CONFIG, vault, request())
    run_all(vault, engines, state)
    vault.put(keys.data("app", state["run_id"], "app.zst"), b"short")
    summary = sealed(vault, state["run_id"])
    app = next(r for r in summary.sources if r.source == "app")
    assert app.status == "failed"
    assert "app.zst was stored with" in app.failures[0].message
    assert vault.latest("app") is None


def lean_on_the_run_before(
    vault: Vault, engines: dict[str, ScriptedEngine], **run_input: Any
) -> tuple[dict[str, Any], list[StoredObject], dict[str, Any]]:
    """A sealed run, the objects of ``docs`` in it, and one not sealed yet that references them."""
    first = whole_plan(CONFIG, vault, request())
    run_all(vault, engines, first)
    seal(vault, SealRequest(run_id=first["run_id"]))
    packs = vault.manifest("docs", first["run_id"]).objects
    engines["files"].references = [o.model_copy(update={"run_id": first["run_id"]}) for o in packs]
    second = whole_plan(CONFIG, vault, request(day=23, **run_input))
    run_all(vault, engines, second)
    return first, packs, second


@pytest.mark.parametrize("now_there", [None, b"cut"])
def test_a_run_whose_earlier_packs_are_gone_is_not_sealed(
    vault: Vault, engines: dict[str, ScriptedEngine], now_there: bytes | None
) -> None:
    first, packs, second = lean_on_the_run_before(vault, engines)
    vault.delete([keys.data("docs", first["run_id"], packs[0].name)])
    if now_there:
        vault.put(keys.data("docs", first["run_id"], packs[0].name), now_there)
    summary = sealed(vault, second["run_id"])
    docs = next(r for r in summary.sources if r.source == "docs")
    assert [f.error for f in docs.failures] == ["BackupTampered"] * 2  # one for each unit
    assert f"{packs[0].name} of run {first['run_id']}" in docs.failures[0].message
    with pytest.raises(SourcesFailed, match=r"incremental = false.*start a new run\.$"):
        complain(summary)
    assert second["run_id"] not in vault.sealed_runs("docs")


def test_earlier_packs_are_looked_for_with_one_request_per_run(
    vault: Vault, engines: dict[str, ScriptedEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _, second = lean_on_the_run_before(vault, engines, sources=["docs"])
    asked: list[str] = []
    entries = vault.entries

    def counted(prefix: str) -> Iterator[Listed]:
        asked.append(prefix)
        return entries(prefix)

    monkeypatch.setattr(vault, "entries", counted)
    seal(vault, SealRequest(run_id=second["run_id"]))
    of_data = [prefix for prefix in asked if prefix.endswith("/data/")]
    runs = (first["run_id"], second["run_id"])
    assert sorted(of_data) == [keys.data_prefix("docs", run) for run in runs]


def fail_second_batch(
    vault: Vault, engines: dict[str, ScriptedEngine], state: dict[str, Any]
) -> Unit:
    run_unit(vault, engines, units_of(vault, state, "databases")[0])
    first, second = units_of(vault, state, "files")
    run_unit(vault, engines, first)
    summary = sealed(vault, state["run_id"])
    with pytest.raises(SourcesFailed):
        complain(summary)
    return second


def test_a_redriven_seal_hands_out_only_what_is_missing_and_then_seals(
    vault: Vault, engines: dict[str, ScriptedEngine]
) -> None:
    state = whole_plan(CONFIG, vault, request())
    missing = fail_second_batch(vault, engines, state)
    summary, again = seal(vault, SealRequest(run_id=state["run_id"], redrive_count=1))
    assert summary is None
    assert (again["status"], again["attempt"]) == ("incomplete", 1)
    again = collected(vault, again)
    assert (again["databases"]["count"], again["files"]["count"]) == (0, 1)
    assert units_of(vault, again, "files") == [missing]
    run_all(vault, engines, again)
    complain(sealed(vault, state["run_id"], attempt=1, redrive_count=1))
    assert len(vault.manifest("docs", state["run_id"]).objects) == 2


def test_a_redrive_that_changed_nothing_fails_again(
    vault: Vault, engines: dict[str, ScriptedEngine]
) -> None:
    state = whole_plan(CONFIG, vault, request())
    fail_second_batch(vault, engines, state)
    seal(vault, SealRequest(run_id=state["run_id"], redrive_count=1))
    with pytest.raises(SourcesFailed, match="docs"):
        complain(sealed(vault, state["run_id"], attempt=1, redrive_count=1))
    summary, again = seal(vault, SealRequest(run_id=state["run_id"], attempt=1, redrive_count=2))
    assert (summary, again["status"], again["attempt"]) == (None, "incomplete", 2)


def test_a_new_execution_with_the_same_run_id_plans_only_what_is_missing(
    vault: Vault, engines: dict[str, ScriptedEngine]
) -> None:
    state = whole_plan(CONFIG, vault, request())
    missing = fail_second_batch(vault, engines, state)
    again = whole_plan(CONFIG, vault, request(run_id=state["run_id"]))
    assert again["run_id"] == state["run_id"]
    assert units_of(vault, again, "files") == [missing]
    assert (vault.units(state["run_id"]) or [])[1:] == units_of(vault, state, "files")
    run_all(vault, engines, again)
    summary = sealed(vault, state["run_id"])
    complain(summary)


def test_sealing_twice_changes_nothing(vault: Vault, engines: dict[str, ScriptedEngine]) -> None:
    state = whole_plan(CONFIG, vault, request())
    run_all(vault, engines, state)
    seal(vault, SealRequest(run_id=state["run_id"]))
    first = vault.manifest("docs", state["run_id"])
    seal(vault, SealRequest(run_id=state["run_id"]))
    assert vault.manifest("docs", state["run_id"]) == first


def test_sealing_a_run_that_was_never_planned_says_so(vault: Vault) -> None:
    with pytest.raises(RunNotFound, match="20260101T000000Z-x"):
        seal(vault, SealRequest(run_id="20260101T000000Z-x"))


def test_an_optional_source_that_is_away_is_skipped_without_failing_the_run(
    vault: Vault, engines: dict[str, ScriptedEngine]
) -> None:
    sources = [CONFIG.sources[0].model_copy(update={"optional": True}), CONFIG.sources[1]]
    state = whole_plan(CONFIG.model_copy(update={"sources": sources}), vault, request())
    engines["sqlite"].fails_to_open = SourceMissing("/data/app.db does not exist")
    run_all(vault, engines, state)
    summary = sealed(vault, state["run_id"])
    complain(summary)
    app = next(r for r in summary.sources if r.source == "app")
    assert (app.status, app.warnings) == ("skipped", ["/data/app.db does not exist"])
    assert vault.latest("app") is None


def test_databases_are_handed_out_before_any_tree_is_looked_at(
    vault: Vault, engines: dict[str, ScriptedEngine]
) -> None:
    state = plan.plan(CONFIG, vault, request())

    (unit,) = units_of(vault, state, "databases")
    assert back_up(unit, vault).source == "app"
    assert state["planning"]["count"] == 1
    assert vault.units(state["run_id"]) is None
    assert [u.source.name for u in vault.units_so_far(state["run_id"])] == ["app"]


def test_a_source_whose_planning_was_cut_off_fails_alone_and_is_planned_again(
    vault: Vault, engines: dict[str, ScriptedEngine]
) -> None:
    state = plan.plan(CONFIG, vault, request())  # and Lambda ends plan_source before it is done
    state |= plan.collect_units(vault, plan.CollectRequest(run_id=state["run_id"]))
    (cut_off,) = units_of(vault, state, "files")
    with pytest.raises(OutOfTime, match="Planning docs was cut off"):
        back_up(cut_off, vault)
    for unit in units_of(vault, state, "databases"):
        back_up(unit, vault)
    summary = sealed(vault, state["run_id"])
    assert {r.source: r.status for r in summary.sources} == {"app": "sealed", "docs": "failed"}

    again = whole_plan(CONFIG, vault, request(run_id=state["run_id"]))
    assert again["databases"]["count"] == 0
    assert [u.id for u in units_of(vault, again, "files")] == ["0000", "0001"]
    run_all(vault, engines, again)
    summary = sealed(vault, state["run_id"])
    assert {r.source: r.status for r in summary.sources} == {"app": "sealed", "docs": "sealed"}


def test_a_source_without_a_file_has_a_plan_of_no_units_or_of_its_root(
    vault: Vault, engines: dict[str, ScriptedEngine]
) -> None:
    engines["files"].planned = []
    state = whole_plan(CONFIG, vault, request())

    assert units_of(vault, state, "files") == []
