"""The API documentation (``make docs``) renders, and a docstring that is wrong is noticed."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_public_module_renders_without_a_warning(tmp_path: Path) -> None:
    (line,) = [x for x in (ROOT / "Makefile").read_text().splitlines() if x.startswith("DOCS := ")]
    package, pattern = line.removeprefix("DOCS := ").replace("$$", "$").replace("'", "").split()
    command = [sys.executable, "-W", "error", "-m", "pdoc", "--docformat", "google"]
    done = subprocess.run(
        [*command, "--output-directory", tmp_path, package, pattern], capture_output=True, text=True
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
        [sys.executable, "-m", "ruff", "check", "--stdin-filename", "layers/core/x.py", "-"],
        cwd=ROOT,
        input=wrong,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "DOC102" in done.stdout
