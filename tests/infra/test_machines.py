"""The state machines, schedules, alarms and the dashboard."""

import json
import re
from typing import Any

from stepvault import errors
from tests.infra.synth import ROOT, Template, listed, states


def _tasks(definition: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        n: s for n, s in states(definition) if s["Type"] == "Task" and ":::" not in s["Resource"]
    }


def test_the_backup_runs_in_the_order_drawn(everything: Template) -> None:
    backup = everything.machine("backup")
    order, name = [], backup["StartAt"]
    while name:
        order.append(name)
        state = backup["States"][name]
        name = state.get("Next") or state.get("Default")

    assert order == ["Plan", "Fan out", "Seal", "Sealed?", "Prune", "Notify"]
    assert backup["States"]["Sealed?"]["Choices"] == [
        {"Variable": "$.status", "StringEquals": "incomplete", "Next": "Fan out"}
    ]


def test_both_maps_have_their_limits_and_tolerate_failures(everything: Template) -> None:
    inside = dict(states(everything.machine("backup")))
    maps = {s["Label"]: s for s in inside.values() if s["Type"] == "Map"}

    assert {n: m["MaxConcurrency"] for n, m in maps.items()} == {
        "databases": 2,
        "planning": 7,
        "files": 7,
    }
    for label, each in maps.items():
        assert each["ItemProcessor"]["ProcessorConfig"] == {
            "Mode": "DISTRIBUTED",
            "ExecutionType": "STANDARD",
        }
        assert each["ToleratedFailurePercentage"] == 100
        assert each["ItemReader"]["ReaderConfig"] == {"InputType": "JSONL"}
        assert each["ItemReader"]["Parameters"]["Key.$"] == f"$.{label}.key"
        assert each["ResultWriter"]["Parameters"]["Prefix"] == "runs/map-results"
        assert each["ResultPath"] is None


def test_a_slow_tree_holds_up_no_database(everything: Template) -> None:
    branches = everything.machine("backup")["States"]["Fan out"]["Branches"]
    labels = [[s["Label"] for _, s in states(b) if s["Type"] == "Map"] for b in branches]

    assert labels == [["databases"], ["planning", "files"]]


def test_a_restore_stops_at_the_first_failure(everything: Template) -> None:
    maps = [s for _, s in states(everything.machine("restore")) if s["Type"] == "Map"]

    assert [m["Label"] for m in maps] == ["before", "data", "after"] or len(maps) == 3
    for each in maps:
        assert each.get("ToleratedFailureCount", 0) == 0
        assert "ToleratedFailurePercentage" not in each


def test_every_choice_knows_what_else_to_do(everything: Template, minimal: Template) -> None:
    for template in (everything, minimal):
        for machine in ("backup", "restore"):
            for name, state in states(template.machine(machine)):
                assert state["Type"] != "Choice" or "Default" in state, name


def test_every_call_retries_what_is_transient_and_nothing_else(everything: Template) -> None:
    transient = {c.__name__ for c in errors.Transient.__subclasses__()}
    permanent = {c.__name__ for c in errors.Permanent.__subclasses__()}
    for machine in ("backup", "restore"):
        calls = _tasks(everything.machine(machine))
        assert calls
        for name, call in calls.items():
            away, others = call["Retry"]
            ours = {e for e in others["ErrorEquals"] if not e.startswith("Lambda.")}

            assert ours | set(away["ErrorEquals"]) == transient, name
            assert not permanent & {*away["ErrorEquals"], *others["ErrorEquals"]}
            assert (others["IntervalSeconds"], others["BackoffRate"], others["MaxAttempts"]) == (
                5,
                2,
                3,
            )
            assert (others["JitterStrategy"], others["MaxDelaySeconds"]) == ("FULL", 60)
            assert call["TimeoutSeconds"] > 900


def test_a_server_that_is_away_is_waited_for_longer_than_a_failover(everything: Template) -> None:
    for machine in ("backup", "restore"):
        for name, call in _tasks(everything.machine(machine)).items():
            (away,) = [r for r in call["Retry"] if "SourceUnreachable" in r["ErrorEquals"]]
            waits = [
                min(away["IntervalSeconds"] * away["BackoffRate"] ** n, away["MaxDelaySeconds"])
                for n in range(away["MaxAttempts"])
            ]

            assert "SourceBusy" in away["ErrorEquals"]
            assert away.get("JitterStrategy", "NONE") == "NONE", name
            assert sum(waits) >= 300, name  # a Multi-AZ failover: 60 to 120 s


