"""A deployed run, as a person would see it in the console and the bucket."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import boto3
import pytest

from devtools import comparison, lifelike
from devtools.servers.postgres import unpack
from stepvault import keys
from stepvault.storage import client
from tests.journey.conftest import World

#: Downloads a source; returns the folder.
Download = Callable[[str], Path]

GOOD = ("shop", "empty", "tickets", "uploads")


@pytest.fixture(scope="module")
def backup(world: World) -> str:
    """One run of every good source, taken while both databases are written to."""
    with lifelike.Traffic(world.server.url("shop"), world.place / "tickets.sqlite") as traffic:
        execution = world.start(sources=list(GOOD))
        told = world.wait(execution)
    assert told["status"] == "SUCCEEDED", told
    assert traffic.commits > 20
    return execution


@pytest.fixture(scope="module")
def run(world: World, backup: str) -> str:
    return world.run_id(backup)


@pytest.fixture(scope="module")
def downloaded(world: World, run: str, tmp_path_factory: pytest.TempPathFactory) -> Download:
    """Downloads a source's data folder, and nothing else, as 'aws s3 cp --recursive' would."""

    def download(source: str) -> Path:
        folder: Path = tmp_path_factory.mktemp(source)
        prefix = keys.data_prefix(source, run)
        for entry in world.vault.entries(prefix):
            path = folder / entry.key[len(prefix) :]
            path.parent.mkdir(parents=True, exist_ok=True)
            answer = client().get_object(Bucket=world.vault.bucket, Key=entry.key)
            path.write_bytes(answer["Body"].read())
        return folder

    return download


def total(world: World, database: str) -> int:
    statement = (
        "SELECT (SELECT sum(cents) FROM sales.account) + (SELECT sum(cents) FROM sales.wallet)"
    )
    ((cents,),) = world.query(database, statement)
    return int(cents)


def test_the_history_shows_plan_fan_out_seal_and_prune(world: World, backup: str) -> None:
    entered = [
        e["stateEnteredEventDetails"]["name"]
        for e in world.history(backup)
        if "stateEnteredEventDetails" in e
    ]
    # The emulator, unlike AWS, leaves the states inside a Parallel out; its Maps come next.
    steps = [name for name in entered if name in {"Plan", "Fan out", "Seal", "Prune"}]
    assert steps == ["Plan", "Fan out", "Seal", "Prune"]


def test_the_maps_ran_every_unit_within_their_limits(world: World, backup: str) -> None:
    limits = {}
    for listed in world.steps.list_map_runs(executionArn=backup)["mapRuns"]:
        told = world.steps.describe_map_run(mapRunArn=listed["mapRunArn"])
        kind = listed["mapRunArn"].split("/")[1].split(":")[0]
        counts = told["itemCounts"]
        assert counts["succeeded"] == counts["total"]
        assert counts["total"] == 1 if kind == "planning" else counts["total"] > 1
        limits[kind] = told["maxConcurrency"]
    assert limits == {"databases": 2, "files": 4, "planning": 4}


def test_every_source_has_a_manifest_that_names_what_is_there(world: World, run: str) -> None:
    for source in GOOD:
        manifest = world.vault.manifest(source, run)
        prefix = keys.data_prefix(source, run)
        stored = {e.key[len(prefix) :]: e.size for e in world.vault.entries(prefix)}
        assert stored == {o.name: o.stored_bytes for o in manifest.objects}
    assert len(world.vault.manifest("uploads", run).units) >= 4
    assert world.vault.open_uploads("") == []


def test_the_receipt_says_where_the_time_went(world: World, run: str) -> None:
    (receipt,) = world.vault.receipts("shop", run)
    assert receipt.profile.bottleneck in {"source", "cpu", "network"}
    assert receipt.profile.peak_memory > 1_000_000
    assert receipt.profile.upload.operations.count >= len(receipt.objects)


def test_every_object_reads_back_as_its_manifest_says(world: World, run: str) -> None:
    for source in GOOD:
        for o in world.vault.manifest(source, run).objects:
            size = sum(len(chunk) for chunk in world.vault.read(source, run, o))
            assert size == o.raw_bytes


def test_the_vault_is_as_closed_as_promised(world: World) -> None:
    s3 = boto3.client("s3")
    bucket = world.vault.bucket
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    block = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    assert all(block.values())
    policy = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])
    assert "aws:SecureTransport" in json.dumps(policy)


def test_a_postgres_database_comes_back_through_the_restore_machine_at_one_moment(
    world: World, run: str
) -> None:
    told = world.restore("shop", "copy", run_id=run, database="shop_copy")
    assert told["status"] == "SUCCEEDED", told
    moving = ("sales.account", "sales.wallet")
    assert comparison.postgres(world.server.url("shop"), world.server.url("shop_copy"), moving)
    assert total(world, "shop_copy") == lifelike.TOTAL


