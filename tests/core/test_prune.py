from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from devtools.faults import Fault, Proxy, Request, at
from stepvault import keys
from stepvault.catalog import Vault
from stepvault.deadline import Deadline
from stepvault.errors import StorageUnavailable
from stepvault.keys import run_id
from stepvault.prune import PruneRequest, prune
from stepvault.records import Manifest, Receipt, SourceResult, StoredObject, Summary, Unit
from stepvault.seal import SealRequest, seal
from stepvault.settings import Config

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def config(**retention: Any) -> Config:
    return Config.model_validate(
        {
            "sources": [{"name": "docs", "engine": "files", "path": "/data/docs"}],
            "retention": retention,
        }
    )


def run_of(days_ago: float) -> str:
    return run_id(NOW - timedelta(days=days_ago), "r")


def stored(name: str, run: str | None = None) -> StoredObject:
    return StoredObject(
        name=name,
        run_id=run,
        raw_bytes=4,
        stored_bytes=4,
        raw_sha256="",
        stored_sha256="",
        encoding="none",
    )


def put_backup(
    vault: Vault, days_ago: float, *, leans_on: str | None = None, sealed: bool = True
) -> str:
    run = run_of(days_ago)
    vault.put(keys.data("docs", run, "0000.tar.zst"), b"pack")
    vault.put(keys.receipt("docs", run, "0000"), b"{}")
    objects = [stored("0000.tar.zst")]
    if leans_on:
        objects.append(stored("0000.tar.zst", leans_on))
    if sealed:
        manifest = Manifest(
            tool_version="0",
            run_id=run,
            source="docs",
            engine="files",
            started=NOW,
            sealed=NOW,
            config={},
            config_sha256="",
            raw_bytes=4,
            stored_bytes=4,
            units=[],
            objects=objects,
        )
        vault.put_manifest(manifest)
    return run


def put_receipt(vault: Vault, run: str, unit: str, *objects: StoredObject) -> None:
    """A unit that is done, with its own objects."""
    for one in objects:
        if one.run_id is None:
            vault.put(keys.data("docs", run, one.name), b"pack")
    vault.put_receipt(
        Receipt(
            tool_version="0",
            run_id=run,
            source="docs",
            engine="files",
            unit=unit,
            started=NOW,
            ended=NOW,
            objects=list(objects),
        )
    )


def plan_run(vault: Vault, days_ago: float) -> str:
    """A run of two units: one of what has not changed, one of the rest."""
    run = run_of(days_ago)
    units = [Unit(run_id=run, id=i, source=config().sources[0]) for i in ("carried", "0000")]
    vault.put_lines(keys.plan(run, "files"), units)
    vault.put_lines(keys.plan(run, "databases"), [])
    return run


def status_of_seal(vault: Vault, run: str) -> str:
    summary, _ = seal(vault, SealRequest(run_id=run))
    assert summary is not None
    return summary.sources[0].status


def everything(vault: Vault) -> set[str]:
    return {e.key for e in vault.entries("")}


def test_a_dry_run_says_what_would_go_and_removes_nothing(vault: Vault) -> None:
    runs = [put_backup(vault, days) for days in (3, 2, 1)]
    before = everything(vault)
    (docs,) = prune(vault, config(keep_last=1), now=NOW)
    assert (docs.removed, docs.kept, docs.objects, docs.bytes) == (runs[:2], 1, 6, 12)
    assert everything(vault) == before


def test_an_event_that_does_not_say_so_removes_nothing() -> None:
    assert PruneRequest().dry_run


def test_what_retention_lets_go_is_gone_and_the_rest_is_whole(vault: Vault) -> None:
    runs = [put_backup(vault, days) for days in (3, 2, 1)]
    prune(vault, config(keep_last=1), dry_run=False, now=NOW)
    assert vault.backup_runs("docs") == runs[2:]
    assert len(everything(vault)) == 3


def test_without_a_rule_nothing_goes(vault: Vault) -> None:
    for days in (1000, 500):
        put_backup(vault, days)
    before = everything(vault)
    (docs,) = prune(vault, config(), dry_run=False, now=NOW)
    assert (docs.removed, docs.kept) == ([], 2)
    assert everything(vault) == before


