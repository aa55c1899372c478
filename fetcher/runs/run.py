"""One run: what it holds open, and how a page of history becomes events, counts, tickets.

`engine` and `watch` say what a run does; `assembly` puts it together.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fetcher.core.account import Class, Rows
from fetcher.core.complaints import Complaints
from fetcher.events import (
    JobFailed,
    JobPending,
    ListingProgress,
    PollCompleted,
    QueueGrew,
    RecordInvalid,
    RunCompleted,
)
from fetcher.manifest.listing import Intake
from fetcher.manifest.store import Store
from fetcher.models import JobId, State
from fetcher.runs.records import sent_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fetcher.core.wire import Page
    from fetcher.manifest.listing import Absorbed, Listed
    from fetcher.runs.destination import Destination
    from fetcher.runs.downloads import Downloads, Ingredients


_OPEN = {"listing_open": "1"}  # jobs were recorded anew, and older ones may not be yet
_IN_PART = "in part"  # the rules of a run that had to leave out some of what they let through


class Run:
    """Everything a run holds open, and its account."""

    def __init__(
        self, destination: Destination, ingredients: Ingredients, downloads: Downloads
    ) -> None:
        self.destination = destination
        self.downloads = downloads
        self.settings = ingredients.settings
        self.sink = ingredients.sink
        self.manifest = ingredients.manifest
        self.api = ingredients.api
        self.history = ingredients.history
        self.parts = ingredients.eye.parts
        self.places = ingredients.eye.places
        self.space = ingredients.space
        self.account = ingredients.account
        self.rules = ingredients.rules
        self.run_base = ingredients.run_base
        self.began_s = time.monotonic()
        self.complaints = Complaints()
        self._told_pending, self._told_failed = Rows(), Rows()
        self._has_listed_all = False

    async def absorb(self, page: Page, *, retry_base: int) -> Absorbed:
        """Record one page, count it, tell of it, and wake the downloads for what it queued."""
        for bad in self.complaints.news(page):
            self.account.invalid += 1
            self.sink(RecordInvalid(reason=bad.reason, id=bad.id, file_name=bad.file_name))
        records: Mapping[JobId, bytes] = {}
        if self.settings.write_record:
            records = await asyncio.to_thread(sent_in, page.body)
        absorbed = await self.manifest.do(
            Store.absorb, page.jobs, self.intake(retry_base), _OPEN, records
        )
        for one in absorbed.restamped:
            await asyncio.to_thread(self.places.restamp, one.path, one.before, one.after)
        for listed in absorbed.listed:
            seq, _, before, after = listed
            first = self.account.listed(seq, before, after)
            if after is State.WAITING or after is State.REJECTED:
                self._tell(listed, first=first)
        if absorbed.queued:
            self.sink(QueueGrew(absorbed.queued))
            self.downloads.wake()
        self.sink(ListingProgress(self.account.records))
        return absorbed

    @property
    def wishes(self) -> str:
        """Return a text that differs from that of a run which wants other files."""
        return self.rules.signature(originals=self.settings.originals)

    def intake(self, retry_base: int) -> Intake:
        """Return how listed jobs become work; see there for `retry_base`."""
        return Intake(
            rules=self.rules,
            originals=self.settings.originals,
            run_base=self.run_base,
            retry_base=retry_base,
            left_out=self.account.left_out,
            is_spent=self.downloads.is_spent,
            is_bare=self.downloads.began_bare,
        )

    def _tell(self, one: Listed, *, first: bool) -> None:
        """Tell of a job that is pending, or has failed: of each once, though it go to and fro."""
        job, changed = one.job, one.before is not one.after
        if one.after is State.WAITING and (first or changed):
            if self._told_pending.add(one.seq):
                self.sink(JobPending(id=job.id, file_name=job.file_name))
        elif changed and one.after is State.REJECTED and self._told_failed.add(one.seq):
            self.sink(JobFailed(id=job.id, file_name=job.file_name, error=job.error))

    async def list_all(self, *, asked_before: int | None = None, new: int = 0) -> frozenset[JobId]:
        """Absorb the whole history and queue what earlier runs left; a full pass.

        `asked_before`, `new`: where a poll began that has come to this, and what it found.
        Returns the jobs that are listed and not finished by the service.
        Raises KeyRefusedError, ApiError.
        """
        if asked_before is None:
            asked_before = self.history.requests
        self.complaints.begin()
        retry_base = await self.manifest.do(Store.sync_tickets)
        may_be_empty = await self.manifest.do(Store.is_empty)
        await self.manifest.do(Store.put, _OPEN)
        records = 0
        seen, waiting = Rows(), set[JobId]()
        async with aclosing(self.history.pages(may_be_empty=may_be_empty)) as pages:
            async for page in pages:
                absorbed = await self.absorb(page, retry_base=retry_base)
                new += absorbed.new
                records += sum([seen.add(one.seq) for one in absorbed.listed])
                waiting.update(one.job.id for one in absorbed.listed if one.after is State.WAITING)
        for seq, clean_seq in await self.requeue():
            if clean_seq not in seen:
                self.account.unlisted.add(seq)
        now = datetime.now(UTC).isoformat()
        await self.manifest.do(
            Store.put,
            {
                "listing_open": "0",
                "last_full_at": now,
                "last_poll_at": now,
                "rules": _IN_PART if self.settings.max_downloads is not None else self.wishes,
            },
        )
        self._has_listed_all = True
        self.sink(
            PollCompleted(
                requests=self.history.requests - asked_before,
                records=records,
                new=new,
                pending=self.account.counts[Class.PENDING],
            )
        )
        return frozenset(waiting)

    async def requeue(self) -> list[tuple[int, int]]:
        """Queue what earlier runs left to be fetched; return the rows as `Store.requeue` does."""
        left = await self.manifest.do(
            Store.requeue, self.run_base, originals=self.settings.originals
        )
        if left:
            self.sink(QueueGrew(len(left)))
            self.downloads.wake()
        return left

    async def is_done(self) -> bool:
        """Return whether all was listed, and whatever was to be fetched then has had its turn."""
        return self._has_listed_all and not await self.manifest.do(Store.take, self.run_base, 1)

    def completed(self, exit_code: int) -> RunCompleted:
        """Return the final event: the account, which adds up."""
        counts = self.account.counts
        return RunCompleted(
            records=self.account.records,
            downloaded=counts[Class.DOWNLOADED],
            adopted=counts[Class.ADOPTED],
            already=counts[Class.ALREADY],
            failed=counts[Class.FAILED],
            pending=counts[Class.PENDING] + counts[Class.TODO],
            rejected=counts[Class.REJECTED],
            filtered=counts[Class.FILTERED],
            invalid=self.account.invalid,
            bytes=self.account.bytes_stored,
            bytes_fetched=self.account.bytes_fetched,
            seconds=round(time.monotonic() - self.began_s, 3),
            exit_code=exit_code,
        )
