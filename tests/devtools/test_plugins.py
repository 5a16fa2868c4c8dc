"""How this suite runs: what dies, hangs or is skipped is red; groups and limits are as promised."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugins.parallel import group

ROOT = Path(__file__).resolve().parents[2]


def run_suite(folder: Path, test: str, *options: str, **environment: str) -> str:
    """Run a test file with this suite's plugins in a process of its own; return the output."""
    (folder / "test_it.py").write_text(test)
    plugins = ("helper_threads", "no_skips", "parallel")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=60"]
    command += [word for plugin in plugins for word in ("-p", f"tests.plugins.{plugin}")]
    # A folder of its own: pytest would close the one of this suite to other users.
    command += ["--basetemp", str(folder / "basetemp")]
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


def test_the_tests_of_the_command_line_have_a_minute(tmp_path: Path) -> None:
    folder = tmp_path / "tests/cli"
    folder.mkdir(parents=True)
    test = "def test_it(request): assert request.node.get_closest_marker('timeout').args == (60,)"
    assert "1 passed" in run_suite(folder, test, f"--rootdir={tmp_path}")


def test_the_tests_of_a_group_share_a_process_and_two_processes_share_the_groups(
    tmp_path: Path,
) -> None:
    for name in ("core", "cli"):
        folder = tmp_path / "tests" / name
        folder.mkdir(parents=True)
        for number in range(3):
            (folder / f"test_{name}_{number}.py").write_text(
                "import os, pathlib, time, pytest\n"
                "@pytest.mark.parametrize('n', range(5))\n"
                "def test_it(n):\n"
                "    time.sleep(0.05)\n"
                f"    with pathlib.Path({str(tmp_path)!r}, {name!r}).open('a') as file:\n"
                "        print(os.environ['PYTEST_XDIST_WORKER'], file=file)\n"
            )
    output = run_suite(tmp_path, "", "-n", "2", f"--rootdir={tmp_path}")
    assert "30 passed" in output
    workers = [set((tmp_path / name).read_text().split()) for name in ("core", "cli")]
    assert sorted(map(len, workers)) == [1, 1]
    assert workers[0] != workers[1]


def test_mariadb_and_mysql_are_two_groups() -> None:
    names = ("test_errors.py::test_a[mysql-1]", "test_rows.py::test_b[mariadb]", "test_c.py::test")
    groups = [group(f"tests/engines/mysql/{name}").rsplit(" ", 1)[1] for name in names]
    assert groups == ["MySQL", "MariaDB", "MariaDB"]
    assert group("tests/functions/test_handlers.py::test") == "tests/functions/test_handlers.py"
