"""How this suite runs: what dies, hangs or is skipped is red; groups and limits are as promised."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run_suite(folder: Path, test: str, *options: str, **environment: str) -> str:
    """Run a test file with this suite's plugins in a process of its own; return the output."""
    (folder / "test_it.py").write_text(test)
    plugins = ("helper_threads", "no_skips", "parallel")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=60"]
    command += [word for plugin in plugins for word in ("-p", f"tests.plugins.{plugin}")]
    command += ["--rootdir", str(folder), "-W", "error", *options, str(folder)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTEST_ADDOPTS": ""} | environment,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode in {0, 1, 2}, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "main",
    ["threading.Event().wait(30)", "time.sleep(30)", "pass"],
    ids=["waits for the thread", "sleeps", "ends with it"],
)
def test_a_thread_that_dies_fails_its_test_at_once_with_its_own_exception(
    main: str, tmp_path: Path
) -> None:
    output = run_suite(
        tmp_path,
        f"""
import threading, time
def write():
    raise ValueError("the disk is full")
def test_writer():
    writer = threading.Thread(target=write, name="writer")
    writer.start()
    try:
        {main}
    except Exception:
        pass  # the tested code may catch whatever it likes
    writer.join()
def test_next():
    pass
""",
        "--durations=0",
    )
    assert "HelperThreadDied: thread writer died: ValueError('the disk is full')" in output
    assert "1 failed, 1 passed" in output
    assert 'raise ValueError("the disk is full")' in output, "where it died is shown"
    took = float(output.rsplit(" in ", 1)[1].split("s")[0])
    assert took < 20


def test_a_thread_that_dies_in_a_fixture_stops_it(tmp_path: Path) -> None:
    output = run_suite(
        tmp_path,
        """
import threading, pytest
@pytest.fixture
def filled():
    filling = threading.Thread(target=lambda: 1 / 0)
    filling.start()
    threading.Event().wait(30)
def test_it(filled):
    pass
""",
    )
    assert "ZeroDivisionError" in output
    assert "1 error" in output


def test_a_skip_is_red_and_says_why(tmp_path: Path) -> None:
    output = run_suite(
        tmp_path,
        """
import pytest
@pytest.mark.skip("marked")
def test_marked(): pass
@pytest.mark.skipif(True, reason="on a condition")
def test_conditional(): pass
def test_by_itself(): pytest.skip("by itself")
@pytest.fixture
def server(): pytest.skip("no server")
def test_with_a_fixture(server): pass
@pytest.mark.xfail
def test_that_is_expected_to_fail(): assert False
""",
    )
    for reason in ("marked", "on a condition", "by itself", "no server"):
        assert f"No test here may be skipped: Skipped: {reason}" in output
    assert output.splitlines()[-1].startswith("1 failed, 1 xfailed, 3 errors in ")


def test_a_file_that_skips_itself_is_red(tmp_path: Path) -> None:
    output = run_suite(tmp_path, "import pytest\npytest.skip('no server', allow_module_level=True)")
    assert "No test here may be skipped: Skipped: no server" in output
    assert output.splitlines()[-1].startswith("1 error in ")


def test_children_start_with_the_default_ctrl_c_wherever_the_suite_runs() -> None:
    """In the background of a script, a shell has SIGINT ignored, and children inherit that."""
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
    ignored = "signal.getsignal(signal.SIGINT) is signal.SIG_IGN"
    child = f"import signal, sys; sys.exit({ignored})"
    assert subprocess.run([sys.executable, "-c", child]).returncode == 0


def test_the_tests_of_the_command_line_have_a_minute(request: pytest.FixtureRequest) -> None:
    items = [i for i in request.session.items if "tests/cli/" in i.nodeid]
    for item in items:
        marker = item.get_closest_marker("timeout")
        assert marker
        assert marker.args == (60,)
