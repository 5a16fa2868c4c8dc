"""The stack at work in the emulator, which lets every function do only what its role allows.

First the product itself runs under its roles, so that none lacks a right, and what it publishes
reaches the alarms. Then a burglar takes each function's place and tries what that role must
not do.
"""

import io
import json
import re
import sqlite3
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from devtools import emulator
from devtools.timer import wait_until
from stepvault import keys
from tests.infra.synth import HERE

CONFIG = """
[[sources]]
name = "tree"
engine = "files"
path = "{home}/tree"

[[sources]]
name = "lite"
engine = "sqlite"
path = "{home}/lite.sqlite"

[[sources]]
name = "late"
engine = "sqlite"
path = "{home}/late.sqlite"

[[sources]]
name = "shop"
engine = "postgres"
connection = {{ secret = "prod/shop" }}

[[targets]]
name = "back"
path = "{home}/back"

[[targets]]
name = "staging"
connection = {{ secret = "staging/shop" }}

[[schedules]]
name = "nightly"
when = "cron(0 3 * * ? *)"

[retention]
keep_last = 1
"""
DENIED = {"AccessDenied", "AccessDeniedException"}


@dataclass(frozen=True)
class Deployed:
    """A stack under enforced roles."""

    endpoint: str
    outputs: dict[str, str]
    home: Path

    def client(self, service: str) -> Any:
        return boto3.client(service, **emulator.client_options(self.endpoint))  # type: ignore[call-overload]

    @property
    def vault(self) -> str:
        return self.outputs["VaultName"]

    def run(self, machine: str, given: dict[str, Any]) -> dict[str, Any]:
        """Run a state machine to its end."""
        started = self.client("stepfunctions").start_execution(
            stateMachineArn=self.outputs[f"{machine}StateMachineArn"], input=json.dumps(given)
        )
        return self.ended(started["executionArn"])

    def ended(self, arn: str) -> dict[str, Any]:
        """The execution, when it has ended."""
        steps = self.client("stepfunctions")

        def execution() -> dict[str, Any] | None:
            described: dict[str, Any] = steps.describe_execution(executionArn=arn)
            return None if described["status"] == "RUNNING" else described

        return wait_until(execution, f"the end of {arn}", seconds=60, pause=0.1)


def make_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE word (text)")
        database.executemany("INSERT INTO word VALUES (?)", [(f"word {n}",) for n in range(1000)])
        database.commit()


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    home = tmp_path_factory.mktemp("roles")
    (home / "tree").mkdir()
    (home / "back").mkdir()
    for number in range(20):
        (home / "tree" / f"{number}.txt").write_text(f"file {number}\n")
    make_database(home / "lite.sqlite")
    config = home / "stepvault.toml"
    config.write_text(CONFIG.format(home=home))
    with emulator.running(auth=True) as endpoint:
        yield Deployed(endpoint, emulator.deploy(endpoint, config), home)


@pytest.fixture(scope="module")
def backed_up(deployed: Deployed) -> Deployed:
    """The stack after two backups, the second of which pruned the first."""
    for _ in range(2):
        ended = deployed.run("Backup", {"schedule": "nightly", "sources": ["tree", "lite"]})
        assert ended["status"] == "SUCCEEDED", ended.get("cause")
    return deployed


def test_a_backup_and_its_pruning_need_no_more_than_their_roles(backed_up: Deployed) -> None:
    listing = backed_up.client("s3").list_objects_v2(Bucket=backed_up.vault, Prefix="backups/")
    manifests = [e["Key"] for e in listing["Contents"] if e["Key"].endswith("manifest.json")]

    assert sorted(key.split("/")[1] for key in manifests) == ["lite", "tree"]


def test_a_restore_needs_no_more_than_its_roles(backed_up: Deployed) -> None:
    ended = backed_up.run("Restore", {"source": "tree", "target": "back"})

    assert ended["status"] == "SUCCEEDED", ended.get("cause")
    assert len(list((backed_up.home / "back").rglob("*.txt"))) == 20


