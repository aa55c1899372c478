"""The body of one response, in pieces of about a megabyte.

Owns how bytes are handed out: large plain bodies through `intake`, everything else
(chunked, encoded, small, of unknown length) through aiohttp's own reader. Knows no files,
and nothing of what the bytes mean; never retries.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fetcher.core.heads import content_length
from fetcher.errors import TransferError
from fetcher.network.intake import BUFFER_BYTES, PATIENCE_S, Intake, take_over
from fetcher.network.stream import demand_alert, next_bytes

if TYPE_CHECKING:
    import aiohttp

    from fetcher.models import Head
    from fetcher.network.intake import Memory

_SMALL_BYTES = 256 * 1024  # one read of the socket (asyncio's max_size): it is here already


class Body:
    """A response whose head is known and whose body is still to come."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        head: Head,
        final_url: str,
        *,
        gap_s: float,
        memory: Memory,
    ) -> None:
        self.head = head
        self.final_url = final_url
        self._response = response
        self._source = _source(response, head, gap_s=gap_s, memory=memory)

    async def chunk(self, max_bytes: int = BUFFER_BYTES) -> bytes | memoryview:
        """Return the next bytes, empty at the proper end of the body and only there.

        Returns once `max_bytes` (1 MiB, if that is less) have come, the body has ended, or
        some bytes have waited for a second; never more than `max_bytes`. The memory
        belongs to the body: it is valid until the next call. What came before a fault is
        handed out first; then raises ShortBodyError where the body broke off,
        ConnectionFailedError where no byte came for the session's timeout.
        """
        return await self._source.chunk(max_bytes)

    def close(self) -> None:
        """Let go of the connection, unless the whole body came and aiohttp has it back."""
        if isinstance(self._source, Intake):
            self._source.close()
        hang_up(self._response)


def _source(
    response: aiohttp.ClientResponse, head: Head, *, gap_s: float, memory: Memory
) -> Intake | _Reader:
    """Return the fast reader where it can be used and pays.

    Chosen at once, before aiohttp has read on and slowed the sender down.
    """
    try:
        length_bytes = content_length(head)
    except ValueError:
        length_bytes = None
    if head.status in {200, 206} and length_bytes is not None and length_bytes > _SMALL_BYTES:
        intake = take_over(response, length_bytes, gap_s=gap_s, memory=memory)
        if intake is not None:
            return intake
    if length_bytes is None:
        demand_alert(response)
    return _Reader(response.content, gap_s)


class _Reader:
    """aiohttp's reader, its pieces joined."""

    def __init__(self, content: aiohttp.StreamReader, gap_s: float) -> None:
        self._content = content
        self._gap_s = gap_s
        self._patience_s = min(PATIENCE_S, gap_s / 4)
        self._broken: TransferError | None = None

    async def chunk(self, max_bytes: int) -> bytes:
        """Return the next bytes as `Body.chunk` does."""
        parts: list[bytes] = []
        if self._broken is None:
            try:
                await self._collect(parts, max_bytes)
            except TransferError as fault:
                self._broken = fault
        if self._broken is not None:
            parts.append(self._rescue(max_bytes - sum(map(len, parts))))
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        if not data and self._broken is not None:
            raise self._broken
        return data

    async def _collect(self, parts: list[bytes], max_bytes: int) -> None:
        """Add what comes until it is enough, the body ends, or patience does."""
        data = await next_bytes(self._content, max_bytes, gap_s=self._gap_s)
        held_bytes = 0
        out_of_patience_at = asyncio.get_running_loop().time() + self._patience_s
        while data:
            parts.append(data)
            held_bytes += len(data)
            if held_bytes == max_bytes or self._content.at_eof():
                return
            try:
                async with asyncio.timeout_at(out_of_patience_at) as patience:
                    data = await next_bytes(self._content, max_bytes - held_bytes, gap_s=None)
            except TimeoutError:
                if patience.expired():
                    return
                raise

    def _rescue(self, max_bytes: int) -> bytes:
        """Return what arrived before the fault: aiohttp holds it, and will not give it."""
        take = getattr(self._content, "_read_nowait", None)
        return b"" if take is None or max_bytes <= 0 else take(max_bytes)


def hang_up(response: aiohttp.ClientResponse) -> None:
    """Drop the connection of a response that was not read to its end, at once.

    aiohttp would end TLS politely, which takes in what the server still sends, for up to
    30 s. One that was read to its end has no connection any more.
    """
    connection = response.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()
    response.close()
