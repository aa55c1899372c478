"""Listing with retries: what is asked again, what ends a listing, and how one job is found."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetcher.core.paging import Request
from fetcher.core.retry import Policy
from fetcher.core.wire import Page
from fetcher.errors import (
    ApiError,
    ConnectionFailedError,
    ContentError,
    FetcherError,
    KeyRefusedError,
    ShortBodyError,
    StatusError,
)
from fetcher.events import Event, Notice
from fetcher.models import Job, JobId, Status
from fetcher.runs.history import History

if TYPE_CHECKING:
    from collections.abc import Sequence

START = datetime(2025, 1, 1, tzinfo=UTC)


def jobs(count: int, apart_s: float = 60.0) -> list[Job]:
    """Return so many finished jobs, newest first."""
    return [
        Job(JobId(f"j{n}"), Status.SUCCESS, created_at=START - timedelta(seconds=apart_s * n))
        for n in range(count)
    ]


@dataclass
class Api:
    """A list that answers, or raises what it is told to, one error for each request."""

    listed: list[Job]
    errors: list[FetcherError | None] = field(default_factory=list)
    cap: int | None = None
    asked: list[tuple[int, int | None]] = field(default_factory=list)
    under_way: int = 0

    async def page(self, offset: int, limit: int | None) -> Page:
        self.asked.append((offset, limit))
        self.under_way += 1
        try:
            await asyncio.sleep(0)
            error = self.errors.pop(0) if self.errors else None
            if error is not None:
                raise error
        finally:
            self.under_way -= 1
        count = min(limit or 10**9, self.cap or 10**9)
        found = self.listed[offset : offset + count]
        return Page(jobs=found, count=len(found))


def history(api: Api, *, page_size: int = 10, retries: int = 3) -> tuple[History, list[Event]]:
    events: list[Event] = []
    policy = Policy(retries=retries, delay_s=0.0)
    return (
        History(api, page_size=page_size, policy=policy, rng=Random(1), sink=events.append),
        events,
    )


async def read(history: History, *, may_be_empty: bool = False) -> list[JobId]:
    pages = [page async for page in history.pages(may_be_empty=may_be_empty)]
    return [job.id for page in pages for job in page.jobs]


async def test_the_whole_list_comes_page_by_page_newest_first() -> None:
    api = Api(jobs(95))
    whole, _ = history(api)
    seen = await read(whole)
    assert list(dict.fromkeys(seen)) == [job.id for job in api.listed]
    assert whole.requests == len(api.asked)


async def test_the_next_page_is_asked_for_while_one_is_worked_on() -> None:
    api = Api(jobs(95))
    whole, _ = history(api)
    async with aclosing(whole.pages(may_be_empty=False)) as pages:
        await anext(pages)
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(api.asked) == 2


async def test_a_reader_who_stops_early_leaves_no_request_behind() -> None:
    api = Api(jobs(95))
    whole, _ = history(api)
    async with aclosing(whole.pages(may_be_empty=False)) as pages:
        await anext(pages)
    assert api.under_way == 0
    assert len(asyncio.all_tasks()) == 1


PASSING: Sequence[FetcherError] = (
    StatusError(500, "the API answered 500"),
    StatusError(429, "the API answered 429", retry_after_s=0.001),
    StatusError(408, "the API answered 408"),
    ConnectionFailedError("reset"),
    ShortBodyError("the body ended early"),
    ContentError("the answer is a web page, not a list of records"),
)


@pytest.mark.parametrize("error", PASSING, ids=lambda error: type(error).__name__ + str(error)[-4:])
async def test_passing_trouble_is_tried_again_and_told(error: FetcherError) -> None:
    api = Api(jobs(25), errors=[None, error, error])
    whole, events = history(api)
    assert set(await read(whole)) == {job.id for job in api.listed}
    notices = [event for event in events if isinstance(event, Notice)]
    assert [notice.level for notice in notices] == ["WARNING", "WARNING"]
    assert api.asked[1] == api.asked[2] == api.asked[3]


@pytest.mark.parametrize("error", PASSING, ids=lambda error: type(error).__name__ + str(error)[-4:])
async def test_trouble_that_stays_ends_the_listing(error: FetcherError) -> None:
    api = Api(jobs(25), errors=[error] * 99)
    whole, _ = history(api, retries=3)
    with pytest.raises(ApiError):
        await read(whole)
    assert len(api.asked) == 4


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        pytest.param(KeyRefusedError("401"), KeyRefusedError, id="key refused"),
        pytest.param(ApiError("redirects elsewhere"), ApiError, id="redirected away"),
        pytest.param(StatusError(400, "bad query"), ApiError, id="400"),
        pytest.param(StatusError(404, "no such thing"), ApiError, id="404"),
        pytest.param(
            ConnectionFailedError("certificate", permanent=True), ApiError, id="untrusted"
        ),
        pytest.param(StatusError(503, "later", retry_after_s=86_400), ApiError, id="a day later"),
    ],
)
async def test_what_cannot_pass_is_asked_once(
    error: FetcherError, raised: type[FetcherError]
) -> None:
    api = Api(jobs(25), errors=[error])
    whole, _ = history(api)
    with pytest.raises(raised):
        await read(whole)
    assert len(api.asked) == 1


async def test_progress_on_one_page_gives_the_next_its_own_attempts() -> None:
    trouble = StatusError(500, "500")
    api = Api(jobs(25), errors=[trouble, trouble, None, trouble, trouble, None])
    whole, _ = history(api, retries=2)
    assert set(await read(whole)) == {job.id for job in api.listed}


async def test_an_empty_list_of_a_new_account_is_read() -> None:
    api = Api([])
    whole, _ = history(api)
    assert await read(whole, may_be_empty=True) == []
    assert len(api.asked) == 1


async def test_a_list_that_is_suddenly_empty_is_an_error_after_retries() -> None:
    api = Api([])
    whole, _ = history(api, retries=2)
    with pytest.raises(ApiError, match="empty"):
        await read(whole, may_be_empty=False)
    assert len(api.asked) == 3


async def test_one_empty_answer_is_forgiven() -> None:
    api = Api(jobs(15))
    empty = replace(api, listed=[])

    class Glitch:
        async def page(self, offset: int, limit: int | None) -> Page:
            first = not api.asked and not empty.asked
            return await (empty if first else api).page(offset, limit)

    whole = History(
        Glitch(), page_size=10, policy=Policy(delay_s=0.0), rng=Random(1), sink=lambda _: None
    )
    assert set(await read(whole)) == {job.id for job in api.listed}


async def test_pages_without_one_readable_record_do_not_end_the_listing() -> None:
    class Blank:
        async def page(self, offset: int, limit: int | None) -> Page:
            listed = jobs(60)
            there = listed[offset : offset + (limit or 60)]
            readable = [job for job in there if not 20 <= int(job.id[1:]) < 45]
            return Page(jobs=readable, count=len(there))

    whole = History(
        Blank(), page_size=10, policy=Policy(delay_s=0.0), rng=Random(1), sink=lambda _: None
    )
    assert {int(job_id[1:]) for job_id in await read(whole)} == {*range(20), *range(45, 60)}


async def test_records_of_one_time_in_ever_another_order_are_all_read() -> None:
    class Restless:
        def __init__(self) -> None:
            self.rng = Random(1)

        async def page(self, offset: int, limit: int | None) -> Page:
            run = [job._replace(created_at=START - timedelta(seconds=90)) for job in jobs(40)[2:]]
            self.rng.shuffle(run)
            listed = [*jobs(2), *run, *jobs(50)[40:]]
            page = listed[offset : offset + (limit or 60)]
            return Page(jobs=page, count=len(page))

    whole = History(
        Restless(), page_size=20, policy=Policy(delay_s=0.0), rng=Random(1), sink=lambda _: None
    )
    assert len(set(await read(whole))) == 50


# ---- one job far down the list -----------------------------------------------------------


@settings(deadline=None)
@given(
    place=st.integers(0, 299),
    drift=st.integers(-120, 120),
    cap=st.none() | st.integers(1, 20),
    page_size=st.integers(1, 50),
    apart_s=st.sampled_from([60.0, 1.0]),
)
def test_a_listed_job_is_found_however_wrong_its_rank_is(
    place: int, drift: int, cap: int | None, page_size: int, apart_s: float
) -> None:
    api = Api(jobs(300, apart_s), cap=cap)
    whole, _ = history(api, page_size=page_size)
    wanted = api.listed[place]
    assert wanted.created_at is not None
    found = asyncio.run(whole.find(wanted.id, wanted.created_at, max(0, place + drift)))
    assert found == wanted


@pytest.mark.parametrize("cap", [None, 3])
@pytest.mark.parametrize("place", [0, 1, 17, 99])
async def test_a_job_among_many_of_the_same_time_is_found(place: int, cap: int | None) -> None:
    listed = [job._replace(created_at=START) for job in jobs(100)]
    api = Api(listed, cap=cap)
    whole, _ = history(api)
    assert await whole.find(listed[place].id, START, 0) == listed[place]


async def test_what_is_left_is_halved_although_the_server_gives_one_record_a_page() -> None:
    """It was read row by row once it was narrower than a page that was asked for."""
    api = Api(jobs(300), cap=1)
    whole, _ = history(api, page_size=200)
    wanted = api.listed[49]
    assert wanted.created_at is not None
    assert await whole.find(wanted.id, wanted.created_at, 249) == wanted
    assert len(api.asked) <= 20


async def test_a_rank_that_is_right_costs_at_most_two_requests() -> None:
    api = Api(jobs(500))
    whole, _ = history(api, page_size=20)
    wanted = api.listed[371]
    assert wanted.created_at is not None
    assert await whole.find(wanted.id, wanted.created_at, 371) == wanted
    assert len(api.asked) <= 2


@pytest.mark.parametrize("place", [0, 40, 99])
async def test_a_job_that_is_gone_is_not_found_and_the_search_ends(place: int) -> None:
    listed = jobs(100)
    gone = listed.pop(place)
    api = Api(listed)
    whole, _ = history(api)
    assert gone.created_at is not None
    assert await whole.find(gone.id, gone.created_at, place) is None
    assert len(api.asked) <= 5


async def test_nothing_is_found_in_an_empty_list() -> None:
    api = Api([])
    whole, _ = history(api)
    assert await whole.find(JobId("j1"), START, 5_000) is None


@pytest.mark.parametrize("offset", [0, 7])
async def test_one_page_is_asked_for_as_it_is_requested(offset: int) -> None:
    api = Api(jobs(50))
    whole, _ = history(api)
    page = await whole.page(Request(offset, 4))
    assert [job.id for job in page.jobs] == [f"j{n}" for n in range(offset, offset + 4)]
