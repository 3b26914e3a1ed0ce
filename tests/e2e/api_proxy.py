"""A proxy between the controller and the API server that knows requests, and can do all the wrong things to them.

It speaks plain HTTP to the controller and shows the API server the client certificate of a kubeconfig, so a
controller behind it is who it would be without.
"""

import http.client
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, urlsplit

import yaml

PATIENCE = 120.0
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True)
class Call:
    """A request, as RBAC sees it."""

    verb: str
    group: str
    resource: str
    """With the subresource after a slash."""
    namespace: str = ""
    name: str = ""
    body: bytes = b""

    @classmethod
    def of(cls, method: str, target: str, body: bytes) -> "Call":
        url = urlsplit(target)
        parts = url.path.strip("/").split("/")
        group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1], parts[3:])
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        resource, name, subresource = (*rest, "", "")[:3]
        watches = parse_qs(url.query).get("watch", ["false"])[0] in ("true", "1")
        verb = _VERBS.get(method) or ("watch" if watches else "get" if name else "list")
        return cls(verb, group, f"{resource}/{subresource}" if subresource else resource, namespace, name, body)

    @property
    def is_write(self) -> bool:
        """Of an object that users see: neither an event nor a lease."""
        return self.verb in _VERBS.values() and self.resource not in ("events", "leases")


Matches = Callable[[Call], bool]


def of(verb: str, resource: str) -> Matches:
    return lambda call: (call.verb, call.resource) == (verb, resource)


@dataclass(frozen=True)
class Reply:
    """An answer from somebody who is not the server."""

    status: int
    reason: str
    headers: Mapping[str, str]

    def body(self) -> bytes:
        return json.dumps({
            "apiVersion": "v1", "kind": "Status", "status": "Failure",
            "reason": self.reason, "message": f"the proxy says {self.reason}", "code": self.status,
        }).encode()  # fmt: skip


class Hold:
    """A point at which one request stops, before the server has it or before its answer is out."""

    def __init__(self, matches: Matches, *, answered: bool) -> None:
        self.matches = matches
        self.answered = answered
        self._reached = threading.Event()
        self._released = threading.Event()

    def wait(self) -> None:
        """Wait until the request is there."""
        assert self._reached.wait(PATIENCE), "no such request came"

    def is_reached(self) -> bool:
        return self._reached.is_set()

    def release(self) -> None:
        self._released.set()

    def stop_here(self) -> None:
        self._reached.set()
        self._released.wait(PATIENCE)


