"""Run MiniStack 1.5.33 with what it lacks of Step Functions and Lambda, as AWS documents it.

Runs in the emulator's own environment, started by ``emulator.running()``.
Each patch says what MiniStack does without it.
"""

import json
import os
import shutil
import signal
import sys
import threading
import time
from typing import Any

from ministack.core import lambda_runtime
from ministack.core.responses import error_response_json, now_iso
from ministack.services import cloudwatch, lambda_svc, s3
from ministack.services import stepfunctions as sfn

#: The statuses of child executions that a ResultWriter's files hold.
_OUTCOMES = ("SUCCEEDED", "FAILED")


def main() -> None:
    """Patch MiniStack, then serve until the parent is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    name_errors()
    name_throttles()
    publish_metrics()
    count_executions()
    write_map_results()
    read_json_lines()
    redrive()
    from ministack.app import main as serve

    serve()


def _end_with_parent() -> None:
    """End when standard input ends: the parent holds it, so a killed test leaves nothing behind."""
    sys.stdin.buffer.read()
    shutil.rmtree(os.environ["TMPDIR"], ignore_errors=True)  # the scratch folder made for us
    os.killpg(0, signal.SIGKILL)


def name_errors() -> None:
    """Let a failed function's error carry the exception's class (else Runtime.HandlerError)."""
    marker = '"error": str(e), "trace"'
    assert marker in lambda_runtime._PYTHON_WORKER_SCRIPT, "MiniStack's worker script changed"
    lambda_runtime._PYTHON_WORKER_SCRIPT = lambda_runtime._PYTHON_WORKER_SCRIPT.replace(
        marker, '"error": str(e), "type": type(e).__name__, "trace"'
    )
    last = threading.local()
    invoke, execute = lambda_runtime.Worker.invoke, lambda_svc._execute_function_warm

    def invoke_and_remember(self: Any, *given: Any, **named: Any) -> dict[str, Any]:
        result: dict[str, Any] = invoke(self, *given, **named)
        died = result.get("error") == "Worker process died"
        last.error = "Runtime.ExitError" if died else result.get("type")
        return result

    def execute_and_name(func: Any, event: Any, request_id: str) -> dict[str, Any]:
        last.error = None
        result: dict[str, Any] = execute(func, event, request_id)
        if result.get("error") and last.error:
            result["body"]["errorType"] = last.error
        return result

    lambda_runtime.Worker.invoke = invoke_and_remember
    lambda_svc._execute_function_warm = execute_and_name


def name_throttles() -> None:
    """Let a throttled function fail its task with Lambda's own name (else Lambda.Unknown)."""
    original = lambda_svc._throttle_response

    def named(**given: Any) -> dict[str, Any]:
        result: dict[str, Any] = original(**given)
        result["body"]["errorType"] = "Lambda.TooManyRequestsException"
        return result

    lambda_svc._throttle_response = named


def publish_metrics() -> None:
    """Bring metrics in a function's log (EMF) to CloudWatch and its alarms (else they stay there)."""
    execute = lambda_svc._execute_function_warm

    def execute_and_publish(func: Any, event: Any, request_id: str) -> dict[str, Any]:
        result: dict[str, Any] = execute(func, event, request_id)
        for line in (result.get("log") or "").splitlines():
            if line.startswith('{"_aws"'):
                _publish(json.loads(line))
        return result

    lambda_svc._execute_function_warm = execute_and_publish


def _publish(record: dict[str, Any]) -> None:
    at = record["_aws"]["Timestamp"] / 1000
    for directive in record["_aws"]["CloudWatchMetrics"]:
        for names in directive["Dimensions"]:
            dimensions = {name: str(record[name]) for name in names}
            for metric in directive["Metrics"]:
                value = record[metric["Name"]]
                for one in value if isinstance(value, list) else [value]:
                    _datum(directive["Namespace"], metric["Name"], dimensions, at, one)
    cloudwatch._evaluate_all_alarms()


def _datum(namespace: str, name: str, dimensions: dict[str, str], at: float, value: float) -> None:
    cloudwatch._store_datum(namespace, name, dimensions, at, "None", value, None, None, None)


def count_executions() -> None:
    """Count in AWS/States how executions end (else alarms on failed runs never fire)."""
    original = sfn._emit_execution_status_event
    names = {
        "RUNNING": "ExecutionsStarted",
        "SUCCEEDED": "ExecutionsSucceeded",
        "FAILED": "ExecutionsFailed",
        "ABORTED": "ExecutionsAborted",
        "TIMED_OUT": "ExecutionsTimedOut",
    }

    def emit(execution: dict[str, Any]) -> None:
        original(execution)
        machine = {"StateMachineArn": execution["stateMachineArn"]}
        _datum("AWS/States", names[execution["status"]], machine, time.time(), 1)
        cloudwatch._evaluate_all_alarms()

    sfn._emit_execution_status_event = emit


