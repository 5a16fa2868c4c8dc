"""What a user installs: the wheel, in an environment that has nothing else."""

import os
import shutil
import subprocess
import tomllib
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from stepvault import __version__

ROOT = Path(__file__).parents[2]
UV = ROOT / "build/uv/bin/uv"
PACKAGES = (ROOT / "layers/core/python/stepvault", ROOT / "cli/stepvault_cli")
LOCKED = (ROOT / "layers/deps/requirements.txt", ROOT / "cli/requirements.txt")


def run(*command: str | Path, folder: Path) -> str:
    """Run a command as a user would: nothing of this checkout on the path."""
    ours = ("PYTHON", "AWS_", "STEPVAULT_", "VIRTUAL_ENV")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source archive, built from a copy of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "checkout"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for package in PACKAGES:
        shutil.copytree(package, copy / package.relative_to(ROOT), ignore=ignore)
    python = ROOT / ".venv/bin/python"
    run(UV, "build", "--no-build-isolation", "--python", python, "-o", "dist", folder=copy)
    (built,) = (copy / "dist").glob("*.whl")
    assert len(list((copy / "dist").glob("*.tar.gz"))) == 1
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` folder of an environment with the wheel and what it asks for, as locked."""
    home = tmp_path_factory.mktemp("installed") / "venv"
    run(UV, "venv", "--python", ROOT / ".venv/bin/python", home, folder=home.parent)
    constraints = [part for file in LOCKED for part in ("-c", file)]
    run(UV, "pip", "install", "--python", home, *constraints, wheel, folder=home.parent)
    return home / "bin"


def test_the_wheel_holds_every_module_and_what_they_read(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for package in PACKAGES:
        files = [p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
        assert {str(p.relative_to(package.parent)) for p in files} <= names
        assert f"{package.name}/py.typed" in names
    assert "stepvault/rds-ca.pem" in names
    licenses = [name for name in names if name.endswith("licenses/LICENSE")]
    tops = {name.partition("/")[0] for name in names}
    assert len(licenses) == 1
    assert tops == {"stepvault", "stepvault_cli", f"stepvault-{__version__}.dist-info"}


def test_the_metadata_names_the_version_and_what_the_layers_lock(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"stepvault-{__version__}.dist-info/METADATA").decode()
    headers = HeaderParser().parsestr(text)
    asked = {_name(line) for line in headers.get_all("Requires-Dist") or []}
    lines = [n for file in LOCKED for n in file.with_suffix(".in").read_text().splitlines()]
    assert asked == {_name(line) for line in lines if line and not line.startswith("#")}
    assert headers["Version"] == __version__


def _name(line: str) -> str:
    requirement = Requirement(line)
    return f"{requirement.name}[{','.join(sorted(requirement.extras))}]"


def test_the_command_explains_itself_and_checks_the_example(
    installed: Path, tmp_path: Path
) -> None:
    command = installed / "stepvault"
    assert "Back up databases and files on AWS" in run(command, "--help", folder=tmp_path)
    version = run(command, "--version", folder=tmp_path)
    assert version.strip() == f"stepvault, version {__version__}"
    example = ROOT / "examples/stepvault.toml"
    assert "5 sources" in run(command, "config", "check", example, folder=tmp_path)


def test_every_module_can_be_imported_with_what_the_wheel_asks_for(
    installed: Path, tmp_path: Path
) -> None:
    script = """
import importlib, pkgutil, stepvault, stepvault_cli
for package in (stepvault, stepvault_cli):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
print(stepvault.__version__, stepvault.__file__)
"""
    version, file = run(installed / "python", "-c", script, folder=tmp_path).split()
    assert version == __version__
    assert Path(file).is_relative_to(installed.parent)


def test_the_groups_for_contributors_are_what_the_requirement_files_lock() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    homes = {"test": "tests", "infra": "infra", "docs": "docs"}
    for group, home in homes.items():
        lines = (ROOT / home / "requirements.in").read_text().splitlines()
        assert groups[group] == [line for line in lines if line and not line.startswith("#")]
    assert {entry["include-group"] for entry in groups["dev"]} == set(homes)
