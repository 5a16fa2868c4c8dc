"""A proxy between S3's client and the emulator that fails on purpose.

::

    with Proxy(endpoint, random_faults(seed=7, rate=0.05)) as proxy:
        ...  # clients of proxy.endpoint meet about one fault in twenty requests

A fault is chosen for each request by its operation. ``Proxy.log`` tells which were met.
"""

import http.client
import itertools
import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

Fault = Literal[
    "refused",  # the connection is closed, the request is not carried out
    "lost",  # the request is carried out, the connection is closed without an answer
    "repeated",  # the request is carried out twice, the second answer is passed on
    "cut",  # the answer ends in the middle of its body
    "busy",  # 503 SlowDown, the request is not carried out
    "broken",  # 500 InternalError, though the request is carried out
    "slow",  # the answer comes 200 ms late
    "silent",  # no answer ever comes, the connection stays open
    "partly",  # some of what DeleteObjects names is not removed
    "anonymous",  # the answer lacks its ETag, UploadId or Content-Length
]
FAULTS: Sequence[Fault] = ("refused", "lost", "repeated", "cut", "busy", "broken", "slow")

Choose = Callable[["Request"], Fault | None]


@dataclass(frozen=True)
class Request:
    """A request to S3."""

    operation: str
    """S3's name of it: PutObject, UploadPart, …"""
    key: str
    number: int
    """How many requests came before."""


def random_faults(seed: int, rate: float, faults: Sequence[Fault] = FAULTS) -> Choose:
    """Return a chooser that lets each request meet a fault with that probability."""
    rng, lock = random.Random(seed), threading.Lock()

    def choose(_: Request) -> Fault | None:
        with lock:
            return rng.choice(faults) if rng.random() < rate else None

    return choose


def at(operation: str, fault: Fault, key: str = "", times: int = 1) -> Choose:
    """Return a chooser for the first ``times`` requests of an operation on keys with that part."""
    left, lock = [times], threading.Lock()

    def choose(request: Request) -> Fault | None:
        with lock:
            if request.operation != operation or key not in request.key or not left[0]:
                return None
            left[0] -= 1
            return fault

    return choose


class Proxy:
    """The proxy; use as a context manager.

    Args:
        upstream: the emulator's endpoint, http.
        choose: which fault a request meets, if any; may be replaced at any time.
    """

    def __init__(self, upstream: str, choose: Choose = lambda _: None) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.choose = choose
        self.log: list[tuple[Request, Fault | None]] = []
        self.answered: list[Request] = []
        self.stopped = threading.Event()
        self._numbers = itertools.count()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.proxy = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def reset(self) -> None:
        """Forget the requests so far; the next one has number 0."""
        self.log.clear()
        self.answered.clear()
        self._numbers = itertools.count()

    def next_number(self) -> int:
        """Return the number of a request that has come now."""
        return next(self._numbers)

    @property
    def endpoint(self) -> str:
        """Where clients connect to."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def met(self, fault: Fault) -> int:
        """Return how many requests met the fault."""
        return sum(1 for _, one in self.log if one == fault)

    def asked(self, operation: str) -> int:
        """Return how many requests of an operation came."""
        return sum(1 for request, _ in self.log if request.operation == operation)

    def __enter__(self) -> "Proxy":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def proxy(self) -> Proxy:
        return self.server.proxy  # type: ignore[attr-defined, no-any-return]

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        number = self.proxy.next_number()
        request = Request(_operation(self.command, self.path), _key(self.path), number)
        fault = self.proxy.choose(request)
        self.proxy.log.append((request, fault))
        if fault in ("silent", "refused"):
            if fault == "silent":
                self.proxy.stopped.wait()
            self.close_connection = True
            return
        if fault == "busy":
            self._answer(503, [], _error("SlowDown"))
            return
        if fault == "partly":
            failed = b"<Error><Key>one</Key><Code>InternalError</Code></Error>"
            self._answer(200, [], b"<DeleteResult>" + failed + b"</DeleteResult>")
            return
        if fault == "repeated":
            self._forward(body)
        status, headers, answer = self._forward(body)
        if fault == "broken":
            status, headers, answer = 500, [], _error("InternalError")
        if fault == "slow":
            time.sleep(0.2)
        if fault == "anonymous":
            headers = [h for h in headers if h[0].lower() != "etag"]
            answer = re.sub(rb"<(ETag|UploadId)>[^<]*</\1>", b"", answer)
        if fault == "lost":
            self.close_connection = True
            return
        self.proxy.answered.append(request)
        self._answer(status, headers, answer, cut=fault == "cut")

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.proxy.upstream, timeout=60)
        headers = {
            k: v for k, v in self.headers.items() if k.lower() not in ("expect", "connection")
        }
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        dropped = ("transfer-encoding", "connection", "date", "server")
        kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in dropped]
        return answer.status, kept, content

    def _answer(
        self, status: int, headers: list[tuple[str, str]], body: bytes, *, cut: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815 - http.server's names


def _operation(method: str, path: str) -> str:
    query = parse_qs(urlsplit(path).query, keep_blank_values=True)
    match method:
        case "PUT":
            return "UploadPart" if "partNumber" in query else "PutObject"
        case "POST" if "uploads" in query:
            return "CreateMultipartUpload"
        case "POST" if "uploadId" in query:
            return "CompleteMultipartUpload"
        case "POST":
            return "DeleteObjects"
        case "DELETE":
            return "AbortMultipartUpload" if "uploadId" in query else "DeleteObject"
        case "GET" if "uploads" in query:
            return "ListMultipartUploads"
        case "GET" if "list-type" in query:
            return "ListObjectsV2"
        case "GET":
            return "GetObject"
    return "HeadObject"


def _key(path: str) -> str:
    return urlsplit(path).path.lstrip("/").partition("/")[2]


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>on purpose</Message></Error>".encode()