def write_map_results() -> None:
    """Let a Distributed Map's ResultWriter write to S3 (else it is ignored)."""
    original = sfn._run_distributed_map

    def run(
        state: dict[str, Any], raw: Any, effective: Any, iterator: Any, execution: Any, ctx: Any
    ) -> Any:
        writer = state.get("ResultWriter")
        if not writer:
            return original(state, raw, effective, iterator, execution, ctx)
        shape = {
            k: v
            for k, v in state.items()
            if k not in {"ResultSelector", "ResultPath", "OutputPath"}
        }
        before = set(sfn._map_runs.keys())
        try:
            original(shape, raw, effective, iterator, execution, ctx)
        finally:
            # Two Maps of one execution run side by side: the label tells them apart.
            map_run = next(
                run
                for arn, run in sfn._map_runs.items()
                if arn not in before
                and run["executionArn"] == execution["executionArn"]
                and f"/{state.get('Label')}:" in arn
            )
            details = _write_results(
                map_run, sfn._resolve_params_obj(writer["Parameters"], effective, ctx)
            )
        result: Any = {"MapRunArn": map_run["mapRunArn"], "ResultWriterDetails": details}
        result = sfn._apply_result_selector(state, result)
        output = sfn._apply_output_path(state, sfn._apply_result_path(state, raw, result), ctx)
        return output, sfn._next_or_end(state)

    sfn._run_distributed_map = run


def _write_results(run: dict[str, Any], place: dict[str, Any]) -> dict[str, str]:
    children = [c for c in sfn._executions.values() if c.get("mapRunArn") == run["mapRunArn"]]
    folder = f"{place.get('Prefix', '').rstrip('/')}/{run['mapRunArn'].rsplit(':', 1)[1]}".lstrip(
        "/"
    )
    files: dict[str, list[dict[str, Any]]] = {"PENDING": [], "FAILED": [], "SUCCEEDED": []}
    for status in _OUTCOMES:
        rows = [_result_row(child) for child in children if child["status"] == status]
        if rows:
            body, key = json.dumps(rows).encode(), f"{folder}/{status}_0.json"
            s3._put_object(place["Bucket"], key, body, {})
            files[status].append({"Key": key, "Size": len(body)})
    manifest = {
        "DestinationBucket": place["Bucket"],
        "MapRunArn": run["mapRunArn"],
        "ResultFiles": files,
    }
    s3._put_object(place["Bucket"], f"{folder}/manifest.json", json.dumps(manifest).encode(), {})
    for counts in (run["itemCounts"], run["executionCounts"]):
        counts["resultsWritten"] = len(children)
    return {"Bucket": place["Bucket"], "Key": f"{folder}/manifest.json"}


def _result_row(child: dict[str, Any]) -> dict[str, Any]:
    row = {
        "ExecutionArn": child["executionArn"],
        "Input": child["input"],
        "InputDetails": {"Included": True},
        "Name": child["name"],
        "StartDate": child["startDate"],
        "StateMachineArn": child["stateMachineArn"],
        "Status": child["status"],
        "StopDate": child["stopDate"],
    }
    if child["status"] == "SUCCEEDED":
        return row | {"Output": child["output"], "OutputDetails": {"Included": True}}
    return row | {"Error": child.get("error"), "Cause": child.get("cause")}


def read_json_lines() -> None:
    """End a line of JSONL at a line feed only (else U+2028 and its like inside a string end it)."""
    original = sfn._parse_reader_items

    def parse(text: str, config: dict[str, Any]) -> Any:
        if config.get("InputType") == "JSONL":
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        return original(text, config)

    sfn._parse_reader_items = parse


