"""Step Functions and CloudFormation, as far as the command line needs them."""

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from stepvault import keys
from stepvault.aws_errors import AwsProblem, translated
from stepvault.errors import (
    ConfigInvalid,
    RunNotFound,
    StepvaultError,
    StorageUnavailable,
    VaultDenied,
    VaultMissing,
)

if TYPE_CHECKING:
    from mypy_boto3_stepfunctions import SFNClient

Status = Literal[
    "RUNNING", "SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED", "PENDING_REDRIVE", "UNKNOWN"
]
_SEE_RUNS = "See 'stepvault runs'"


@dataclass(frozen=True)
class Deployment:
    """What the stack says about itself."""

    vault: str
    machines: dict[str, str]
    """``Backup`` and ``Restore`` to the ARN of the state machine."""

    def machine(self, kind: Literal["Backup", "Restore"]) -> str:
        """ARN of the state machine.

        Raises:
            VaultMissing: there is only a bucket, no stack.
        """
        if kind not in self.machines:
            raise VaultMissing(
                f"No {kind} state machine is known", "Leave --vault out and name the --stack"
            )
        return self.machines[kind]


@dataclass(frozen=True)
class Execution:
    """One execution of a state machine."""

    arn: str
    name: str
    status: Status
    started: datetime
    error: str = ""
    """Name and cause of the failure, or nothing."""
    ended: datetime | None = None
    redriven: datetime | None = None


def require_session() -> None:
    """See that there are credentials and a region before anything else goes wrong over them.

    Raises:
        VaultDenied, ConfigInvalid: with what to set.
    """
    import boto3

    with errors("AWS"):
        session = boto3.Session()
        if session.get_credentials() is None:
            raise VaultDenied(
                "There are no AWS credentials",
                "Set AWS_PROFILE, or sign in with 'aws sso login' or 'aws configure'",
            )
        if session.region_name is None:
            raise ConfigInvalid(
                "No AWS region is set", "Set AWS_DEFAULT_REGION, or the region of your AWS profile"
            )


def deployment(stack: str, vault: str | None) -> Deployment:
    """Return the stack's outputs, or just the vault if the caller names another than the stack's.

    Raises:
        VaultMissing: no such stack, or it is not Stepvault's.
    """
    require_session()
    try:
        outputs = _outputs(stack)
    except VaultMissing:
        if vault is None:
            raise
        outputs = {}
    if vault not in (None, outputs.get("VaultName")):
        return Deployment(vault or "", {})  # another vault: the stack's machines are not its own
    bucket = outputs.get("VaultName")
    if not bucket:
        raise VaultMissing(
            f"The stack {stack!r} has no output VaultName", "Name the right stack with --stack"
        )
    machines = {
        kind: arn
        for kind in ("Backup", "Restore")
        if (arn := outputs.get(f"{kind}StateMachineArn"))
    }
    return Deployment(bucket, machines)


def _outputs(stack: str) -> dict[str, str]:
    import boto3

    with errors("CloudFormation"):
        client = boto3.client("cloudformation")
        try:
            stacks = client.describe_stacks(StackName=stack)["Stacks"]
        except client.exceptions.ClientError as error:
            if "does not exist" not in str(error):
                raise
            stacks = []
        if not stacks:
            raise VaultMissing(
                f"There is no CloudFormation stack {stack!r} in {client.meta.region_name}",
                "Deploy it ('cdk deploy'), name another with --stack, or set AWS_DEFAULT_REGION",
            )
        return {o["OutputKey"]: o["OutputValue"] for o in stacks[0].get("Outputs", [])}


def start(machine: str, given: dict[str, Any]) -> Execution:
    """Start an execution under a new name and return it."""
    name = f"cli-{secrets.token_hex(4)}"
    with errors("Step Functions"):
        started = _states().start_execution(
            stateMachineArn=machine, name=name, input=json.dumps(given)
        )
    return Execution(started["executionArn"], name, "RUNNING", started["startDate"])


def execution(arn: str) -> Execution:
    """How the execution stands.

    Raises:
        RunNotFound: Step Functions knows no such execution (it forgets them after 90 days).
    """
    with errors("Step Functions"):
        described = _states().describe_execution(executionArn=arn)
    return Execution(
        arn,
        described["name"],
        described["status"],
        described["startDate"],
        _why(dict(described)),
        described.get("stopDate"),
        described.get("redriveDate"),
    )


