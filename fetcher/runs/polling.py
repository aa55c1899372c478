"""A short poll: what is new, and what became of the jobs that were pending.

Its cost does not grow with the history: the newest pages until one brings nothing new, and
for each group of older pending jobs the page where they stood, or where their time should
stand. A pending job that is found in neither place turns the poll into a full pass: only
that proves that a job is gone. What a short poll cannot see (a failed job that succeeds
after all) is found by the next full pass.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fetcher.core.account import Class
from fetcher.core.pages import tied
from fetcher.core.paging import Walk
from fetcher.events import JobSettled, PollCompleted
from fetcher.manifest.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection

    from fetcher.core.wire import Page
    from fetcher.models import Job, JobId
    from fetcher.runs.run import Run

_GONE_AFTER_MISSES = 2


@dataclass(slots=True)
class Poller:
    """Short polls of one run. `gone`: pending jobs that the history no longer lists."""

    run: Run
    _misses: dict[JobId, int] = field(default_factory=dict)  # full passes in a row without it

    @property
    def gone(self) -> frozenset[JobId]:
        """Return the pending jobs that have disappeared."""
        return frozenset(
            job_id for job_id, misses in self._misses.items() if misses >= _GONE_AFTER_MISSES
        )

    async def learn(self, listed: Collection[JobId]) -> None:
        """Take note of which pending jobs a full pass has seen: the others may have gone."""
        self._misses = {one: misses for one, misses in self._misses.items() if one not in listed}
        for job in await self.run.manifest.do(Store.waiting):
            if job.id not in listed and job.id not in self.gone:
                self._miss(job)

    async def poll(self) -> int:
        """Look once; return how many jobs were new. Raises KeyRefusedError, ApiError."""
        run = self.run
        run.complaints.begin()
        asked_before = run.history.requests
        seen: set[JobId] = set()
        new = await self._read_head(seen)
        run.history.spots.moved(new, but=seen)
        if new:
            await run.manifest.do(Store.put, {"listing_open": "0"})
        # A job that turns up only here opens the listing again: a full pass must follow.
        if not await self._finds_old_pending(seen):
            await self.learn(await run.list_all(asked_before=asked_before, new=new))
            return new
        await run.manifest.do(Store.put, {"last_poll_at": datetime.now(UTC).isoformat()})
        run.sink(
            PollCompleted(
                requests=run.history.requests - asked_before,
                records=len(seen),
                new=new,
                pending=run.account.counts[Class.PENDING],
            )
        )
        return new

    async def _read_head(self, seen: set[JobId]) -> int:
        """Absorb the newest pages up to one that goes further and brings nothing new.

        Pages that the walk reads again, to see that nothing moved, bring nothing new either.
        One that does not touch what was seen may lie behind records that nobody saw.
        """
        run = self.run
        walk = Walk(run.settings.page_size)
        may_be_empty = await run.manifest.do(Store.is_empty)
        new = new_since = 0
        is_further = False
        while not walk.finished:
            page = await run.history.page(walk.next, may_be_empty=may_be_empty)
            walk.feed([job.id for job in page.jobs], page.count, tied=tied(page.jobs))
            absorbed = await run.absorb(page, retry_base=run.run_base)
            is_further = is_further or any(job.id not in seen for job in page.jobs)
            seen.update(job.id for job in page.jobs)
            new += absorbed.new
            new_since += absorbed.new
            may_be_empty = True
            if walk.touched:
                if is_further and not new_since:
                    break
                new_since, is_further = 0, False
        return new

    async def _finds_old_pending(self, seen: set[JobId]) -> bool:
        """Look for every pending job that is not gone; return whether all were found."""
        spots = self.run.history.spots
        waiting = await self.run.manifest.do(Store.waiting)
        spots.keep({job.id for job in waiting})
        wanted = [job for job in reversed(waiting) if job.id not in self.gone]
        for job in wanted:
            if job.id not in seen:
                await self._look_for(job, seen)
        for job in waiting:
            if job.id in seen:
                self._misses.pop(job.id, None)
        for job in wanted:
            row = spots.row(job.id)
            if job.id not in seen and (row is None or not await self._is_near(job, row, seen)):
                return False
        return True

    async def _look_for(self, job: Job, seen: set[JobId]) -> None:
        """Absorb the pages where a job should be, up to the one that has it."""
        history = self.run.history
        row = history.spots.row(job.id)
        if row is None:
            if job.created_at is None:
                return
            row = await self.run.manifest.do(Store.count_newer, job.created_at)
        await self._read_until(job, history.around(row, job.created_at), seen)

    async def _is_near(self, job: Job, row: int, seen: set[JobId]) -> bool:
        """Absorb the pages beside a job's old place; return whether one of them has it."""
        await self._read_until(job, self.run.history.near(row), seen)
        return job.id in seen

    async def _read_until(
        self, job: Job, pages: AsyncGenerator[Page, None], seen: set[JobId]
    ) -> None:
        """Absorb pages up to the one that has the job."""
        run = self.run
        async with aclosing(pages):
            async for page in pages:
                await run.absorb(page, retry_base=run.run_base)
                seen.update(one.id for one in page.jobs)
                if job.id in seen:
                    return

    def _miss(self, job: Job) -> None:
        misses = self._misses[job.id] = self._misses.get(job.id, 0) + 1
        if misses == _GONE_AFTER_MISSES:
            self.run.sink(JobSettled(id=job.id, file_name=job.file_name))
