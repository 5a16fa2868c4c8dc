"""``restore`` by the state machine and ``prune``, against a stack whose machines the test plays."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from stepvault import keys
from stepvault.errors import SourceDenied, TargetNotEmpty
from stepvault.records import Unrestored
from stepvault.restore import ReportRequest, report_restore
from stepvault_cli import aws
from tests.cli.conftest import Stack, invoke, whole_run
from tests.core.streams import ScriptedEngine

Engines = dict[str, ScriptedEngine]


@pytest.fixture
def sealed(stack: Stack, engines: Engines) -> str:
    """The id of a run that backed up ``app`` and ``docs``."""
    stack.work = partial(whole_run, stack.vault, engines)
    assert invoke("run", "--stack", stack.name, "--json").exit_code == 0
    stack.seen.clear()
    return stack.vault.runs()[-1]


def test_a_restore_to_a_target_starts_the_machine_with_all_options(
    stack: Stack, sealed: str
) -> None:
    stack.work = lambda message: None
    done = invoke(
        *("restore", "app", "--to", "staging", "--stack", stack.name, "--only", "public.a"),
        *("--only", "public.b", "--database", "monday", "--owner", "none", "--overwrite"),
        *("--keep-going", "--without", "tablespaces", "--without", "extension:postgis"),
    )
    assert done.exit_code == 0
    assert f"app (sqlite) of {done.stdout.split(' of ')[1][:16]}, run {sealed}" in done.stdout
    assert "restored in" in done.stdout
    assert stack.seen[0]["input"] == {
        "source": "app",
        "run_id": sealed,
        "target": "staging",
        "options": {
            "only": ["public.a", "public.b"],
            "overwrite": True,
            "database": "monday",
            "owner": "none",
            "keep_going": True,
            "without": ["tablespaces", "extension:postgis"],
        },
    }


def test_a_target_that_holds_data_is_refused_with_exit_4(stack: Stack, sealed: str) -> None:
    def full(message: dict[str, Any]) -> None:
        raise TargetNotEmpty("The database 'shop' has 3 tables", "Say --overwrite")

    stack.work = full
    refused = invoke("restore", "app", "--to", "staging", "--stack", stack.name)
    assert refused.exit_code == 4
    assert "The database 'shop' has 3 tables. Say --overwrite." in refused.stderr
    as_json = invoke("restore", "app", "--to", "staging", "--stack", stack.name, "--json")
    assert as_json.exit_code == 4
    assert json.loads(as_json.stdout)["status"] == "failed"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["zork", "--to", "staging"], 3, "sources in the vault: app, docs"),
        (["app", "--run", "20200101T000000Z-x", "--to", "staging"], 3, "The newest are: "),
        (["app", "--to", "stagin"], 2, "Known are: staging; for a folder or file write ./stagin"),
        (
            ["app", "--to", "env:NOT_SET", "--run", "latest"],
            2,
            "which goes to a path. Write --to ./folder-or-file",
        ),
        (["app", "--to", "staging", "--compare"], 2, "--compare works for restores done here"),
        (["app"], 2, "Missing option '--to'"),
    ],
)
def test_what_cannot_be_restored_is_told_before_anything_starts(
    stack: Stack, sealed: str, config_file: Path, arguments: list[str], code: int, said: str
) -> None:
    told = invoke(
        "restore", *arguments, "--vault", stack.vault.bucket, "--config", str(config_file)
    )
    assert told.exit_code == code, told.output
    assert said in told.stderr
    assert stack.seen == []


def test_a_url_on_the_command_line_is_refused_and_not_repeated(stack: Stack) -> None:
    refused = invoke("restore", "app", "--to", "postgres://me:hunter2@db/x", "--stack", stack.name)
    assert refused.exit_code == 2
    assert "write --to env:NAME" in refused.stderr
    assert "hunter2" not in refused.output


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    file = tmp_path / "stepvault.toml"
    file.write_text(
        """
        [[sources]]
        name = "app"
        engine = "sqlite"
        path = "/data/app.db"
        [[targets]]
        name = "staging"
        path = "/mnt/efs/restored"
        [retention]
        keep_last = 1
        """
    )
    return file


def test_prune_shows_first_and_removes_only_with_yes(
    stack: Stack, engines: Engines, sealed: str, config_file: Path
) -> None:
    stack.work = partial(whole_run, stack.vault, engines)
    assert invoke("run", "--stack", stack.name, "--json").exit_code == 0
    older, newer = stack.vault.sealed_runs("app")
    asked = ("prune", "--stack", stack.name, "--config", str(config_file))

    shown = invoke(*asked)
    assert shown.exit_code == 0
    assert f"would remove app/{older}" in shown.stdout
    assert "Nothing was touched. To remove them: stepvault prune --yes" in shown.stdout
    assert stack.vault.sealed_runs("app") == [older, newer]

    removed = json.loads(invoke(*asked, "--yes", "--json").stdout)
    assert removed["dry_run"] is False
    assert removed["sources"][0]["removed"] == [older]
    assert stack.vault.sealed_runs("app") == [newer]
    assert stack.vault.sealed_runs("docs") == [older, newer], "it is not in the configuration"
    assert list(stack.vault.entries(keys.backup_prefix("app", older))) == []

    assert "removed app/" not in invoke(*asked, "--yes").stdout, "nothing is left to do"


def unrestored(name: str, *, asked: bool = False) -> Unrestored:
    return Unrestored(
        kind="extension",
        name=name,
        reason="not available" if not asked else "without extension:timescaledb",
        statement="" if asked else f"CREATE EXTENSION {name}",
        asked=asked,
    )


def plan_written(stack: Stack) -> str:
    """Do what planning does; the restore's id."""
    (execution,) = aws.executions(stack.machines["Restore"], only="RUNNING").values()
    restore = keys.run_id(execution.started, execution.name)
    for stage in ("before", "data", "after"):
        stack.vault.put(keys.restore_plan(restore, stage), b"{}\n")
    return restore


