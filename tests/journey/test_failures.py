"""What can go wrong in a deployed run, and that it is loud, clear and leaves nothing behind."""

import json
import os
import signal
from pathlib import Path

import boto3

from devtools.timer import wait_until
from stepvault import keys
from stepvault.records import Failure, Summary
from tests.journey.conftest import World


def failure(world: World, run: str, source: str) -> Failure:
    return next(f for f in world.vault.failures(run) if f.source == source)


def test_a_failed_source_turns_the_run_red_while_its_siblings_are_sealed(world: World) -> None:
    told, run = world.back_up("wrong-password", "tickets", "uploads")
    assert (told["status"], told["error"]) == ("FAILED", "SourcesFailed")
    assert "wrong-password" in told["cause"]
    summary = {r.source: r.status for r in world.summary(run).sources}
    assert summary == {"wrong-password": "failed", "tickets": "sealed", "uploads": "sealed"}
    failed = failure(world, run, "wrong-password")
    assert failed.error == "SourceDenied"
    assert "password" in failed.message
    assert "not-the-one" not in json.dumps(told, default=str) + failed.message
    assert world.vault.sealed_runs("wrong-password") == []


def test_a_host_that_does_not_answer_is_given_up_after_seconds_not_minutes(world: World) -> None:
    told, run = world.wait(world.mute), world.run_id(world.mute)
    assert told["error"] == "SourcesFailed"
    failed = failure(world, run, "mute-host")
    assert failed.error == "SourceUnreachable"
    assert str(world.mute_port) in failed.message
    # One attempt and three retries of a transient error, 10 s each, and the waits between.
    assert (told["stopDate"] - told["startDate"]).total_seconds() < 90


def test_a_database_dropped_between_plan_and_backup_is_named(world: World) -> None:
    world.server.psql("DROP DATABASE dropped")
    told, run = world.back_up("dropped")
    assert told["error"] == "SourcesFailed"
    failed = failure(world, run, "dropped")
    assert failed.error == "SourceMissing"
    assert "dropped" in failed.message


def test_an_unknown_source_is_refused_with_the_nearest_name(world: World) -> None:
    told = world.wait(world.start(sources=["tickts"]))
    assert (told["status"], told["error"]) == ("FAILED", "ConfigInvalid")
    assert "'tickets'" in told["cause"]


def test_after_a_redrive_only_what_failed_runs_again(world: World) -> None:
    hidden = world.place / "hidden.sqlite"
    (world.place / "tickets.sqlite").rename(hidden)
    try:
        execution = world.start(sources=["tickets", "uploads"])
        assert world.wait(execution)["error"] == "SourcesFailed"
        run = world.run_id(execution)
        assert failure(world, run, "tickets").error == "SourceMissing"
    finally:
        hidden.rename(world.place / "tickets.sqlite")
    before = {r.unit: r.ended for r in world.vault.receipts("uploads", run)}
    world.steps.redrive_execution(executionArn=execution)
    told = world.wait(execution)
    assert told["status"] == "SUCCEEDED", told
    assert {r.unit: r.ended for r in world.vault.receipts("uploads", run)} == before
    assert world.vault.manifest("tickets", run).run_id == run
    assert {r.status for r in world.summary(run).sources} == {"sealed"}


def workers(function_part: str) -> list[int]:
    """Processes in which the emulator runs the functions of that name."""
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        names = [e for e in environment if e.startswith(b"AWS_LAMBDA_FUNCTION_NAME=")]
        if names and function_part.encode() in names[0].lower():
            pids.append(int(process.name))
    return pids


def test_a_function_killed_in_mid_stream_leaves_nothing_and_the_same_run_can_be_finished(
    world: World,
) -> None:
    execution = world.start(sources=["archive", "uploads"])
    prefix = keys.source_prefix("archive")
    [(key, *_), *_] = wait_until(
        lambda: world.vault.open_uploads(prefix), "an upload of archive", pause=0.01
    )
    for pid in workers("sqlite"):
        os.kill(pid, signal.SIGKILL)
    told = world.wait(execution)
    assert (told["status"], told["error"]) == ("FAILED", "SourcesFailed")
    run = world.run_id(execution)
    assert world.vault.get(key) is None
    assert world.vault.open_uploads("") == []
    assert world.vault.sealed_runs("archive") == []
    assert world.vault.receipt_ids("archive", run) == set()
    before = {r.unit: r.ended for r in world.vault.receipts("uploads", run)}

    told, again = world.back_up(run_id=run)
    assert told["status"] == "SUCCEEDED", told
    assert again == run
    assert {r.unit: r.ended for r in world.vault.receipts("uploads", run)} == before
    manifest = world.vault.manifest("archive", run)
    for o in manifest.objects:
        assert sum(map(len, world.vault.read("archive", run, o))) == o.raw_bytes


def test_a_schedule_starts_a_run_with_its_sources(world: World) -> None:
    name = next(
        s["Name"]
        for s in boto3.client("scheduler").list_schedules()["Schedules"]
        if "soon" in s["Name"].lower()
    )
    assert name

    def scheduled() -> Summary | None:
        summaries = (world.vault.summary(run) for run in world.vault.runs())
        return next((s for s in summaries if s and s.schedule == "soon"), None)

    summary = wait_until(scheduled, "a scheduled run", seconds=100, pause=1)
    assert [r.source for r in summary.sources] == ["empty"]
