"""A connection pooler as small as can be: PgBouncer's transaction and session modes.

It speaks PostgreSQL's protocol to both sides, lends server connections to clients for a
transaction or for the session, last used first, and tells clients a process number of its own.
"""

import os
import socket
import socketserver
import struct
import threading
from typing import Any, Literal

import psycopg

from examples.demo.postgres_server import PostgresServer

_SSL_REQUEST, _GSS_REQUEST = 80877103, 80877104


class Pooler(socketserver.ThreadingTCPServer):
    """A context manager; ``port`` is where it listens."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(
        self,
        server: PostgresServer,
        database: str,
        mode: Literal["transaction", "session"],
        size: int = 8,
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Client)
        self.mode = mode
        self.port = self.server_address[1]
        self._sessions = [
            psycopg.connect(server.url(database), sslmode="disable", autocommit=True)
            for _ in range(size)
        ]
        self._free = [socket.socket(fileno=os.dup(s.fileno())) for s in self._sessions]
        self._changed = threading.Condition()
        names = ("server_version", "client_encoding", "standard_conforming_strings")
        self.parameters = {
            name: str(self._sessions[0].info.parameter_status(name)) for name in names
        }
        for link in self._free:
            link.setblocking(True)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=self.serve_forever, args=(0.05,)).start()

    def lend(self) -> socket.socket:
        with self._changed:
            self._changed.wait_for(lambda: self._free, 20)
            return self._free.pop()

    def take_back(self, link: socket.socket) -> None:
        with self._changed:
            self._free.append(link)
            self._changed.notify()

    def server_close(self) -> None:
        self.shutdown()
        super().server_close()
        for link in self._free:
            link.close()
        for session in self._sessions:
            session.close()


class _Client(socketserver.BaseRequestHandler):
    server: Pooler

    def handle(self) -> None:
        self.server_link: socket.socket | None = None
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._greet()
            while self._turn():
                pass
        except (ConnectionError, EOFError, TimeoutError):
            pass
        finally:
            if self.server_link is not None:
                _send(self.server_link, b"Q", b"ROLLBACK\0")
                self._answer(to_client=False)
                self.server.take_back(self.server_link)

    def _greet(self) -> None:
        while True:
            (length,) = struct.unpack("!I", _exactly(self.request, 4))
            body = _exactly(self.request, length - 4)
            if struct.unpack("!I", body[:4])[0] not in (_SSL_REQUEST, _GSS_REQUEST):
                break
            self.request.sendall(b"N")
        _send(self.request, b"R", struct.pack("!I", 0))
        for name, value in self.server.parameters.items():
            _send(self.request, b"S", f"{name}\0{value}\0".encode())
        _send(self.request, b"K", struct.pack("!II", 4711, 0))
        _send(self.request, b"Z", b"I")

    def _turn(self) -> bool:
        """One message of the client's, and the answers to it if it asks for some."""
        kind, body = _receive(self.request)
        if kind == b"X":
            return False
        if self.server_link is None:
            self.server_link = self.server.lend()
        _send(self.server_link, kind, body)
        if kind in (b"Q", b"S", b"F"):
            idle = self._answer()
            if idle and self.server.mode == "transaction":
                self.server.take_back(self.server_link)
                self.server_link = None
        return True

    def _answer(self, to_client: bool = True) -> bool:
        """Pass answers on until the server is ready; whether it is outside a transaction."""
        while True:
            kind, body = _receive(self.server_link)
            if to_client:
                _send(self.request, kind, body)
            if kind == b"Z":
                return body == b"I"


def _exactly(link: Any, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = link.recv(count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def _receive(link: Any) -> tuple[bytes, bytes]:
    kind = _exactly(link, 1)
    (length,) = struct.unpack("!I", _exactly(link, 4))
    return kind, _exactly(link, length - 4)


def _send(link: Any, kind: bytes, body: bytes) -> None:
    link.sendall(kind + struct.pack("!I", len(body) + 4) + body)
