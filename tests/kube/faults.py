"""What goes wrong between a client and its server: a proxy that does it on demand, and a clock moved by hand."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

Change = Callable[[bytes], bytes | None]


def reply(status: str, body: bytes = b"", *headers: str) -> bytes:
    """An answer in HTTP, from somebody who is not the server."""
    head = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


class HandClock:
    """A clock that moves only when somebody sleeps; `slept` tells how long, each time."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds
        await asyncio.sleep(0)


class Proxy:
    """Relays plain HTTP to a server that speaks TLS, so that what passes can be read, changed or lost.

    `on_request` sees every chunk on its way to the server: it may change it, or return None and leave an answer of its
    own in `answers`. `on_answer` sees every chunk on its way back, and cuts the connection by returning None.
    """

    def __init__(self, server: str, authority: Path) -> None:
        self._host, self._port = urlsplit(server).hostname, urlsplit(server).port
        self._tls = ssl.create_default_context(cafile=str(authority))
        self._pipes: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = asyncio.Event()
        self._open.set()
        self.accepted = 0
        self.requests: list[bytes] = []
        self.answers: list[bytes] = []
        self.on_request: Change = lambda chunk: chunk
        self.on_answer: Change = lambda chunk: chunk

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Reset every connection."""
        for writer in self._writers:
            writer.transport.abort()

    def hang(self) -> None:
        """Keep every connection open, old and new, and pass nothing on."""
        self._open.clear()

    def resume(self) -> None:
        self._open.set()

    async def refuse(self) -> None:
        """Stop listening; the port stays known."""
        self._listener.close()
        self.cut()

    async def listen(self) -> None:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task
        self._pipes.add(task)
        self._writers.add(writer)
        try:
            with suppress(OSError, asyncio.CancelledError):
                up_reader, up_writer = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
                self._writers.add(up_writer)
                try:
                    await asyncio.gather(self._up(reader, writer, up_writer), self._down(up_reader, writer))
                finally:
                    up_writer.transport.abort()
        finally:
            writer.transport.abort()
            self._pipes.discard(task)

    async def _up(self, reader: asyncio.StreamReader, back: asyncio.StreamWriter, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(1 << 16):
            await self._open.wait()
            self.requests.append(chunk)
            changed = self.on_request(chunk)
            if changed is None:
                back.write(self.answers.pop(0))
            else:
                writer.write(changed)
        raise ConnectionResetError

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(1 << 16):
            await self._open.wait()
            changed = self.on_answer(chunk)
            if changed is None:
                raise ConnectionResetError
            writer.write(changed)
        raise ConnectionResetError


@asynccontextmanager
async def running(work: Coroutine[Any, Any, Any]) -> AsyncIterator[asyncio.Task[Any]]:
    """Something that goes on by itself, until the block ends."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


@asynccontextmanager
async def tunnel() -> AsyncIterator[tuple[str, list[str]]]:
    """A proxy in the sense of HTTP: its URL, and the hosts that it was asked to connect to."""
    asked: list[str] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head.split()[1].decode())
        host, _, port = asked[-1].rpartition(":")
        up_reader, up_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with suppress(OSError):
            await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}", asked
    finally:
        listener.close()
