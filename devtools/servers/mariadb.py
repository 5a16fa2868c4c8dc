"""A real MariaDB server with its own data folder, port and socket; removed at the end.

Debian's ``mariadb-server`` package gives the programs; the system's service is never touched.
Durability is off: a crash may lose everything.
"""

import os
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

import pymysql

from devtools.servers.server import Server, run_program

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


class MariaDb(Server):
    """Run one MariaDB server: ``with MariaDb() as server: server.port, server.sql(...)``.

    Args:
        options: more options of mariadbd, such as ``--log-bin``; the last one given wins.

    Raises:
        FileNotFoundError: MariaDB is not installed; says which package to install.
    """

    title = "MariaDB"
    user = "root"
    password = PASSWORD
    accounts = ("mysql",)
    daemon = "mariadbd"
    no_binary_log = "--skip-log-bin"
    programs: Sequence[str] = ("mariadbd", "mariadb-install-db")
    small_and_fast: Sequence[str] = _SMALL_AND_FAST

    def __init__(self, options: Sequence[str] = ()) -> None:
        for program in self.programs:
            if shutil.which(program, path=_path()) is None:
                raise FileNotFoundError(
                    f"{program} not found: apt-get install --no-install-recommends mariadb-server"
                )
        super().__init__()
        self.options = list(options)

    @property
    def socket(self) -> Path:
        """The server's Unix socket."""
        return self.folder / "socket"

    def connect(self, database: str | None = None) -> "pymysql.Connection[pymysql.cursors.Cursor]":
        """Return a new connection as root, in autocommit mode."""
        return pymysql.connect(
            unix_socket=str(self.socket),
            user=self.user,
            password=self.password,
            database=database,
            autocommit=True,
            charset="utf8mb4",
        )

    def sql(self, *statements: str, database: str | None = None) -> list[tuple[object, ...]]:
        """Run statements as root; return the last one's rows."""
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
        """Return the statement as this kind of server wants it, maybe in several."""
        return [statement]

    def _make_data(self) -> None:
        install = ["--auth-root-authentication-method=normal", "--skip-test-db"]
        install += ["--skip-name-resolve", "--innodb-log-file-size=32M"]
        install += ["--innodb-flush-method=nosync", "--innodb-doublewrite=0"]
        run_program([*self._program("mariadb-install-db"), *install])
        self._set_passwords("CREATE OR REPLACE USER")

    def _set_passwords(self, create: str) -> None:
        """Write what the first start runs: one statement a line is what the server reads."""
        self._first_start.write_text(
            f"ALTER USER root@localhost IDENTIFIED BY '{self.password}';\n"
            f"{create} root@127.0.0.1 IDENTIFIED BY '{self.password}';\n"
            "GRANT ALL ON *.* TO root@127.0.0.1 WITH GRANT OPTION;\n"
        )
        self.give_away()

    @property
    def _first_start(self) -> Path:
        return self.folder / "first-start.sql"

    def start(self) -> None:
        """Start the server as ``Server.start`` does; its first start sets the passwords."""
        super().start()
        self._first_start.unlink(missing_ok=True)

    def _command(self) -> Sequence[str]:
        command = [*self._program(self.daemon), *self.small_and_fast, f"--port={self.port}"]
        # A starting server removes the temporary tables it finds: in /tmp there are others'.
        command += [f"--socket={self.socket}", f"--pid-file={self.folder}/pid"]
        command += [f"--tmpdir={self.folder}", *self.options]
        if self._first_start.exists():
            command.append(f"--init-file={self._first_start}")
        return command

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.socket))
                return bool(probe.recv(1))
            except OSError:
                return False

    def _program(self, program: str) -> list[str]:
        """Return a program's path and the options that all of the server's programs take first."""
        path = shutil.which(program, path=_path())
        assert path is not None
        return [path, "--no-defaults", f"--datadir={self.data}", *self._user()]

    def _user(self) -> list[str]:
        # The server gives up root's rights by itself.
        return [f"--user={self.account.pw_name}"] if self.account else []


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"
