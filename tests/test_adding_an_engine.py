"""docs/adding-an-engine.md is true: its engine, taken from the page, runs in a copy of the code."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "adding-an-engine.md").read_text()
SETTINGS = "layers/core/python/stepvault/settings.py"

#: From plan to a restored mailbox, through a vault and by the command line.
JOURNEY = """
import json
from datetime import UTC, datetime

from click.testing import CliRunner

from stepvault import config
from stepvault.backup import back_up
from stepvault.plan import RunRequest, plan
from stepvault.records import Execution, Unit
from stepvault.seal import SealRequest, seal
from stepvault_cli.main import cli


def test_a_mailbox_passes_through_a_vault_and_back(vault, tmp_path):
    path = tmp_path / "in.mbox"
    path.write_text("From ann\\n\\nhello\\n\\nFrom bob\\n\\nbye\\n")
    # "maildrop" is one of the names that the engine says it also has
    source = {"name": "mail", "engine": "maildrop", "path": str(path)}
    assert "did you mean mbox?" in config.mistakes({"sources": [source]})[0]
    source["engine"] = "mbox"
    execution = Execution(name="one", started=datetime.now(UTC))
    state = plan(config.parse({"sources": [source]}), vault, RunRequest(execution=execution))
    [line] = vault.get(state["databases"]["key"]).splitlines()
    back_up(Unit.model_validate_json(line), vault)
    seal(vault, SealRequest(execution=execution, run_id=state["run_id"], attempt=0, redrive_count=0))

    where = ["--vault", vault.bucket]
    verified = CliRunner().invoke(cli, ["verify", "mail", "--json", *where])
    assert json.loads(verified.stdout)["status"] == "equal", verified.output
    target = tmp_path / "out.mbox"
    restore = ["restore", "mail", "--to", str(target), "--compare", *where]
    told = CliRunner().invoke(cli, restore).stdout
    assert "all that was compared equals the backup" in told
    assert "not compared: owner, mode and times" in told
    assert target.read_text() == path.read_text()
    again = CliRunner().invoke(cli, restore)
    assert again.exit_code == 4
    assert "exists already" in again.stderr
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code with the page's engine in it."""
    root = tmp_path_factory.mktemp("code")
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in ("layers/core/python", "cli", "devtools", "tests/engines", "tests/plugins"):
        shutil.copytree(ROOT / folder, root / folder, ignore=ignore)
    for file in ("pyproject.toml", "tests/conftest.py", "tests/__init__.py"):
        shutil.copy(ROOT / file, root / file)
    (root / "build").symlink_to(ROOT / "build")
    (root / ".venv").symlink_to(ROOT / ".venv")

    blocks = dict(re.findall(r"^`([\w/.]+)`[^\n]*:\n\n```python\n(.*?)^```$", PAGE, re.M | re.S))
    home = {"stepvault": "layers/core/python"}
    files = {f"{home.get(p.partition('/')[0], 'tests/engines')}/{p}": t for p, t in blocks.items()}
    settings = (root / SETTINGS).read_text()
    settings = settings.replace("#: Any source;", files.pop(SETTINGS) + "\n\n#: Any source;")
    for removed, added in re.findall(r"^```diff\n((?:-.*\n)+)((?:\+.*\n)+)```$", PAGE, re.M):
        before, after = (
            "".join(f"{line[1:]}\n" for line in part.splitlines()) for part in (removed, added)
        )
        assert before in settings, "the page's line is not in settings.py any more"
        settings = settings.replace(before, after)
    (root / SETTINGS).write_text(settings)
    assert len(files) == 2
    for path, text in files.items():
        (root / path).write_text(text)
    (root / "tests/test_journey.py").write_text(JOURNEY)
    return root


def run(copy: Path, *command: str) -> str:
    paths = [copy, copy / "layers/core/python", copy / "cli"]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_pages_engine_passes_the_contract_suite_and_a_journey(copy: Path) -> None:
    # A folder of its own: pytest would close the one of this suite to other users.
    told = run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={copy / 'temp'}",
               "tests/engines/test_mbox.py", "tests/test_journey.py")  # fmt: skip
    passed = re.search(r"(\d+) passed", told)
    assert passed
    assert int(passed[1]) >= 16


def test_the_pages_engine_is_typed_and_in_good_style(copy: Path) -> None:
    files = [SETTINGS, "layers/core/python/stepvault/engines/mbox.py", "tests/engines/test_mbox.py"]
    run(copy, "-m", "ruff", "check", *files)
    run(copy, "-m", "ruff", "format", "--check", *files)
    run(copy, "-m", "mypy", "--follow-imports=silent", *files[:2])
