"""What all database servers of the tests have in common: a folder, a port, a start and an end."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from devtools.timer import wait_until

_LOG_LINES = 20


class Server(ABC):
    """Run one server in a temporary folder of its own; a context manager.

    A subclass says how to make the data folder, which command to run, and how to see that it
    answers. Durability is off: a crash loses everything.
    """

    title = ""
    """The server's name in messages."""
    host = "127.0.0.1"
    accounts: Sequence[str] = ()
    """System accounts to run as where we are root, in order of preference."""
    stop_signal = signal.SIGTERM
    """Stops the server in order, open connections or not."""
    last_signal = signal.SIGKILL
    """Stops the server when nobody needs its data any more."""

    def __init__(self) -> None:
        self.port = free_port()
        self.account = unprivileged(self.accounts, self.title)
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop(self.last_signal)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def folder(self) -> Path:
        """The server's own folder, made at the first start, removed at the end of the block."""
        assert self._folder is not None, f"{self.title} was not started"
        return self._folder

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """The file with what the server prints."""
        return self.folder / "log"

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None, f"{self.title} is not running"
        return self._process.pid

    def start(self) -> None:
        """Make the data folder if there is none, start the server, wait until it answers.

        Raises:
            RuntimeError: the server did not start; quotes the end of its log.
        """
        if self._folder is None:
            # A socket's path may hold 107 bytes, so the folder is short whatever TMPDIR says.
            self._folder = Path(tempfile.mkdtemp(prefix="server-", dir=memory_folder() or "/tmp"))
            self.give_away()
            self._make_data()
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                self._command(), stdout=log, stderr=log, start_new_session=True, **self._run_as()
            )
        self._process = process
        try:
            wait_until(
                self._answers,
                f"{self.title}'s first answer",
                seconds=60,
                given_up=lambda: process.poll() is not None,
            )
        except TimeoutError as error:
            raise RuntimeError(f"{self.title} did not start: {error}\n{self.log_tail()}") from error

    def stop(self, how: signal.Signals | None = None) -> None:
        """Stop the server in order, or by another signal; its data stay for the next start.

        A server that has not ended after a minute is killed.
        """
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how or self.stop_signal)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def log_tail(self) -> str:
        """Return the last lines that the server printed."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").strip().splitlines()[-_LOG_LINES:])

    def give_away(self) -> None:
        """Let the server's account own the folder and the files directly in it."""
        if self.account is None:
            return
        self.folder.chmod(0o755)
        for path in (self.folder, *self.folder.iterdir()):
            os.chown(path, self.account.pw_uid, self.account.pw_gid)

    @abstractmethod
    def _make_data(self) -> None:
        """Make the data folder and all else that the first start needs."""

    @abstractmethod
    def _command(self) -> Sequence[str | Path]:
        """Return the command that runs the server in the foreground."""

    @abstractmethod
    def _answers(self) -> bool:
        """Tell whether the server takes connections."""

    def _run_as(self) -> Mapping[str, Any]:
        """Return more arguments of Popen, such as the account. By default the server drops root itself."""
        return {}


def run_program(command: Sequence[object], **options: Any) -> str:
    """Run a program to its end; return what it printed.

    Args:
        command: program and arguments.
        options: more arguments of ``subprocess.run``.

    Raises:
        RuntimeError: the program failed; quotes the end of what it printed.
    """
    words = [str(word) for word in command]
    done: subprocess.CompletedProcess[str] = subprocess.run(
        words, capture_output=True, text=True, check=False, **options
    )
    if done.returncode:
        printed = f"{done.stdout}{done.stderr}".strip()[-3000:]
        raise RuntimeError(f"{Path(words[0]).name} failed: {printed}")
    return done.stdout


def free_port() -> int:
    """Find a port of the loopback interface that nobody uses now."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Find as many different ports of the loopback interface that nobody uses now."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def memory_folder() -> str | None:
    """Find a folder in memory with gigabytes to spare and where programs may run, or None.

    Making and removing a data folder takes a tenth of the time there.
    """
    memory = Path("/dev/shm")
    if not memory.is_dir() or os.statvfs(memory).f_flag & os.ST_NOEXEC:
        return None
    return str(memory) if shutil.disk_usage(memory).free > 4 << 30 else None


def unprivileged(accounts: Sequence[str], title: str) -> pwd.struct_passwd | None:
    """Find the account to run a server as: the first of these that exists; None if not root.

    Raises:
        RuntimeError: this process is root and there is no such account.
    """
    if os.geteuid() != 0:
        return None
    for name in accounts:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError(f"{title} cannot run as root, and there is no user {' or '.join(accounts)}")