def test_what_a_run_publishes_is_what_the_dashboard_looks_at(backed_up: Deployed) -> None:
    watch = backed_up.client("cloudwatch")
    published = {
        (m["MetricName"], frozenset((d["Name"], d["Value"]) for d in m["Dimensions"]))
        for m in watch.list_metrics(Namespace="Stepvault")["Metrics"]
    }
    board = json.loads(watch.get_dashboard(DashboardName="Stepvault")["DashboardBody"])
    lines = [m for w in board["widgets"] for m in w["properties"]["metrics"]]
    shown = {
        (line[1], frozenset(zip(line[2:-1:2], line[3:-1:2], strict=True)))
        for line in lines
        if line[0] == "Stepvault" and "postgres" not in line
    }
    of_sources = {
        re.findall(r'MetricName="(\w+)"', line[0]["expression"])[0]
        for line in lines
        if isinstance(line[0], dict)
    }
    sometimes = {
        "Errors",
        "MemoryWarning",
        "BottleneckSource",
        "BottleneckCpu",
        "BottleneckNetwork",
    }

    assert {m for m in shown if m[0] not in sometimes} <= published
    assert len(shown) > 15
    common = {("service", "stepvault"), ("stack", "Stepvault")}
    assert of_sources == {"BackupBytes", "Seconds"}
    for name in of_sources:
        for source in ("tree", "lite"):
            assert (name, frozenset({*common, ("source", source)})) in published


def _alarm(deployed: Deployed, name: str) -> str:
    found = deployed.client("cloudwatch").describe_alarms()["MetricAlarms"]
    (state,) = [a["StateValue"] for a in found if f"-Alarms{name}" in a["AlarmName"]]
    return str(state)


def test_the_check_of_the_schedules_reaches_the_alarm(backed_up: Deployed) -> None:
    def check(now: str) -> list[str]:
        answer = backed_up.client("lambda").invoke(
            FunctionName="Stepvault-check_schedules", Payload=json.dumps({"now": now})
        )
        overdue: list[str] = json.loads(answer["Payload"].read())["overdue"]
        return overdue

    assert check("2026-01-01T00:00:00Z") == []
    assert _alarm(backed_up, "Missednightly") == "OK"
    assert _alarm(backed_up, "Memoryfiles") == "OK"
    assert check("2126-01-02T12:00:00Z") == ["nightly"]
    assert _alarm(backed_up, "Missednightly") == "ALARM"


def test_a_failed_run_is_red_and_rings(backed_up: Deployed) -> None:
    ended = backed_up.run("Backup", {"sources": ["shop", "tree"]})

    assert ended["status"] == "FAILED"
    assert ended["error"] == "SourcesFailed"
    assert "prod/shop" in ended["cause"]
    assert _alarm(backed_up, "RunFailed") == "ALARM"


def test_a_redrive_does_what_is_missing_and_only_that(backed_up: Deployed) -> None:
    failed = backed_up.run("Backup", {"sources": ["late", "lite"]})
    arn = failed["executionArn"]
    run = keys.run_id(failed["startDate"], failed["name"])
    bucket = backed_up.client("s3")
    receipt = {"Bucket": backed_up.vault, "Key": keys.receipt("lite", run, "0000")}
    before = bucket.head_object(**receipt)["VersionId"]

    assert failed["error"] == "SourcesFailed"
    assert "late.sqlite" in failed["cause"]

    make_database(backed_up.home / "late.sqlite")
    backed_up.client("stepfunctions").redrive_execution(executionArn=arn)
    ended = backed_up.ended(arn)

    assert ended["status"] == "SUCCEEDED", ended.get("cause")
    assert json.loads(ended["output"])["run_id"] == run
    assert bucket.head_object(**receipt)["VersionId"] == before
    for source in ("late", "lite"):
        assert bucket.head_object(Bucket=backed_up.vault, Key=keys.manifest(source, run))
    tasks = [
        backed_up.client("stepfunctions").describe_map_run(mapRunArn=m["mapRunArn"])["itemCounts"]
        for m in backed_up.client("stepfunctions").list_map_runs(executionArn=arn)["mapRuns"]
    ]
    assert sorted((t["total"], t["succeeded"]) for t in tasks) == [(1, 1), (2, 1)]


