"""Answers, sent byte by byte as a script wants them: whole, slow, cut, stalled, lying.

Owns the wire of an answer: its head as given (nothing is added but Date) and the pace and
end of its body. It decides nothing about contents.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal

from aiohttp import HttpVersion11, web
from multidict import CIMultiDict

from fetcher.simulator.faults import NO_FAULT, Fault

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter

    from fetcher.simulator.content import Content

CHUNK_BYTES = 256 * 1024
_PACE_S = 0.02  # a capped connection gets its bytes in portions of so much time


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a content: what the body of a file's answer consists of."""

    content: Content
    start: int
    stop: int


@dataclass(slots=True)
class Answer:
    """What is to be sent. `framing` says how the client learns where the body ends."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | Piece | AsyncGenerator[bytes] = b""
    framing: Literal["known", "chunked", "close"] = "known"
    rate_bytes_s: float | None = None

    @property
    def length(self) -> int | None:
        """The bytes of the body, None where only sending will tell."""
        if isinstance(self.body, bytes):
            return len(self.body)
        return self.body.stop - self.body.start if isinstance(self.body, Piece) else None


class ScriptedResponse(web.StreamResponse):
    """An `Answer` on its way, with what a `Fault` does to it.

    `on_end(status, body bytes sent)` is called once, however it ends.
    """

    def __init__(
        self, answer: Answer, fault: Fault = NO_FAULT, *, on_end: Callable[[int, int], None]
    ) -> None:
        super().__init__(status=answer.status)
        self._answer = answer
        self._fault = fault
        self._on_end = on_end
        self._sent_bytes = 0
        self._stays_open = True

    @property
    def keep_alive(self) -> bool | None:
        """Whether the connection serves further requests."""
        return self._stays_open

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the whole answer."""
        try:
            await self._send(request)
        finally:
            self._on_end(self._answer.status, self._sent_bytes)
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: `prepare` has sent everything."""

    async def _send(self, request: web.BaseRequest) -> None:
        writer, answer = request.writer, self._answer
        if self._fault.disconnect:
            await self._close(request)
            return
        await self._send_head(request)
        if request.method != "HEAD":
            if answer.framing == "chunked":
                writer.enable_chunking()
            await self._send_body(request)
        if self._is_cut:
            await self._close(request)
            return
        await writer.write_eof()
        if answer.framing == "close" or self._fault.hang_up:
            await self._close(request)

    async def _send_head(self, request: web.BaseRequest) -> None:
        answer, fault = self._answer, self._fault
        if answer.framing == "chunked" and request.version < HttpVersion11:
            answer.framing = "close"
        headers = CIMultiDict(answer.headers)
        headers.setdefault("Date", formatdate(usegmt=True))
        if answer.framing == "chunked":
            headers["Transfer-Encoding"] = "chunked"
        elif answer.framing == "known":
            announced = answer.length if fault.content_length is None else fault.content_length
            headers["Content-Length"] = str(announced)
        if not request.keep_alive:
            self._stays_open = False
            headers["Connection"] = "close"
        for name, value in fault.headers.items():
            headers.pop(name, None)
            if value is not None:
                headers[name] = value
        version = "1.0" if answer.framing == "close" else "1.1"
        await request.writer.write_headers(f"HTTP/{version} {_status_text(answer.status)}", headers)
        if not (isinstance(answer.body, bytes) and self._is_plain):
            request.writer.send_headers()

    @property
    def _is_plain(self) -> bool:
        fault = self._fault
        return self._end_bytes is None and not (fault.rate_bytes_s or self._answer.rate_bytes_s)

    @property
    def _end_bytes(self) -> int | None:
        ends = (self._fault.cut_after_bytes, self._fault.stall_after_bytes)
        return min((end for end in ends if end is not None), default=None)

    @property
    def _is_cut(self) -> bool:
        return self._fault.cut_after_bytes is not None

    async def _send_body(self, request: web.BaseRequest) -> None:
        rate = self._fault.rate_bytes_s or self._answer.rate_bytes_s
        portion = max(1, int(rate * _PACE_S)) if rate else CHUNK_BYTES
        end = self._end_bytes
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        async with aclosing(_chunks(self._answer.body, portion)) as chunks:
            async for chunk in chunks:
                data = chunk if end is None else chunk[: end - self._sent_bytes]
                if data:
                    await request.writer.write(data)
                    self._sent_bytes += len(data)
                if end is not None and self._sent_bytes >= end:
                    break
                if rate:
                    await asyncio.sleep(started_s + self._sent_bytes / rate - loop.time())
        if self._fault.stall_after_bytes is not None:
            await asyncio.Event().wait()  # until the client goes or the simulator stops

    async def _close(self, request: web.BaseRequest) -> None:
        """End the connection: what was written still arrives, unless the fault says RST."""
        self._stays_open = False
        await close(request, reset=self._fault.reset)


async def close(request: web.BaseRequest, *, reset: bool = False) -> None:
    """Close the connection of a request; with `reset`, hard."""
    transport = request.transport
    if transport is None:
        return
    if not reset:
        transport.close()
        return
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert isinstance(transport, asyncio.WriteTransport)
    transport.abort()


async def _chunks(body: bytes | Piece | AsyncGenerator[bytes], size: int) -> AsyncGenerator[bytes]:
    if isinstance(body, AsyncGenerator):
        async with aclosing(body):
            async for chunk in body:
                yield chunk
        return
    for chunk in _cut(body, size):
        yield chunk


def _cut(body: bytes | Piece, size: int) -> Iterator[bytes]:
    if isinstance(body, bytes):
        if len(body) <= size:
            yield body
            return
        for at in range(0, len(body), size):
            yield body[at : at + size]
        return
    for at in range(body.start, body.stop, size):
        yield body.content.read(at, min(at + size, body.stop))


def _status_text(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status} Unknown"