class ApiProxy:
    """Relays to the API server of a kubeconfig; `kubeconfig` leads to the proxy."""

    def __init__(self, kubeconfig: Path, directory: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._address = urlsplit(cluster["server"]).netloc
        self._tls = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self._tls.load_cert_chain(user["client-certificate"], user["client-key"])
        self.calls: list[tuple[Call, int]] = []
        """Every request with the status of its answer, in the order of the answers."""
        self._replies: list[tuple[Matches, Reply, list[int]]] = []
        self._holds: list[Hold] = []
        self._cutting: str | None = ""
        self._lock = threading.Lock()
        self._passing = threading.Event()
        self._passing.set()
        self._connections: set[_Connection] = set()
        self._server = _Server(("127.0.0.1", 0), _Connection)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self.kubeconfig = directory / "proxied.kubeconfig"
        config["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{self._server.server_port}"}
        config["users"][0]["user"] = {}
        self.kubeconfig.write_text(yaml.safe_dump(config))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._passing.set()
        for hold in self._holds:
            hold.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self.cut()

    def count(self, matches: Matches) -> int:
        return sum(1 for call, _ in self.calls if matches(call))

    def answers(self, matches: Matches) -> list[int]:
        """The statuses of the answers to requests that match, in order."""
        return [status for call, status in self.calls if matches(call)]

    # Faults

    def answer(self, matches: Matches, status: int, reason: str, *, times: int = 1, **headers: str) -> None:
        """Answer the next requests that match in the server's place."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._replies.append((matches, Reply(status, reason, named), [times]))

    def hold(self, matches: Matches, *, answered: bool = False) -> Hold:
        """Stop the next request that matches; with `answered` when the server has done what it asks."""
        self._holds.append(Hold(matches, answered=answered))
        return self._holds[-1]

    def cut(self) -> None:
        """End every connection, in the midst of whatever."""
        for connection in self._connections.copy():
            connection.cut()

    def silence(self, matches: Matches) -> int:
        """Pass nothing more on the connections whose last request matches, and keep them open; returns how many."""
        chosen = [each for each in self._connections.copy() if each.call is not None and matches(each.call)]
        for connection in chosen:
            connection.is_silent = True
        return len(chosen)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Keep all connections open, old and new, and pass nothing on."""
        self._passing.clear()
        try:
            yield
        finally:
            self._passing.set()

    def cut_next_event(self, resource: str) -> None:
        """Pass only half of what a watch says next, and end its connection."""
        self._cutting = resource

    @property
    def has_cut_an_event(self) -> bool:
        return self._cutting is None

    # For connections

    def cuts(self, call: Call) -> bool:
        with self._lock:
            if call.resource != self._cutting:
                return False
            self._cutting = None
            return True

    def reply_to(self, call: Call) -> Reply | None:
        with self._lock:
            for matches, reply, left in self._replies:
                if left[0] and matches(call):
                    left[0] -= 1
                    return reply
        return None

    def stop_at_hold(self, call: Call, *, answered: bool) -> None:
        with self._lock:
            holds = [each for each in self._holds if each.answered is answered and each.matches(call)]
            if holds:
                self._holds.remove(holds[0])
        if holds:
            holds[0].stop_here()

    def pass_on(self) -> None:
        self._passing.wait(PATIENCE)

    def open(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self._address, context=self._tls, timeout=900)

    def opened(self, connection: "_Connection") -> None:
        self._connections.add(connection)

    def closed(self, connection: "_Connection") -> None:
        self._connections.discard(connection)


class _Server(ThreadingHTTPServer):
    proxy: ApiProxy
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Whoever goes away in the midst of a request is what this is for."""


class _Connection(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.call: Call | None = None
        self.is_silent = False
        self._upstream = self.server.proxy.open()
        self.server.proxy.opened(self)

    def finish(self) -> None:
        self.server.proxy.closed(self)
        self._upstream.close()
        with suppress(OSError):
            super().finish()

    def cut(self) -> None:
        with suppress(OSError):
            self.connection.shutdown(2)

    def handle_one_request(self) -> None:
        with suppress(OSError, http.client.HTTPException):
            super().handle_one_request()
            return
        self.close_connection = True

    def _relay(self) -> None:
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.call = call = Call.of(self.command, self.path, body)
        proxy.pass_on()
        proxy.stop_at_hold(call, answered=False)
        reply = proxy.reply_to(call)
        if reply is not None:
            proxy.calls.append((call, reply.status))
            self._say(reply.status, reply.headers, reply.body())
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
        try:
            self._upstream.request(self.command, self.path, body or None, headers)
            response = self._upstream.getresponse()
        except (OSError, http.client.HTTPException):
            self._upstream.close()
            raise ConnectionResetError from None
        proxy.calls.append((call, response.status))
        if call.verb == "watch" and response.status == 200:
            self._stream(response)
        else:
            answer = response.read()
            proxy.stop_at_hold(call, answered=True)
            if not self.is_silent:
                self._say(response.status, dict(response.headers), answer)

    def _say(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self._begin(status, headers)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def _begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)

    def _stream(self, response: http.client.HTTPResponse) -> None:
        self._begin(200, dict(response.headers))
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        while data := response.read1(1 << 16):
            self.server.proxy.pass_on()
            if self.is_silent:
                continue
            if self.call is not None and self.server.proxy.cuts(self.call):
                half = data[: len(data) // 2]
                self.wfile.write(f"{len(half):x}\r\n".encode() + half + b"\r\n")
                raise ConnectionResetError
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _relay  # noqa: N815  the base class calls them so

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class calls it so
        """Nothing is logged."""