def test_a_message_that_cannot_be_sent_does_not_turn_a_sealed_run_red(
    everything: Template,
) -> None:
    notify = everything.machine("backup")["States"]["Notify"]
    (caught,) = notify["Catch"]

    assert notify["Retry"][0]["ErrorEquals"] == ["States.ALL"]
    assert caught["ErrorEquals"] == ["States.ALL"]
    assert everything.machine("backup")["States"][caught["Next"]] == {"Type": "Pass", "End": True}


def test_a_run_ends_in_the_end(everything: Template) -> None:
    assert everything.machine("backup")["TimeoutSeconds"] == 24 * 3600


def test_seal_hears_of_redrives(everything: Template) -> None:
    given = everything.machine("backup")["States"]["Seal"]["Parameters"]

    assert given["redrive_count.$"] == "$$.Execution.RedriveCount"
    assert given["attempt.$"] == "$.attempt"
    assert given["run_id.$"] == "$.run_id"


def test_a_machine_may_call_its_own_functions_and_no_other(everything: Template) -> None:
    machines = everything.of_type("AWS::StepFunctions::StateMachine").values()
    for machine in machines:
        allowed = {
            resource
            for statement in everything.statements(machine["RoleArn"])
            if "lambda:InvokeFunction" in listed(statement["Action"])
            for resource in listed(statement["Resource"])
        }
        called = {t["Resource"] for t in _tasks(json.loads(machine["DefinitionString"])).values()}

        assert allowed == called


def test_a_machine_may_redrive_its_maps(everything: Template) -> None:
    for machine in everything.of_type("AWS::StepFunctions::StateMachine").values():
        name = machine["StateMachineName"]
        arn = "arn:<AWS::Partition>:states:<AWS::Region>:<AWS::AccountId>"
        child = f"{arn}:execution:{name}/databases:1"

        assert everything.may(machine["RoleArn"], "states:RedriveExecution", child)
        assert everything.may(
            machine["RoleArn"], "states:StartExecution", f"{arn}:stateMachine:{name}"
        )
        assert not everything.may(
            machine["RoleArn"], "states:StartExecution", f"{arn}:stateMachine:other"
        )


def test_an_engine_that_was_not_deployed_is_refused_by_name(everything: Template) -> None:
    inside = dict(states(everything.machine("backup")))
    choice = inside["Which engine?"]

    assert {c["StringEquals"] for c in choice["Choices"]} == {"postgres", "mysql", "sqlite"}
    assert inside[choice["Default"]]["Error"] in {
        c.__name__ for c in errors.Permanent.__subclasses__()
    }


def test_without_databases_there_is_no_map_for_them(minimal: Template) -> None:
    inside = dict(states(minimal.machine("backup")))

    assert [s["Label"] for s in inside.values() if s["Type"] == "Map"] == [
        "planning",
        "files",
    ]
    assert "Notify" not in inside


def test_schedules_start_the_backup_with_their_sources(everything: Template) -> None:
    schedules = {
        json.loads(s["Target"]["Input"])["schedule"]: s
        for s in everything.of_type("AWS::Scheduler::Schedule").values()
        if "Input" in s["Target"]
    }
    nightly, often = schedules["nightly"], schedules["often"]

    assert nightly["ScheduleExpression"] == "cron(0 3 * * ? *)"
    assert nightly["ScheduleExpressionTimezone"] == "Europe/Berlin"
    assert json.loads(nightly["Target"]["Input"]) == {"schedule": "nightly"}
    assert json.loads(often["Target"]["Input"]) == {
        "schedule": "often",
        "sources": ["shop", "blog"],
    }
    for schedule in (nightly, often):
        assert schedule["FlexibleTimeWindow"] == {"Mode": "OFF"}
        assert schedule["Target"]["DeadLetterConfig"]["Arn"]
        role = everything.statements(schedule["Target"]["RoleArn"])
        (start,) = [s for s in role if s["Action"] == "states:StartExecution"]
        assert start["Resource"] == schedule["Target"]["Arn"]


def test_without_schedules_there_is_no_queue(minimal: Template) -> None:
    assert not minimal.of_type("AWS::Scheduler::Schedule")
    assert not minimal.of_type("AWS::SQS::Queue")


