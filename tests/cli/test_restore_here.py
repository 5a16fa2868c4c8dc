"""``restore`` in this process: a real database, backed up by the path, comes back equal."""

import hashlib
import json
import sqlite3
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import zstandard

from stepvault import keys, storage
from stepvault.backup import back_up
from stepvault.catalog import Vault
from stepvault.errors import VaultDenied
from stepvault.plan import RunRequest
from stepvault.records import Execution
from stepvault.seal import SealRequest, seal
from stepvault.settings import Config
from tests.cli.conftest import invoke, units
from tests.planning import whole_plan


@pytest.fixture
def tickets(tmp_path: Path) -> Path:
    """A SQLite database."""
    path = tmp_path / "tickets.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE ticket (id INTEGER PRIMARY KEY, title TEXT)")
        connection.executemany(
            "INSERT INTO ticket (title) VALUES (?)", ((f"ticket {n}",) for n in range(5000))
        )
    connection.close()
    return path


@pytest.fixture
def run(vault: Vault, tickets: Path) -> str:
    """The id of a run that backed it up."""
    config = Config.model_validate(
        {"sources": [{"name": "tickets", "engine": "sqlite", "path": str(tickets)}]}
    )
    execution = Execution(name="nightly", started=datetime(2026, 11, 22, 3, tzinfo=UTC))
    request = RunRequest(execution=execution)
    for unit in units(vault, whole_plan(config, vault, request)):
        back_up(unit, vault)
    seal(vault, SealRequest(run_id=request.run_id))
    return request.run_id


def rows(path: Path) -> list[tuple[int, str]]:
    connection = sqlite3.connect(path)
    try:
        return list(connection.execute("SELECT * FROM ticket ORDER BY id"))
    finally:
        connection.close()


def test_a_database_comes_back_equal_and_is_compared(
    vault: Vault, run: str, tickets: Path, tmp_path: Path
) -> None:
    back = tmp_path / "back.sqlite"
    done = invoke("restore", "tickets", "--to", str(back), "--compare", "--vault", vault.bucket)
    assert (done.exit_code, done.stderr) == (0, "")
    first, restored, not_compared, compared = done.stdout.splitlines()
    assert f"run {run}" in first
    assert restored.startswith("restored ")
    assert not_compared == "not compared: mode and owner of the database files"
    assert compared == "compared: all that was compared equals the backup"
    assert rows(back) == rows(tickets)


def test_a_place_that_is_taken_is_refused_unless_told(
    vault: Vault, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.sqlite").write_bytes(b"something else")
    asked = ("restore", "tickets", "--to", "./taken.sqlite", "--vault", vault.bucket, "--json")
    refused = invoke(*asked)
    assert refused.exit_code == 4
    assert "taken.sqlite exists already" in refused.stderr
    assert (tmp_path / "taken.sqlite").read_bytes() == b"something else"
    told = json.loads(invoke(*asked, "--overwrite").stdout)
    assert (told["status"], told["run_id"]) == ("succeeded", run)
    assert told["raw_bytes"] == (tmp_path / "taken.sqlite").stat().st_size


def test_a_tampered_backup_is_refused_and_leaves_nothing(
    vault: Vault, run: str, tmp_path: Path
) -> None:
    stored = vault.manifest("tickets", run).objects[0]
    key = keys.data("tickets", run, stored.name)
    body = bytearray(vault.get(key) or b"")
    body[len(body) // 2] ^= 1
    vault.put(key, bytes(body))
    refused = invoke("restore", "tickets", "--to", f"{tmp_path}/back", "--vault", vault.bucket)
    assert refused.exit_code == 4
    assert f"The stored object '{key}' is not what was backed up" in refused.stderr
    assert not list(tmp_path.glob("*back*"))


def edit_manifest(vault: Vault, run: str, edit: Callable[[dict[str, Any]], object]) -> None:
    key = keys.manifest("tickets", run)
    manifest = json.loads(vault.get(key) or b"")
    edit(manifest)
    vault.put(key, json.dumps(manifest).encode())


def test_a_backup_by_a_newer_tool_with_more_settings_comes_back(
    vault: Vault, run: str, tickets: Path, tmp_path: Path
) -> None:
    edit_manifest(vault, run, lambda m: m["config"].update(some_day={"more": True}))
    back = tmp_path / "back"
    done = invoke("restore", "tickets", "--to", str(back), "--vault", vault.bucket)
    assert done.exit_code == 0, done.stderr
    assert rows(back) == rows(tickets)


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m.update(format_version=2),
        lambda m: m["config"].update(engine="some-day"),
        lambda m: m["config"].update(path=["one", "two"]),
    ],
)
def test_a_backup_that_is_beyond_this_version_is_refused_with_the_one_that_made_it(
    vault: Vault, run: str, tmp_path: Path, edit: Callable[[dict[str, Any]], object]
) -> None:
    edit_manifest(vault, run, edit)
    edit_manifest(vault, run, lambda m: m.update(tool_version="7.1"))
    refused = invoke("restore", "tickets", "--to", f"{tmp_path}/back", "--vault", vault.bucket)
    assert refused.exit_code not in (0, 1)
    assert "was made by Stepvault 7.1" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not list(tmp_path.glob("*back*"))


