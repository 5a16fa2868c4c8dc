"""``run``, ``watch``, ``runs`` and ``show`` against a stack whose machines the test plays."""

import json
import signal
import subprocess
import sys
import threading
from functools import partial
from typing import Any

import pytest

from stepvault import keys, storage
from stepvault.errors import SourceDenied, SourceUnreachable, StorageUnavailable
from stepvault.plan import RunInput, RunRequest
from stepvault.records import Execution
from stepvault.seal import SealRequest, seal
from stepvault_cli import aws as cli_aws
from stepvault_cli import follow
from stepvault_cli.follow import RunFollower
from tests.cli.conftest import CONFIG, Stack, invoke, run_unit, units, whole_run
from tests.core.streams import ScriptedEngine
from tests.planning import whole_plan

Engines = dict[str, ScriptedEngine]


def test_run_starts_the_machine_follows_it_and_says_what_was_stored(
    stack: Stack, engines: Engines
) -> None:
    stack.work = partial(whole_run, stack.vault, engines)
    done = invoke("run", "--stack", stack.name)
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    run = stack.vault.runs()[-1]
    assert f"run {run} succeeded" in lines
    assert "app (sqlite) sealed, " in done.stdout
    assert "docs (files) sealed, 2 of 2 units" in done.stdout
    assert lines[-1].startswith("app, docs sealed. ")
    assert f"stepvault show {run}" in lines[-1]
    assert "\x1b" not in done.output


def test_run_asks_for_the_named_sources_only(stack: Stack, engines: Engines) -> None:
    stack.work = partial(whole_run, stack.vault, engines)
    done = invoke("run", "--stack", stack.name, "--sources", "docs, ", "--json")
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert told["status"] == "succeeded"
    assert [s["source"] for s in told["summary"]["sources"]] == ["docs"]
    assert stack.seen[0]["input"] == {"sources": ["docs"]}


def test_a_run_with_a_failed_source_exits_1_and_says_why_and_what_next(
    stack: Stack, engines: Engines
) -> None:
    engines["sqlite"].fails_to_open = SourceDenied("app.db cannot be read", "Make it readable")
    stack.work = partial(whole_run, stack.vault, engines)
    failed = invoke("run", "--stack", stack.name)
    run = stack.vault.runs()[-1]
    assert failed.exit_code == 1
    assert "run failed: app failed; docs sealed" in failed.stderr
    assert "app: app.db cannot be read. Make it readable." in failed.stderr
    assert f"stepvault run --run-id {run}" in failed.stderr

    shown = invoke("show", run, "--stack", stack.name)
    assert "app/0000 failed: SourceDenied: app.db cannot be read" in shown.stdout
    assert f"run {run} partly" in shown.stdout

    engines["sqlite"].fails_to_open = None
    again = invoke("run", "--stack", stack.name, "--run-id", run)
    assert again.exit_code == 0
    assert "app, docs sealed" in again.stdout
    assert engines["files"].opened == 2, "what was stored is not read again"
    listed = json.loads(invoke("runs", "--stack", stack.name, "--limit", "2", "--json").stdout)
    assert [line["run_id"] for line in listed] == [run], "the second execution was no second run"
    assert listed[0]["status"] == "succeeded"
    assert f"run {run} succeeded" in invoke("watch", "--stack", stack.name).stdout


def test_a_run_that_cannot_be_planned_says_why(stack: Stack, engines: Engines) -> None:
    stack.work = partial(whole_run, stack.vault, engines)
    failed = invoke("run", "--stack", stack.name, "--sources", "dogs")
    assert failed.exit_code == 1
    assert "No source named 'dogs' is configured. Did you mean 'docs'?" in failed.stderr
    as_json = invoke("run", "--stack", stack.name, "--sources", "dogs", "--json")
    assert json.loads(as_json.stdout)["error"].startswith("ConfigInvalid: No source named 'dogs'")


def test_a_detached_run_can_be_watched(stack: Stack, engines: Engines) -> None:
    go = threading.Event()

    def later(message: dict[str, Any]) -> None:
        assert go.wait(30)
        whole_run(stack.vault, engines, message)

    stack.work = later
    started = invoke("run", "--stack", stack.name, "--detach")
    assert started.exit_code == 0
    run = started.stdout.split()[1]
    assert f"stepvault watch {run}" in started.stdout
    listed = json.loads(invoke("runs", "--stack", stack.name, "--json").stdout)
    assert (listed[-1]["run_id"], listed[-1]["status"]) == (run, "running")
    shown = invoke("show", run, "--stack", stack.name)
    assert "planning" in shown.stdout
    go.set()
    watched = invoke("watch", run, "--stack", stack.name)
    assert watched.exit_code == 0
    assert f"run {run} succeeded" in watched.stdout
    assert invoke("watch", "--stack", stack.name).stdout.count(run) >= 1, "the newest by default"


