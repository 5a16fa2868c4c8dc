"""Feeds events/ to the handlers, with real sources where the events name places on EFS."""

import importlib
import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stepvault import env, keys
from stepvault.catalog import Vault
from stepvault.errors import ConfigInvalid, Permanent, RestoreIncomplete, SourcesFailed
from stepvault.plan import RunInput
from stepvault.records import Unit, parse
from stepvault.restore import RestoreRequest

ROOT = Path(__file__).parents[2]
EVENTS = ROOT / "events"

#: A function by name as Lambda would call it: payload in, answer out.
Call = Callable[..., dict[str, Any]]


@dataclass
class Context:
    """What Powertools and the deadline ask of Lambda's context object."""

    seconds: float = 60
    function_name: str = "test"
    memory_limit_in_mb: int = 512
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:000000000000:function:test"
    aws_request_id: str = "1"

    def get_remaining_time_in_millis(self) -> int:
        return int(self.seconds * 1000)


def event(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((EVENTS / f"{name}.json").read_text())
    return loaded


@pytest.fixture
def call(vault: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Calls a function by name as Lambda would, with sources below tmp_path."""
    config = tmp_path / "stepvault.toml"
    config.write_text(
        f'''
        [[sources]]
        name = "tickets"
        engine = "sqlite"
        path = "{tmp_path}/tickets.sqlite"
        [[sources]]
        name = "uploads"
        engine = "files"
        path = "{tmp_path}/uploads"
        exclude = ["*.tmp"]
        [[targets]]
        name = "efs-restore"
        path = "{tmp_path}/restored"
        [retention]
        keep_last = 1
        '''
    )
    with sqlite3.connect(tmp_path / "tickets.sqlite") as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE ticket (id INTEGER PRIMARY KEY, title TEXT)")
        connection.executemany("INSERT INTO ticket (title) VALUES (?)", [("one",), ("two",)])
    connection.close()
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / "a.txt").write_text("a file")
    monkeypatch.setenv("STEPVAULT_VAULT", vault.bucket)
    monkeypatch.setenv("STEPVAULT_CONFIG", str(config))
    for name, value in {
        "STEPVAULT_STACK": "Backups",
        "POWERTOOLS_SERVICE_NAME": "stepvault",
        "POWERTOOLS_METRICS_NAMESPACE": "Stepvault",
        "POWERTOOLS_TRACE_DISABLED": "1",
    }.items():
        monkeypatch.setenv(name, value)

    def run(function: str, payload: dict[str, Any], seconds: float = 60) -> dict[str, Any]:
        if (
            path := payload.get("source", {}).get("path")
            if isinstance(payload.get("source"), dict)
            else None
        ):
            payload["source"]["path"] = str(tmp_path / Path(path).name)
        if "path" in payload.get("target", {}):
            payload["target"]["path"] = str(tmp_path / "restored")
        handler = importlib.import_module(f"functions.{function}").handler
        answer = handler(payload, Context(seconds))
        returned: dict[str, Any] = json.loads(json.dumps(answer))
        return returned

    return run


def planned(call: Call, vault: Vault) -> dict[str, Any]:
    """Give the state of the Backup machine once all is planned."""
    state = call("plan", event("plan"))
    for line in (vault.get(state["planning"]["key"]) or b"").splitlines():
        call("plan_source", json.loads(line))
    return state | call("collect_units", state)


def test_every_function_has_an_event_and_every_event_a_reader() -> None:
    functions = {p.stem for p in (ROOT / "functions").glob("*.py")} - {"__init__"}
    assert functions == set(env.FUNCTIONS)
    named = {p.name.split(".")[0] for p in EVENTS.glob("*.json")}
    assert named == functions | {"machine"}


@pytest.mark.parametrize("path", sorted(EVENTS.glob("machine.*.json")), ids=lambda p: p.stem)
def test_machine_inputs_are_valid(path: Path) -> None:
    model = RestoreRequest if "restore" in path.stem else RunInput
    parse(model, json.loads(path.read_text()))


def test_the_postgres_event_is_a_valid_unit() -> None:
    assert parse(Unit, event("back_up.postgres")).source.engine == "postgres"


def test_a_run_passes_from_function_to_function_and_back(
    call: Call, vault: Vault, tmp_path: Path
) -> None:
    state = planned(call, vault)
    assert (state["databases"]["count"], state["files"]["count"]) == (1, 1)
    for kind in ("databases", "files"):
        for line in (vault.get(state[kind]["key"]) or b"").splitlines():
            assert call("back_up", json.loads(line))["skipped"] is None
    assert call("seal", event("seal"))["status"] == "sealed"
    assert [p["kept"] for p in call("prune", event("prune"))["pruned"]] == [1, 1]

    stages = call("plan_restore", event("plan_restore"))
    for stage in ("before", "data", "after"):
        for line in (vault.get(stages[stage]["key"]) or b"").splitlines():
            call("restore", json.loads(line))
    assert call("report_restore", stages)["unrestored"] == 0
    restored = next(p for p in (tmp_path / "restored").rglob("*") if p.is_file())
    with sqlite3.connect(restored) as connection:
        assert connection.execute("SELECT title FROM ticket ORDER BY id").fetchall() == [
            ("one",),
            ("two",),
        ]
    connection.close()


@pytest.mark.parametrize("name", ["back_up.sqlite", "back_up.files"])
def test_a_unit_event_is_backed_up(call: Call, name: str) -> None:
    answer = call("back_up", event(name))
    assert answer["raw_bytes"] > 0
    assert answer["objects"] >= 1


def test_metrics_leave_as_emf_lines(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    call("back_up", event("back_up.sqlite"))
    emf = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "_aws" in line]
    stored = next(m for m in emf if "StoredBytes" in m)
    assert (stored["source"], stored["engine"]) == ("tickets", "sqlite")
    assert {m["stack"] for m in emf} == {"Backups"}
    # A metric of a source costs money for each source: what is told of it beside is no dimension.
    assert {"engine", "stack", "service"} == {
        name for set_ in stored["_aws"]["CloudWatchMetrics"][0]["Dimensions"] for name in set_
    }
    names = {name for m in emf for name in m}
    assert {"RawBytes", "Seconds", "Throughput"} <= names
    assert any(name.startswith("Bottleneck") for name in names)


def test_what_is_overdue_leaves_as_a_metric_of_its_schedule(
    call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "stepvault.toml").open("a") as config:
        config.write('[[schedules]]\nname = "nightly"\nwhen = "cron(0 3 * * ? *)"\n')
    assert call("check_schedules", {"now": "2026-11-22T00:00:00Z"}) == {"overdue": []}
    assert call("check_schedules", {"now": "2026-11-22T12:00:00Z"}) == {"overdue": ["nightly"]}
    emf = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "_aws" in line]
    assert [m["Overdue"] for m in emf] == [[0.0], [1.0]]
    assert {m["schedule"] for m in emf} == {"nightly"}


def test_seal_fails_the_run_when_a_source_is_missing_but_seals_the_rest(
    call: Call, vault: Vault
) -> None:
    state = planned(call, vault)
    call("back_up", json.loads(vault.get(state["databases"]["key"]) or b""))
    with pytest.raises(SourcesFailed, match="uploads"):
        call("seal", event("seal"))
    assert vault.latest("tickets") is not None


@pytest.mark.parametrize("function", sorted(env.FUNCTIONS))
def test_an_event_that_is_not_one_names_its_fields(call: Call, function: str) -> None:
    if function in (optional := {"prune": "dry_run", "check_schedules": "now"}):
        with pytest.raises(ConfigInvalid, match=optional[function]):
            call(function, {optional[function]: "perhaps"})
        return
    with pytest.raises(ConfigInvalid, match=r"not a \w+: .*See events/"):
        call(function, {"nonsense": 1})


def test_a_missing_variable_is_named(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STEPVAULT_VAULT")
    with pytest.raises(ConfigInvalid, match="STEPVAULT_VAULT"):
        call("seal", event("seal"))


def test_a_missing_source_is_a_permanent_error(call: Call, tmp_path: Path) -> None:
    (tmp_path / "tickets.sqlite").unlink()
    with pytest.raises(Permanent, match=r"tickets\.sqlite"):
        call("back_up", event("back_up.sqlite"))


def test_a_restore_that_keeps_going_reports_what_it_left_out_and_fails_at_its_end(
    call: Call, vault: Vault, tmp_path: Path
) -> None:
    with sqlite3.connect(tmp_path / "second.sqlite") as connection:
        connection.execute("CREATE TABLE other (id INTEGER)")
    connection.close()
    state = planned(call, vault)
    line = json.loads(vault.get(state["databases"]["key"]) or b"")
    line["source"]["path"] = "*.sqlite"
    call("back_up", line)
    for line in (vault.get(state["files"]["key"]) or b"").splitlines():
        call("back_up", json.loads(line))
    call("seal", event("seal"))
    damaged = keys.data("tickets", state["run_id"], "second.sqlite.zst")
    vault.put(damaged, b"damaged")

    start = event("plan_restore")
    start["input"]["options"] = {"keep_going": True}
    stages = call("plan_restore", start)
    for stage in ("before", "data", "after"):
        for task in (vault.get(stages[stage]["key"]) or b"").splitlines():
            for _ in range(2):  # as Step Functions repeats a task whose answer was lost
                call("restore", json.loads(task))
    with pytest.raises(RestoreIncomplete, match=r"restored but 1: \w+ .*second\.sqlite"):
        call("report_restore", stages)
    report = vault.restore_report(stages["restore_id"])
    assert report
    assert len(report.unrestored) == 1
    assert [p.name for p in (tmp_path / "restored").rglob("*.sqlite")] == ["tickets.sqlite"]