def test_a_variable_without_a_name_is_an_error(vault: Vault, run: str) -> None:
    refused = invoke("restore", "tickets", "--to", "env:", "--vault", vault.bucket)
    assert refused.exit_code not in (0, 1)
    assert "env:NAME" in refused.stderr


def test_a_folder_that_is_not_there_exits_3(vault: Vault, run: str, tmp_path: Path) -> None:
    missing = invoke("restore", "tickets", "--to", f"{tmp_path}/no/t", "--vault", vault.bucket)
    assert missing.exit_code == 3
    assert f"{tmp_path}/no does not exist" in missing.stderr


@pytest.fixture
def three(vault: Vault, tmp_path: Path) -> tuple[str, Path]:
    """The id of a run that backed up three databases as one source, and where they are."""
    home = tmp_path / "three"
    home.mkdir()
    for name in ("a", "b", "c"):
        with sqlite3.connect(home / f"{name}.sqlite") as connection:
            connection.execute("CREATE TABLE ticket (id INTEGER PRIMARY KEY, title TEXT)")
            connection.execute("INSERT INTO ticket (title) VALUES (?)", (name,))
        connection.close()
    config = Config.model_validate(
        {"sources": [{"name": "three", "engine": "sqlite", "path": f"{home}/*.sqlite"}]}
    )
    request = RunRequest(
        execution=Execution(name="three", started=datetime(2026, 11, 22, 3, tzinfo=UTC))
    )
    for unit in units(vault, whole_plan(config, vault, request)):
        back_up(unit, vault)
    seal(vault, SealRequest(run_id=request.run_id))
    damaged = keys.data("three", request.run_id, "b.sqlite.zst")
    body = vault.get(damaged)
    assert body
    vault.put(damaged, body[:-20] + bytes(20))
    return request.run_id, home


def test_one_that_cannot_be_restored_does_not_cost_the_others_if_told_to_keep_going(
    vault: Vault, three: tuple[str, Path], tmp_path: Path
) -> None:
    back = tmp_path / "back"
    asked = ("restore", "three", "--to", str(back), "--vault", vault.bucket)
    done = invoke(*asked, "--keep-going")

    assert done.exit_code == 5
    assert [rows(back / f"{name}.sqlite") for name in ("a", "c")] == [[(1, "a")], [(1, "c")]]
    assert not (back / "b.sqlite").exists()
    listed, error = done.stderr.splitlines()
    assert listed.startswith("not restored: ")
    assert "b.sqlite" in listed
    assert "All of 'three' was restored but 1" in error


def test_what_was_not_restored_is_told_to_scripts(
    vault: Vault, three: tuple[str, Path], tmp_path: Path
) -> None:
    asked = ("restore", "three", "--to", str(tmp_path / "back"), "--vault", vault.bucket)
    done = invoke(*asked, "--keep-going", "--json")

    assert done.exit_code == 5
    (left,) = json.loads(done.stdout)["unrestored"]
    assert "b.sqlite" in left["name"]
    assert left["asked"] is False
    assert left["reason"]


def test_a_restore_that_fails_half_way_says_that_the_target_is_incomplete(
    vault: Vault, three: tuple[str, Path], tmp_path: Path
) -> None:
    done = invoke("restore", "three", "--to", str(tmp_path / "back"), "--vault", vault.bucket)

    assert done.exit_code == 4
    assert "The target is incomplete" in done.stderr
    assert "not what was backed up" in done.stderr


