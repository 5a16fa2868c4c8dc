"""The API documentation (``make docs``) renders, and a docstring that is wrong is noticed."""

import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def variable(name: str) -> list[str]:
    """The words of a variable in the Makefile."""
    lines = (ROOT / "Makefile").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{name} := ")]
    return shlex.split(line.removeprefix(f"{name} := ").replace("$$", "$"))


def test_every_public_module_renders_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "pdoc", "--docformat", "google"]
    done = subprocess.run(
        [*command, "--output-directory", tmp_path, *variable("DOCS")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    core = ROOT / "layers/core/python/stepvault"
    modules = {path.stem for path in core.glob("*.py")} - {"__init__"}
    pages = {path.stem for path in (tmp_path / "stepvault").glob("*.html")}
    assert modules <= pages
    assert (tmp_path / "stepvault/engines/base.html").exists()


def test_a_docstring_of_an_argument_that_is_not_there_is_an_error() -> None:
    wrong = '''"""Do things."""


def act(now: int) -> int:
    """Act.

    Args:
        now: when.
        then: there is no such argument.
    """
    return now
'''
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", *variable("DOCSTRINGS"), "-"],
        cwd=ROOT,
        input=wrong,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Documented parameter `then` is not in the function's signature" in done.stdout
