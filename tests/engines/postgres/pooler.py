"""A real PgBouncer between a client and a server."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from devtools.servers.postgres import PostgresServer, free_port


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
    with log.open("wb") as said:
        process = subprocess.Popen([*command, str(config)], stdout=said, stderr=said)
    try:
        _wait(process, port, log)
        yield port
    finally:
        process.terminate()
        process.wait(20)


def _wait(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > end or process.poll() is not None:
                raise RuntimeError(f"no PgBouncer: {log.read_text()}") from None
            time.sleep(0.05)
        else:
            return