BACK_UP = ["back_up_files", "back_up_sqlite", "back_up_postgres"]
ALL = [*BACK_UP, "plan", "seal", "prune", "plan_restore", "restore"]
RUN = "20260101T000000Z-burglar"

#: What the burglar tries, and the functions from which it may succeed.
ATTEMPTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "delete a backup": (
        {"service": "s3", "call": "delete_object", "Key": keys.data("tree", RUN, "x")},
        {"prune"},
    ),
    "delete what is not ours": (
        {"service": "s3", "call": "delete_object", "Key": "somebody/elses"},
        set(),
    ),
    "delete what a run wrote down": (
        {"service": "s3", "call": "delete_object", "Key": keys.summary(RUN)},
        set(),
    ),
    "write over another source's data": (
        {"service": "s3", "call": "put_object", "Key": keys.data("shop", RUN, "toc.dat")},
        {"back_up_postgres"},
    ),
    "forge another source's receipt": (
        {"service": "s3", "call": "put_object", "Key": keys.receipt("tree", RUN, "0000")},
        {"back_up_files"},
    ),
    "make a backup exist": (
        {"service": "s3", "call": "put_object", "Key": keys.manifest("tree", RUN)},
        {"seal"},
    ),
    "turn versions off": (
        {
            "service": "s3",
            "call": "put_bucket_versioning",
            "VersioningConfiguration": {"Status": "Suspended"},
        },
        set(),
    ),
    "read a source's secret": (
        {"service": "secretsmanager", "call": "get_secret_value", "SecretId": "prod/shop"},
        {"back_up_postgres"},
    ),
    "read a target's secret": (
        {"service": "secretsmanager", "call": "get_secret_value", "SecretId": "staging/shop"},
        {"restore", "plan_restore"},
    ),
    "look around": ({"service": "iam", "call": "list_roles"}, set()),
    "list the machines": ({"service": "stepfunctions", "call": "list_state_machines"}, set()),
}


@pytest.fixture(scope="module")
def loot(backed_up: Deployed) -> dict[str, dict[str, str]]:
    """What a burglar in each function was told, by attempt and function."""
    secrets = backed_up.client("secretsmanager")
    for name in ("prod/shop", "staging/shop"):
        secrets.create_secret(Name=name, SecretString="{}")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as code:
        code.write(HERE / "burglar.py", "burglar.py")
    attempts = [
        wanted | ({"Bucket": backed_up.vault} if wanted["service"] == "s3" else {})
        for wanted, _ in ATTEMPTS.values()
    ]
    functions = backed_up.client("lambda")

    def burgle(function: str) -> list[str]:
        name = f"Stepvault-{function}"
        functions.update_function_code(FunctionName=name, ZipFile=archive.getvalue())
        functions.update_function_configuration(FunctionName=name, Handler="burglar.handler")
        answer = functions.invoke(FunctionName=name, Payload=json.dumps(attempts))
        return list(json.load(answer["Payload"]))

    with ThreadPoolExecutor(4) as pool:
        told = dict(zip(ALL, pool.map(burgle, ALL), strict=True))
    return {
        attempt: {function: answers[n] for function, answers in told.items()}
        for n, attempt in enumerate(ATTEMPTS)
    }


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_burglar_in_a_function_gets_no_further_than_its_role(
    loot: dict[str, dict[str, str]], attempt: str
) -> None:
    _, allowed = ATTEMPTS[attempt]
    told = loot[attempt]

    assert {f for f in ALL if told[f] == "allowed"} == allowed
    assert {told[f] for f in ALL if f not in allowed} <= DENIED
