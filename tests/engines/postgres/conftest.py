"""Real servers and the real client layer, made once per test process."""

import importlib.util
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from devtools.servers.postgres import PostgresServer
from tests.engines.postgres.rig import PostgresRig, make_odd

ROOT = Path(__file__).resolve().parents[3]
ARCH = {"x86_64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}[platform.machine()]


@pytest.fixture(scope="session")
def layer() -> Path:
    """The built client layer for this machine."""
    spec = importlib.util.spec_from_file_location(
        "postgres_client_build", ROOT / "layers/postgres_client/build.py"
    )
    assert spec
    assert spec.loader
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    folder = ROOT / f"build/layers/postgres_client-{ARCH}"
    build.build(ARCH, folder)
    return folder


@pytest.fixture(autouse=True)
def client(layer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer's programs on PATH, as on Lambda."""
    monkeypatch.setenv("PATH", f"{layer / 'bin'}:{os.environ['PATH']}")


@pytest.fixture(scope="session")
def pg18() -> Iterator[PostgresServer]:
    with PostgresServer("18") as server:
        yield server


@pytest.fixture(scope="session")
def pg15() -> Iterator[PostgresServer]:
    with PostgresServer("15") as server:
        yield server


@pytest.fixture(scope="session")
def odd18(pg18: PostgresServer) -> str:
    """Name of the database of odd things on the 18."""
    return make_odd(pg18)


@pytest.fixture(scope="session")
def odd15(pg15: PostgresServer) -> str:
    return make_odd(pg15)


@pytest.fixture
def rig(pg18: PostgresServer, odd18: str) -> PostgresRig:
    return PostgresRig(pg18, odd18)