def test_the_newest_sealed_backup_stays_even_if_newer_ones_failed(vault: Vault) -> None:
    old = put_backup(vault, 100)
    put_backup(vault, 50, sealed=False)
    prune(vault, config(max_age_days=1), dry_run=False, now=NOW)
    assert vault.sealed_runs("docs") == [old]


def test_things_that_are_not_ours_stay(vault: Vault) -> None:
    put_backup(vault, 3)
    put_backup(vault, 1)
    foreign = {"backups/docs/notes.txt", "backups/docs/old/data/x", "backups/other/x/y", "top"}
    for key in foreign:
        vault.put(key, b"mine")
    prune(vault, config(keep_last=1), dry_run=False, now=NOW)
    assert foreign <= everything(vault)


def test_a_pack_that_a_later_backup_leans_on_outlives_its_own(vault: Vault) -> None:
    first = put_backup(vault, 3)
    last = put_backup(vault, 1, leans_on=first)
    prune(vault, config(keep_last=1), dry_run=False, now=NOW)
    pack = keys.data("docs", first, "0000.tar.zst")
    assert vault.sealed_runs("docs") == [last]
    assert pack in everything(vault)
    assert keys.receipt("docs", first, "0000") not in everything(vault)


def test_that_pack_goes_once_nothing_leans_on_it(vault: Vault) -> None:
    first = put_backup(vault, 40)
    put_backup(vault, 30, leans_on=first)
    newest = put_backup(vault, 2)
    prune(vault, config(keep_last=1), dry_run=False, now=NOW)
    assert vault.backup_runs("docs") == [newest]


def test_leftovers_of_a_failed_run_go_when_it_cannot_be_redriven_any_more(vault: Vault) -> None:
    failed = put_backup(vault, 20, sealed=False)
    recent = put_backup(vault, 5, sealed=False)
    newest = put_backup(vault, 2)
    prune(vault, config(keep_last=5), dry_run=False, now=NOW)
    assert vault.backup_runs("docs") == [recent, newest]
    assert failed not in vault.backup_runs("docs")


def test_leftovers_newer_than_the_newest_backup_stay(vault: Vault) -> None:
    put_backup(vault, 20)
    failed = put_backup(vault, 16, sealed=False)
    before = everything(vault)
    prune(vault, config(keep_last=1), dry_run=False, now=NOW)
    assert everything(vault) == before
    assert failed in vault.backup_runs("docs")


def test_a_backup_ends_with_its_manifest_before_its_data(vault: Vault, proxy: Proxy) -> None:
    gone, kept = (put_backup(vault, days) for days in (3, 1))
    deletions = iter(range(100))

    def choose(request: Request) -> Fault | None:
        second = request.operation == "DeleteObjects" and next(deletions) > 0
        return "busy" if second else None

    proxy.choose = choose
    with pytest.raises(StorageUnavailable):
        prune(vault.within(Deadline(30)), config(keep_last=1), dry_run=False, now=NOW)
    assert vault.sealed_runs("docs") == [kept]
    assert keys.data("docs", gone, "0000.tar.zst") in everything(vault)
    proxy.choose = lambda _: None
    assert vault.backup_runs("docs") == [gone, kept]


def test_an_object_that_s3_does_not_remove_is_told(vault: Vault, proxy: Proxy) -> None:
    put_backup(vault, 3)
    kept = put_backup(vault, 1)
    proxy.choose = at("DeleteObjects", "partly")
    with pytest.raises(StorageUnavailable, match=r"did not remove 'one' \(InternalError\)"):
        prune(vault, config(keep_last=1), dry_run=False, now=NOW)
    assert vault.latest("docs")
    prune(vault, config(keep_last=1), dry_run=False, now=NOW)
    assert vault.backup_runs("docs") == [kept]


@pytest.mark.parametrize("state", ["planning", "failed"])
def test_while_a_run_is_under_way_nothing_it_may_lean_on_goes(vault: Vault, state: str) -> None:
    put_backup(vault, 3)
    put_backup(vault, 2)
    running = run_of(0.01)
    vault.put(keys.request(running), b"{}")
    if state == "failed":
        result = SourceResult(source="docs", engine="files", status="failed", units=2, units_done=1)
        vault.put_summary(
            Summary(tool_version="0", run_id=running, started=NOW, ended=NOW, sources=[result])
        )
    before = everything(vault)
    (docs,) = prune(vault, config(keep_last=1), dry_run=False, now=NOW)
    assert docs.left_alone
    assert running in docs.left_alone
    assert everything(vault) == before