def redrive() -> None:
    """Add RedriveExecution, and ``$$.Execution.RedriveCount`` from the first run on (else neither)."""
    handle, resolve, describe = sfn.handle_request, sfn._resolve_ctx_path, sfn._describe_execution

    def resolve_with_count(path: str, ctx: dict[str, Any]) -> Any:
        execution = ctx.get("Execution")
        if execution:
            known = sfn._executions.get(execution["Id"]) or {}
            execution["RedriveCount"] = known.get("redriveCount", 0)
        return resolve(path, ctx)

    def describe_with_count(data: dict[str, Any]) -> Any:
        answer = describe(data)
        execution = sfn._executions.get(data.get("executionArn"))
        if execution is None:
            return answer
        status, headers, body = answer
        redrivable = execution["status"] in {"FAILED", "ABORTED", "TIMED_OUT"}
        more = {
            "redriveCount": execution.get("redriveCount", 0),
            "redriveStatus": "REDRIVABLE" if redrivable else "NOT_REDRIVABLE",
        }
        return status, headers, json.dumps(json.loads(body) | more).encode()

    async def handle_with_redrive(
        method: str, path: str, headers: dict[str, str], body: bytes, query: Any
    ) -> Any:
        if headers.get("x-amz-target", "").endswith(".RedriveExecution"):
            return sfn._finalize_response(_start_redrive(json.loads(body)))
        return await handle(method, path, headers, body, query)

    sfn._resolve_ctx_path = resolve_with_count
    sfn._describe_execution = describe_with_count
    sfn.handle_request = handle_with_redrive


def _start_redrive(data: dict[str, Any]) -> Any:
    arn = data.get("executionArn")
    execution = sfn._executions.get(arn)
    if execution is None:
        return error_response_json("ExecutionDoesNotExist", f"Execution {arn} not found", 400)
    if execution["status"] not in {"FAILED", "ABORTED", "TIMED_OUT"}:
        return error_response_json(
            "ExecutionNotRedrivable",
            f"Execution is {execution['status']} and cannot be redriven",
            400,
        )
    entered = next(
        event["stateEnteredEventDetails"]
        for event in reversed(execution["events"])
        if "stateEnteredEventDetails" in event
    )
    count, date = execution.get("redriveCount", 0) + 1, now_iso()
    execution.update(
        status="RUNNING", stopDate=None, output=None, error=None, cause=None,
        redriveCount=count, redriveDate=date,
    )  # fmt: skip
    sfn._add_event(
        execution, "ExecutionRedriven", {"executionRedrivenEventDetails": {"redriveCount": count}}
    )
    context = sfn.contextvars.copy_context()
    threading.Thread(
        target=context.run,
        args=(_resume, execution, entered["name"], json.loads(entered["input"])),
        daemon=True,
    ).start()
    return sfn.json_response({"redriveDate": date})


def _resume(execution: dict[str, Any], name: str | None, value: Any) -> None:
    """Run the machine on from the state that failed, with the input it had."""
    machine = sfn._state_machines[execution["stateMachineArn"]]
    definition = json.loads(machine["definition"])
    ctx: dict[str, Any] = {
        "QueryLanguage": definition.get("QueryLanguage", "JSONPath"),
        "Execution": {
            "Id": execution["executionArn"],
            "Input": json.loads(execution["input"]),
            "Name": execution["name"],
            "StartTime": execution["startDate"],
        },
        "StateMachine": {"Id": execution["stateMachineArn"], "Name": machine["name"]},
        "variables": {},
    }
    try:
        while name and execution["status"] == "RUNNING":
            state = definition["States"][name]
            kind = state["Type"]
            ctx["State"] = {"Name": name, "EnteredTime": now_iso(), "RetryCount": 0}
            entered = {"name": name, "input": json.dumps(value)}
            sfn._add_event(execution, f"{kind}StateEntered", {"stateEnteredEventDetails": entered})
            value, after = _step(kind, state, value, execution, ctx)
            exited = {"name": name, "output": json.dumps(value)}
            sfn._add_event(execution, f"{kind}StateExited", {"stateExitedEventDetails": exited})
            name = after
    except sfn._ExecutionError as error:
        sfn._fail_execution(execution, error.error, error.cause)
        return
    except Exception as error:
        sfn._fail_execution(execution, "States.Runtime", str(error))
        return
    if execution["status"] == "RUNNING":
        output = json.dumps(value)
        execution.update(status="SUCCEEDED", output=output, stopDate=now_iso())
        sfn._add_event(
            execution, "ExecutionSucceeded", {"executionSucceededEventDetails": {"output": output}}
        )
        sfn._emit_execution_status_event(execution)


def _step(kind: str, state: Any, value: Any, execution: Any, ctx: Any) -> tuple[Any, str | None]:
    match kind:
        case "Task" | "Parallel" | "Map":
            return getattr(sfn, f"_execute_{kind.lower()}")(state, value, execution, ctx)  # type: ignore[no-any-return]
        case "Pass" | "Choice" | "Wait":
            return getattr(sfn, f"_execute_{kind.lower()}")(state, value, ctx)  # type: ignore[no-any-return]
        case "Fail":
            raise sfn._ExecutionError(*sfn._fail_state_error(state, value, ctx))
        case _:
            return value, None


if __name__ == "__main__":
    main()
