"""The rules on who may import whom turn red: forbidden imports are planted in a copy of the code."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stepvault import engines

ROOT = Path(__file__).parents[1]
CODE = ("layers/core/python", "cli", "functions", "infra/*.py", "devtools/*.py", "pyproject.toml")
CORE = "layers/core/python/stepvault"

#: What is planted: file, its new last line, and how the linter names it.
PLANTED = [
    *(
        (f"{CORE}/engines/{engine}/planted.py", f"import stepvault.{room}", f"stepvault.{room}")
        for engine in engines.NAMES
        for room in ("storage", "buckets", "seal", "prune", "catalog", "secrets", "a_new_room")
    ),
    (f"{CORE}/engines/mysql/planted.py", "import boto3", "boto3"),
    (f"{CORE}/engines/sqlite/planted.py", "import stepvault.engines.files.format.tar", ""),
    (f"{CORE}/engines/a_new_engine.py", "import stepvault.storage", "stepvault.storage"),
    (f"{CORE}/keys.py", "import stepvault.seal", "stepvault.seal"),
    (f"{CORE}/keys.py", "import os", "os"),
    (f"{CORE}/verify.py", "import boto3", "boto3"),
    (f"{CORE}/catalog.py", "import botocore.session", "botocore"),
    (f"{CORE}/restore.py", "import stepvault.prune", "stepvault.prune"),
    (f"{CORE}/backup.py", "import aws_lambda_powertools", "aws_lambda_powertools"),
    (f"{CORE}/errors.py", "import stepvault_cli.main", "stepvault_cli.main"),
    ("infra/app.py", "import stepvault.keys", "stepvault.keys"),
    ("functions/seal.py", "import aws_cdk", "aws_cdk"),
]


def lint(root: Path) -> "subprocess.CompletedProcess[str]":
    paths = [root, root / "layers/core/python", root / "cli"]
    return subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()",
         "--no-cache", "--no-logo"],
        cwd=root,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "COLUMNS": "400"},
        capture_output=True,
        text=True,
        timeout=120,
    )  # fmt: skip


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code as it is, copied."""
    root = tmp_path_factory.mktemp("code")
    for pattern in CODE:
        for source in ROOT.glob(pattern):
            target = root / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
    return root


@pytest.fixture(scope="module")
def report(copy: Path) -> str:
    """What the linter says of the copy with everything forbidden in it."""
    (copy / CORE / "a_new_room.py").write_text("")
    for file, line, _ in PLANTED:
        with (copy / file).open("a") as module:
            module.write(f"\n{line}\n")
    linted = lint(copy)
    assert linted.returncode == 1, linted.stdout + linted.stderr
    return linted.stdout


def test_the_code_as_it_is_keeps_the_rules() -> None:
    linted = lint(ROOT)
    assert linted.returncode == 0, linted.stdout + linted.stderr


@pytest.mark.parametrize(("file", "line", "imported"), PLANTED)
def test_a_forbidden_import_is_named(report: str, file: str, line: str, imported: str) -> None:
    place = file.removeprefix("layers/core/python/").removesuffix(".py").replace("/", ".")
    assert f"{place} -> {imported or line.removeprefix('import ')} (l." in report


def test_a_new_module_without_a_floor_is_named(report: str) -> None:
    assert "a_new_room" in report.partition("Floors of the core")[2]
    for engine in engines.NAMES:
        assert f"stepvault.engines.{engine}.planted" in report
