"""One deployed Stepvault for all journeys: real servers, the real stack, an emulated AWS."""

import json
import socket
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest

from devtools import emulator, lifelike
from devtools.servers.postgres import PostgresServer
from devtools.timer import wait_until
from stepvault.catalog import Vault
from stepvault.records import Summary

CONFIG = """\
[[sources]]
name = "shop"
engine = "postgres"
connection = {{ secret = "journey/shop" }}

[[sources]]
name = "wrong-password"
engine = "postgres"
connection = {{ secret = "journey/wrong-password" }}

[[sources]]
name = "mute-host"
engine = "postgres"
connection = {{ secret = "journey/mute-host" }}

[[sources]]
name = "dropped"
engine = "postgres"
connection = {{ secret = "journey/shop", database = "dropped" }}

[[sources]]
name = "empty"
engine = "postgres"
connection = {{ secret = "journey/shop", database = "nothing_in_it" }}

[[sources]]
name = "tickets"
engine = "sqlite"
path = "{place}/tickets.sqlite"

[[sources]]
name = "archive"
engine = "sqlite"
path = "{place}/archive.sqlite"

[[sources]]
name = "uploads"
engine = "files"
path = "{place}/uploads"

[[targets]]
name = "copy"
connection = {{ secret = "journey/shop" }}

[[targets]]
name = "folder"
path = "{place}/restored"

[[schedules]]
name = "soon"
when = "rate(1 minute)"
sources = ["empty"]

[limits]
databases = 2
files = 4
batch_files = 150
"""


@dataclass
class World:
    """The deployment and what it backs up."""

    place: Path
    server: PostgresServer
    outputs: dict[str, str]
    mute_port: int
    mute: str = ""
    """Execution of a backup of the mute host: most of a minute of waiting, beside other tests."""

    @property
    def vault(self) -> Vault:
        return Vault(self.outputs["VaultName"])

    @cached_property
    def steps(self) -> Any:
        return boto3.client("stepfunctions")

    def start(self, kind: str = "Backup", **given: Any) -> str:
        """Start a state machine; returns the execution's ARN."""
        answer = self.steps.start_execution(
            stateMachineArn=self.outputs[f"{kind}StateMachineArn"],
            name=f"journey-{uuid.uuid4().hex[:8]}",
            input=json.dumps(given),
        )
        return str(answer["executionArn"])

    def wait(self, execution: str, seconds: float = 120) -> dict[str, Any]:
        """The execution's description once it has ended."""

        def ended() -> dict[str, Any] | None:
            told: dict[str, Any] = self.steps.describe_execution(executionArn=execution)
            return None if told["status"] in {"RUNNING", "PENDING_REDRIVE"} else told

        return wait_until(ended, f"the end of {execution}", seconds=seconds, pause=0.1)

    def run_id(self, execution: str) -> str:
        """The id of the run that an execution carries out, from its plan's output."""
        return str(self.output_of(execution, "Plan")["run_id"])

    def summary(self, run: str) -> Summary:
        """The summary of a run that has ended."""
        summary = self.vault.summary(run)
        assert summary
        return summary

    def output_of(self, execution: str, state: str) -> dict[str, Any]:
        events = self.history(execution)
        for event in events:
            exited = event.get("stateExitedEventDetails", {})
            if exited.get("name") == state:
                return dict(json.loads(exited["output"]))
        raise AssertionError(f"{state} has not ended: {[e['type'] for e in events]}")

    def history(self, execution: str) -> list[dict[str, Any]]:
        pages = self.steps.get_paginator("get_execution_history").paginate(executionArn=execution)
        return [event for page in pages for event in page["events"]]

    def back_up(self, *sources: str, **given: Any) -> tuple[dict[str, Any], str]:
        """Run the Backup machine to its end; the description and the run id."""
        execution = self.start(sources=list(sources), **given)
        told = self.wait(execution)
        return told, self.run_id(execution)

    def restore(self, source: str, target: str, **options: Any) -> dict[str, Any]:
        run = options.pop("run_id", "latest")
        execution = self.start("Restore", source=source, run_id=run, target=target, options=options)
        return self.wait(execution)

    def query(self, database: str, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.server.url(database), autocommit=True) as connection:
            return connection.execute(statement.encode()).fetchall()


@pytest.fixture(scope="session")
def world(aws: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    place = tmp_path_factory.mktemp("world")
    with PostgresServer() as server, closing(_mute_listener()) as mute:
        config = place / "stepvault.toml"
        config.write_text(CONFIG.format(place=place))
        filling = threading.Thread(target=_fill, args=(server, place))
        filling.start()
        _make_secrets(server, mute.getsockname()[1])
        outputs = emulator.deploy(aws, config)
        filling.join()
        world = World(place, server, outputs, mute.getsockname()[1])
        world.mute = world.start(sources=["mute-host"])
        yield world


def _mute_listener() -> socket.socket:
    """A host that takes connections and never says a word."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(16)
    return listener


def _make_secrets(server: PostgresServer, mute_port: int) -> None:
    good = server.secret("shop")
    secrets = boto3.client("secretsmanager")
    changes: dict[str, dict[str, str | int]] = {
        "shop": {},
        "wrong-password": {"password": "not-the-one"},
        "mute-host": {"port": mute_port},
    }
    for name, changed in changes.items():
        secrets.create_secret(Name=f"journey/{name}", SecretString=json.dumps(good | changed))


def _fill(server: PostgresServer, place: Path) -> None:
    for database in ("shop", "dropped", "nothing_in_it"):
        server.psql(f"CREATE DATABASE {database}")
    with psycopg.connect(server.url("shop"), autocommit=True) as connection:
        small = lifelike.SHOP.replace("0000 * :scale", "00 * :scale").replace(":scale", "1")
        connection.execute(small.encode())
    lifelike.make_tickets(place / "tickets.sqlite", rows=3000)
    lifelike.make_files(place / "uploads", count=600)
    make_archive(place / "archive.sqlite")


def make_archive(path: Path, megabytes: int = 160) -> None:
    """A SQLite file that zstd cannot shrink: its backup takes a few seconds and many parts."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE scan (id INTEGER PRIMARY KEY, image BLOB)")
        connection.executemany(
            "INSERT INTO scan (image) VALUES (randomblob(?))", [(1 << 20,)] * megabytes
        )
