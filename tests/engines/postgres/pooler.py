"""A real PgBouncer between a client and a server."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from examples.demo.postgres_server import PostgresServer, free_port


class Pooler:
    """A context manager; ``port`` is where it listens."""

    def __init__(
        self,
        server: PostgresServer,
        database: str,
        mode: Literal["transaction", "session"],
        folder: Path,
    ) -> None:
        self.port = free_port()
        path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
        self._command = [shutil.which("pgbouncer", path=path) or "pgbouncer", "-q"]
        if os.geteuid() == 0:  # which it refuses to run as
            self._command += ["-u", "nobody"]
        config = folder / "pgbouncer.ini"
        config.write_text(
            f"[databases]\n{database} = host={server.host} port={server.port} dbname={database}"
            f" user={server.user} password={server.password}\n"
            "[pgbouncer]\nlisten_addr = 127.0.0.1\nunix_socket_dir =\nauth_type = any\n"
            f"listen_port = {self.port}\npool_mode = {mode}\ndefault_pool_size = 8\n"
        )
        self._command.append(str(config))
        self._log = folder / "pgbouncer.log"

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        end = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                if time.monotonic() > end or self._process.poll() is not None:
                    self.__exit__(None, None, None)
                    raise RuntimeError(f"no PgBouncer: {self._log.read_text()}") from None
                time.sleep(0.05)
            else:
                return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(20)
