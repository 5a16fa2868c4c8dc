"""The layers as they are built."""

import importlib.util
import marshal
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from devtools import emulator
from infra import bundles
from tests.infra.synth import ROOT, Template

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
    folders = [bundles.core(), *(ROOT / "build/layers").glob("*-arm64")]
    size = sum(p.stat().st_size for f in folders for p in f.rglob("*") if p.is_file())

    assert size < LIMIT * 0.8


def test_our_own_code_goes_as_it_is_and_compiled_from_it(everything: Template) -> None:
    for shipped, place, source in [
        (everything.core, "/opt", ROOT / "layers/core"),
        (everything.handlers, "/var/task", ROOT / "functions"),
    ]:
        modules = sorted(shipped.rglob("*.py"))
        caches = [Path(importlib.util.cache_from_source(m)) for m in modules]

        assert len(modules) > 5
        assert sorted(shipped.rglob("*.pyc")) == sorted(caches)
        for module, cache in zip(modules, caches, strict=True):
            name = module.relative_to(shipped)
            bytecode = cache.read_bytes()
            text = module.read_bytes()

            assert text == (source / name).read_bytes()
            assert bytecode[:4] == importlib.util.MAGIC_NUMBER
            # An unchecked hash: Python neither looks at the source nor at its time.
            assert int.from_bytes(bytecode[4:8], "little") == 1
            assert bytecode[8:16] == importlib.util.source_hash(text)
            assert marshal.loads(bytecode[16:]).co_filename == f"{place}/{name}"
            assert os.fsencode(ROOT) not in bytecode


def test_the_core_layer_is_complete_and_nothing_else(everything: Template) -> None:
    ours = _contents(ROOT / "layers/core")
    kept = {name for name in ours if "__pycache__" not in name and ".egg-info/" not in name}
    shipped = {name for name in _contents(everything.core) if "__pycache__" not in name}

    assert shipped == kept


def test_the_same_sources_give_the_same_layer(everything: Template, minimal: Template) -> None:
    assert everything.core.name == minimal.core.name
    # This process has other modules loaded, which could change what the compiler shares.
    assert _contents(everything.core) == _contents(bundles.core())


def test_bytecode_follows_the_source_whatever_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = tmp_path / "layers" / "core"
    core.mkdir(parents=True)
    monkeypatch.setattr(bundles, "ROOT", tmp_path)
    monkeypatch.setattr(bundles, "CORE", core)
    found = []
    for answer in ("1", "2"):
        (core / "module.py").write_text(f"ANSWER = {answer}\n")
        os.utime(core / "module.py", (0, 0))
        made = bundles.core()
        found.append(_run("import module; print(module.ANSWER)", [str(made)]).stdout.strip())

    assert found == ["1", "2"]


def test_another_python_leaves_its_bytecode_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "ROOT", tmp_path)
    monkeypatch.setattr(bundles, "CACHE_TAG", "cpython-312")
    made = bundles.core()

    assert list(made.rglob("*.py"))
    assert not list(made.rglob("*.pyc"))


def test_bytecode_is_for_the_functions_python(everything: Template) -> None:
    version = bundles.CACHE_TAG.removeprefix("cpython-3")

    assert {f["Runtime"] for f in everything.functions.values()} == {f"python3.{version}"}


@pytest.fixture(scope="module")
def here() -> Path:
    """The layer of wheels for this machine."""
    emulator.build_layers()
    return ROOT / "build/layers" / f"deps-{emulator.architecture()}"


def test_the_runtime_needs_the_core_and_the_layer_and_nothing_else(here: Path) -> None:
    modules = "aws_lambda_powertools, boto3, psycopg, pymysql, zstandard, stepvault.telemetry"
    done = _run(f"import {modules}", _paths(here))

    assert done.returncode == 0, done.stderr


def test_a_cold_start_compiles_nothing(here: Path) -> None:
    done = _run("import boto3, stepvault.backup", _paths(here), "-v")

    for layer in _paths(here):
        loaded = [line for line in done.stderr.splitlines() if layer in line]
        assert any("matches" in line for line in loaded)
        assert not [line for line in loaded if line.endswith(".py'") and "code object" in line]


def _contents(folder: Path) -> dict[str, bytes]:
    """Every file by its path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _run(code: str, paths: list[str], *options: str) -> subprocess.CompletedProcess[str]:
    """Run the code with nothing but Python and those folders."""
    return subprocess.run(
        [sys.executable, *options, "-I", "-S", "-c", f"import sys; sys.path += {paths}; {code}"],
        env={"PATH": os.environ["PATH"], "POWERTOOLS_TRACE_DISABLED": "true"},
        capture_output=True,
        text=True,
    )


def _paths(layer: Path) -> list[str]:
    return [str(bundles.core() / "python"), str(layer / "python")]
