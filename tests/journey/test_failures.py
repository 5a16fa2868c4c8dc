"""What can go wrong in a deployed run, and that it is loud, clear and leaves nothing behind."""

import json
import os
import signal
import time
from pathlib import Path

import boto3
import pytest

from stepvault import keys


def failure(world, run: str, source: str):
    return next(f for f in world.vault.failures(run) if f.source == source)


def test_a_failed_source_turns_the_run_red_while_its_siblings_are_sealed(world):
    told, run = world.back_up("wrong-password", "tickets", "uploads")
    assert (told["status"], told["error"]) == ("FAILED", "SourcesFailed")
    assert "wrong-password" in told["cause"]
    summary = {r.source: r.status for r in world.vault.summary(run).sources}
    assert summary == {"wrong-password": "failed", "tickets": "sealed", "uploads": "sealed"}
    failed = failure(world, run, "wrong-password")
    assert failed.error == "SourceDenied"
    assert "password" in failed.message
    assert "not-the-one" not in json.dumps(told, default=str) + failed.message
    assert world.vault.sealed_runs("wrong-password") == []


def test_a_host_that_does_not_answer_is_given_up_after_seconds_not_minutes(world):
    started = time.monotonic()
    told, run = world.back_up("mute-host")
    assert told["error"] == "SourcesFailed"
    failed = failure(world, run, "mute-host")
    assert failed.error == "SourceUnreachable"
    assert str(world.mute_port) in failed.message
    # One attempt and three retries of a transient error, 10 s each, and the waits between.
    assert time.monotonic() - started < 90


def test_a_database_dropped_between_plan_and_backup_is_named(world):
    world.server.psql("DROP DATABASE dropped")
    told, run = world.back_up("dropped")
    assert told["error"] == "SourcesFailed"
    failed = failure(world, run, "dropped")
    assert failed.error == "SourceMissing"
    assert "dropped" in failed.message


def test_an_unknown_source_is_refused_with_the_nearest_name(world):
    told = world.wait(world.start(sources=["tickts"]))
    assert (told["status"], told["error"]) == ("FAILED", "ConfigInvalid")
    assert "'tickets'" in told["cause"]


def test_after_a_redrive_only_what_failed_runs_again(world):
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
    assert {r.status for r in world.vault.summary(run).sources} == {"sealed"}


def wait_for_open_upload(world, source: str, seconds: float = 30) -> str:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if uploads := world.vault.open_uploads(keys.source_prefix(source)):
            return uploads[0][0]
        time.sleep(0.01)
    raise AssertionError(f"no upload of {source} was seen")


def workers(function_part: str) -> list[int]:
    """Processes in which the emulator runs the functions of that name."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        names = [e for e in environment if e.startswith(b"AWS_LAMBDA_FUNCTION_NAME=")]
        if names and function_part.encode() in names[0].lower():
            found.append(int(process.name))
    return found


def test_a_function_killed_in_mid_stream_leaves_nothing_and_the_same_run_can_be_finished(world):
    execution = world.start(sources=["archive", "uploads"])
    key = wait_for_open_upload(world, "archive")
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


def test_a_schedule_starts_a_run_with_its_sources(world):
    name = next(
        s["Name"]
        for s in boto3.client("scheduler").list_schedules()["Schedules"]
        if "soon" in s["Name"].lower()
    )
    assert name
    until = time.monotonic() + 100
    while time.monotonic() < until:
        for run in world.vault.runs():
            summary = world.vault.summary(run)
            if summary and summary.schedule == "soon":
                assert [r.source for r in summary.sources] == ["empty"]
                return
        time.sleep(1)
    pytest.fail("no scheduled run within 100 s")
