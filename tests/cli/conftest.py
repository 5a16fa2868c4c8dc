"""A stack as the command line sees one, whose state machines wait for the test to do the work."""

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import boto3
import pytest
from click.testing import CliRunner, Result

from stepvault import plan
from stepvault.backup import back_up
from stepvault.catalog import Vault
from stepvault.engines.base import UnitDraft
from stepvault.errors import StepvaultError
from stepvault.plan import RunRequest
from stepvault.records import Unit, parse
from stepvault.seal import SealRequest, complain, seal
from stepvault.settings import Config
from stepvault_cli import aws as cli_aws
from stepvault_cli.main import cli
from tests.core.streams import Scripted, ScriptedEngine
from tests.planning import whole_plan

CONFIG = Config.model_validate(
    {
        "sources": [
            {"name": "app", "engine": "sqlite", "path": "/data/app.db"},
            {"name": "docs", "engine": "files", "path": "/data/docs", "incremental": False},
        ]
    }
)


def _machine() -> dict[str, Any]:
    """A state machine that hands its input to a queue and waits for the answer."""
    task = {
        "Type": "Task",
        "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
        "Parameters": {
            "QueueUrl": "${Queue}",
            "MessageBody": {
                "token.$": "$$.Task.Token",
                "execution": {
                    "name.$": "$$.Execution.Name",
                    "started.$": "$$.Execution.StartTime",
                },
                "input.$": "$$.Execution.Input",
            },
        },
        "End": True,
    }
    definition = json.dumps({"StartAt": "Work", "States": {"Work": task}})
    return {
        "Type": "AWS::StepFunctions::StateMachine",
        "Properties": {
            "RoleArn": "arn:aws:iam::000000000000:role/stepvault",
            "DefinitionString": {"Fn::Sub": definition},
        },
    }


_TEMPLATE = {
    "Resources": {
        "Vault": {"Type": "AWS::S3::Bucket"},
        "Queue": {"Type": "AWS::SQS::Queue"},
        "Backup": _machine(),
        "Restore": _machine(),
    },
    "Outputs": {
        "VaultName": {"Value": {"Ref": "Vault"}},
        "BackupStateMachineArn": {"Value": {"Ref": "Backup"}},
        "RestoreStateMachineArn": {"Value": {"Ref": "Restore"}},
        "QueueUrl": {"Value": {"Ref": "Queue"}},
    },
}


@dataclass
class Stack:
    """A deployed stack and the hands that do what its functions would."""

    name: str
    vault: Vault
    queue: str
    machines: dict[str, str]
    work: Callable[[dict[str, Any]], None] = lambda message: None
    """What to do with an execution; what it raises fails the execution as a function would."""
    seen: list[dict[str, Any]] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    """Mistakes of a test's own work."""

    def serve(self, stop: threading.Event) -> None:
        sqs, states = boto3.client("sqs"), boto3.client("stepfunctions")
        while not stop.is_set():
            got = sqs.receive_message(QueueUrl=self.queue, WaitTimeSeconds=1)
            for message in got.get("Messages", []):
                sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=message["ReceiptHandle"])
                body = json.loads(message["Body"])
                self.seen.append(body)
                try:
                    self.work(body)
                except StepvaultError as error:
                    name = type(error).__name__
                    cause = json.dumps({"errorType": name, "errorMessage": str(error)})
                    states.send_task_failure(taskToken=body["token"], error=name, cause=cause)
                except Exception as error:  # fails its own test, and leaves the others their stack
                    self.errors.append(error)
                    states.send_task_failure(taskToken=body["token"], error="BrokenTest")
                else:
                    states.send_task_success(taskToken=body["token"], output="{}")


@pytest.fixture(scope="session")
def _deployed(aws: str) -> Iterator[Stack]:
    name, client = f"cli-{uuid.uuid4().hex[:8]}", boto3.client("cloudformation")
    client.create_stack(StackName=name, TemplateBody=json.dumps(_TEMPLATE))
    client.get_waiter("stack_create_complete").wait(StackName=name, WaiterConfig={"Delay": 1})
    found = client.describe_stacks(StackName=name)["Stacks"][0]["Outputs"]
    outputs = {o["OutputKey"]: o["OutputValue"] for o in found}
    machines = {kind: outputs[f"{kind}StateMachineArn"] for kind in ("Backup", "Restore")}
    cli_aws._states.cache_clear()
    made = Stack(name, Vault(outputs["VaultName"]), outputs["QueueUrl"], machines)
    stop = threading.Event()
    server = threading.Thread(target=made.serve, args=(stop,), name="hands")
    server.start()
    yield made
    stop.set()
    server.join()
    cli_aws._states.cache_clear()


@pytest.fixture
def stack(_deployed: Stack) -> Iterator[Stack]:
    """The stack, with an empty vault and idle hands."""
    vault = _deployed.vault
    vault.delete([entry.key for entry in vault.entries("")])
    _deployed.seen.clear()
    yield _deployed
    _deployed.work = lambda message: None
    errors, _deployed.errors = _deployed.errors, []
    if errors:
        raise errors[0]


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> dict[str, ScriptedEngine]:
    """One scripted engine per engine name; ``files`` plans two batches."""
    made = {
        "sqlite": ScriptedEngine([Scripted("app.zst", lambda: iter([b"pages" * 500]), rows=3)]),
        "files": ScriptedEngine(
            [],
            planned=[
                UnitDraft("0000", [b"a\0", b"b\0"], 20, 2),
                UnitDraft("0001", [b"c\0"], 10, 1),
            ],
        ),
    }
    monkeypatch.setattr("stepvault.engines.find", made.__getitem__)
    return made


def units(vault: Vault, state: dict[str, Any]) -> list[Unit]:
    """The units that ``plan`` handed out."""
    lines = [x for kind in plan.KINDS for x in (vault.get(state[kind]["key"]) or b"").splitlines()]
    return [Unit.model_validate_json(line) for line in lines]


def run_unit(vault: Vault, engines: dict[str, ScriptedEngine], unit: Unit) -> None:
    if unit.source.engine == "files":
        script = Scripted(f"{unit.id}.tar.zst", lambda: iter([unit.id.encode() * 500]))
        engines["files"].scripts = [script]
    back_up(unit, vault)


def whole_run(vault: Vault, engines: dict[str, ScriptedEngine], message: dict[str, Any]) -> None:
    """What the Backup state machine does with its functions, one after another."""
    request = parse(RunRequest, message)
    state = whole_plan(CONFIG, vault, request)
    for unit in units(vault, state):
        try:
            run_unit(vault, engines, unit)
        except StepvaultError:
            continue  # a failed unit stops no sibling
    summary, _ = seal(vault, SealRequest(run_id=request.run_id, input=request.input))
    assert summary is not None
    complain(summary)


def invoke(*arguments: str) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(cli, list(arguments), prog_name="stepvault")


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STEPVAULT_STACK", "STEPVAULT_VAULT", "STEPVAULT_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
