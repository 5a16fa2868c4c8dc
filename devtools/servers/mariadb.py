"""A real MariaDB server of our own: its own data folder, port and socket, gone afterwards.

Debian's ``mariadb-server`` package gives the programs; the system's service is never touched.
For tests, the demo and the benchmark, so durability is off: a crash loses everything.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import pymysql

from devtools.servers.postgres import free_port, roomy_memory

PASSWORD = "stepvault-demo"
_SMALL_AND_FAST = (
    "--skip-networking=0",
    "--bind-address=127.0.0.1",
    "--skip-name-resolve",
    "--skip-log-error",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-flush-method=nosync",
    "--innodb-doublewrite=0",
    "--innodb-buffer-pool-size=64M",
    "--innodb-log-file-size=32M",
    "--performance-schema=0",
    "--key-buffer-size=1M",
    "--aria-pagecache-buffer-size=8M",
    "--innodb-buffer-pool-dump-at-shutdown=0",
    "--character-set-server=utf8mb4",
    "--sync-binlog=0",
)


class MariaDb:
    """``with MariaDb() as server: server.port, server.socket, server.sql(...)``.

    Args:
        options: more options of mariadbd, such as ``--log-bin``; the last one given wins.
        folder: where to keep the data; a temporary folder, removed at the end, when left out.

    Raises:
        FileNotFoundError: MariaDB is not installed; says which package to install.
        RuntimeError: the server did not start; quotes what it said.
    """

    user = "root"
    password = PASSWORD
    host = "127.0.0.1"
    daemon = "mariadbd"
    no_binary_log = "--skip-log-bin"
    programs: Sequence[str] = ("mariadbd", "mariadb-install-db")
    small_and_fast: Sequence[str] = _SMALL_AND_FAST

    def __init__(self, options: Sequence[str] = (), folder: Path | None = None) -> None:
        for program in self.programs:
            if shutil.which(program, path=_path()) is None:
                raise FileNotFoundError(
                    f"{program} not found: apt-get install --no-install-recommends mariadb-server"
                )
        self.options = list(options)
        self.port = free_port()
        self._given = folder
        self._first: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "MariaDb":
        # A socket's path may hold 107 bytes, so the folder is short whatever TMPDIR says.
        self.folder = self._given or Path(
            tempfile.mkdtemp(prefix="mariadb-", dir=roomy_memory() or "/tmp")
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data, self.socket, self.log = (
            self.folder / name for name in ("data", "socket", "log")
        )
        try:
            self._own()
            if not self.data.exists():
                self._install()
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
        self.stop(signal.SIGKILL)  # nobody needs the data any more
        if self._given is None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start the server on the data folder and wait until it answers."""
        command = [*self._command(self.daemon), *self.small_and_fast, f"--port={self.port}"]
        # A starting server removes temporary tables from its folder for them: /tmp is not ours alone.
        command += [f"--socket={self.socket}", f"--pid-file={self.folder}/pid"]
        command += [f"--tmpdir={self.folder}", *self.options]
        if self._first is not None:
            command.append(f"--init-file={self._first}")
            self._first = None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"MariaDB did not start:\n{self._said()}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.socket))
                return bool(probe.recv(1))
            except OSError:
                return False

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop the server; ``SIGKILL`` is a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(60)
            self._process = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def connect(self, database: str | None = None) -> "pymysql.Connection[pymysql.cursors.Cursor]":
        """A new connection as root, in autocommit mode."""
        return pymysql.connect(
            unix_socket=str(self.socket),
            user=self.user,
            password=self.password,
            database=database,
            autocommit=True,
            charset="utf8mb4",
        )

    def sql(self, *statements: str, database: str | None = None) -> list[tuple[object, ...]]:
        """Run statements as root; returns the last one's rows."""
        connection = self.connect(database)
        try:
            with connection.cursor() as cursor:
                for statement in statements:
                    for one in self.dialect(statement):
                        cursor.execute(one)
                return list(cursor.fetchall())
        finally:
            connection.close()

    def dialect(self, statement: str) -> list[str]:
        """The statement as this kind of server wants it, maybe in several."""
        return [statement]

    def _install(self) -> None:
        command = [*self._command("mariadb-install-db"), "--auth-root-authentication-method=normal"]
        command += ["--skip-test-db", "--skip-name-resolve", "--innodb-log-file-size=32M"]
        command += ["--innodb-flush-method=nosync", "--innodb-doublewrite=0"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"mariadb-install-db failed:\n{done.stdout}{done.stderr}")
        self._set_passwords("CREATE OR REPLACE USER")

    def _set_passwords(self, create: str) -> None:
        # The first start sets them: one statement a line is what the server reads.
        self._first = self.folder / "first-start.sql"
        self._first.write_text(
            f"ALTER USER root@localhost IDENTIFIED BY '{self.password}';\n"
            f"{create} root@127.0.0.1 IDENTIFIED BY '{self.password}';\n"
            "GRANT ALL ON *.* TO root@127.0.0.1 WITH GRANT OPTION;\n"
        )
        self._own()

    def _command(self, program: str) -> list[str]:
        path = shutil.which(program, path=_path())
        assert path is not None
        return [path, "--no-defaults", f"--datadir={self.data}", *_user()]

    def _own(self) -> None:
        if os.geteuid() == 0:
            shutil.chown(self.folder, "mysql", "mysql")
            for path in self.folder.iterdir():
                shutil.chown(path, "mysql", "mysql")

    def _said(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]


def _user() -> list[str]:
    """mariadbd refuses to run as root; Debian's package brings the user mysql."""
    if os.geteuid() != 0:
        return []
    pwd.getpwnam("mysql")
    return ["--user=mysql"]


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"
