"""aiohttp's stream of one body: what comes next, within a limit, and how it really ended.

Owns what aiohttp leaves out. Where the framing of a body breaks it stops its own timer, closes
the connection and tells the stream nothing: a read would wait for ever. And a body that only
the end of its connection ends counts as complete for it, whatever that end was.
"""

from __future__ import annotations

import asyncio
import ssl

import aiohttp

from fetcher.errors import ConnectionFailedError, ShortBodyError, TransferError

_NO_ALERT = "the body has no length, and TLS ended without its closing alert: it may be cut short"


def watch(response: aiohttp.ClientResponse) -> None:
    """Have the response's stream told how its connection ends, if that is before its body does.

    To be called before anything else is awaited; costs nothing where the body is here already.
    """
    protocol = None if response.connection is None else response.connection.protocol
    closed = None if protocol is None else protocol.closed
    if closed is None:
        return
    content = response.content

    def lost(_: asyncio.Future[None]) -> None:
        if content.exception() is None and not content.is_eof():
            content.set_exception(aiohttp.ClientConnectionError("the connection was closed"))

    def ended() -> None:
        closed.remove_done_callback(lost)
        if _is_fault(closed):  # it is the connection's end that ended the body
            content.set_exception(aiohttp.ClientConnectionError("the connection was reset"))

    closed.remove_done_callback(_is_fault)  # once for all the bodies of a connection
    closed.add_done_callback(_is_fault)
    closed.add_done_callback(lost)
    content.on_eof(ended)


def demand_alert(response: aiohttp.ClientResponse) -> None:
    """Have a body over TLS fail that nothing but a connection without a closing alert ends.

    It may have been cut, on its way or by its server (RFC 9112 §9.8). To be called as `watch` is.
    """
    protocol = None if response.connection is None else response.connection.protocol
    transport = None if protocol is None else protocol.transport
    closed = None if protocol is None else protocol.closed
    tls = None if transport is None else transport.get_extra_info("ssl_object")
    if closed is None or tls is None:
        return
    content = response.content

    def ended() -> None:
        if closed.done() and not _is_fault(closed) and not _is_closed(tls):
            content.set_exception(ShortBodyError(_NO_ALERT))

    content.on_eof(ended)


def _is_closed(tls: ssl.SSLObject) -> bool:
    """Tell whether the other side has closed TLS; asked once the connection is gone."""
    try:
        return not tls.read(1)
    except ssl.SSLZeroReturnError:
        return True
    except ssl.SSLError:
        return False


def _is_fault(closed: asyncio.Future[None]) -> bool:
    """Tell whether the connection ended otherwise than its server meant it to.

    Asked of every connection: asyncio complains of a fault that nobody looked at.
    """
    return closed.done() and not closed.cancelled() and closed.exception() is not None


async def next_bytes(
    content: aiohttp.StreamReader, most_bytes: int, *, gap_s: float | None
) -> bytes:
    """Return what comes next, at most `most_bytes`; empty at the proper end of the body.

    What is here already costs no timer. Raises ConnectionFailedError where no byte comes for
    `gap_s` (None: for as long as the caller waits), ShortBodyError where the body broke off.
    """
    try:
        data = content.read_nowait(most_bytes)
        if data or content.at_eof():
            return data
        async with asyncio.timeout(gap_s):
            data = await content.read(most_bytes)
        if not data and (fault := content.exception()) is not None:
            raise fault
    except (aiohttp.ClientError, OSError, RuntimeError) as error:
        raise _failure(error) from error
    return data


def _failure(error: Exception) -> TransferError:
    """Return our error for a fault of aiohttp's while a body was on its way."""
    if isinstance(error, TimeoutError):
        return ConnectionFailedError("the server stalled: no byte came within the timeout")
    if isinstance(error, aiohttp.ClientPayloadError):
        return ShortBodyError("the body ended before its announced length")
    return ShortBodyError("the connection broke before the body was complete")