def test_stock_pg_restore_restores_the_downloaded_folder(
    world: World, downloaded: Download
) -> None:
    world.server.psql("CREATE DATABASE stock")
    folder = downloaded("shop")
    program = unpack("18") / "bin" / "pg_restore"
    done = subprocess.run(
        [program, "-j2", "--no-owner", "-d", "stock", folder],
        env=world.server.environment(),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    moving = ("sales.account", "sales.wallet")
    comparison.postgres(world.server.url("shop"), world.server.url("stock"), moving)
    assert total(world, "stock") == lifelike.TOTAL


def test_an_empty_database_is_a_valid_backup_and_comes_back(world: World, run: str) -> None:
    told = world.restore("empty", "copy", run_id=run, database="empty_copy")
    assert told["status"] == "SUCCEEDED", told
    assert world.query("empty_copy", "SELECT count(*) FROM pg_class WHERE relname = 'orders'") == [
        (0,)
    ]


def test_sqlite_comes_back_through_the_restore_machine_at_one_moment(
    world: World, run: str
) -> None:
    assert world.restore("tickets", "folder", run_id=run)["status"] == "SUCCEEDED"
    restored = next(p for p in (world.place / "restored").rglob("*.sqlite"))
    comparison.sqlite(world.place / "tickets.sqlite", restored, ("account", "wallet"))


def test_zstd_alone_gives_a_sqlite_file_with_integrity(
    downloaded: Download, tmp_path: Path
) -> None:
    (packed,) = downloaded("tickets").glob("*.zst")
    file = tmp_path / "tickets.sqlite"
    subprocess.run(["zstd", "-dq", packed, "-o", file], check=True)
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_gnu_tar_unpacks_the_packs(world: World, downloaded: Download, tmp_path: Path) -> None:
    packs = sorted(downloaded("uploads").glob("*.tar.zst"))
    assert len(packs) >= 4
    for pack in packs:
        subprocess.run(["tar", "--zstd", "-xpf", pack, "-C", tmp_path], check=True)
    comparison.files(world.place / "uploads", tmp_path)


def test_files_come_back_at_the_terminal(world: World, run: str, tmp_path: Path) -> None:
    target = tmp_path / "uploads"
    command = [sys.executable, "-m", "stepvault_cli.main", "restore", "uploads", "--run", run]
    done = subprocess.run([*command, "--to", target], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    comparison.files(world.place / "uploads", target)


def test_a_target_that_holds_data_is_refused(world: World, run: str) -> None:
    told = world.restore("shop", "copy", run_id=run)
    assert (told["status"], told["error"]) == ("FAILED", "TargetNotEmpty")
    assert "shop" in told["cause"]
    assert total(world, "shop") == lifelike.TOTAL


def test_an_unknown_run_is_refused_with_the_runs_there_are(world: World, run: str) -> None:
    told = world.restore("tickets", "folder", run_id="20200101T000000Z-never")
    assert (told["status"], told["error"]) == ("FAILED", "RunNotFound")
    assert run in told["cause"]


def test_an_unknown_target_is_refused_with_the_targets_there_are(world: World, run: str) -> None:
    told = world.restore("tickets", "nowhere", run_id=run)
    assert (told["status"], told["error"]) == ("FAILED", "ConfigInvalid")
    assert "copy, folder" in told["cause"]


def test_a_tampered_object_is_refused_and_nothing_of_it_is_kept(world: World) -> None:
    told, run = world.back_up("shop")
    assert told["status"] == "SUCCEEDED"
    largest = max(world.vault.manifest("shop", run).objects, key=lambda o: o.raw_bytes)
    table = largest.facts.get("table")
    key = keys.data("shop", run, largest.name)
    body = bytearray(world.vault.get(key) or b"")
    body[len(body) // 2] ^= 0x01
    world.vault.put(key, bytes(body))
    told = world.restore("shop", "copy", run_id=run, database="tampered")
    assert told["status"] == "FAILED"
    assert "BackupTampered" in json.dumps(_errors(world, told["executionArn"]))
    if table:
        assert world.query("tampered", f"SELECT count(*) FROM {table}") == [(0,)]


def _errors(world: World, execution: str) -> list[str]:
    """What the children of the execution's Maps failed with."""
    errors = []
    for map_run in world.steps.list_map_runs(executionArn=execution)["mapRuns"]:
        children = world.steps.list_executions(
            mapRunArn=map_run["mapRunArn"], statusFilter="FAILED"
        )["executions"]
        for child in children:
            told = world.steps.describe_execution(executionArn=child["executionArn"])
            errors.append(f"{told.get('error')}: {told.get('cause')}")
    return errors
