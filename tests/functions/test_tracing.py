"""Tracing on, as Lambda has it: what is off in all other tests."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from stepvault.catalog import Vault

ROOT = Path(__file__).parents[2]
TRACE = "1-67f00000-0123456789abcdef01234567"
#: Calls a handler as Lambda's runtime does, and says what tracing did to the drivers.
CALL = """
import json, sys
from importlib import import_module
import sqlite3, pymysql, psycopg, botocore.client
before = [sqlite3.connect, pymysql.connect, psycopg.connect, botocore.client.BaseClient._make_api_call]
from tests.functions.test_handlers import Context
from stepvault import telemetry
assert not telemetry.tracer.disabled
handler = import_module("functions.back_up").handler
answer = handler(json.loads(sys.argv[1]), Context())
after = [sqlite3.connect, pymysql.connect, psycopg.connect, botocore.client.BaseClient._make_api_call]
print(json.dumps({"answer": answer, "patched": before != after}))
"""


class Daemon:
    """Where the X-Ray SDK sends its documents: the daemon's port, on loopback."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.2)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="x-ray daemon")
        self.documents: list[dict[str, Any]] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._socket.getsockname()[1]}"

    def _listen(self) -> None:
        while not self._stop.is_set():
            try:
                _, _, document = self._socket.recv(1 << 16).partition(b"\n")
            except TimeoutError:
                continue
            self.documents.append(json.loads(document))

    def __enter__(self) -> "Daemon":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon() as running:
        yield running


def back_up_as_lambda(vault: Vault, source: dict[str, Any], daemon: Daemon) -> dict[str, Any]:
    """Call the handler in a process of its own, with Lambda's variables for tracing."""
    unit = {"run_id": "20260101T030000Z-traced", "id": "0000", "source": source}
    done = subprocess.run(
        [sys.executable, "-c", CALL, json.dumps(unit)],
        cwd=ROOT,
        env=os.environ
        | {
            "LAMBDA_TASK_ROOT": "/var/task",
            "AWS_LAMBDA_FUNCTION_NAME": "Stepvault-back_up",
            "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13",
            "_X_AMZN_TRACE_ID": f"Root={TRACE};Parent=53995c3f42cd8ad8;Sampled=1",
            "AWS_XRAY_DAEMON_ADDRESS": daemon.address,
            "POWERTOOLS_TRACE_DISABLED": "false",
            "POWERTOOLS_SERVICE_NAME": "stepvault",
            "POWERTOOLS_METRICS_NAMESPACE": "Stepvault",
            "STEPVAULT_VAULT": vault.bucket,
            "STEPVAULT_STACK": "Traced",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def databases(home: Path, count: int) -> None:
    home.mkdir()
    for number in range(count):
        with closing(sqlite3.connect(home / f"{number}.sqlite")) as database:
            database.execute("CREATE TABLE word (text)")
            database.executemany("INSERT INTO word VALUES (?)", [(f"{n}",) for n in range(100)])
            database.commit()


@pytest.mark.parametrize("form", ["file", "sql"])
def test_sqlite_is_backed_up_with_tracing_on(
    vault: Vault, tmp_path: Path, daemon: Daemon, form: str
) -> None:
    databases(tmp_path / "many", 40)
    source = {"name": "many", "engine": "sqlite", "path": f"{tmp_path}/many/*", "format": form}

    done = back_up_as_lambda(vault, source, daemon)

    assert done["answer"]["objects"] == 40
    assert done["patched"] is False


def test_a_units_trace_has_one_document_for_each_stage(
    vault: Vault, tmp_path: Path, daemon: Daemon
) -> None:
    databases(tmp_path / "many", 40)
    source = {"name": "many", "engine": "sqlite", "path": f"{tmp_path}/many/*"}

    back_up_as_lambda(vault, source, daemon)

    names = [document["name"] for document in daemon.documents]
    assert sorted(names) == ["## handler", "compress", "read", "upload"]
    assert {document["trace_id"] for document in daemon.documents} == {TRACE}
    stages = {d["name"]: d for d in daemon.documents}
    assert stages["read"]["metadata"]["stepvault"]["stage"]["bytes"] > 0
    assert stages["## handler"]["annotations"]["source"] == "many"
    for name in ("read", "compress", "upload"):
        assert stages[name]["start_time"] < stages[name]["end_time"]
