"""docs/architecture.md tells the floors as the import rules have them, and files that exist."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()


def test_the_floors_are_those_of_the_import_rules() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = project["tool"]["importlinter"]["contracts"]
    (rules,) = [c for c in contracts if c.get("containers") == ["stepvault"]]
    section = PAGE.split("## Floors")[1].split("\n## ")[0]
    rows = re.findall(r"^\| \d+ \| ((?:`\w+` )+)\|", section, re.MULTILINE)
    assert [set(re.findall(r"\w+", row)) for row in rows] == [
        set(re.findall(r"\w+", floor)) for floor in rules["layers"]
    ]


def test_every_word_of_the_steps_is_a_file() -> None:
    core = ROOT / "layers/core/python/stepvault"
    steps = re.findall(r"^\| \d+ \| `([\w/.]+)` \|", PAGE.split("## A unit")[1], re.MULTILINE)
    assert len(steps) > 10
    homes = (ROOT, core, core / "engines/files")
    missing = [
        step
        for step in steps
        if not any((home / f"{step.removesuffix('.py')}.py").exists() for home in homes)
    ]
    assert missing == []
    for name in re.findall(r"`((?:backup|tree|format|restore)/\w+)`", PAGE):
        assert (core / "engines/files" / f"{name}.py").exists(), name


def test_the_rights_of_every_function_are_explained() -> None:
    rows = re.findall(
        r"^\| `(\w+)(?:_<engine>)?` \|", (ROOT / "SECURITY.md").read_text(), re.MULTILINE
    )
    functions = {path.stem for path in (ROOT / "functions").glob("*.py")} - {"__init__"}
    assert set(rows) == functions
