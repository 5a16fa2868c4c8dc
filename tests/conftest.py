"""What all tests share: how they run, an emulated AWS, and a fresh vault in it."""

import os
import signal
import threading
import uuid
from collections.abc import Iterator
from contextlib import nullcontext

import hypothesis
import pytest

from devtools import emulator
from stepvault import storage
from stepvault.catalog import Vault
from tests.plugins import helper_threads, no_skips, parallel

# Deadlines fail on a busy machine. ``CI=true`` repeats the same examples, so that a red run can be
# repeated; ``--hypothesis-profile=random`` tries others there, too.
hypothesis.settings.register_profile("random", deadline=None)
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("repeatable" if os.environ.get("CI") else "random")


# The contract's asserts explain themselves like those of the tests.
pytest.register_assert_rewrite("tests.engines.contract")


def pytest_configure(config: pytest.Config) -> None:
    for plugin in (helper_threads, no_skips, parallel):
        config.pluginmanager.register(plugin)
    # A shell starts what runs in the background of a script with SIGINT ignored, and all children
    # inherit that: without this line Ctrl-C could not be tested there.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _open_temporary_folders(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Servers and readers of the tests run as other users, who must get to their files."""
    base = tmp_path_factory.getbasetemp()
    for folder in (base, *base.parents):
        if folder.name.startswith(("pytest-", "popen-")):
            folder.chmod(0o711)


@pytest.fixture(scope="session")
def aws() -> Iterator[str]:
    """The endpoint of a MiniStack of this test process, in the environment of boto3."""
    given = os.environ.get("STEPVAULT_TEST_ENDPOINT")  # of an emulator that is running already
    running = nullcontext(given) if given else emulator.running()
    with running as endpoint, pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("AWS_") and n != "AWS_CA_BUNDLE"]:
            patch.delenv(name)
        for name, value in emulator.environment(endpoint).items():
            patch.setenv(name, value)
        storage.client.cache_clear()
        yield endpoint
    storage.client.cache_clear()


@pytest.fixture
def vault(aws: str) -> Vault:
    """A new, empty vault."""
    bucket = f"vault-{uuid.uuid4().hex[:12]}"
    storage.client().create_bucket(Bucket=bucket)
    return Vault(bucket)
