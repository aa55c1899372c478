"""The history, page by page, with retries: the listing side of a pass.

Drives `paging.Walk` against the API; decides nothing about jobs. The next page is asked
for while the one before is being recorded.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

from fetcher.core.pages import tied
from fetcher.core.paging import Request, Walk
from fetcher.core.retry import GiveUp, Policy, decide
from fetcher.core.search import Search
from fetcher.core.spots import Spots
from fetcher.errors import ApiError, ContentError, FetcherError, KeyRefusedError, TransferError
from fetcher.events import Notice

_MOST_PROBES = 50  # a million records in pages of one need 40
_NEAR_PAGES = 2  # on either side of where a job stood

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from datetime import datetime
    from random import Random
    from typing import Protocol

    from fetcher.core.wire import Page
    from fetcher.events import Sink
    from fetcher.models import Job, JobId

    class Lists(Protocol):
        """Whoever can answer one list request."""

        async def page(self, offset: int, limit: int | None) -> Page:
            """Return one page; raises FetcherError."""
            ...


class History:
    """The account's history as the API lists it.

    `requests` counts what was asked. `spots`: where pending jobs stood when last listed.
    `is_quiet`: attempts that fail are not told of, as in an outage that is known.
    """

    def __init__(
        self,
        api: Lists,
        *,
        page_size: int,
        policy: Policy,
        rng: Random,
        sink: Sink,
    ) -> None:
        self._api = api
        self._page_size = page_size
        self._policy = policy
        self._rng = rng
        self._sink = sink
        self._sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
        self._drift = 0  # how many more known jobs than rows were newer than the last one found
        self._widest = 0  # rows of the largest page: what the server gives, whatever is asked
        self.spots = Spots()
        self.requests = 0
        self.is_quiet = False

    async def pages(self, *, may_be_empty: bool) -> AsyncGenerator[Page, None]:
        """Yield every page of the whole list, newest first; records may come twice.

        Raises KeyRefusedError, or ApiError once retries are used up; also for a list that
        is empty although it must not be (`may_be_empty` false: jobs are known).
        """
        walk = Walk(self._page_size)
        ahead = asyncio.ensure_future(self._first(walk.next, may_be_empty=may_be_empty))
        try:
            while True:
                page = await ahead
                walk.feed([job.id for job in page.jobs], page.count, tied=tied(page.jobs))
                if not walk.finished:
                    ahead = asyncio.ensure_future(self.page(walk.next))
                yield page
                if walk.finished:
                    return
        finally:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)

    async def _first(self, request: Request, *, may_be_empty: bool) -> Page:
        return await self.page(request, may_be_empty=may_be_empty)

    async def page(self, request: Request, *, may_be_empty: bool = True) -> Page:
        """Return the answer to one list request, tried again as the policy has it."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._ask(request, may_be_empty=may_be_empty)
            except (KeyRefusedError, ApiError):
                raise
            except TransferError as error:
                await self._wait_or_give_up(error, attempt)

    async def find(self, job_id: JobId, created_at: datetime, rank: int) -> Job | None:
        """Return the listed record of a known job, None when the list no longer has it.

        `rank`: how many known jobs are newer. Deleted records make that too high, records
        that cannot be read too low; then the search goes on from there by the pages' times.
        """
        search = self._search(created_at, rank - self._drift)
        async with aclosing(self._searched(search)) as pages:
            async for page in pages:
                if search.position is not None:
                    self._drift = rank - search.position
                for job in page.jobs:
                    if job.id == job_id:
                        return job
        return None

    async def around(self, row: int, created_at: datetime | None) -> AsyncGenerator[Page, None]:
        """Yield the page around that row, then pages nearer and nearer to that time.

        They end with all that can hold it, if the list is in the order of its times. Without
        a time there is that one page.
        """
        if created_at is None:
            yield await self.page(Request(max(0, row - self._width // 2), self._page_size))
            return
        async with aclosing(self._searched(self._search(created_at, row))) as pages:
            async for page in pages:
                yield page

    async def near(self, row: int) -> AsyncGenerator[Page, None]:
        """Yield the pages next to the one around that row, whatever their times."""
        width = self._width
        for pages in range(1, _NEAR_PAGES + 1):
            for offset in (row - width // 2 - pages * width, row - width // 2 + pages * width):
                if offset + width > 0:
                    yield await self.page(Request(max(0, offset), self._page_size))

    @property
    def _width(self) -> int:
        return self._widest or self._page_size

    def _search(self, created_at: datetime, row: int) -> Search:
        return Search(created_at, guess=row, width=self._width)

    async def _searched(self, search: Search) -> AsyncGenerator[Page, None]:
        for _ in range(_MOST_PROBES):
            page = await self.page(Request(search.offset, self._page_size))
            search.feed([job.created_at for job in page.jobs if job.created_at], page.count)
            yield page
            if search.finished:
                return

    async def _ask(self, request: Request, *, may_be_empty: bool) -> Page:
        self.requests += 1
        page = replace(await self._api.page(request.offset, request.limit), offset=request.offset)
        self._widest = max(self._widest, min(page.count, self._page_size))
        self.spots.note(request.offset, page.jobs, page.count)
        if not page.count and not may_be_empty:
            raise ContentError(
                "the history is suddenly empty although jobs are known; nothing was forgotten"
            )
        return page

    async def _wait_or_give_up(self, error: FetcherError, attempt: int) -> None:
        decision = decide(error, attempt, policy=self._policy, rng=self._rng)
        if isinstance(decision, GiveUp):
            raise ApiError(f"The history could not be read: {decision.reason}") from error
        if not self.is_quiet:
            again = f"trying again in {decision.delay_s:.1f} s"
            self._sink(Notice("WARNING", f"listing: {error}; {again}"))
        await self._sleep(decision.delay_s)