def reporting(stack: Stack, *left: Unrestored) -> Callable[[dict[str, Any]], None]:
    """The hands of a restore whose tasks leave these out, some of them twice."""

    def work(message: dict[str, Any]) -> None:
        restore = plan_written(stack)
        for task in ("0000", "0001"):
            stack.vault.put_unrestored(restore, "data", task, list(left))
        asked = message["input"]
        request = ReportRequest(restore_id=restore, source=asked["source"], run_id=asked["run_id"])
        report_restore(stack.vault, request)

    return work


def test_what_a_machine_could_not_restore_is_listed_once_and_exits_5(
    stack: Stack, sealed: str
) -> None:
    stack.work = reporting(stack, unrestored("postgis"), unrestored("timescaledb", asked=True))
    asked = ("restore", "app", "--to", "staging", "--stack", stack.name, "--keep-going")
    told = invoke(*asked)
    assert told.exit_code == 5, told.output
    assert told.stderr.count("not restored: extension postgis: not available") == 1
    assert told.stderr.count("  CREATE EXTENSION postgis") == 1
    assert told.stderr.count("left out: extension timescaledb") == 1
    assert "All of 'app' was restored but 1: extension postgis: not available" in told.stderr
    assert "incomplete" not in told.stderr

    as_json = invoke(*asked, "--json")
    assert as_json.exit_code == 5
    assert [what["name"] for what in json.loads(as_json.stdout)["unrestored"]] == [
        "postgis",
        "timescaledb",
    ]


def test_what_was_left_out_on_purpose_is_no_failure(stack: Stack, sealed: str) -> None:
    stack.work = reporting(stack, unrestored("timescaledb", asked=True))
    told = invoke(
        *("restore", "app", "--to", "staging", "--stack", stack.name),
        *("--without", "extension:timescaledb"),
    )
    assert told.exit_code == 0, told.output
    assert "left out: extension timescaledb: without extension:timescaledb" in told.stderr


def test_a_machine_that_fails_in_its_first_task_says_that_the_target_is_incomplete(
    stack: Stack, sealed: str
) -> None:
    def fail(message: dict[str, Any]) -> None:
        plan_written(stack)
        raise SourceDenied("permission denied for schema public", "Grant it")

    stack.work = fail
    told = invoke("restore", "app", "--to", "staging", "--stack", stack.name)
    assert told.exit_code == 4
    assert "permission denied" in told.stderr
    assert "The target is incomplete" in told.stderr
