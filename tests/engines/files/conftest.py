"""Tests that use ``file_system`` run twice: entries read one by one, and ahead as on EFS."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepvault.engines.files.backup import snapshot
from stepvault.engines.files.tree import walk


@pytest.fixture(params=["local", "network"])
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "network":
        for room in (snapshot, walk):
            monkeypatch.setattr(room, "is_network", lambda _: True)
    return str(request.param)


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder of a user without privileges, while this process is that user."""
    folder = Path(tempfile.mkdtemp(prefix="stepvault-nobody-"))
    privileged = os.geteuid() == 0
    if privileged:
        os.chown(folder, 65534, 65534)
        os.setegid(65534)
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if privileged:
            os.seteuid(0)
            os.setegid(0)
        subprocess.run(["chmod", "-R", "u+rwx", folder], check=True)
        shutil.rmtree(folder)
