"""A real PgBouncer between a client and a server."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from devtools.servers.postgres import PostgresServer, free_port
from devtools.timer import wait_until


@contextmanager
def pooled(
    server: PostgresServer, database: str, mode: Literal["transaction", "session"], folder: Path
) -> Iterator[int]:
    """The port on which the database is reached through a pool."""
    port, log = free_port(), folder / "pgbouncer.log"
    config = folder / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n{database} = host={server.host} port={server.port} dbname={database}"
        f" user={server.user} password={server.password}\n"
        "[pgbouncer]\nlisten_addr = 127.0.0.1\nunix_socket_dir =\nauth_type = any\n"
        f"listen_port = {port}\npool_mode = {mode}\ndefault_pool_size = 8\n"
    )
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
    command = [shutil.which("pgbouncer", path=path) or "pgbouncer", "-q"]
    command += ["-u", "nobody"] if os.geteuid() == 0 else []  # it refuses to run as root
    with log.open("wb") as output:
        process = subprocess.Popen([*command, str(config)], stdout=output, stderr=output)
    try:
        try:
            wait_until(
                lambda: _listens(port),
                "PgBouncer's port",
                given_up=lambda: process.poll() is not None,
            )
        except TimeoutError as error:
            raise RuntimeError(f"{error}: {log.read_text()}") from error
        yield port
    finally:
        process.terminate()
        process.wait(20)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
