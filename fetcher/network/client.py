"""The network edge: the API with the key, and the file hosts without any.

Owns two aiohttp sessions, the redirects of both, and the translation of every foreign
error into ours. Never retries and never judges a file host's status: callers do.
The key goes to the API's own origin and nowhere else (contract 5.6).
"""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

from fetcher import __version__
from fetcher.core.address import Address, follow, parse_url
from fetcher.core.heads import http_date
from fetcher.core.sse import Done, Progress, Unknown
from fetcher.core.wire import Page, parse_page, usable_url
from fetcher.errors import (
    ApiError,
    ConnectionFailedError,
    ContentError,
    StatusError,
    UsageError,
)
from fetcher.models import Head
from fetcher.network.answers import events_of, read_page, refusal
from fetcher.network.body import Body, hang_up
from fetcher.network.gates import Pause
from fetcher.network.intake import Memory
from fetcher.network.session import Session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    import aiohttp

    from fetcher.models import JobId

AGENT = f"fetcher/{__version__}"
_MOST_REDIRECTS_API = 5
_MOST_REDIRECTS_HOST = 10
_EVENT_STREAM = "text/event-stream"
_BUSY = frozenset({429, 503})
_LONGEST_PAUSE_S = 600.0  # contract 5.4: a Retry-After beyond ten minutes is not waited for
_SURROGATE = re.compile("[\ud800-\udfff]")  # how bytes that are no UTF-8 arrive
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Api:
    """The API of one account.

    `key` is asked before each request, so that a rotated key works at once. A 429 or 503
    with a Retry-After holds every request back for so long, ten minutes at most. Raises
    UsageError for a base URL that is none, and for one of plain http beyond this machine:
    the key would be readable on the way.
    """

    def __init__(
        self,
        base_url: str,
        key: Callable[[], str],
        *,
        timeout_s: float = 30.0,
        agent: str = "fetcher",
    ) -> None:
        try:
            self._base = parse_url(base_url.rstrip("/"))
        except ValueError as error:
            raise UsageError(f"the API's URL cannot be used: it is {error}") from None
        if "?" in self._base.target:
            raise UsageError("the API's URL cannot be used: it has a query")
        if self._base.scheme == "http" and not self._base.loopback:
            raise UsageError(
                f"{self._base.bare} is plain http, which would show the key to the network: "
                "use https"
            )
        self._key = key
        self._timeout_s = timeout_s
        self._session = Session(
            timeout_s=timeout_s, agent=agent, connections=0, decode=True, confidential=True
        )
        self._pause = Pause(time.monotonic)
        self.answered_in_s: float | None = None
        self._date: tuple[str, datetime] | None = None

    async def __aenter__(self) -> Self:
        await self._session.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._session.close()

    @property
    def clock_skew_s(self) -> float | None:
        """Return how far the API's clock is ahead of ours, None where it never said."""
        if self._date is None:
            return None
        text, received_at = self._date
        sent_at = http_date(text)
        return None if sent_at is None else (sent_at - received_at).total_seconds()

    @property
    def held_s(self) -> float:
        """Return for how many more seconds the API asked to be left alone."""
        return self._pause.left_s

    def release(self) -> None:
        """Let the next request go out although the API asked for a pause."""
        self._pause.end()

    async def page(self, offset: int, limit: int | None) -> Page:
        """Return the records from `offset` on, newest first, at most `limit` of them.

        Raises KeyRefusedError (401, 403), StatusError, ConnectionFailedError (permanent
        where the certificate is not trusted), ShortBodyError, ContentError (no page), and
        ApiError where the API redirects to another origin.
        """
        query = f"/denoise?offset={offset}" + ("" if limit is None else f"&limit={limit}")
        async with self._get(query, accept="application/json") as (response, key):
            body = await read_page(response, key, gap_s=self._timeout_s)
        return parse_page(body)

    @asynccontextmanager
    async def progress(
        self, job_id: JobId, *, gap_s: float
    ) -> AsyncIterator[AsyncIterator[Progress]]:
        """Give the live events of one job, until its stream ends or is left.

        `gap_s`: no byte for so long raises ConnectionFailedError. Raises as `page` does;
        ContentError where the answer is no event stream, StatusError(404) where the job is
        not known.
        """
        path = f"/denoise/{quote(job_id, safe='')}/progress"
        async with self._get(path, accept=_EVENT_STREAM, gap_s=gap_s) as (response, key):
            if response.content_type != _EVENT_STREAM:
                raise ContentError("the answer is no event stream")
            async with aclosing(events_of(response, key, gap_s=gap_s)) as events:
                yield events

    async def fresh_url(self, job_id: JobId, *, within_s: float = 10.0) -> str | None:
        """Return a newly signed link of a finished job, from the replay of its last event.

        None where the job is not finished, the stream ends without a link, or `within_s`
        pass. Raises as `progress` does.
        """
        try:
            async with (
                asyncio.timeout(within_s),
                self.progress(job_id, gap_s=within_s) as events,
            ):
                async for event in events:
                    if isinstance(event, Done):
                        return usable_url(event.url)
                    if not isinstance(event, Unknown):
                        return None
        except TimeoutError:
            return None
        return None

    @asynccontextmanager
    async def _get(
        self, path: str, *, accept: str, gap_s: float | None = None
    ) -> AsyncIterator[tuple[aiohttp.ClientResponse, str]]:
        """Give the successful response to a GET below the base URL, and the key it was sent with.

        Raises for any other.
        """
        await self._pause.passed()
        began_s = time.monotonic()
        key = self._key()
        packed = "identity" if accept == _EVENT_STREAM else "gzip, deflate"
        headers = {"x-api-key": key, "Accept": accept, "Accept-Encoding": packed}
        response = await self._follow(path, headers, gap_s)
        try:
            self.answered_in_s = time.monotonic() - began_s
            if date := response.headers.get("Date"):
                self._date = (date, datetime.now(UTC))
            if response.status != 200:
                error = await refusal(response, key)
                if isinstance(error, StatusError) and error.status in _BUSY:
                    asked_s = error.retry_after_s or 0.0
                    self._pause.ask(min(asked_s, _LONGEST_PAUSE_S))
                raise error
            yield response, key
        finally:
            hang_up(response)

    async def _follow(
        self, path: str, headers: dict[str, str], gap_s: float | None
    ) -> aiohttp.ClientResponse:
        """Return the first answer that is no redirect within the API's own origin."""
        address = parse_url(f"{self._base.origin}{self._base.target.rstrip('/')}{path}")
        for _ in range(_MOST_REDIRECTS_API + 1):
            response = await self._session.get(address, headers, gap_s=gap_s)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or location is None:
                return response
            hang_up(response)
            try:
                address = follow(address, location)
            except ValueError as error:
                raise ApiError(f"the API redirects to what is {error}") from None
            if address.origin != self._base.origin:
                raise ApiError(
                    f"the API at {self._base.origin} redirects to {address.origin}, where the "
                    "key must not go: if that is the API's new place, set --api-url to it"
                )
        where = self._base.origin
        raise ApiError(f"the API at {where} redirects more than {_MOST_REDIRECTS_API} times")


