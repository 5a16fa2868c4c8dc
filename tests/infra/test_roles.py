"""The roles at work: the emulator lets every function do only what its role allows.

First the product itself runs under its roles, so that none lacks a right. Then a burglar takes
each function's place and tries what that role must not do.
"""

import io
import json
import sqlite3
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from examples.demo import emulator
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
name = "shop"
engine = "postgres"
connection = {{ secret = "prod/shop" }}

[[targets]]
name = "back"
path = "{home}/back"

[[targets]]
name = "staging"
connection = {{ secret = "staging/shop" }}

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
        steps = self.client("stepfunctions")
        arn = steps.start_execution(
            stateMachineArn=self.outputs[f"{machine}StateMachineArn"], input=json.dumps(given)
        )["executionArn"]
        for _ in range(600):
            execution: dict[str, Any] = steps.describe_execution(executionArn=arn)
            if execution["status"] != "RUNNING":
                return execution
            time.sleep(0.1)
        raise AssertionError(f"{arn} did not end")

    def attempt(self, function: str, service: str, call: str, **arguments: Any) -> str:
        """What a burglar in the function's place is told."""
        answer = self.client("lambda").invoke(
            FunctionName=f"Stepvault-{function}",
            Payload=json.dumps({"service": service, "call": call, "arguments": arguments}),
        )
        return str(json.load(answer["Payload"]))


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    home = tmp_path_factory.mktemp("roles")
    (home / "tree").mkdir()
    (home / "back").mkdir()
    for number in range(20):
        (home / "tree" / f"{number}.txt").write_text(f"file {number}\n")
    with sqlite3.connect(home / "lite.sqlite") as lite:
        lite.execute("CREATE TABLE word (text)")
        lite.executemany("INSERT INTO word VALUES (?)", [(f"word {n}",) for n in range(1000)])
    lite.close()
    config = home / "stepvault.toml"
    config.write_text(CONFIG.format(home=home))
    with emulator.running(auth=True) as endpoint:
        yield Deployed(endpoint, emulator.deploy(endpoint, config), home)


@pytest.fixture(scope="module")
def backed_up(deployed: Deployed) -> Deployed:
    """The stack after two backups, the second of which pruned the first."""
    for _ in range(2):
        ended = deployed.run("Backup", {"sources": ["tree", "lite"]})
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


@pytest.fixture(scope="module")
def burgled(backed_up: Deployed) -> Deployed:
    """The same stack with a burglar in every function."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as code:
        code.write(HERE / "burglar.py", "burglar.py")
    functions = backed_up.client("lambda")
    for function in functions.list_functions()["Functions"]:
        name = function["FunctionName"]
        functions.update_function_code(FunctionName=name, ZipFile=archive.getvalue())
        functions.update_function_configuration(FunctionName=name, Handler="burglar.handler")
    secrets = backed_up.client("secretsmanager")
    for name in ("prod/shop", "staging/shop"):
        secrets.create_secret(Name=name, SecretString="{}")
    return backed_up


BACK_UP = ["back_up_files", "back_up_sqlite", "back_up_postgres"]
ALL = [*BACK_UP, "plan", "seal", "prune", "plan_restore", "restore"]
RUN = "20260101T000000Z-burglar"


@pytest.mark.parametrize("function", ALL)
def test_only_prune_deletes_and_only_what_is_ours(burgled: Deployed, function: str) -> None:
    def delete(key: str) -> str:
        return burgled.attempt(function, "s3", "delete_object", Bucket=burgled.vault, Key=key)

    told = delete(keys.data("tree", RUN, "x"))

    assert told == "allowed" if function == "prune" else told in DENIED
    assert delete("somebody/elses") in DENIED


@pytest.mark.parametrize("function", ALL)
def test_only_seal_makes_a_backup_exist(burgled: Deployed, function: str) -> None:
    key = keys.manifest("tree", RUN)
    told = burgled.attempt(function, "s3", "put_object", Bucket=burgled.vault, Key=key, Body="{}")

    assert told == "allowed" if function == "seal" else told in DENIED


@pytest.mark.parametrize("function", ALL)
def test_a_secret_is_read_by_those_who_connect_with_it(burgled: Deployed, function: str) -> None:
    def read(name: str) -> str:
        return burgled.attempt(function, "secretsmanager", "get_secret_value", SecretId=name)

    source, target = read("prod/shop"), read("staging/shop")

    assert source == "allowed" if function == "back_up_postgres" else source in DENIED
    assert target == "allowed" if function in {"restore", "plan_restore"} else target in DENIED


@pytest.mark.parametrize(
    ("service", "call", "arguments"),
    [
        ("s3", "list_buckets", {}),
        ("s3", "put_bucket_versioning", {"VersioningConfiguration": {"Status": "Suspended"}}),
        ("iam", "list_roles", {}),
        ("stepfunctions", "list_state_machines", {}),
    ],
)
def test_nothing_else_is_allowed(
    burgled: Deployed, service: str, call: str, arguments: dict[str, Any]
) -> None:
    if call == "put_bucket_versioning":
        arguments = arguments | {"Bucket": burgled.vault}
    for function in ALL:
        assert burgled.attempt(function, service, call, **arguments) in DENIED, function
