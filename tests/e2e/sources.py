"""The part of source-controller that serves archives, and everything that can go wrong with that."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Fault = Callable[["Answering", bytes], None]
"""Answers a request in its own way; given the bytes that it should be answered with."""


class SourceServer:
    """Serves archives by path, counts who asks, and fails on demand."""

    def __init__(self) -> None:
        self.archives: dict[str, bytes] = {}
        self.faults: dict[str, Fault] = {}
        self.requests: Counter[str] = Counter()
        self._server = _Server(("127.0.0.1", 0), Answering)
        self._server.sources = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    sources: SourceServer
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no error."""


class Answering(BaseHTTPRequestHandler):
    """One connection."""

    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        sources = self.server.sources
        sources.requests[self.path] += 1
        archive = sources.archives.get(self.path)
        fault = sources.faults.get(self.path)
        with suppress(OSError):
            if fault is not None:
                fault(self, archive or b"")
            elif archive is None:
                self.say(404)
            else:
                self.say(200, archive)

    def say(self, status: int, body: bytes = b"", *, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/gzip")
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class calls it so
        """Nothing is logged."""


# What goes wrong


def status(number: int) -> Fault:
    return lambda answering, _: answering.say(number)


def cut(answering: Answering, archive: bytes) -> None:
    """Half of what was promised, then the end of the connection."""
    answering.say(200, archive[: len(archive) // 2], length=len(archive))
    answering.hang_up()


def corrupt(answering: Answering, archive: bytes) -> None:
    """One bit is wrong."""
    answering.say(200, archive[:-9] + bytes([archive[-9] ^ 1]) + archive[-8:])


def refuse(answering: Answering, archive: bytes) -> None:
    answering.hang_up()


class Held:
    """A fault that keeps everybody waiting until it is released; `reached` tells that somebody does."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._released = threading.Event()

    def __call__(self, answering: Answering, archive: bytes) -> None:
        self.reached.set()
        self._released.wait(60)
        answering.say(200, archive)

    def release(self) -> None:
        self._released.set()


@contextmanager
def serving() -> Iterator[SourceServer]:
    server = SourceServer()
    server.start()
    try:
        yield server
    finally:
        server.stop()


def trickle(answering: Answering, archive: bytes) -> None:
    """A byte now and then: never silent, never done."""
    answering.say(200, length=len(archive))
    for byte in archive:
        answering.wfile.write(bytes([byte]))
        answering.wfile.flush()
        time.sleep(0.2)
