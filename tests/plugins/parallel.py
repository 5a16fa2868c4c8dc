"""Divide the tests among processes so that each server starts once, and set their time limits.

Tests of a group run in one process, one after the other. A process that is free takes the next
group; the longest come first, so that all processes end at about the same time. Tests outside
these folders go file by file, at the end. ``pytest -n 2`` is all it needs.

(pytest-xdist's own ``--dist loadgroup`` has no effect with pytest 9.2: it renames tests, and pytest
no longer lets it.)
"""

from collections.abc import Generator
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

#: Folders of one group, with the seconds their tests took in one of three processes on two cores.
GROUPS = (
    "tests/engines/postgres",  # 370
    "tests/engines/mysql",  # 255 with MariaDB, 255 with MySQL: two groups
    "tests/core/test_trials.py",  # 50, most of it waiting: a group of its own
    "tests/core",  # 150
    "tests/infra",  # 140
    "tests/docs",  # 90
    "tests/journey",  # 85
    "tests/engines/files",  # 80
    "tests/engines/sqlite",  # 65
    "tests/cli",  # 55
)
#: What needs a database server, an emulated AWS or the CDK, or takes many seconds.
SLOW = (
    *("tests/engines/postgres/", "tests/engines/mysql/", "tests/journey/", "tests/infra/"),
    *("tests/package/", "tests/test_adding_an_engine.py", "tests/devtools/test_servers.py"),
    "tests/engines/files/backup/test_plan.py::test_a_tree_deeper_than_paths_may_be_long_comes_back",
)
#: Seconds that a test of these folders may take; the others have the limit of pyproject.toml.
LIMITS = {"tests/cli": 60}


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Send all tests of a group to the same process."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> GroupScheduling:
    config.option.loadscopereorder = False  # else the group with the most tests comes first
    return GroupScheduling(config, log)  # without the log of its caller it prints each step


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None]:
    for item in items:
        if "aws" in getattr(item, "fixturenames", ()) or item.nodeid.startswith(SLOW):
            item.add_marker(pytest.mark.slow)
        if limit := LIMITS.get(_folder(item.nodeid, tuple(LIMITS))):
            item.add_marker(pytest.mark.timeout(limit))
    yield  # the others sort, too
    items.sort(key=_rank)


def group(nodeid: str) -> str:
    """Return the name of the test's group: its folder, of MySQL's tests the server, or its file."""
    folder = _folder(nodeid, GROUPS)
    if folder == "tests/engines/mysql":
        return f"{folder} on {'MySQL' if '[mysql' in nodeid else 'MariaDB'}"
    return folder or nodeid.split("::", maxsplit=1)[0]


def _rank(item: pytest.Item) -> int:
    folder = _folder(item.nodeid, GROUPS)
    return GROUPS.index(folder) if folder else len(GROUPS)


def _folder(nodeid: str, folders: tuple[str, ...]) -> str:
    """Return the folder that the test is in, or an empty text."""
    return next((f for f in folders if nodeid.startswith((f"{f}/", f"{f}:"))), "")