def test_a_kind_that_an_engine_does_not_know_is_refused_before_anything_is_written(
    vault: Vault, run: str, tmp_path: Path
) -> None:
    back = tmp_path / "back"
    asked = ("restore", "tickets", "--to", str(back), "--vault", vault.bucket)
    refused = invoke(*asked, "--without", "tablespaces", "--without", "views")
    assert refused.exit_code == 2
    assert "sqlite restore cannot go without 'tablespaces'" in refused.stderr
    assert "--only" in refused.stderr
    assert not back.exists()


@pytest.mark.parametrize("going", [(), ("--keep-going",)])
def test_a_vault_that_refuses_is_no_failure_of_a_single_database(
    vault: Vault,
    three: tuple[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    going: tuple[str, ...],
) -> None:
    def refuse(*_: object) -> object:
        raise VaultDenied("The vault bucket refuses GetObject", "Check the role")

    monkeypatch.setattr(Vault, "read", refuse)
    to = ("--to", str(tmp_path / "back"), "--vault", vault.bucket)
    refused = invoke("restore", "three", *to, *going)
    assert refused.exit_code == 4
    assert "refuses GetObject" in refused.stderr
    assert "not restored: " not in refused.stderr
    assert "The target is incomplete" in refused.stderr


def test_an_interrupted_restore_says_that_the_target_is_incomplete(
    vault: Vault, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(Vault, "read", interrupt)
    told = invoke("restore", "tickets", "--to", f"{tmp_path}/back", "--vault", vault.bucket)
    assert told.exit_code == 130
    assert "The target is incomplete and must not be used. The same command" in told.stderr
    assert "interrupted" in told.stderr


@pytest.mark.parametrize("going", [(), ("--keep-going",)])
def test_the_same_command_goes_on_with_a_restore_that_ended_half_way(
    vault: Vault, three: tuple[str, Path], tmp_path: Path, going: tuple[str, ...]
) -> None:
    run, home = three
    back = tmp_path / "back"
    asked = ("restore", "three", "--to", str(back), "--vault", vault.bucket, *going)
    assert invoke(*asked).exit_code in (4, 5)
    whole = (home / "b.sqlite").read_bytes()
    vault.put(keys.data("three", run, "b.sqlite.zst"), zstandard.compress(whole))
    manifest = json.loads(vault.get(keys.manifest("three", run)) or b"")
    for stored in manifest["objects"]:
        body = vault.get(keys.data("three", run, stored["name"])) or b""
        stored["stored_bytes"] = len(body)
        stored["stored_sha256"] = hashlib.sha256(body).hexdigest()
    vault.put(keys.manifest("three", run), json.dumps(manifest).encode())
    done = invoke(*asked)
    assert done.exit_code == 0, done.stderr
    assert [rows(back / f"{n}.sqlite") for n in "abc"] == [[(1, "a")], [(1, "b")], [(1, "c")]]


def test_objects_come_back_into_a_bucket_and_others_are_told_where_they_go(
    vault: Vault, run: str
) -> None:
    bucket = f"source-{uuid.uuid4().hex[:12]}"
    storage.client().create_bucket(Bucket=bucket)
    storage.client().put_object(
        Bucket=bucket, Key="from/page", Body=b"<p>", ContentType="text/html", Tagging="a=b"
    )
    source = {"name": "pages", "engine": "files", "path": f"s3://{bucket}/from"}
    execution = Execution(name="pages", started=datetime(2026, 11, 22, 4, tzinfo=UTC))
    request = RunRequest(execution=execution)
    config = Config.model_validate({"sources": [source]})
    for unit in units(vault, whole_plan(config, vault, request)):
        back_up(unit, vault)
    seal(vault, SealRequest(run_id=request.run_id))
    to = ("--to", f"s3://{bucket}/to", "--vault", vault.bucket)
    done = invoke("restore", "pages", *to, "--compare")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "equals the backup" in done.stdout
    back = storage.client().get_object(Bucket=bucket, Key="to/page")
    assert (back["Body"].read(), back["ContentType"], back["TagCount"]) == (b"<p>", "text/html", 1)
    again = invoke("restore", "pages", *to)
    assert again.exit_code == 4
    assert "there are objects already" in again.stderr
    refused = invoke("restore", "tickets", *to)
    assert refused.exit_code == 2
    assert "is not restored to a bucket" in refused.stderr