def _why(described: dict[str, Any]) -> str:
    """Return a failed execution's reason; a function's error comes as JSON within the cause."""
    name, cause = described.get("error") or "", described.get("cause") or ""
    try:
        inner = json.loads(cause)
    except ValueError:
        inner = None
    if isinstance(inner, dict) and "errorMessage" in inner:
        name, cause = str(inner.get("errorType") or name), str(inner["errorMessage"])
    return ": ".join(part for part in (name, cause) if part)


def executions(
    machine: str, limit: int = 200, *, only: Literal["RUNNING"] | None = None
) -> dict[str, Execution]:
    """Return the newest executions, by the id of the run that each began."""
    by_run: dict[str, Execution] = {}
    status: dict[str, Any] = {"statusFilter": only} if only else {}
    with errors("Step Functions"):
        pages = (
            _states()
            .get_paginator("list_executions")
            .paginate(stateMachineArn=machine, PaginationConfig={"MaxItems": limit}, **status)
        )
        for page in pages:
            for e in page["executions"]:
                run = keys.run_id(e["startDate"], e["name"])
                by_run[run] = Execution(e["executionArn"], e["name"], e["status"], e["startDate"])
    return by_run


def find(machine: str, run: str) -> Execution | None:
    """Return the execution at work on that run: one that took it up again, else the one that began it."""
    return at_work(machine, run) or executions(machine).get(run)


def at_work(machine: str, run: str) -> Execution | None:
    """Return the execution that carries out that run at this moment, if one does."""
    running = executions(machine, only="RUNNING")
    took_up = (e for e in running.values() if taken_up(e) == run)
    return next(took_up, None) or running.get(run)


def taken_up(execution: Execution) -> str | None:
    """Return the earlier run that the execution was started to finish; None if it began its own."""
    with errors("Step Functions"):
        described = _states().describe_execution(executionArn=execution.arn)
    given = json.loads(described.get("input") or "{}")
    return given.get("run_id") if isinstance(given, dict) else None


@dataclass(frozen=True)
class Items:
    """What became of the items of an execution's Distributed Maps, those begun so far."""

    pending: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0


def items(arn: str) -> Items:
    """Count the items of all Maps of the execution."""
    total = Items()
    with errors("Step Functions"):
        for run in _states().list_map_runs(executionArn=arn)["mapRuns"]:
            counts = _states().describe_map_run(mapRunArn=run["mapRunArn"])["itemCounts"]
            total = Items(
                total.pending + counts["pending"],
                total.running + counts["running"],
                total.done + counts["succeeded"],
                total.failed + counts["failed"] + counts["timedOut"] + counts["aborted"],
            )
    return total


@cache
def _states() -> "SFNClient":
    import boto3

    return boto3.client("stepfunctions")


@contextmanager
def errors(service: str) -> Iterator[None]:
    """Turn AWS's errors into ours; ``service`` names the one that was called.

    Raises:
        VaultDenied, RunNotFound, ConfigInvalid, StorageUnavailable: with the next step.
    """

    def ours(problem: AwsProblem) -> StepvaultError:  # noqa: PLR0911 - one per class
        answer = f"{problem.operation} ({problem.code}): {problem.message}".rstrip(": ")
        match problem.kind:
            case "unset":
                return ConfigInvalid(problem.message, problem.hint)
            case "denied" if not problem.operation:
                return VaultDenied(problem.message, problem.hint)
            case "denied":
                return VaultDenied(
                    f"{service} refuses {problem.operation} ({problem.code})",
                    problem.hint or "Sign in again, or ask for the permission",
                )
            case "refused" | "changed":
                return VaultDenied(f"{service} refuses {answer}", problem.hint)
            case "missing":
                return RunNotFound(f"{service} does not know it ({problem.code})", _SEE_RUNS)
            case _ if problem.operation:
                return StorageUnavailable(
                    f"{service} did not do {answer}", "Try again; if it stays so, look at the stack"
                )
            case _:
                return StorageUnavailable(
                    f"{service} cannot be reached: {problem.message}",
                    "Check the network and AWS_ENDPOINT_URL",
                )

    with translated(ours):
        yield
