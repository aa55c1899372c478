"""A server of raw bytes: what a test sends is what is on the wire, cuts and lies included."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import ssl


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came: its line's target, its header fields in lower case."""

    target: str
    headers: dict[str, str]
    connection: int  # which connection it came on, from 1


Answer = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


def answer(
    body: bytes = b"", *, status: str = "200 OK", headers: tuple[str, ...] = (), length: int = -1
) -> bytes:
    """Return a whole response; `length` announces another length than the body's."""
    announced = len(body) if length < 0 else length
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {announced}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@dataclass
class RawServer:
    """Answers each GET on a loopback port of its own with whatever `reply` writes."""

    reply: Answer
    context: ssl.SSLContext | None = None
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    open_connections: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.context)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.origin = f"http{'s' if self.context else ''}://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def until(self, fact: Callable[[RawServer], bool]) -> None:
        """Return once `fact` is true of requests and connections."""
        while not fact(self):
            self._changed.clear()
            await self._changed.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        self.open_connections += 1
        number = self.connections
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                request = _parse(head.decode("utf-8"), number)
                self.requests.append(request)
                self._changed.set()
                await self.reply(request, writer)
                await writer.drain()
        except asyncio.CancelledError:
            writer.transport.abort()  # and no more: asyncio would log it as a fault
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client went
        finally:
            self.open_connections -= 1
            self._changed.set()
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


def _parse(head: str, connection: int) -> Request:
    line, *fields = head.rstrip("\r\n").split("\r\n")
    pairs = (item.partition(": ") for item in fields)
    target = line.removeprefix("GET ").removesuffix(" HTTP/1.1")
    return Request(target, {name.lower(): value for name, _, value in pairs}, connection)


def always(response: bytes) -> Answer:
    """Answer every request so."""

    async def reply(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response)

    return reply
