"""Health-check services: told of the start and of the end of a run (`--ping-url`).

A ping is one GET without any key; one that fails is worth a line in the log and changes
nothing. Its network is `client`'s.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from fetcher.errors import FetcherError, bare_url
from fetcher.events import Notice
from fetcher.network.client import AGENT, Host
from fetcher.runs.leave import PINGS_BY_S

if TYPE_CHECKING:
    from fetcher.events import Sink
    from fetcher.runs.leave import Leave

PING_S = 10.0  # what the services advise; a run must not hang on its monitor
HURRIED_S = 0.8  # once a stop was asked for, as far as the leave goes


def address_for(url: str, ending: str) -> str:
    """Return `url` with `ending` behind its path: `/start` goes before the query string."""
    base, question_mark, query = url.partition("#")[0].partition("?")
    return f"{base.rstrip('/')}{ending}{question_mark}{query}" if ending else url


class Ping:
    """The pings of one run, and a context manager around the whole of it.

    `leave` is what a stop leaves to them. A run that leaves with an error before `ended`
    was called counts as failed.
    """

    def __init__(
        self,
        url: str,
        sink: Sink,
        *,
        leave: Leave,
    ) -> None:
        self._url = url
        self._sink = sink
        self._leave = leave
        self._stopping: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[None] | None = None
        self._has_ended = False

    async def __aenter__(self) -> Self:
        """Tell of the start, without making the run wait for it."""
        self._stopping = asyncio.create_task(self._leave.begun())
        self._starting = asyncio.create_task(self._send("/start"))
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Tell of a run that could not begin or broke; one that is cancelled has no time."""
        try:
            if kind is not None and issubclass(kind, Exception):
                await self.ended(FetcherError.exit_code)
        finally:
            await _cancelled(*filter(None, [self._starting, self._stopping]))

    async def ended(self, exit_code: int) -> None:
        """Tell how the run ended: 0 is a success, everything else is not. Once a run."""
        if self._starting is None or self._stopping is None or self._has_ended:
            return
        self._has_ended = True
        sending = asyncio.create_task(self._finish(self._starting, "/fail" if exit_code else ""))
        try:
            await asyncio.wait(
                {sending, self._stopping}, timeout=PING_S, return_when=asyncio.FIRST_COMPLETED
            )
            if self._stopping.done() and not sending.done():
                left_s = min(HURRIED_S, self._leave.left_s(PINGS_BY_S))
                await asyncio.wait({sending}, timeout=left_s)
            if not sending.done():
                self._complain(self._url, "no answer in time")
        finally:
            await _cancelled(sending)

    async def _finish(self, starting: asyncio.Task[None], ending: str) -> None:
        await asyncio.wait({starting})  # a service takes them in the order in which they come
        await self._send(ending)

    async def _send(self, ending: str) -> None:
        address = address_for(self._url, ending)
        try:
            status = await self._get(address)
        except TimeoutError:
            self._complain(address, f"no answer within {PING_S:g} s")
        except FetcherError as error:
            self._complain(address, str(error))
        else:
            if status >= 400:
                self._complain(address, f"it was answered with {status}")

    async def _get(self, address: str) -> int:
        host = Host(timeout_s=PING_S, connections=1, agent=AGENT)
        async with host, asyncio.timeout(PING_S), host.open(address, {}) as body:
            return body.head.status

    def _complain(self, address: str, why: str) -> None:
        """Tell of a failure without the address's query, which may hold a secret."""
        self._sink(Notice("WARNING", f"the ping to {bare_url(address)} failed: {why}"))


async def _cancelled(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
