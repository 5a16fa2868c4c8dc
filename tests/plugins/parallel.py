"""Divide the tests among processes so that each server starts once, and set their time limits.

Tests of a group run in one process, one after the other. A process that is free takes the next
group; the longest come first, so that all processes end at about the same time. Tests outside
these folders go file by file, at the end.
"""

from collections.abc import Generator

import pytest

#: Folders of one group, with the seconds their tests took on a quiet machine of two cores.
GROUPS = (
    "tests/engines/postgres",  # 142
    "tests/engines/mysql",  # 114 with MariaDB, 112 with MySQL: two groups
    "tests/journey",  # 90
    "tests/docs",  # about 60
    "tests/engines/files",  # 41
    "tests/infra",  # 38
    "tests/cli",  # 22
    "tests/core",  # 16
)
#: Folders whose tests need a database server, an emulated AWS or the CDK.
SERVERS = ("tests/engines/postgres", "tests/engines/mysql", "tests/journey", "tests/infra")
#: Seconds that a test of these folders may take; the others have the limit of pyproject.toml.
LIMITS = {"tests/cli": 60}


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None]:
    for item in items:
        path = item.nodeid.split("::")[0]
        item.add_marker(pytest.mark.xdist_group(_group(item, path)))
        if "aws" in getattr(item, "fixturenames", ()) or _folder(path, SERVERS):
            item.add_marker(pytest.mark.server)
        if limit := LIMITS.get(_folder(path, tuple(LIMITS))):
            item.add_marker(pytest.mark.timeout(limit))
    yield  # the others sort, too
    items.sort(key=_rank)


def _group(item: pytest.Item, path: str) -> str:
    folder = _folder(path, GROUPS)
    if folder == "tests/engines/mysql":
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        return f"{folder}:{parameters.get('brand', 'mariadb')}"
    return folder or path


def _rank(item: pytest.Item) -> int:
    folder = _folder(item.nodeid, GROUPS)
    return GROUPS.index(folder) if folder else len(GROUPS)


def _folder(path: str, folders: tuple[str, ...]) -> str:
    """Return the folder that the path is in, or an empty text."""
    return next((f for f in folders if path.startswith(f"{f}/")), "")