class Host:
    """The file hosts: no key, no cookies, links byte for byte as they were given.

    `connections` bounds how many are open at once, over all hosts.
    """

    def __init__(
        self, *, timeout_s: float = 30.0, connections: int = 64, agent: str = "fetcher"
    ) -> None:
        self._timeout_s = timeout_s
        self._memory = Memory()
        self._session = Session(
            timeout_s=timeout_s,
            agent=agent,
            connections=connections,
            decode=False,
            confidential=False,
        )

    async def __aenter__(self) -> Self:
        await self._session.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._session.close()

    def open(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        ask: Callable[[str], Awaitable[None]] | None = None,
    ) -> _Opening:
        """Give the response to a GET of `url`, after its redirects; any status.

        `headers` go along every redirect. `ask` is awaited before each request, redirected
        ones included, with the host and port that it goes to. Content-Encoding is not
        undone. Raises ConnectionFailedError, permanent where trying again cannot help: a
        URL that is none, an untrusted certificate, a redirect from https to http or in
        circles, or more than ten of them.
        """
        return _Opening(partial(self._opened, url, headers, ask))

    async def _opened(
        self,
        url: str,
        headers: Mapping[str, str],
        ask: Callable[[str], Awaitable[None]] | None,
    ) -> Body:
        try:
            address = parse_url(url)
        except ValueError as error:
            raise ConnectionFailedError(f"the link is {error}", permanent=True) from None
        sent = {"Accept-Encoding": "identity", **headers}
        response, address = await self._follow(address, sent, ask)
        return Body(
            response,
            _head(response),
            address.bare,
            gap_s=self._timeout_s,
            memory=self._memory,
        )

    async def _follow(
        self,
        address: Address,
        headers: Mapping[str, str],
        ask: Callable[[str], Awaitable[None]] | None,
    ) -> tuple[aiohttp.ClientResponse, Address]:
        """Return the first answer that is no redirect, and where it came from."""
        seen = {address}
        while True:
            if ask is not None:
                await ask(address.authority)
            response = await self._session.get(address, headers)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or location is None:
                return response, address
            hang_up(response)
            address = _next_hop(address, location)
            if address in seen:
                raise ConnectionFailedError(
                    f"{address.bare} is redirected in circles", permanent=True
                )
            if len(seen) > _MOST_REDIRECTS_HOST:
                raise ConnectionFailedError(
                    f"more than {_MOST_REDIRECTS_HOST} redirects, the last of them to "
                    f"{address.bare}",
                    permanent=True,
                )
            seen.add(address)


class _Opening:
    """A response while its context lasts; a generator for each file would cost twice."""

    def __init__(self, opened: Callable[[], Awaitable[Body]]) -> None:
        self._opened = opened
        self._body: Body | None = None

    async def __aenter__(self) -> Body:
        self._body = await self._opened()
        return self._body

    async def __aexit__(self, *exc_info: object) -> None:
        if self._body is not None:
            self._body.close()


# ---- pieces ------------------------------------------------------------------------------


def _next_hop(address: Address, location: str) -> Address:
    """Return where a file host's redirect leads; never from https to http."""
    try:
        new = follow(address, location)
    except ValueError as error:
        raise ConnectionFailedError(
            f"{address.bare} redirects to what is {error}", permanent=True
        ) from None
    if address.scheme == "https" and new.scheme != "https":
        raise ConnectionFailedError(
            f"{address.bare} redirects from https to {new.bare}, which is not encrypted",
            permanent=True,
        )
    return new


def _head(response: aiohttp.ClientResponse) -> Head:
    """Return status and header fields as text, repeated ones joined (RFC 9110 §5.3)."""
    headers: dict[str, str] = {}
    for key, raw in response.headers.items():
        name = key.lower()
        value = raw if raw.isascii() else _SURROGATE.sub("\ufffd", raw)
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Head(response.status, headers)