def _alarms(template: Template) -> dict[str, dict[str, Any]]:
    return {
        re.sub(r"^Alarms|[0-9A-F]{8}$", "", k): a
        for k, a in template.of_type("AWS::CloudWatch::Alarm").items()
    }


def test_a_failed_run_raises_an_alarm(everything: Template) -> None:
    alarms = _alarms(everything)
    (topic,) = everything.of_type("AWS::SNS::Topic")

    assert alarms["RunFailed"]["MetricName"] == "ExecutionsFailed"
    assert alarms["RunTimedOut"]["MetricName"] == "ExecutionsTimedOut"
    assert alarms["RunAborted"]["MetricName"] == "ExecutionsAborted"
    assert {a["AlarmActions"][0] for a in alarms.values()} == {f"<{topic}>"}
    # Only silence of the hourly check is worth a message; other metrics are silent between runs.
    silent = {name for name, a in alarms.items() if "InsufficientDataActions" in a}
    assert silent == {"Missednightly", "Missedoften"}


def test_alarms_may_publish_to_the_topic(everything: Template) -> None:
    policy = everything.only("AWS::SNS::TopicPolicy")["PolicyDocument"]["Statement"]
    (allowed,) = [s for s in policy if s["Effect"] == "Allow"]

    assert allowed["Principal"] == {"Service": "cloudwatch.amazonaws.com"}
    assert allowed["Condition"] == {"StringEquals": {"aws:SourceAccount": "<AWS::AccountId>"}}


def test_a_schedule_that_fires_once_raises_no_alarm_afterwards(everything: Template) -> None:
    assert "Missednightly" in _alarms(everything)
    assert "Missedonce" not in _alarms(everything)


def test_a_missed_run_raises_an_alarm_when_the_hourly_check_says_so(everything: Template) -> None:
    alarm = _alarms(everything)["Missedoften"]

    assert alarm["MetricName"] == "Overdue"
    assert alarm["Dimensions"] == [
        {"Name": "schedule", "Value": "often"},
        {"Name": "service", "Value": "stepvault"},
        {"Name": "stack", "Value": "Stepvault"},
    ]
    assert (alarm["Period"], alarm["EvaluationPeriods"], alarm["DatapointsToAlarm"]) == (3600, 3, 1)
    assert alarm["TreatMissingData"] == "missing"
    assert alarm["ComparisonOperator"] == "GreaterThanOrEqualToThreshold"


def test_the_schedules_are_checked_every_hour(everything: Template) -> None:
    (check,) = [
        s
        for s in everything.of_type("AWS::Scheduler::Schedule").values()
        if s["ScheduleExpression"] == "rate(1 hour)"
    ]
    role = check["Target"]["RoleArn"]

    assert everything.may(role, "lambda:InvokeFunction", check["Target"]["Arn"])


def test_the_memory_of_every_engine_is_watched(everything: Template) -> None:
    watched = {
        next(d["Value"] for d in a["Dimensions"] if d["Name"] == "engine")
        for a in _alarms(everything).values()
        if a.get("MetricName") == "PeakMemoryPercent"
    }

    assert watched == {"postgres", "mysql", "sqlite", "files"}


def test_every_metric_looked_at_is_one_that_the_functions_publish(everything: Template) -> None:
    telemetry = (ROOT / "layers/core/python/stepvault/telemetry.py").read_text()
    board = json.loads(everything.only("AWS::CloudWatch::Dashboard")["DashboardBody"])
    lines = [line for w in board["widgets"] for line in w["properties"].get("metrics", [])]
    shown = {line[1] for line in lines if line[0] == "Stepvault"} | {
        re.findall(r'MetricName="(\w+)"', line[0]["expression"])[0]
        for line in lines
        if isinstance(line[0], dict)
    }
    alarmed = {
        a["MetricName"]
        for a in everything.of_type("AWS::CloudWatch::Alarm").values()
        if a.get("Namespace") == "Stepvault"
    }

    assert {"Throughput", "SourcesSealed", "PeakMemoryPercent", "BackupBytes"} <= shown
    for name in shown | alarmed:
        written = "Bottleneck" if name.startswith("Bottleneck") else rf"\b{name}\b"
        assert re.search(written, telemetry), name


def test_the_stack_tells_what_it_made(everything: Template) -> None:
    assert {"VaultName", "BackupStateMachineArn", "RestoreStateMachineArn", "DashboardName"} <= set(
        everything.outputs
    )
