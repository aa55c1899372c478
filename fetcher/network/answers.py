"""What the API's answers hold beside jobs: their bytes, their events, their refusals.

Owns bounds on what is read, the two shapes of the service's errors, and that nothing of what
is read repeats the key to a log, an event or the manifest (contract 5.6). Sends nothing.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

from fetcher.core.retry import parse_retry_after
from fetcher.core.sse import Errored, EventParser, Processing, Progress
from fetcher.core.text import printable
from fetcher.errors import ContentError, FetcherError, KeyRefusedError, StatusError, TransferError
from fetcher.network.stream import next_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import aiohttp

LARGEST_PAGE_BYTES = 256 * 1024 * 1024
_PIECE_BYTES = 1024 * 1024
_LARGEST_COMPLAINT_BYTES = 4096
_LONGEST_COMPLAINT = 200  # characters of a server's own words in a message
_PATIENCE_S = 2.0  # for the words of a refusal, which is one without them as well
_MASK = "***"
_ERROR_FIELD = re.compile(rb'("error"\s*:\s*)("[^"\\]*(?:\\.[^"\\]*)*")')


async def read_page(response: aiohttp.ClientResponse, key: str, *, gap_s: float) -> bytes:
    """Return the whole body of a page, with `key` kept out of what its records say went wrong.

    `gap_s`: no byte for so long is a failure. Raises ShortBodyError, ConnectionFailedError,
    and ContentError beyond 256 MiB: a page that large is an attack or an accident.
    """
    parts: list[bytes] = []
    size = 0
    while data := await next_bytes(response.content, _PIECE_BYTES, gap_s=gap_s):
        parts.append(data)
        size += len(data)
        if size > LARGEST_PAGE_BYTES:
            raise ContentError(f"the answer is larger than {LARGEST_PAGE_BYTES} bytes")
    return _masked_page(b"".join(parts), key)


async def events_of(
    response: aiohttp.ClientResponse, key: str, *, gap_s: float
) -> AsyncGenerator[Progress]:
    """Yield the values of an event stream until it ends; `key` is kept out of their words.

    `gap_s`: no byte for so long is a failure. Raises ShortBodyError, ConnectionFailedError.
    """
    parser = EventParser()
    while data := await next_bytes(response.content, _PIECE_BYTES, gap_s=gap_s):
        for event in parser.feed(data):
            if isinstance(event, Processing | Errored) and event.message:
                yield replace(event, message=_masked(event.message, key))
            else:
                yield event


async def refusal(response: aiohttp.ClientResponse, key: str) -> FetcherError:
    """Return the error for an answer that is no success; `key` is kept out of its words."""
    status = response.status
    complaint = await _complaint(response, key)
    message = f"the API answered {_named(status)}" + (f": {complaint}" if complaint else "")
    if status in {401, 403}:
        return KeyRefusedError(message)
    header = response.headers.get("Retry-After")
    wait_s = None if header is None else parse_retry_after(header, now=datetime.now(UTC))
    return StatusError(status, message, retry_after_s=wait_s)


def _named(status: int) -> str:
    """Return a status with its usual name, where it has one."""
    try:
        return f"{status} ({HTTPStatus(status).phrase})"
    except ValueError:
        return str(status)


async def _complaint(response: aiohttp.ClientResponse, key: str) -> str:
    """Return what the server says of its refusal, in either of its two shapes."""
    try:
        raw = await next_bytes(response.content, _LARGEST_COMPLAINT_BYTES, gap_s=_PATIENCE_S)
        value = json.loads(raw.decode("utf-8", "replace"))
    except (TransferError, ValueError, RecursionError):
        return ""
    if not isinstance(value, dict):
        return ""
    said = value.get("errorMessage") or value.get("message")
    if not isinstance(said, str):
        return ""
    return printable(_masked(said, key))[:_LONGEST_COMPLAINT]


def _masked(text: str, key: str) -> str:
    """Return a server's words without the key: some repeat what they refuse."""
    return text.replace(key, _MASK) if key else text


def _masked_page(body: bytes, key: str) -> bytes:
    """Return a page whose records do not repeat the key as their error.

    One look for all of a page, and no more for one without it. Links and names stay as they
    are: they would lead elsewhere.
    """
    secret = json.dumps(key)[1:-1].encode()
    if not secret or secret not in body:
        return body
    mask = _MASK.encode()
    return _ERROR_FIELD.sub(lambda found: found[1] + found[2].replace(secret, mask), body)
