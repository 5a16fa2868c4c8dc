"""docs/architecture.md tells the floors as the imports are."""

import re
from pathlib import Path

import grimp
import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text()


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    """Every import of the core; an engine's modules count as the engine."""
    graph = grimp.build_graph("stepvault")
    for module in sorted(graph.modules):
        if re.fullmatch(r"stepvault\.engines\.\w+", module) and graph.find_children(module):
            graph.squash_module(module)
    return graph


def floors() -> dict[str, int]:
    """Module to the number of its floor, as the page's table says."""
    section = PAGE.split("## Floors")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\d) \| ((?:`[\w.]+` ?)+)\|", section, re.MULTILINE)
    return {f"stepvault.{m}": int(floor) for floor, names in rows for m in names[1:-2].split("` `")}


def test_every_module_has_a_floor(imports: grimp.ImportGraph) -> None:
    assert set(floors()) == imports.modules - {"stepvault", "stepvault.engines"}


def test_no_module_imports_from_a_higher_floor(imports: grimp.ImportGraph) -> None:
    floor = floors()
    upward = [
        f"{module} imports {imported}"
        for module in floor
        for imported in imports.find_modules_directly_imported_by(module)
        if floor.get(imported, 0) > floor[module]
    ]
    assert upward == []


def test_only_the_outside_floor_and_storage_use_boto3() -> None:
    core = Path(__file__).parents[2] / "layers/core/python/stepvault"
    users = {
        f"stepvault.{path.relative_to(core).with_suffix('').as_posix().replace('/', '.')}"
        for path in core.rglob("*.py")
        if re.search(r"^\s*(import|from) (boto3|botocore)\b", path.read_text(), re.MULTILINE)
    }
    assert {floors()[module] for module in users - {"stepvault.storage"}} == {4}


def test_files_that_are_named_exist() -> None:
    files = Path(__file__).parents[2] / "layers/core/python/stepvault/engines/files"
    for name in re.findall(r"`((?:backup|tree|format|restore)/\w+)`", PAGE):
        assert (files / f"{name}.py").exists(), name