def test_ctrl_c_leaves_the_run_going_and_says_how_to_follow_it(
    stack: Stack, engines: Engines
) -> None:
    go = threading.Event()

    def later(message: dict[str, Any]) -> None:
        assert go.wait(60)
        whole_run(stack.vault, engines, message)

    stack.work = later
    following = subprocess.Popen(
        [sys.executable, "-m", "stepvault_cli.main", "run", "--stack", stack.name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert following.stdout
    first = following.stdout.readline()
    assert first.endswith("planning\n")
    run = first.split()[1]
    following.send_signal(signal.SIGINT)
    _, said = following.communicate(timeout=30)
    assert following.returncode == 130
    assert said == f"The run goes on. Follow it again: stepvault watch {run}\n"
    execution = cli_aws.find(stack.machines["Backup"], run)
    assert execution
    assert execution.status == "RUNNING"
    go.set()
    assert invoke("watch", run, "--stack", stack.name).exit_code == 0


def test_a_run_that_an_execution_is_at_work_on_is_not_started_again(
    stack: Stack, engines: Engines
) -> None:
    go = threading.Event()

    def later(message: dict[str, Any]) -> None:
        assert go.wait(30)
        whole_run(stack.vault, engines, message)

    stack.work = later
    began = json.loads(invoke("run", "--stack", stack.name, "--detach", "--json").stdout)
    run, name = began["run_id"], began["execution_arn"].rsplit(":", 1)[1]
    refused = invoke("run", "--run-id", run, "--stack", stack.name, "--detach")
    go.set()
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert f"The execution {name} is at work on run {run}" in refused.stderr
    assert f"stepvault watch {run}" in refused.stderr
    assert invoke("watch", run, "--stack", stack.name).exit_code == 0
    assert len(stack.seen) == 1


def test_a_run_that_was_taken_up_again_is_not_taken_up_twice(
    stack: Stack, engines: Engines
) -> None:
    engines["sqlite"].fails_to_open = SourceDenied("app.db cannot be read")
    stack.work = partial(whole_run, stack.vault, engines)
    assert invoke("run", "--stack", stack.name).exit_code == 1
    run, go = stack.vault.runs()[-1], threading.Event()
    engines["sqlite"].fails_to_open = None

    def later(message: dict[str, Any]) -> None:
        assert go.wait(30)
        whole_run(stack.vault, engines, message)

    stack.work = later
    again = ["run", "--run-id", run, "--stack", stack.name, "--detach", "--json"]
    second = json.loads(invoke(*again).stdout)["execution_arn"].rsplit(":", 1)[1]
    refused = invoke(*again)
    go.set()
    assert refused.exit_code == 2
    assert f"The execution {second} is at work on run {run}" in refused.stderr
    assert invoke("watch", run, "--stack", stack.name).exit_code == 0
    assert invoke(*again).exit_code == 0, "nobody is at work on it any more"
    assert invoke("watch", run, "--stack", stack.name).exit_code == 0


def start(stack: Stack, **run_input: Any) -> tuple[str, dict[str, Any]]:
    """A planned run: its id and what ``plan`` returned."""
    at = keys.run_started("20261122T030000Z-x")
    request = RunRequest(
        execution=Execution(name="nightly", started=at), input=RunInput(**run_input)
    )
    return request.run_id, whole_plan(CONFIG, stack.vault, request)


def test_a_follower_sees_units_bytes_in_flight_and_failures(stack: Stack, engines: Engines) -> None:
    vault = stack.vault
    run, state = start(stack)
    follower = RunFollower(vault, run, None)
    app, first, second = units(vault, state)
    assert [s.state for s in follower.look().sources] == ["waiting", "waiting"]

    s3, key = storage.client(), keys.data("app", run, "app.zst")
    upload = s3.create_multipart_upload(Bucket=vault.bucket, Key=key)["UploadId"]
    s3.upload_part(
        Bucket=vault.bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"x" * 5_000_000
    )
    seen = follower.look()
    assert (seen.sources[0].state, seen.sources[0].stored) == ("running", 5_000_000)
    s3.abort_multipart_upload(Bucket=vault.bucket, Key=key, UploadId=upload)

    run_unit(vault, engines, first)
    docs = follower.look().sources[1]
    assert (docs.state, docs.done, docs.units, docs.share) == ("running", 1, 2, 0.5)
    assert docs.stored == vault.receipts("docs", run)[0].stored_bytes

    engines["sqlite"].fails_to_open = SourceUnreachable("db does not answer")
    with pytest.raises(SourceUnreachable):
        run_unit(vault, engines, app)
    seen = follower.look()
    app_seen = seen.sources[0]
    assert (app_seen.state, app_seen.message) == ("retrying", "db does not answer")
    engines["sqlite"].fails_to_open = SourceDenied("wrong password")
    with pytest.raises(SourceDenied):
        run_unit(vault, engines, app)
    assert follower.look().sources[0].state == "failed"
    engines["sqlite"].fails_to_open = None
    run_unit(vault, engines, app)
    run_unit(vault, engines, second)
    assert follower.look().state == "sealing"
    seal(vault, SealRequest(run_id=run))
    ended = follower.look()
    assert (ended.state, [s.state for s in ended.sources]) == ("succeeded", ["sealed", "sealed"])


def test_the_last_backup_foretells_the_next_ones_size(stack: Stack, engines: Engines) -> None:
    run, state = start(stack)
    for unit in units(stack.vault, state):
        run_unit(stack.vault, engines, unit)
    seal(stack.vault, SealRequest(run_id=run))
    later = keys.run_started("20261123T030000Z-x")
    request = RunRequest(execution=Execution(name="next", started=later))
    whole_plan(CONFIG, stack.vault, request)
    app = RunFollower(stack.vault, request.run_id, None).look().sources[0]
    manifest = stack.vault.latest("app")
    assert manifest
    assert app.expected == manifest.stored_bytes > 0


def test_a_run_that_nobody_works_on_is_told_instead_of_watched_for_ever(
    stack: Stack, engines: Engines
) -> None:
    run, _ = start(stack)
    told = invoke("watch", run, "--stack", stack.name)
    assert told.exit_code == 3
    assert f"Nothing is at work on run {run}" in told.stderr
    assert f"stepvault run --run-id {run}" in told.stderr


def test_following_survives_a_hiccup_but_not_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("stepvault_cli.follow.time.sleep", slept.append)
    answers: list[Exception | str] = [StorageUnavailable("S3 throttles")] * 3
    answers.append("there")

    def look() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert follow._patiently(look) == "there"
    assert slept == [1, 5, 15]
    answers += [StorageUnavailable("S3 throttles")] * 4
    with pytest.raises(StorageUnavailable):
        follow._patiently(look)
    answers += [SourceDenied("no")]
    with pytest.raises(SourceDenied):
        follow._patiently(look)
    assert answers == []


def sealed_run(stack: Stack, engines: Engines, name: str = "nightly") -> str:
    stack.work = partial(whole_run, stack.vault, engines)
    assert invoke("run", "--stack", stack.name, "--json").exit_code == 0
    return stack.vault.runs()[-1]


def test_show_tells_a_run_and_a_backup(stack: Stack, engines: Engines) -> None:
    run = sealed_run(stack, engines)
    shown = invoke("show", "--vault", stack.vault.bucket)
    assert shown.exit_code == 0
    assert f"run {run} succeeded" in shown.stdout
    app = next(line for line in shown.stdout.splitlines() if line.startswith("app"))
    assert app.split()[:5] == ["app", "sqlite", "sealed", "1/1", "3"]

    backup = invoke("show", "app", "--vault", stack.vault.bucket)
    assert f"data        s3://{stack.vault.bucket}/backups/app/{run}/data/" in backup.stdout
    assert "app.zst" in backup.stdout
    assert "version     1" in backup.stdout
    assert f"stepvault restore app --run {run} --to" in backup.stdout
    same = invoke("show", f"app/{run}", "--vault", stack.vault.bucket, "--json")
    assert json.loads(same.stdout)["objects"][0]["name"] == "app.zst"
    summary = invoke("show", run, "--vault", stack.vault.bucket, "--json")
    assert {s["status"] for s in json.loads(summary.stdout)["sources"]} == {"sealed"}


def test_runs_lists_runs_with_what_came_of_them(stack: Stack, engines: Engines) -> None:
    assert "No runs yet" in invoke("runs", "--vault", stack.vault.bucket).stdout
    run = sealed_run(stack, engines)
    engines["sqlite"].fails_to_open = SourceDenied("wrong password")
    assert invoke("run", "--stack", stack.name).exit_code == 1
    start(stack)
    listed = invoke("runs", "--stack", stack.name, "--limit", "200").stdout.splitlines()
    status = {line.split()[0]: line[len(line.split()[0]) :].strip() for line in listed}
    assert status[run].startswith("succeeded")
    assert any(text.startswith("partly") for text in status.values())
    assert status["20261122T030000Z-nightly"].startswith("not sealed")
    limited = invoke("runs", "--stack", stack.name, "--limit", "1", "--json")
    assert len(json.loads(limited.stdout)) == 1


def test_what_is_not_there_exits_3_and_says_what_is(stack: Stack, engines: Engines) -> None:
    run = sealed_run(stack, engines)
    for arguments, said in (
        (["show", "20200101T000000Z-old"], f"The newest are: {run}"),
        (["show", "zork"], "sources in the vault: app, docs"),
        (["show", "app/20200101T000000Z-old"], f"The newest are: {run}"),
        (["watch", "20200101T000000Z-old"], "There is no run '20200101T000000Z-old'"),
    ):
        missing = invoke(*arguments, "--stack", stack.name)
        assert missing.exit_code == 3, missing.output
        assert said in missing.stderr
        assert missing.stdout == ""


@pytest.mark.parametrize("command", [["run", "--run-id", "last"], ["watch", "last"]])
def test_a_wrong_run_id_exits_2(stack: Stack, command: list[str]) -> None:
    wrong = invoke(*command, "--stack", stack.name)
    assert wrong.exit_code == 2
    assert "'last' is not a run id" in wrong.stderr
