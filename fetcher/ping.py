"""Health-check services: told of the start and of the end of a run (`--ping-url`).

A ping is one GET without any key; one that fails is worth a line in the log and changes
nothing. Its network is `client`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self

from fetcher.client import Host
from fetcher.errors import FetcherError, bare_url
from fetcher.events import Notice

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fetcher.events import Sink

PING_S = 10.0  # what the services advise; a run must not hang on its monitor
HURRIED_S = 0.8  # once a stop was asked for: contract 5.8 leaves 5 s for everything


def address_for(url: str, ending: str) -> str:
    """Return `url` with `ending` behind its path: `/start` goes before the query string."""
    base, question_mark, query = url.partition("#")[0].partition("?")
    return f"{base.rstrip('/')}{ending}{question_mark}{query}" if ending else url


class Ping:
    """The pings of one run, and a context manager around the whole of it.

    `url` None: nothing is done. `stopped` returns once a stop is asked for. A run that
    leaves with an exception before `ended` was called has failed.
    """

    def __init__(
        self,
        url: str | None,
        sink: Sink,
        *,
        stopped: Callable[[], Awaitable[None]],
        agent: str = "fetcher",
    ) -> None:
        self._url = url
        self._sink = sink
        self._stopped = stopped
        self._agent = agent
        self._starting: asyncio.Task[None] | None = None
        self._has_ended = False

    async def __aenter__(self) -> Self:
        """Tell of the start, without making the run wait for it."""
        if self._url is not None:
            self._starting = asyncio.create_task(self._send("/start"))
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        """Tell of a run that could not begin or broke; one that is cancelled has no time."""
        try:
            if kind is not None and issubclass(kind, Exception):
                await self.ended(FetcherError.exit_code)
        finally:
            if self._starting is not None:
                self._starting.cancel()
                await asyncio.gather(self._starting, return_exceptions=True)

    async def ended(self, exit_code: int) -> None:
        """Tell how the run ended: 0 is a success, everything else is not. Once a run."""
        if self._starting is None or self._has_ended:
            return
        self._has_ended = True
        sending = asyncio.create_task(self._finish("/fail" if exit_code else ""))
        stopping = asyncio.create_task(_returned(self._stopped()))
        try:
            await asyncio.wait({sending, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                await asyncio.wait({sending}, timeout=HURRIED_S)
        finally:
            for task in (sending, stopping):
                task.cancel()
            await asyncio.gather(sending, stopping, return_exceptions=True)

    async def _finish(self, ending: str) -> None:
        if self._starting is not None:
            await asyncio.wait({self._starting})  # the service takes them in order
        await self._send(ending)

    async def _send(self, ending: str) -> None:
        """Send one ping; tell of its failure, the address without its query."""
        address = address_for(self._url or "", ending)
        try:
            status = await self._get(address)
            failure = "" if status < 400 else f"it was answered with {status}"
        except TimeoutError:
            failure = f"no answer within {PING_S:g} s"
        except FetcherError as error:
            failure = str(error)
        if failure:
            self._sink(Notice("WARNING", f"the ping to {bare_url(address)} failed: {failure}"))

    async def _get(self, address: str) -> int:
        host = Host(timeout_s=PING_S, connections=1, agent=self._agent)
        async with host, asyncio.timeout(PING_S), host.open(address, {}) as body:
            return body.head.status


async def _returned(awaitable: Awaitable[None]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await awaitable
