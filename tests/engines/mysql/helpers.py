"""Helpers that several test files share."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from devtools.servers.mariadb import MariaDb
from stepvault.errors import StepvaultError
from tests.engines.driver import Result, back_up, restore_job, run_restore
from tests.engines.mysql.rig import MariaDbRig


def fails(rig: MariaDbRig, folder: Path, kind: type[StepvaultError], **more: Any) -> str:
    """Back up ``pair``, expect that error and no object; returns its text."""
    source = rig.source("pair", **more.pop("settings", {}))
    job: dict[str, Any] = {"connection": rig.as_dumper(), "connections": 1} | more
    with pytest.raises(kind) as caught:
        back_up(rig.engine, source, folder, **job)
    assert type(caught.value) is kind
    assert not [p for p in folder.rglob("*") if p.is_file()]
    return str(caught.value)


@contextmanager
def globally(server: MariaDb, variable: str, value: int) -> Iterator[None]:
    """Give the server another setting while the block lasts."""
    before = server.sql(f"SELECT @@GLOBAL.{variable}")[0][0]
    server.sql(f"SET GLOBAL {variable} = {value}")
    try:
        yield
    finally:
        server.sql(f"SET GLOBAL {variable} = {before}")


def at_first_row(action: Any) -> Any:
    """A watch that acts once, when the first rows have been read."""
    done = threading.Event()

    def watch(name: str, raw_bytes: int) -> None:
        if "larger.0" in name and raw_bytes > 1000 and not done.is_set():
            done.set()
            action()

    return watch


def there_and_back(rig: MariaDbRig, folder: Path, statements: list[str]) -> tuple[Result, str, str]:
    """Make a database, back it up, restore it; returns the result and both databases' names."""
    name = rig.new_database()
    connection = rig.server.connect(name)
    for statement in statements:
        for one in rig.server.dialect(statement):
            connection.query(one)
    connection.close()
    source, target = rig.source(name), rig.target()
    result = back_up(rig.engine, source, folder, **rig.job(source))[0]
    job = restore_job(result, folder, source, **target)
    run_restore(rig.engine, job)
    assert rig.engine.differences(job) == []
    assert rig.content(target) == rig.content(source)
    return result, name, target["connection"].database


def back_up_once(rig: MariaDbRig, folder: Path, source: Any) -> Result:
    return back_up(rig.engine, source, folder, **rig.job(source))[0]
