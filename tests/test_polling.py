"""Short polls: what they find, what they cost, and what they must never forget.

A run is opened and polled by hand, without downloads: every poll is one call.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from support import E, settings

from fetcher.core.account import Class
from fetcher.errors import ApiError
from fetcher.events import Event, JobFailed, JobPending, JobSettled, PollCompleted
from fetcher.manifest.store import Store
from fetcher.models import State
from fetcher.runs.assembly import opened
from fetcher.runs.polling import Poller
from fetcher.simulator import Fault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from fetcher.models import JobId
    from fetcher.runs.run import Run
    from fetcher.simulator import SimRequest, Simulator


@dataclass(slots=True)
class Polled:
    """An open run, its poller, and what it told."""

    sim: Simulator
    run: Run
    poller: Poller
    events: list[Event] = field(default_factory=list)

    async def poll(self) -> int:
        """Poll once; return how many list requests that took."""
        before = len(self.sim.list_requests)
        await self.poller.poll()
        return len(self.sim.list_requests) - before

    def of(self, kind: type[E]) -> list[E]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    async def state(self, job: str) -> State | None:
        """Return what the manifest says of a job, None where it does not know it."""
        job_id: JobId = job  # type: ignore[assignment]  # the simulator's ids are plain text
        known = await self.run.manifest.do(Store.look_up, [job_id])
        return known[job_id].state if job_id in known else None

    async def known(self) -> int:
        """Return how many jobs the manifest holds."""
        return await self.run.manifest.do(Store.count)

    async def is_open(self) -> bool:
        """Return whether older jobs may be missing, so that a full pass is due."""
        return await self.run.manifest.do(Store.get, "listing_open") == "1"


@asynccontextmanager
async def polled(sim: Simulator, dest: Path, **options: Any) -> AsyncIterator[Polled]:
    """Give a run that has seen the whole history once."""
    events: list[Event] = []
    usual = {"page_size": 20, "retries": 0}
    async with opened(
        settings(sim.api_url, dest, **(usual | options)), events.append, command="watch"
    ) as run:
        await run.list_all()
        yield Polled(sim, run, Poller(run), events)


# ---- the newest pages --------------------------------------------------------------------


async def test_a_poll_that_finds_nothing_costs_one_request(tmp_path: Path, sim: Simulator) -> None:
    sim.add_jobs(300)
    async with polled(sim, tmp_path) as at:
        assert [await at.poll() for _ in range(3)] == [1, 1, 1]
        assert {(e.new, e.requests, e.records) for e in at.of(PollCompleted)[1:]} == {(0, 1, 20)}


async def test_new_jobs_are_found_over_as_many_pages_as_they_fill(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_jobs(50)
    async with polled(sim, tmp_path) as at:
        added = sim.add_jobs(95)
        await at.poll()
        assert at.of(PollCompleted)[-1].new == 95
        assert {await at.state(job) for job in added} == {State.QUEUED}
        assert not await at.is_open()
        assert await at.poll() == 1


@pytest.mark.parametrize(
    ("page_size", "added", "deleted", "at_request"),
    [(10, 21, 6, 4), (7, 12, 4, 3), (1, 3, 1, 3)],
    ids=["a gap wider than the overlap", "small pages", "pages of one"],
)
async def test_a_poll_does_not_end_behind_a_gap_that_a_deletion_has_made(
    page_size: int, added: int, deleted: int, at_request: int, tmp_path: Path, sim: Simulator
) -> None:
    """What is known already lies behind the gap, and new jobs in it."""
    sim.add_jobs(60)
    async with polled(sim, tmp_path, page_size=page_size) as at:
        jobs = sim.add_jobs(added)[::-1]
        asked = [0]

        def delete(_: SimRequest) -> bool:
            asked[0] += 1
            for job in jobs[:deleted] if asked[0] == at_request else ():
                sim.delete(job)
            return False

        sim.faults.add(Fault("list", times=None, when=delete))
        await at.poller.poll()
        assert asked[0] > at_request
        states = [await at.state(job) for job in jobs[deleted:]]
        assert states == [State.QUEUED] * (added - deleted)


async def test_a_listing_cut_between_pages_leaves_a_full_pass_due(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_jobs(50)
    async with polled(sim, tmp_path) as at:
        added = sim.add_jobs(50)
        sim.faults.add(Fault("list", after=1, status=500))
        with pytest.raises(ApiError):
            await at.poller.poll()
        assert await at.is_open()
    async with polled(sim, tmp_path) as at:
        assert not await at.is_open()
        assert {await at.state(job) for job in added} == {State.QUEUED}


async def test_trouble_with_an_old_pending_job_leaves_the_listing_closed(
    tmp_path: Path, sim: Simulator
) -> None:
    jobs = sim.add_jobs(100)[::-1]
    sim.reopen(jobs[80])
    async with polled(sim, tmp_path) as at:
        sim.add_jobs(3)
        sim.faults.add(Fault("list", times=None, status=500, when=lambda r: _offset(r) >= 50))
        with pytest.raises(ApiError):
            await at.poller.poll()
        assert not await at.is_open()


def _offset(request: SimRequest) -> int:
    return int(request.target.partition("offset=")[2].partition("&")[0])


@pytest.mark.parametrize("cap", [1, 3, 7, 19])
async def test_a_server_that_caps_pages_hides_no_new_job(
    cap: int, tmp_path: Path, sim: Simulator
) -> None:
    sim.page_cap = cap
    sim.add_jobs(30)
    async with polled(sim, tmp_path) as at:
        added = sim.add_jobs(25)
        await at.poll()
        assert {await at.state(job) for job in added} == {State.QUEUED}


@pytest.mark.parametrize("page_size", [1, 2, 3, 1000])
async def test_any_page_size_will_do(page_size: int, tmp_path: Path, sim: Simulator) -> None:
    jobs = sim.add_jobs(40)[::-1]
    sim.reopen(jobs[30])
    async with polled(sim, tmp_path, page_size=page_size) as at:
        added = sim.add_jobs(10)
        await at.poll()
        sim.finish(jobs[30])
        await at.poll()
        assert {await at.state(job) for job in (*added, jobs[30])} == {State.QUEUED}


async def test_new_jobs_that_come_while_paging_are_not_missed(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_jobs(40)
    async with polled(sim, tmp_path) as at:
        added = sim.add_jobs(60)
        sim.on_list = lambda _: added.extend(sim.add_jobs(4))
        await at.poll()
        sim.on_list = None
        await at.poll()
        assert {await at.state(job) for job in added} == {State.QUEUED}


async def test_records_deleted_while_paging_hide_no_new_job(tmp_path: Path, sim: Simulator) -> None:
    sim.add_jobs(40)
    async with polled(sim, tmp_path) as at:
        added = sim.add_jobs(100)
        newest = list(reversed(added))

        def delete(_: int) -> None:
            for job in newest[:9]:
                sim.delete(job)
            del newest[:9]

        sim.on_list = delete
        await at.poll()
        sim.on_list = None
        assert {await at.state(job) for job in newest} == {State.QUEUED}


async def test_an_empty_history_after_a_full_one_is_an_error_and_forgets_nothing(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_jobs(5)
    async with polled(sim, tmp_path) as at:
        sim.faults.add(Fault("list", times=None, body="[]"))
        with pytest.raises(ApiError, match="suddenly empty"):
            await at.poller.poll()
        assert await at.known() == 5


async def test_a_page_without_a_readable_record_ends_no_poll(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_jobs(5)
    async with polled(sim, tmp_path) as at:
        added = sim.add_jobs(3)
        for _ in range(45):
            sim.add_raw({"id": None})
        await at.poll()
        assert {await at.state(job) for job in added} == {State.QUEUED}


# ---- old pending jobs --------------------------------------------------------------------


async def test_one_old_pending_job_among_a_hundred_thousand_costs_two_requests(
    tmp_path: Path, sim: Simulator
) -> None:
    old = sim.generate(100_000, 1000, pending=[70_000]).id(70_000)
    async with polled(sim, tmp_path, page_size=5000) as at:
        assert await at.state(old) is State.WAITING
    async with opened(
        settings(sim.api_url, tmp_path, page_size=200), lambda _: None, command="watch"
    ) as run:
        at = Polled(sim, run, Poller(run))
        assert [await at.poll() for _ in range(3)] == [2, 2, 2]
        sim.finish(old)
        assert await at.poll() == 2
        assert await at.state(old) is State.QUEUED
        assert await at.poll() == 1


@pytest.mark.parametrize("cap", [None, 1, 3, 5, 8, 19])
@pytest.mark.parametrize("rank", [35, 150, 299])
async def test_an_old_job_that_finishes_is_found_by_the_next_poll(
    rank: int, cap: int | None, tmp_path: Path, sim: Simulator
) -> None:
    """Whatever page size the server really gives: `limit` is only asked for."""
    jobs = sim.add_jobs(300)[::-1]
    sim.reopen(jobs[rank])
    sim.page_cap = cap
    async with polled(sim, tmp_path) as at:
        for _ in range(3):
            assert await at.poll() <= 12
        assert at.poller.gone == frozenset()
        sim.finish(jobs[rank])
        await at.poll()
        assert await at.state(jobs[rank]) is State.QUEUED


async def test_a_capped_server_costs_no_more_once_its_pages_are_known(
    tmp_path: Path, sim: Simulator
) -> None:
    jobs = sim.add_jobs(300)[::-1]
    sim.reopen(jobs[200])
    sim.page_cap = 5
    async with polled(sim, tmp_path) as at:
        await at.poll()
        assert [await at.poll() for _ in range(3)] == [2, 2, 2]


@pytest.mark.parametrize("deleted", [1, 25, 60, 150])
async def test_deletions_far_above_do_not_hide_an_old_pending_job(
    deleted: int, tmp_path: Path, sim: Simulator
) -> None:
    jobs = sim.add_jobs(300)[::-1]
    sim.reopen(jobs[200])
    async with polled(sim, tmp_path) as at:
        for job in jobs[10 : 10 + deleted]:
            sim.delete(job)
        await at.poll()
        assert at.poller.gone == frozenset()
        assert [await at.poll() for _ in range(2)] == [2, 2]
        sim.finish(jobs[200])
        await at.poll()
        assert await at.state(jobs[200]) is State.QUEUED


async def test_jobs_of_the_same_instant_do_not_hide_each_other(
    tmp_path: Path, sim: Simulator
) -> None:
    """A batch that was submitted at once shares `created_at` over many pages."""
    at_s = sim.clock.now() - 86_400
    batch = [sim.add_job(created_at=at_s) for _ in range(130)]
    sim.add_jobs(60)
    for index in (0, 64, 129):
        sim.reopen(batch[index])
    async with polled(sim, tmp_path) as at:
        for _ in range(3):
            await at.poll()
        assert at.poller.gone == frozenset()
        for index in (0, 64, 129):
            sim.finish(batch[index])
        await at.poll()
        assert {await at.state(batch[index]) for index in (0, 64, 129)} == {State.QUEUED}


async def test_neighbours_share_a_request(tmp_path: Path, sim: Simulator) -> None:
    jobs = sim.add_jobs(300)[::-1]
    for rank in range(100, 108):
        sim.reopen(jobs[rank])
    async with polled(sim, tmp_path) as at:
        assert await at.poll() == 2


async def test_an_old_job_that_the_service_fails_is_told_once(
    tmp_path: Path, sim: Simulator
) -> None:
    jobs = sim.add_jobs(100)[::-1]
    sim.reopen(jobs[80])
    async with polled(sim, tmp_path) as at:
        assert [event.id for event in at.of(JobPending)] == [jobs[80]]
        sim.fail(jobs[80], "no speech in it")
        for _ in range(3):
            await at.poll()
        assert [(e.id, e.error) for e in at.of(JobFailed)] == [(jobs[80], "no speech in it")]
        assert at.run.account.counts[Class.REJECTED] == 1


async def test_a_broken_record_near_an_old_pending_job_changes_nothing(
    tmp_path: Path, sim: Simulator
) -> None:
    jobs = sim.add_jobs(200)[::-1]
    sim.reopen(jobs[120])
    for position in range(105, 135, 2):
        sim.add_raw({"id": 7, "created_at": "yesterday"}, position)
    async with polled(sim, tmp_path) as at:
        for _ in range(3):
            await at.poll()
        assert at.poller.gone == frozenset()


@pytest.mark.parametrize("new", [0, 1, 25])
async def test_a_job_that_no_full_pass_saw_is_recorded_and_calls_for_one(
    new: int, tmp_path: Path, sim: Simulator
) -> None:
    """The page around an old pending job shows what was slipped in below the newest page."""
    jobs = sim.add_jobs(200)[::-1]
    sim.reopen(jobs[120])
    async with polled(sim, tmp_path) as at:
        slipped = sim.insert(121)
        sim.add_jobs(new)
        await at.poll()
        assert await at.state(slipped) is State.QUEUED
        assert await at.is_open()


def _null(number: int) -> dict[str, Any]:
    return {"created_at": None}


def _garbage(number: int) -> dict[str, Any]:
    return {"created_at": "yesterday"}


def _newer(number: int) -> dict[str, Any]:
    return {"created_at": "2999-01-01T00:00:00Z"}


def _older(number: int) -> dict[str, Any]:
    return {"created_at": "1999-01-01T00:00:00Z"}


def _shuffled(number: int) -> dict[str, Any]:
    at = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(minutes=number * 7919 % 10_007)
    return {"created_at": at.isoformat()}


def _oldest_first(number: int) -> dict[str, Any]:
    return {"created_at": (datetime(2025, 1, 1, tzinfo=UTC) + timedelta(hours=number)).isoformat()}


@pytest.mark.parametrize("is_fresh", [False, True], ids=["listed before", "fresh process"])
@pytest.mark.parametrize(
    ("of_all", "times"),
    [
        pytest.param(False, _null, id="no time"),
        pytest.param(False, _garbage, id="no time that can be read"),
        pytest.param(False, _newer, id="newer than its place"),
        pytest.param(False, _older, id="older than its place"),
        pytest.param(True, _null, id="no times at all"),
        pytest.param(True, _shuffled, id="no order"),
        pytest.param(True, _oldest_first, id="oldest first"),
    ],
)
async def test_a_pending_job_whose_time_tells_nothing_is_followed_and_found(
    of_all: bool,
    times: Callable[[int], dict[str, Any]],
    is_fresh: bool,
    tmp_path: Path,
    sim: Simulator,
) -> None:
    """A search that does not find a job proves nothing; later polls cost no more than usual."""
    jobs = sim.add_jobs(300)[::-1]
    sim.reopen(jobs[200])
    for number, job in enumerate(jobs):
        if of_all or number == 200:
            sim.override(job, **times(number))
    async with polled(sim, tmp_path) as at:
        if is_fresh:
            at.run.history.spots.keep(())
            await at.poll()
        assert [await at.poll() for _ in range(3)] == [2, 2, 2]
        assert at.poller.gone == frozenset()
        sim.add_jobs(0 if of_all else 25)
        sim.finish(jobs[200])
        await at.poll()
        assert await at.state(jobs[200]) is State.QUEUED


async def test_a_job_without_a_time_is_found_again_after_deletions_above_it(
    tmp_path: Path, sim: Simulator
) -> None:
    jobs = sim.add_jobs(300)[::-1]
    sim.reopen(jobs[200])
    sim.override(jobs[200], created_at=None)
    async with polled(sim, tmp_path) as at:
        for job in jobs[50:80]:
            sim.delete(job)
        assert await at.poll() <= 6
        assert await at.poll() == 2


async def test_each_group_of_old_pending_jobs_costs_one_request_after_deletions_between(
    tmp_path: Path, sim: Simulator
) -> None:
    jobs = sim.add_jobs(900)[::-1]
    for rank in (100, 103, 500, 800):
        sim.reopen(jobs[rank])
    async with polled(sim, tmp_path) as at:
        assert [await at.poll() for _ in range(2)] == [4, 4]
        for job in jobs[200:350]:
            sim.delete(job)
        sim.add_jobs(45)
        await at.poll()
        assert [await at.poll() for _ in range(3)] == [4, 4, 4]
        assert at.poller.gone == frozenset()


# ---- jobs that disappear -----------------------------------------------------------------


async def test_a_pending_job_that_disappears_is_gone_after_two_full_passes(
    tmp_path: Path, sim: Simulator
) -> None:
    jobs = sim.add_jobs(300)[::-1]
    sim.reopen(jobs[200])
    async with polled(sim, tmp_path) as at:
        sim.delete(jobs[200])
        await at.poll()
        assert at.poller.gone == frozenset()
        assert at.of(PollCompleted)[-1].records == 299
        await at.poll()
        assert at.poller.gone == {jobs[200]}
        assert [await at.poll() for _ in range(2)] == [1, 1]
        assert [event.id for event in at.of(JobSettled)] == [jobs[200]]
        assert await at.state(jobs[200]) is State.WAITING


async def test_a_pending_job_that_disappears_from_the_newest_page_is_gone_as_well(
    tmp_path: Path, sim: Simulator
) -> None:
    jobs = sim.add_jobs(10)
    sim.reopen(jobs[4])
    async with polled(sim, tmp_path) as at:
        sim.delete(jobs[4])
        for _ in range(2):
            await at.poll()
        assert at.poller.gone == {jobs[4]}
        assert await at.poll() == 1


async def test_the_oldest_job_of_all_can_disappear(tmp_path: Path, sim: Simulator) -> None:
    jobs = sim.add_jobs(100)
    sim.reopen(jobs[0])
    async with polled(sim, tmp_path) as at:
        sim.delete(jobs[0])
        for _ in range(2):
            await at.poll()
        assert at.poller.gone == {jobs[0]}
        assert await at.poll() == 1


async def test_a_pending_job_without_a_time_that_disappears_is_gone(
    tmp_path: Path, sim: Simulator
) -> None:
    jobs = sim.add_jobs(5)
    sim.reopen(jobs[2])
    sim.override(jobs[2], created_at=None)
    async with polled(sim, tmp_path) as at:
        await at.poll()
        assert at.poller.gone == frozenset()
        sim.delete(jobs[2])
        for _ in range(3):
            await at.poll()
        assert at.poller.gone == {jobs[2]}


async def test_a_job_that_comes_back_is_followed_again(tmp_path: Path, sim: Simulator) -> None:
    jobs = sim.add_jobs(10)
    sim.reopen(jobs[4])
    async with polled(sim, tmp_path) as at:
        created_at = sim.job(jobs[4]).created_at
        sim.delete(jobs[4])
        for _ in range(3):
            await at.poll()
        sim.add_job(id=jobs[4], status="pending", created_at=created_at)
        await at.poll()
        assert at.poller.gone == frozenset()


async def test_an_old_job_that_comes_back_is_looked_for_after_a_full_pass(
    tmp_path: Path, sim: Simulator
) -> None:
    jobs = sim.add_jobs(200)[::-1]
    sim.reopen(jobs[120])
    async with polled(sim, tmp_path) as at:
        created_at = sim.job(jobs[120]).created_at
        sim.delete(jobs[120])
        for _ in range(3):
            await at.poll()
        sim.add_job(id=jobs[120], status="pending", created_at=created_at)
        await at.poller.learn(await at.run.list_all())
        assert at.poller.gone == frozenset()
        await at.poll()
        sim.finish(jobs[120])
        await at.poll()
        assert await at.state(jobs[120]) is State.QUEUED


async def test_two_full_passes_settle_what_has_disappeared(tmp_path: Path, sim: Simulator) -> None:
    jobs = sim.add_jobs(100)
    sim.reopen(jobs[0])
    sim.reopen(jobs[50])
    async with polled(sim, tmp_path) as at:
        sim.delete(jobs[50])
        for _ in range(2):
            await at.poller.learn(await at.run.list_all())
        assert at.poller.gone == {jobs[50]}
        assert [event.id for event in at.of(JobSettled)] == [jobs[50]]


async def test_every_full_pass_tells_how_many_records_it_saw(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_jobs(90)
    async with polled(sim, tmp_path) as at:
        await at.run.list_all()
        assert [event.records for event in at.of(PollCompleted)] == [90, 90]


async def test_half_of_the_pending_jobs_can_disappear_at_once(
    tmp_path: Path, sim: Simulator
) -> None:
    jobs = sim.add_jobs(400)[::-1]
    pending = jobs[40:400:20]
    for job in pending:
        sim.reopen(job)
    async with polled(sim, tmp_path) as at:
        for job in pending[::2]:
            sim.delete(job)
        for _ in range(4):
            await at.poll()
        assert at.poller.gone == set(pending[::2])
        for job in pending[1::2]:
            sim.finish(job)
        await at.poll()
        assert {await at.state(job) for job in pending[1::2]} == {State.QUEUED}
