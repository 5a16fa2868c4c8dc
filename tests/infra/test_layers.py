"""The layers as they are built."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.demo import emulator
from tests.infra.synth import ROOT

#: Lambda's limit for a function's code and layers, unzipped.
LIMIT = 250 << 20
#: ELF's numbers for processors.
MACHINES = {"arm64": 0xB7, "x86_64": 0x3E}


def _libraries(layer: Path) -> Iterator[tuple[Path, int]]:
    """Every ELF file with its processor's number."""
    for path in layer.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                head = file.read(20)
            if head[:4] == b"\x7fELF":
                yield path, int.from_bytes(head[18:20], "little")


def test_libraries_are_built_for_the_functions_processor(layers: None) -> None:
    found = list(_libraries(ROOT / "build/layers/deps-arm64"))

    assert len(found) > 5
    assert {machine for _, machine in found} == {MACHINES["arm64"]}


def test_everything_together_fits_into_lambda(layers: None) -> None:
    folders = [ROOT / "layers/core", *(ROOT / "build/layers").glob("*-arm64")]
    size = sum(p.stat().st_size for f in folders for p in f.rglob("*") if p.is_file())

    assert size < LIMIT * 0.8


@pytest.fixture(scope="module")
def here() -> Path:
    """The layer of wheels for this machine."""
    emulator.build_layers()
    return ROOT / "build/layers" / f"deps-{emulator.architecture()}"


def test_the_runtime_needs_the_core_and_the_layer_and_nothing_else(here: Path) -> None:
    modules = "aws_lambda_powertools, boto3, psycopg, pymysql, zstandard, stepvault.telemetry"
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"import sys; sys.path += {_paths(here)}; import {modules}",
        ],
        env={"PATH": os.environ["PATH"], "POWERTOOLS_TRACE_DISABLED": "true"},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr


def test_a_cold_start_compiles_nothing(here: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-v",
            "-I",
            "-S",
            "-c",
            f"import sys; sys.path += {_paths(here)}; import boto3",
        ],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    loaded = [line for line in done.stderr.splitlines() if str(here) in line]

    assert any("matches" in line for line in loaded)
    assert not [line for line in loaded if line.endswith(".py'") and "code object" in line]


def _paths(layer: Path) -> list[str]:
    return [str(ROOT / "layers/core/python"), str(layer / "python")]