def test_a_run_that_never_got_a_plan_does_not_stop_pruning_for_long(vault: Vault) -> None:
    put_backup(vault, 3)
    put_backup(vault, 2)
    vault.put(keys.request(run_of(0.5)), b"{}")
    (docs,) = prune(vault, config(keep_last=1), dry_run=False, now=NOW)
    assert (docs.left_alone, len(docs.removed)) == (None, 1)


def test_a_run_that_ended_well_does_not_stop_pruning(vault: Vault) -> None:
    put_backup(vault, 3)
    put_backup(vault, 0.01)
    result = SourceResult(source="docs", engine="files", status="sealed", units=1, units_done=1)
    vault.put_summary(
        Summary(tool_version="0", run_id=run_of(0.01), started=NOW, ended=NOW, sources=[result])
    )
    (docs,) = prune(vault, config(keep_last=1), dry_run=False, now=NOW)
    assert docs.left_alone is None
    assert len(docs.removed) == 1


def test_packs_stay_though_the_source_has_another_engine_now(vault: Vault) -> None:
    first = put_backup(vault, 9)
    put_backup(vault, 8, leans_on=first)
    put_backup(vault, 1)
    other = Config.model_validate(
        {
            "sources": [{"name": "docs", "engine": "sqlite", "path": "/data/docs.db"}],
            "retention": {"keep_last": 2},
        }
    )
    (docs,) = prune(vault, other, dry_run=False, now=NOW)
    assert docs.removed == [first]
    assert keys.data("docs", first, "0000.tar.zst") in everything(vault)


@pytest.mark.parametrize("done", ["carried", "0000"])
@pytest.mark.parametrize("summary", [True, False])
def test_a_failed_run_that_is_redriven_days_later_finds_all_that_it_leans_on(
    vault: Vault, done: str, summary: bool
) -> None:
    base = put_backup(vault, 20)
    failed = plan_run(vault, 8)
    objects = {
        "carried": [stored("carried.index.tsv.zst"), stored("0000.tar.zst", base)],
        "0000": [stored("0000.tar.zst")],
    }
    put_receipt(vault, failed, done, *objects.pop(done))
    if summary:
        assert status_of_seal(vault, failed) == "failed"
    later = [put_backup(vault, days) for days in (2, 1)]
    for _ in range(2):  # what the first left must still be there after the next
        prune(vault, config(keep_last=2), dry_run=False, now=NOW)
    ((missing, rest),) = objects.items()
    put_receipt(vault, failed, missing, *rest)
    assert status_of_seal(vault, failed) == "sealed"
    assert vault.sealed_runs("docs") == [base, failed, *later]


def test_what_the_receipts_of_a_failed_run_name_stays_whichever_backup_has_it(vault: Vault) -> None:
    planned_upon = put_backup(vault, 10)
    put_backup(vault, 9)  # began first, but ended after the plan of the next
    failed = plan_run(vault, 8)
    put_receipt(vault, failed, "carried", stored("0000.tar.zst", planned_upon))
    assert status_of_seal(vault, failed) == "failed"
    put_backup(vault, 1)
    (docs,) = prune(vault, config(keep_last=1), dry_run=False, now=NOW)
    assert docs.removed == [planned_upon]
    assert keys.data("docs", planned_upon, "0000.tar.zst") in everything(vault)


def test_a_failed_run_that_cannot_be_redriven_any_more_keeps_nothing(vault: Vault) -> None:
    base = put_backup(vault, 20)
    failed = plan_run(vault, 15)
    put_receipt(vault, failed, "carried", stored("0000.tar.zst", base))
    status_of_seal(vault, failed)
    newest = put_backup(vault, 1)
    prune(vault, config(keep_last=1), dry_run=False, now=NOW)
    assert vault.backup_runs("docs") == [newest]


def test_a_database_whose_run_failed_keeps_no_backup_for_it(vault: Vault) -> None:
    base = put_backup(vault, 9)
    result = SourceResult(source="docs", engine="mysql", status="failed", units=1, units_done=0)
    failed = run_of(8)
    vault.put_summary(
        Summary(tool_version="0", run_id=failed, started=NOW, ended=NOW, sources=[result])
    )
    put_backup(vault, 1)
    (docs,) = prune(vault, config(keep_last=1), dry_run=False, now=NOW)
    assert docs.removed == [base]
