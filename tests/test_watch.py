"""`watch` in this process: what it finds, what it survives, what it says and how it ends."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import sys
import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from raw_server import RawServer
from raw_server import answer as raw_answer
from support import (
    KEY,
    E,
    Ran,
    check_account,
    check_mirror,
    eventually,
    files,
    run,
    settings,
    song,
    unfinished,
)

import fetcher
from fetcher.core import patience
from fetcher.engine import Fetcher
from fetcher.events import (
    DownloadCancelled,
    DownloadCompleted,
    DownloadFailed,
    DownloadFiltered,
    DownloadStarted,
    Event,
    JobFailed,
    JobPending,
    JobProgress,
    JobSettled,
    Notice,
    PollCompleted,
    RunCompleted,
)
from fetcher.files import space
from fetcher.files.places import mtime_ns
from fetcher.report.summary import Collector, Tally, render
from fetcher.simulator import Fault, Serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from raw_server import Request

    from fetcher.simulator import SimRequest, Simulator

PACKAGE = Path(fetcher.__file__).parent
SSE = {"Content-Type": "text/event-stream"}
ENDS = (DownloadCompleted, DownloadFailed, DownloadFiltered, DownloadCancelled)
NEVER = 3600.0  # an interval that no test lives to see the end of


@dataclass(slots=True)
class Watching:
    """A watch under way."""

    fetcher: Fetcher
    events: list[Event]
    task: asyncio.Task[RunCompleted]

    def of(self, kind: type[E]) -> list[E]:
        """Return the events of one kind so far."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def polls(self) -> int:
        """How many polls went well so far."""
        return len(self.of(PollCompleted))

    def said(self, level: str) -> list[str]:
        """Return the notices of one level so far."""
        return [event.message for event in self.of(Notice) if event.level == level]

    async def until(self, fact: Callable[[], bool]) -> None:
        """Return once `fact` is true; raises where the watch ends before."""
        await eventually(lambda: fact() or self.task.done(), within_s=15)
        assert fact(), self.events[-5:]

    async def more_polls(self, count: int) -> None:
        """Return after so many more good polls."""
        target = self.polls + count
        await self.until(lambda: self.polls >= target)

    async def ended(self) -> Ran:
        """Return the run once it has ended by itself, and check what is true of every run."""
        final = await asyncio.wait_for(self.task, 20)
        check_account(final)
        check_ends(self.events)
        assert self.events[-1] is final
        assert ours_running() == []
        return Ran(self.events, final)

    async def stopped(self) -> Ran:
        """Ask it to stop, and return it; it must end in time."""
        loop = asyncio.get_running_loop()
        asked_at_s = loop.time()
        self.fetcher.stop.ask(143)
        ran = await self.ended()
        assert loop.time() - asked_at_s < 5
        return ran


@asynccontextmanager
async def watching(sim: Simulator, dest: Path, **options: Any) -> AsyncIterator[Watching]:
    """Run a watch with short pauses; stop it at the end if it still runs."""
    usual: dict[str, Any] = {"interval": 0.05, "retries": 0}
    watcher = Fetcher(settings(sim.api_url, dest, **(usual | options)))
    events: list[Event] = []
    under_way = Watching(watcher, events, asyncio.create_task(watcher.run_watch(events.append)))
    try:
        yield under_way
    finally:
        if not under_way.task.done():
            await under_way.stopped()


async def until_idle(sim: Simulator, dest: Path, **options: Any) -> Ran:
    """Watch until idle."""
    async with watching(sim, dest, until_idle=True, **options) as at:
        return await at.ended()


def check_ends(events: list[Event]) -> None:
    """Assert that every start of a download has one end before the next start.

    A long run may try a file again, and an attempt may fail before anything arrives.
    """
    under_way: set[tuple[str, str]] = set()
    for event in events:
        if isinstance(event, DownloadStarted):
            assert (event.id, event.variant) not in under_way, f"{event.id} was started twice"
            under_way.add((event.id, event.variant))
        elif isinstance(event, ENDS):
            under_way.discard((event.id, event.variant))
    assert under_way == set()


def summed(events: list[Event]) -> Tally:
    """Return what a summary of these events is made of."""
    collector = Collector()
    for event in events:
        collector(event)
    return collector.tally()


def ours_running() -> list[str]:
    """Return the tasks of fetcher itself, the simulator's aside, that still run."""
    found = []
    for task in asyncio.all_tasks():
        coroutine = task.get_coro()
        code = getattr(coroutine, "cr_code", None)
        place = Path(code.co_filename) if code is not None else Path()
        if PACKAGE in place.parents and PACKAGE / "simulator" not in place.parents:
            found.append(str(coroutine))
    return found


# ---- the ordinary day --------------------------------------------------------------------


async def test_what_is_there_and_what_comes_later_is_fetched(
    sim: Simulator, tmp_path: Path
) -> None:
    sim.add_jobs(3)
    async with watching(sim, tmp_path) as at:
        await at.until(lambda: len(at.of(DownloadCompleted)) == 3)
        sim.add_jobs(2)
        await at.until(lambda: len(at.of(DownloadCompleted)) == 5)
        ran = await at.stopped()
    assert (ran.exit_code, ran.final.downloaded, ran.final.records) == (0, 5, 5)
    check_mirror(sim, tmp_path)
    assert len(sim.audio_requests()) == 5


async def test_a_second_watch_finds_everything_here(sim: Simulator, tmp_path: Path) -> None:
    sim.add_jobs(5)
    first = await until_idle(sim, tmp_path)
    second = await until_idle(sim, tmp_path)
    assert (first.exit_code, first.final.downloaded) == (0, 5)
    assert (second.exit_code, second.final.already, second.final.downloaded) == (0, 5, 0)
    assert len(sim.audio_requests()) == 5


async def test_a_pending_job_is_fetched_without_streams_too(sim: Simulator, tmp_path: Path) -> None:
    job = sim.add_job(status="pending")
    async with watching(sim, tmp_path, live=False) as at:
        await at.until(lambda: at.polls == 2)
        sim.finish(job)
        await at.until(lambda: bool(at.of(DownloadCompleted)))
    assert sim.log.of("progress") == []


async def test_pending_jobs_are_told_once(sim: Simulator, tmp_path: Path) -> None:
    jobs = [sim.add_job(status="pending") for _ in range(3)]
    async with watching(sim, tmp_path) as at:
        await at.more_polls(4)
    assert sorted(event.id for event in at.of(JobPending)) == sorted(jobs)


async def test_a_job_that_goes_to_and_fro_is_told_of_once(sim: Simulator, tmp_path: Path) -> None:
    job = sim.add_job(status="pending")
    async with watching(sim, tmp_path, full_every=0, live=False) as at:
        await at.more_polls(1)
        for status in ("failed", "pending", "failed", "pending"):
            sim.override(job, status=status)
            await at.more_polls(2)
    assert [len(at.of(JobPending)), len(at.of(JobFailed))] == [1, 1]


async def test_done_needs_no_poll(sim: Simulator, tmp_path: Path) -> None:
    job = sim.add_job(status="pending")
    async with watching(sim, tmp_path, interval=NEVER) as at:
        await at.until(lambda: bool(at.of(JobProgress)))
        asked = len(sim.list_requests)
        sim.finish(job)
        await at.until(lambda: bool(at.of(DownloadCompleted)))
        ran = await at.stopped()
    assert len(sim.list_requests) == asked
    assert (ran.final.downloaded, ran.final.pending) == (1, 0)
    check_mirror(sim, tmp_path)


async def test_wake_polls_at_once(sim: Simulator, tmp_path: Path) -> None:
    async with watching(sim, tmp_path, interval=NEVER) as at:
        await at.until(lambda: at.polls == 1)
        sim.add_job()
        at.fetcher.wake()
        await at.until(lambda: bool(at.of(DownloadCompleted)))
        assert at.polls == 2


async def test_a_job_that_the_service_fails_is_told_and_no_failure_of_ours(
    sim: Simulator, tmp_path: Path
) -> None:
    job = sim.add_job(status="pending")
    async with watching(sim, tmp_path, interval=NEVER, until_idle=True) as at:
        await at.until(lambda: bool(at.of(JobProgress)))
        sim.fail(job, "no speech")
        ran = await at.ended()
    assert [(event.id, event.error) for event in ran.of(JobFailed)] == [(job, "no speech")]
    assert (ran.exit_code, ran.final.rejected) == (0, 1)


async def test_the_library_yields_the_same_events(sim: Simulator, tmp_path: Path) -> None:
    sim.add_jobs(2)
    usual = settings(sim.api_url, tmp_path, interval=0.05, until_idle=True)
    async with Fetcher(usual) as watcher:
        events = [event async for event in watcher.watch()]
    assert sum(isinstance(event, DownloadCompleted) for event in events) == 2
    assert isinstance(events[-1], RunCompleted)


async def test_leaving_the_iteration_ends_the_watch(sim: Simulator, tmp_path: Path) -> None:
    sim.add_job(status="pending")
    async with Fetcher(settings(sim.api_url, tmp_path, interval=0.05)) as watcher:
        async for event in watcher.watch():
            if isinstance(event, JobProgress):
                break
    assert ours_running() == []


# ---- until idle --------------------------------------------------------------------------


@pytest.mark.parametrize("live", [True, False], ids=["live", "polls only"])
async def test_until_idle_waits_for_every_job(live: bool, sim: Simulator, tmp_path: Path) -> None:
    for n in range(20):
        sim.add_job(finishes_after_s=0.05 * n)
    ran = await until_idle(sim, tmp_path, live=live)
    assert (ran.exit_code, ran.final.downloaded, ran.final.pending) == (0, 20, 0)
    check_mirror(sim, tmp_path)
    assert len(sim.audio_requests()) == 20
    assert unfinished(tmp_path) == []


async def test_until_idle_on_an_empty_account_ends_at_once(sim: Simulator, tmp_path: Path) -> None:
    ran = await until_idle(sim, tmp_path, interval=NEVER)
    assert (ran.exit_code, ran.final.records) == (0, 0)


async def test_until_idle_says_so_when_a_file_could_not_be_had(
    sim: Simulator, tmp_path: Path
) -> None:
    good, bad = sim.add_jobs(2)
    sim.faults.add(Fault("audio", job=bad, times=None, status=500))
    ran = await until_idle(sim, tmp_path)
    assert (ran.exit_code, ran.final.failed, ran.final.downloaded) == (1, 1, 1)
    assert (await until_idle(sim, tmp_path)).exit_code == 1
    sim.faults.clear()
    assert (await until_idle(sim, tmp_path)).exit_code == 0
    check_mirror(sim, tmp_path)
    assert len(sim.audio_requests(good)) == 1


async def test_until_idle_ignores_pending_jobs_that_filters_leave_out(
    sim: Simulator, tmp_path: Path
) -> None:
    sim.add_job("wanted.wav")
    sim.add_job("other.wav", status="pending")
    ran = await until_idle(sim, tmp_path, match=("wanted*",))
    assert (ran.exit_code, ran.final.downloaded) == (0, 1)


async def test_a_job_that_disappears_does_not_hold_up_the_end(
    sim: Simulator, tmp_path: Path
) -> None:
    sim.add_jobs(3)
    gone = sim.add_job(status="pending")
    async with watching(sim, tmp_path, until_idle=True) as at:
        await at.until(lambda: len(at.of(DownloadCompleted)) == 3)
        await at.more_polls(1)
        sim.delete(gone)
        ran = await at.ended()
    assert (ran.exit_code, ran.final.downloaded, ran.final.pending) == (0, 3, 1)


async def test_a_job_that_disappears_does_not_hold_up_full_passes_either(
    sim: Simulator, tmp_path: Path
) -> None:
    gone = sim.add_job(status="pending")
    async with watching(sim, tmp_path, until_idle=True, full_every=0) as at:
        await at.more_polls(2)
        sim.delete(gone)
        sim.add_job()
        ran = await at.ended()
    assert (ran.exit_code, ran.final.downloaded) == (0, 1)


async def test_after_a_job_has_disappeared_polls_cost_what_they_did(
    sim: Simulator, tmp_path: Path
) -> None:
    jobs = sim.add_jobs(300)[::-1]
    sim.reopen(jobs[250])
    async with watching(sim, tmp_path, page_size=20, live=False) as at:
        await at.more_polls(2)
        sim.delete(jobs[250])
        await at.more_polls(5)
        assert [event.requests for event in at.of(PollCompleted)[-2:]] == [1, 1]


async def test_a_job_of_which_only_the_original_is_tried_is_counted_once(
    sim: Simulator, tmp_path: Path
) -> None:
    """The short poll shows other jobs only: the one with the lost original is further down."""
    sim.add_jobs(3)
    sim.faults.add(Fault("original", times=None, status=404, job=sim.ids[0]))
    for _ in range(2):
        sim.add_job(status="failed")
    options: dict[str, Any] = {"originals": True, "page_size": 1, "retries": 0}
    await run(sim.api_url, tmp_path, **options)
    ran = await until_idle(sim, tmp_path, **options)
    assert (ran.final.failed, ran.final.adopted, ran.final.already) == (1, 0, 0)
    assert ran.final.records == 1 + ran.final.rejected


# ---- streams that lie --------------------------------------------------------------------

HOSTILE: dict[str, Fault] = {
    "html": Fault("progress", times=None, html=True),
    "404": Fault("progress", times=None, status=404),
    "401": Fault("progress", times=None, status=401),
    "500": Fault("progress", times=None, status=500),
    "429": Fault("progress", times=None, status=429),
    "closes at once": Fault("progress", times=None, disconnect=True),
    "closes early": Fault("progress", times=None, cut_after_bytes=20),
    "reset": Fault("progress", times=None, cut_after_bytes=20, reset=True),
    "empty": Fault("progress", times=None, body=b"", headers=SSE),
    "never speaks": Fault("progress", times=None, stall_after_bytes=0),
    "no answer": Fault("progress", times=None, delay_s=600),
    "json, not events": Fault("progress", times=None, body='{"stage":"done","url":"x"}'),
    "not utf-8": Fault("progress", times=None, body=b"data: \xff\xfe\n\n" * 9, headers=SSE),
    "not json": Fault("progress", times=None, body=b"data: done\n\ndata: {\n\n", headers=SSE),
    "no object": Fault("progress", times=None, body=b"data: [1]\n\ndata: 7\n\n", headers=SSE),
    "no line end": Fault("progress", times=None, body=b"data: " + b"x" * 300_000, headers=SSE),
    "deep json": Fault("progress", times=None, body=b"data: " + b"[" * 60_000, headers=SSE),
    "unknown stages": Fault(
        "progress",
        times=None,
        body=b'data: {"stage":"warming"}\n\ndata: {"stage":null}\n\ndata: {"stage":["done"]}\n\n',
        headers=SSE,
    ),
    "done without a link": Fault(
        "progress", times=None, body=b'data: {"stage":"done","url":null}\n\n', headers=SSE
    ),
    "done with a file link": Fault(
        "progress", times=None, body=b'data: {"stage":"done","url":"file:///x"}\n\n', headers=SSE
    ),
    "an error that is none": Fault(
        "progress", times=None, body=b'data: {"stage":"error","message":"no"}\n\n', headers=SSE
    ),
}


@pytest.mark.parametrize("fault", HOSTILE.values(), ids=HOSTILE)
async def test_polling_delivers_whatever_the_stream_says(
    fault: Fault, sim: Simulator, tmp_path: Path
) -> None:
    job = sim.add_job(status="pending")
    sim.faults.add(fault)
    async with watching(sim, tmp_path, timeout=1, until_idle=True) as at:
        await at.until(lambda: sim.faults.fired(fault) > 0)
        await at.more_polls(2)
        sim.finish(job)
        ran = await at.ended()
    assert (ran.exit_code, ran.final.downloaded) == (0, 1)
    assert ran.of(Notice) == []
    assert sim.faults.fired(fault) <= 2
    check_mirror(sim, tmp_path)


async def test_percentages_stay_within_bounds(sim: Simulator, tmp_path: Path) -> None:
    said = ["-5", "250", "1e400", "-1e400", "NaN", "true", '"50"', "null", "[]", "33.5"]
    body = "".join(f'data: {{"stage":"processing","pct":{pct}}}\n\n' for pct in said)
    sim.add_job(status="pending")
    sim.faults.add(Fault("progress", body=body, headers=SSE))
    async with watching(sim, tmp_path) as at:
        await at.until(lambda: any(event.pct == 33.5 for event in at.of(JobProgress)))
    assert {event.pct for event in at.of(JobProgress)} == {0.0, 100.0, 33.5}


async def test_done_is_fetched_while_the_list_still_says_pending(
    sim: Simulator, tmp_path: Path
) -> None:
    job = sim.add_job(status="pending")
    sim.override(job, status="pending", audio_url=None)
    async with watching(sim, tmp_path, until_idle=True) as at:
        await at.until(lambda: bool(at.of(JobProgress)))
        sim.finish(job)
        ran = await at.ended()
    assert (ran.exit_code, ran.final.downloaded, ran.final.pending) == (0, 1, 0)
    check_mirror(sim, tmp_path)
    again = await until_idle(sim, tmp_path)
    assert (again.exit_code, again.final.already) == (0, 1)
    assert len(sim.audio_requests()) == 1


async def test_done_is_fetched_although_the_list_already_says_failed(
    sim: Simulator, tmp_path: Path
) -> None:
    job = sim.add_job(status="pending")
    async with watching(sim, tmp_path, interval=NEVER) as at:
        await at.until(lambda: bool(at.of(JobProgress)))
        sim.override(job, status="failed", error="lost", audio_url=None)
        sim.finish(job)
        await at.until(lambda: bool(at.of(DownloadCompleted)))
        for _ in range(2):
            at.fetcher.wake()
            await at.more_polls(1)
        ran = await at.stopped()
    assert (ran.final.downloaded, ran.final.rejected) == (1, 0)
    check_mirror(sim, tmp_path)


async def test_done_said_twice_is_fetched_once(sim: Simulator, tmp_path: Path) -> None:
    job = sim.add_job()
    url = sim.url(job)
    done = f'data: {{"stage":"done","url":"{url}","denoiseId":"{job}"}}\n\n'
    sim.override(job, status="pending", audio_url=None)
    sim.faults.add(Fault("progress", times=None, body=done * 3, headers=SSE))
    async with watching(sim, tmp_path) as at:
        await at.until(lambda: bool(at.of(DownloadCompleted)))
        await at.more_polls(3)
    assert len(sim.audio_requests(job)) == 1
    assert len(at.of(DownloadStarted)) == 1


async def test_done_too_early_costs_no_more_than_a_poll(sim: Simulator, tmp_path: Path) -> None:
    """The stream names a link that does not exist yet; the list later has the right one."""
    job = sim.add_job(status="pending")
    early = f'data: {{"stage":"done","url":"{sim.host_url}/audio/none/clean.wav"}}\n\n'
    fault = Fault("progress", times=None, body=early, headers=SSE)
    sim.faults.add(fault)
    async with watching(sim, tmp_path) as at:
        await at.until(lambda: bool(at.of(DownloadCancelled)))
        sim.faults.clear()
        sim.finish(job)
        await at.until(lambda: bool(at.of(DownloadCompleted)))
        ran = await at.stopped()
    assert (ran.final.downloaded, ran.final.failed) == (1, 0)
    check_mirror(sim, tmp_path)


async def test_a_done_whose_file_is_not_there_yet_leaves_the_job_pending(
    sim: Simulator, tmp_path: Path
) -> None:
    """Deep in the history, where only polls for pending jobs look, and without another time."""
    jobs = sim.add_jobs(60)
    early = f'data: {{"stage":"done","url":"{sim.host_url}/audio/none/clean.wav"}}\n\n'
    sim.override(jobs[5], status="pending", audio_url=None)
    sim.faults.add(Fault("progress", times=None, body=early, headers=SSE))
    async with watching(sim, tmp_path, until_idle=True, page_size=10) as at:
        await at.until(lambda: bool(at.of(DownloadCancelled)))
        await at.more_polls(3)
        assert not at.task.done()  # the list says pending, so it is not idle
        assert at.of(PollCompleted)[-1].pending == 1
        asked = len(sim.log.of("progress"))
        await at.more_polls(10)
        assert len(sim.log.of("progress")) == asked  # not again at once
        sim.override(jobs[5], status="success", audio_url=sim.url(jobs[5]))
        ran = await at.ended()
    assert (ran.exit_code, ran.final.downloaded, ran.final.failed) == (0, 60, 0)
    assert ran.of(DownloadFailed) == []
    check_mirror(sim, tmp_path)


@pytest.mark.parametrize("now", ["pending", "failed"])
async def test_a_done_whose_file_never_comes_is_no_failure_of_ours(
    now: str, sim: Simulator, tmp_path: Path
) -> None:
    job = sim.add_job(status="pending")
    early = f'data: {{"stage":"done","url":"{sim.host_url}/audio/none/clean.wav"}}\n\n'
    sim.faults.add(Fault("progress", times=None, body=early, headers=SSE))
    async with watching(sim, tmp_path, until_idle=True) as at:
        await at.until(lambda: bool(at.of(DownloadCancelled)))
        if now == "failed":
            sim.fail(job)
        ran = await (at.ended() if now == "failed" else at.stopped())
    final = ran.final
    assert (ran.exit_code, final.failed) == (0 if now == "failed" else 143, 0)
    assert (final.pending, final.rejected) == ((0, 1) if now == "failed" else (1, 0))
    assert ran.of(DownloadFailed) == []
    assert "Could not be fetched" not in render(summed(ran.events))


async def test_a_done_whose_link_has_expired_is_fetched_with_a_fresh_one(
    sim: Simulator, tmp_path: Path
) -> None:
    job = sim.add_job()
    stale = f'data: {{"stage":"done","url":"{sim.url(job)}","denoiseId":"{job}"}}\n\n'
    sim.expire_links()
    sim.override(job, status="pending", audio_url=None)
    sim.faults.add(Fault("progress", times=1, body=stale, headers=SSE))
    async with watching(sim, tmp_path) as at:
        await at.until(lambda: bool(at.of(DownloadCompleted)))
    assert at.of(DownloadFailed) == []
    check_mirror(sim, tmp_path)


async def test_many_streams_that_ask_for_a_poll_bring_few(sim: Simulator, tmp_path: Path) -> None:
    """The list lags behind all of them."""
    for _ in range(30):
        sim.add_job(status="pending")
    error = b'data: {"stage":"error","message":"no"}\n\n'
    sim.faults.add(Fault("progress", times=None, body=error, headers=SSE))
    async with watching(sim, tmp_path, interval=NEVER) as at:
        await at.until(lambda: len(at.of(JobSettled)) >= 20)
        assert at.polls <= 2


async def test_no_stream_is_opened_while_polls_fail(sim: Simulator, tmp_path: Path) -> None:
    for _ in range(60):
        sim.add_job(status="pending")
    sim.faults.add(Fault("progress", times=None, body=b"", headers=SSE))
    async with watching(sim, tmp_path, interval=0.02) as at:
        down = Fault("list", times=None, status=503, when=lambda _: at.polls > 0)
        sim.faults.add(down)
        await at.until(lambda: sim.faults.fired(down) >= 5)
        assert len(sim.log.of("progress")) == 8


async def test_streams_are_bounded(sim: Simulator, tmp_path: Path) -> None:
    for _ in range(30):
        sim.add_job(status="pending")
    async with watching(sim, tmp_path) as at:
        await at.more_polls(5)
        open_now = [request for request in sim.log.of("progress") if request.status == 0]
        assert len(open_now) == len(sim.log.of("progress")) == 8


# ---- outages -----------------------------------------------------------------------------


@pytest.mark.parametrize("down", [True, 503, 500, 429], ids=["closed", "503", "500", "429"])
async def test_an_outage_is_told_once_and_caught_up_with(
    down: bool | int, sim: Simulator, tmp_path: Path
) -> None:
    sim.add_jobs(2)
    async with watching(sim, tmp_path, interval=0.01, retries=1) as at:
        await at.until(lambda: len(at.of(DownloadCompleted)) == 2)
        sim.api_down = down
        asked = len(sim.list_requests)
        await at.until(lambda: len(sim.list_requests) >= asked + 10)
        assert len(at.said("ERROR")) == 1
        assert len(at.said("WARNING")) <= 1
        assert "atching goes on" in at.said("ERROR")[0]
        sim.add_job()
        sim.api_down = False
        await at.until(lambda: len(at.of(DownloadCompleted)) == 3)
        await at.until(lambda: bool(at.said("INFO")))  # the poll may end after the file is here
        assert at.said("INFO") == ["the API answers again"]
        ran = await at.stopped()
    assert ran.exit_code == 0
    check_mirror(sim, tmp_path)


@pytest.mark.parametrize("on", ["list", "progress"])
@pytest.mark.parametrize("retries", [0, 5])
async def test_a_retry_after_from_the_api_holds_back_polls_and_streams(
    on: Literal["list", "progress"], retries: int, sim: Simulator, tmp_path: Path
) -> None:
    for _ in range(3):
        sim.add_job(status="pending")
    busy_at_s: list[float] = []

    def is_busy(request: SimRequest) -> bool:
        if request.kind != on or len(sim.list_requests) < 3:
            return False
        busy_at_s.append(request.at_s)
        return True

    sim.faults.add(Fault(status=429, headers={"Retry-After": "1"}, when=is_busy))
    async with watching(sim, tmp_path, interval=0.02, retries=retries) as at:
        if on == "progress":
            await at.until(lambda: at.polls >= 3)
            sim.add_job(status="pending")  # its stream is the one that is refused
        await at.until(lambda: bool(busy_at_s) and sim.requests[-1].at_s > busy_at_s[0] + 0.5)
    held = [r for r in sim.requests if busy_at_s[0] + 0.2 < r.at_s < busy_at_s[0] + 0.95]
    assert held == []


async def test_whoever_asks_for_a_poll_is_not_held_back(sim: Simulator, tmp_path: Path) -> None:
    sim.faults.add(Fault("list", after=1, status=503, headers={"Retry-After": "3600"}))
    async with watching(sim, tmp_path, interval=0.02) as at:
        await at.until(lambda: bool(at.said("ERROR")))
        sim.add_job()
        at.fetcher.wake()
        await at.until(lambda: bool(at.of(DownloadCompleted)))


@pytest.mark.parametrize(
    "page",
    [
        Fault("list", times=None, html=True),
        Fault("list", times=None, body='[{"id": "a", "status"'),
        Fault("list", times=None, body=""),
        Fault("list", times=None, body='{"data": null}'),
        Fault("list", times=None, cut_after_bytes=10),
        Fault("list", times=None, status=404),
        Fault("list", times=None, status=302, headers={"Location": "https://example.com/"}),
    ],
    ids=["html", "half", "nothing", "no list", "cut", "404", "redirected away"],
)
async def test_pages_that_are_none_are_an_outage_too(
    page: Fault, sim: Simulator, tmp_path: Path
) -> None:
    sim.add_jobs(2)
    async with watching(sim, tmp_path, interval=0.01) as at:
        await at.until(lambda: len(at.of(DownloadCompleted)) == 2)
        sim.faults.add(page)
        await at.until(lambda: sim.faults.fired(page) >= 5)
        assert len(at.said("ERROR")) == 1
        sim.faults.clear()
        sim.add_job()
        await at.until(lambda: len(at.of(DownloadCompleted)) == 3)
    check_mirror(sim, tmp_path)


async def test_an_outage_with_many_faces_is_told_once(sim: Simulator, tmp_path: Path) -> None:
    """A gateway that answers 502, 503, 504 or nothing in turn is one outage."""
    sim.add_job()
    faces = [Fault("list", status=status) for status in (502, 503, 504, 429, 500, 502)]
    async with watching(sim, tmp_path, interval=0.01) as at:
        await at.until(lambda: bool(at.of(DownloadCompleted)))
        for face in faces:
            sim.faults.add(face)
            await at.until(partial(_has_fired, sim, face))
        assert len(at.said("ERROR")) == 1


def _has_fired(sim: Simulator, fault: Fault) -> bool:
    return sim.faults.fired(fault) > 0


async def test_a_long_outage_is_noticed_to_be_over_within_twenty_intervals(
    sim: Simulator, tmp_path: Path
) -> None:
    sim.add_job()
    sim.api_down = True
    async with watching(sim, tmp_path, interval=0.01) as at:
        await at.until(lambda: len(sim.list_requests) >= 14)  # doubling goes beyond a minute
        sim.api_down = False
        await eventually(lambda: bool(at.of(DownloadCompleted)), within_s=2)


async def test_what_was_given_up_in_an_outage_is_fetched_after_it(
    sim: Simulator, tmp_path: Path
) -> None:
    sim.add_jobs(2)
    sim.host_down = True
    async with watching(sim, tmp_path, interval=0.02) as at:
        await at.until(lambda: len(at.of(DownloadFailed)) == 2)
        sim.api_down = True
        await at.until(lambda: bool(at.said("ERROR")))
        sim.host_down = False
        sim.api_down = False
        await at.until(lambda: len(at.of(DownloadCompleted)) == 2)
        ran = await at.stopped()
    assert (ran.final.downloaded, ran.final.failed) == (2, 0)
    check_mirror(sim, tmp_path)


async def test_what_was_given_up_while_only_the_host_was_down_is_taken_up_later(
    sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "RELOOK_S", 0.1)
    sim.add_jobs(2)
    sim.host_down = True
    async with watching(sim, tmp_path) as at:
        await at.until(lambda: len(at.of(DownloadFailed)) == 2)
        sim.host_down = False
        await at.until(lambda: len(at.of(DownloadCompleted)) == 2)
        ran = await at.stopped()
    assert (ran.final.downloaded, ran.final.failed) == (2, 0)
    check_mirror(sim, tmp_path)


async def test_an_outage_from_the_start_is_waited_out(sim: Simulator, tmp_path: Path) -> None:
    sim.add_jobs(3)
    sim.api_down = True
    async with watching(sim, tmp_path) as at:
        await at.until(lambda: bool(at.said("ERROR")))
        sim.api_down = False
        await at.until(lambda: len(at.of(DownloadCompleted)) == 3)


async def test_what_an_earlier_run_left_is_fetched_while_the_api_is_down(
    sim: Simulator, tmp_path: Path
) -> None:
    jobs = sim.add_jobs(3)
    sim.host_down = True
    assert (await until_idle(sim, tmp_path)).final.failed == 3
    sim.host_down = False
    sim.api_down = True
    async with watching(sim, tmp_path) as at:
        await at.until(lambda: len(at.of(DownloadCompleted)) == len(jobs))


@pytest.mark.parametrize("down", [True, 502], ids=["closed", "502"])
async def test_until_idle_gives_up_where_the_api_never_answered(
    down: bool | int, sim: Simulator, tmp_path: Path
) -> None:
    sim.api_down = down
    assert (await until_idle(sim, tmp_path)).exit_code == 4


async def test_until_idle_waits_out_a_short_outage(sim: Simulator, tmp_path: Path) -> None:
    job = sim.add_job(status="pending")
    async with watching(sim, tmp_path, until_idle=True, live=False) as at:
        await at.more_polls(2)
        sim.api_down = True
        await at.until(lambda: bool(at.said("ERROR")))
        sim.finish(job)
        sim.api_down = False
        ran = await at.ended()
    assert (ran.exit_code, ran.final.downloaded) == (0, 1)


@pytest.mark.parametrize("host_answers", [True, False], ids=["host back", "host still down"])
async def test_until_idle_takes_up_what_was_given_up_in_an_outage_once_it_is_over(
    host_answers: bool, sim: Simulator, tmp_path: Path
) -> None:
    """With the first answer the account looks idle: nothing is pending, nothing is queued."""
    sim.add_jobs(2)
    job = sim.add_job(status="pending")
    sim.host_down = True
    async with watching(sim, tmp_path, until_idle=True, live=False) as at:
        await at.until(lambda: len(at.of(DownloadFailed)) == 2)
        sim.api_down = True
        await at.until(lambda: bool(at.said("ERROR")))
        sim.fail(job)
        sim.host_down = not host_answers
        sim.api_down = False
        ran = await at.ended()
    told = (ran.final.downloaded, ran.final.failed, len(at.of(DownloadFailed)), ran.exit_code)
    assert told == ((2, 0, 2, 0) if host_answers else (0, 2, 4, 1))


async def test_a_listing_that_broke_between_new_pages_misses_nothing(
    sim: Simulator, tmp_path: Path
) -> None:
    sim.add_jobs(30)
    async with watching(sim, tmp_path, page_size=10) as at:
        await at.until(lambda: len(at.of(DownloadCompleted)) == 30)
        sim.faults.add(
            Fault("list", times=3, status=500, when=lambda r: "offset=0&" not in r.target)
        )
        sim.add_jobs(35)
        await at.until(lambda: len(at.of(DownloadCompleted)) == 65)
    check_mirror(sim, tmp_path)
    assert len(sim.audio_requests()) == 65


async def test_a_history_that_is_suddenly_empty_is_waited_out(
    sim: Simulator, tmp_path: Path
) -> None:
    sim.add_jobs(3)
    async with watching(sim, tmp_path) as at:
        await at.until(lambda: len(at.of(DownloadCompleted)) == 3)
        empty = Fault("list", times=None, body="[]")
        sim.faults.add(empty)
        await at.until(lambda: sim.faults.fired(empty) >= 3)
        assert len(at.said("ERROR")) == 1
        assert "nothing was forgotten" in at.said("ERROR")[0]
        sim.faults.clear()
        sim.add_job()
        await at.until(lambda: len(at.of(DownloadCompleted)) == 4)
        ran = await at.stopped()
    assert (ran.exit_code, ran.final.records) == (0, 4)
    assert len(sim.audio_requests()) == 4


async def test_until_idle_ends_with_4_on_a_history_that_is_suddenly_empty(
    sim: Simulator, tmp_path: Path
) -> None:
    sim.add_jobs(3)
    await until_idle(sim, tmp_path)
    sim.faults.add(Fault("list", times=None, body="[]"))
    assert (await until_idle(sim, tmp_path)).exit_code == 4
    sim.faults.clear()
    again = await until_idle(sim, tmp_path)
    assert (again.exit_code, again.final.already, len(sim.audio_requests())) == (0, 3, 3)


# ---- the key -----------------------------------------------------------------------------


async def test_a_rotated_key_heals_a_refused_one(sim: Simulator, tmp_path: Path) -> None:
    sim.add_jobs(2)
    sim.key = "the-new-one"
    key_file = tmp_path / "key"
    key_file.write_text("the-old-one\n")
    options: dict[str, Any] = {"interval": 0.02, "api_key_file": key_file, "api_key": None}
    async with _keyed(sim, tmp_path / "dest", options) as at:
        await at.until(lambda: len(sim.list_requests) >= 2)
        assert len(at.said("ERROR")) == 1
        assert "the-old-one" not in repr(at.events)
        key_file.write_text("the-new-one\n")
        await at.until(lambda: len(at.of(DownloadCompleted)) == 2)
        ran = await at.stopped()
    assert ran.exit_code == 0
    assert "the-new-one" not in repr(ran.events)


async def test_until_idle_ends_with_3_where_the_key_is_refused(
    sim: Simulator, tmp_path: Path
) -> None:
    sim.key = "another"
    ran = await until_idle(sim, tmp_path)
    assert ran.exit_code == 3
    assert KEY not in repr(ran.events)


@asynccontextmanager
async def _keyed(sim: Simulator, dest: Path, options: dict[str, Any]) -> AsyncIterator[Watching]:
    usual = settings(sim.api_url, dest, retries=0).model_dump() | options
    watcher = Fetcher(fetcher.Settings(**usual))
    events: list[Event] = []
    at = Watching(watcher, events, asyncio.create_task(watcher.run_watch(events.append)))
    try:
        yield at
    finally:
        if not at.task.done():
            await at.stopped()


# ---- files that will not come ------------------------------------------------------------


async def test_a_file_that_failed_is_tried_again_by_the_next_full_pass(
    sim: Simulator, tmp_path: Path
) -> None:
    job = sim.add_job()
    sim.host_down = True
    async with watching(sim, tmp_path, full_every=0.2) as at:
        await at.until(lambda: bool(at.of(DownloadFailed)))
        sim.host_down = False
        await at.until(lambda: bool(at.of(DownloadCompleted)))
        ran = await at.stopped()
    assert (ran.final.downloaded, ran.final.failed) == (1, 0)
    assert len(ran.of(DownloadCompleted)) == 1
    assert files(tmp_path)
    assert sim.job(job).status == "success"


async def test_short_polls_do_not_try_a_failed_file_again(sim: Simulator, tmp_path: Path) -> None:
    job = sim.add_job()
    sim.faults.add(Fault("audio", times=None, status=500))
    async with watching(sim, tmp_path) as at:
        await at.until(lambda: bool(at.of(DownloadFailed)))
        asked = len(sim.audio_requests(job))
        await at.more_polls(5)
        assert len(sim.audio_requests(job)) == asked


async def test_a_service_failure_that_turns_success_is_found_by_the_next_full_pass(
    sim: Simulator, tmp_path: Path
) -> None:
    jobs = sim.add_jobs(60)[::-1]
    sim.fail(jobs[50])
    async with watching(sim, tmp_path, page_size=10, full_every=0.5) as at:
        await at.until(lambda: len(at.of(DownloadCompleted)) == 59)
        sim.finish(jobs[50])
        await at.until(lambda: len(at.of(DownloadCompleted)) == 60)
        ran = await at.stopped()
    assert (ran.final.downloaded, ran.final.rejected) == (60, 0)
    check_mirror(sim, tmp_path)


async def _retry(dest: Path) -> None:
    """Run `fetcher retry`."""
    other = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fetcher", "retry", "-d", str(dest)),
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert await other.wait() == 0


async def test_retry_from_another_process_is_taken_up_at_once(
    sim: Simulator, tmp_path: Path
) -> None:
    sim.add_jobs(2)
    sim.host_down = True
    async with watching(sim, tmp_path, interval=NEVER) as at:
        await at.until(lambda: len(at.of(DownloadFailed)) == 2)
        sim.host_down = False
        asked = len(sim.list_requests)
        await _retry(tmp_path)
        await at.until(lambda: len(at.of(DownloadCompleted)) == 2)
        ran = await at.stopped()
    assert len(sim.list_requests) == asked
    assert (ran.final.downloaded, ran.final.failed, ran.final.pending) == (2, 0, 0)
    check_mirror(sim, tmp_path)


@pytest.mark.parametrize("how", ["full pass", "retry"])
async def test_a_file_under_way_is_not_queued_once_more(
    how: str, sim: Simulator, tmp_path: Path
) -> None:
    """It failed in an earlier run and is being fetched now, slowly."""
    job = sim.add_job(size_bytes=60_000)
    sim.host_down = True
    assert (await until_idle(sim, tmp_path)).exit_code == 1
    sim.host_down = False
    sim.serve(job, Serving(rate_bytes_s=30_000))
    full_every = 0 if how == "full pass" else 86_400
    asked = len(sim.audio_requests(job))
    async with watching(sim, tmp_path, full_every=full_every) as at:
        await at.until(lambda: len(sim.audio_requests(job)) > asked)
        if how == "retry":
            await _retry(tmp_path)
        await at.until(lambda: bool(at.of(DownloadCompleted)))
        await at.more_polls(3)
        ran = await at.stopped()
    assert len(sim.audio_requests(job)) == asked + 1
    assert (ran.final.downloaded, ran.final.failed, ran.final.pending) == (1, 0, 0)
    check_mirror(sim, tmp_path)


@pytest.mark.parametrize("now", ["pending", "failed"])
async def test_a_watch_follows_a_job_that_the_list_takes_back_after_its_file_failed(
    now: str, sim: Simulator, tmp_path: Path
) -> None:
    job = sim.add_job()
    other = sim.add_job(status="pending")
    fault = Fault("audio", job=job, times=None, status=404)
    sim.faults.add(fault)
    async with watching(sim, tmp_path, until_idle=True, live=False) as at:
        await at.until(lambda: bool(at.of(DownloadFailed)))
        sim.override(job, status=now, audio_url=None)
        await at.more_polls(2)
        sim.faults.remove(fault)
        sim.finish(other)
        if now == "pending":
            await at.until(lambda: len(at.of(DownloadCompleted)) == 1)
            await at.more_polls(2)
            assert not at.task.done()
            sim.override(job, status="success", audio_url=sim.url(job))
        ran = await at.ended()
    final = ran.final
    assert (ran.exit_code, final.failed, final.pending) == (0, 0, 0)
    assert (final.downloaded, final.rejected) == ((2, 0) if now == "pending" else (1, 1))


@asynccontextmanager
async def slow_host(body: bytes, sent: int) -> AsyncIterator[tuple[RawServer, asyncio.Event]]:
    """Serve half of a body at once, and the next bytes up to `sent` once the event is set."""
    go_on = asyncio.Event()

    async def reply(_: Request, writer: asyncio.StreamWriter) -> None:
        whole = raw_answer(body, headers=("Content-Type: audio/wav", 'ETag: "v1"'))
        writer.write(whole[: len(body) // 2])
        await go_on.wait()
        writer.write(whole[len(body) // 2 : len(whole) - len(body) + sent])
        writer.close()

    async with RawServer(reply) as host:
        yield host, go_on


@pytest.mark.parametrize("size_bytes", [60_000, 600_000])
@pytest.mark.parametrize("comes", [True, False])
@pytest.mark.parametrize("turns", [["failed"], ["failed", "success"], ["pending", "success"]])
async def test_a_file_under_way_of_a_job_that_the_list_takes_back_is_fetched_once(
    turns: list[str], size_bytes: int, sim: Simulator, tmp_path: Path, *, comes: bool
) -> None:
    """Though the list may give the job again meanwhile; and it is kept if it comes."""
    job, body = sim.add_job(), song(size_bytes)
    async with (
        slow_host(body, size_bytes if comes else size_bytes - 9) as (host, go_on),
        watching(sim, tmp_path, live=False, concurrency=4) as at,
    ):
        url = f"{host.origin}/a.wav"
        sim.override(job, audio_url=url, audio_duration=None)
        await at.until(lambda: bool(host.requests))
        for turn in turns:
            sim.override(job, status=turn, audio_url=url if turn == "success" else None)
            await at.more_polls(2)
        go_on.set()
        await at.until(lambda: any(isinstance(one, ENDS) for one in at.events))
        await at.more_polls(2)
        ran = await at.stopped()
        assert len(host.requests) == 1
    final = ran.final
    is_failed = not comes and turns[-1] == "success"
    assert (final.downloaded, final.failed) == (comes, is_failed)
    assert final.rejected == (not comes and not is_failed)
    assert list(files(tmp_path).values()) == ([body] if comes else [])


@pytest.mark.parametrize("before", ["2025-01-01T00:00:00Z", None])
async def test_a_file_bears_the_time_that_its_job_has_when_it_has_come(
    before: str | None, sim: Simulator, tmp_path: Path
) -> None:
    job, body = sim.add_job(), song(60_000)
    async with (
        slow_host(body, len(body)) as (host, go_on),
        watching(sim, tmp_path, live=False, until_idle=True) as at,
    ):
        url = f"{host.origin}/a.wav"
        sim.override(job, audio_url=url, audio_duration=None, updated_at=before)
        await at.until(lambda: bool(host.requests))
        sim.override(job, updated_at="2026-03-04T05:06:07.080910Z")
        await at.more_polls(2)
        go_on.set()
        ran = await at.ended()
    [done] = ran.of(DownloadCompleted)
    found = (tmp_path / done.path).stat().st_mtime_ns
    assert found == mtime_ns(datetime(2026, 3, 4, 5, 6, 7, 80910, tzinfo=UTC))


async def test_links_that_expired_since_the_listing_are_renewed(
    sim: Simulator, tmp_path: Path
) -> None:
    sim.add_jobs(6, serving=Serving(rate_bytes_s=40_000))
    async with watching(sim, tmp_path, concurrency=1, interval=NEVER) as at:
        await at.until(lambda: len(at.of(DownloadCompleted)) == 1)
        sim.expire_links()
        await at.until(lambda: len(at.of(DownloadCompleted)) == 6)
        assert at.of(DownloadFailed) == []
    check_mirror(sim, tmp_path)


async def test_max_downloads_holds_over_the_whole_watch(sim: Simulator, tmp_path: Path) -> None:
    sim.add_jobs(5)
    async with watching(sim, tmp_path, max_downloads=2) as at:
        await at.until(lambda: len(at.of(DownloadCompleted)) == 2)
        sim.add_jobs(2)
        await at.more_polls(4)
        ran = await at.stopped()
    assert (ran.final.downloaded, ran.final.filtered) == (2, 5)


# ---- local storage -----------------------------------------------------------------------


async def test_a_full_disk_pauses_downloads_and_is_told_once(
    sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sim.add_jobs(3)
    free = {"bytes": 10}
    monkeypatch.setattr(space, "free_bytes", lambda _: free["bytes"])
    async with watching(sim, tmp_path, min_free=1000) as at:
        await at.until(lambda: bool(at.said("ERROR")))
        await at.more_polls(5)
        [told] = at.said("ERROR")
        assert "Not enough space" in told
        assert at.of(DownloadCompleted) == []
        free["bytes"] = 10**12
        await at.until(lambda: len(at.of(DownloadCompleted)) == 3)
        await at.until(lambda: at.said("INFO") == ["there is room again: downloading goes on"])
        ran = await at.stopped()
    assert (ran.exit_code, ran.final.downloaded) == (0, 3)
    check_mirror(sim, tmp_path)


async def test_a_disk_that_fills_up_at_the_last_moment_pauses_downloads(
    sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Putting a file in place can fail as writing it can."""
    sim.add_jobs(3)
    is_full = threading.Event()
    is_full.set()

    def free_bytes(_: Path) -> int:
        is_sealing = threading.current_thread().name.startswith("seal")
        return 10 if is_sealing and is_full.is_set() else 10**12

    monkeypatch.setattr(space, "free_bytes", free_bytes)
    async with watching(sim, tmp_path, min_free=1000) as at:
        await at.until(lambda: bool(at.said("ERROR")))
        await at.more_polls(3)
        assert len(at.said("ERROR")) == 1
        is_full.clear()
        await at.until(lambda: len(at.of(DownloadCompleted)) == 3)
        ran = await at.stopped()
    assert (ran.exit_code, ran.final.downloaded) == (0, 3)
    check_mirror(sim, tmp_path)


async def test_a_file_that_does_not_fit_is_told_once_however_often_it_is_tried(
    sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is room, but not for this file: looking for room alone finds some each time."""
    large = sim.add_job(size_bytes=900_000)
    monkeypatch.setattr(space, "free_bytes", lambda _: 500_000)
    async with watching(sim, tmp_path, interval=0.01, min_free=1000) as at:
        await at.until(lambda: len(sim.audio_requests(large)) >= 3)
        assert len(at.said("ERROR")) == 1
        assert at.said("INFO") == []


async def test_until_idle_ends_with_6_where_the_disk_is_full(
    sim: Simulator, tmp_path: Path
) -> None:
    sim.add_jobs(2)
    ran = await until_idle(sim, tmp_path, min_free="1000000T")
    assert (ran.exit_code, ran.final.pending) == (6, 2)
    assert (await until_idle(sim, tmp_path)).exit_code == 0


async def test_a_manifest_that_is_damaged_meanwhile_ends_the_watch(
    sim: Simulator, tmp_path: Path
) -> None:
    sim.add_jobs(30)
    async with watching(sim, tmp_path) as at:
        await at.until(lambda: len(at.of(DownloadCompleted)) == 30)
        manifest = tmp_path / ".fetcher" / "manifest.db"
        other = sqlite3.connect(manifest)
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        other.execute("PRAGMA writable_schema = ON")
        other.execute("UPDATE sqlite_schema SET sql = 'CREATE nonsense' WHERE name = 'entry'")
        other.execute("PRAGMA schema_version = 999")  # so that others read it anew
        other.commit()
        other.close()
        sim.add_jobs(3)
        ran = await at.ended()
    assert ran.exit_code == 6
    assert any(str(manifest) in message for message in at.said("ERROR"))


@pytest.mark.parametrize("lost", ["", ".fetcher", ".fetcher/lock", ".fetcher/manifest.db"])
async def test_a_destination_that_is_no_longer_ours_ends_the_watch(
    lost: str, sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "100000")  # it is looked at as often as that asks for
    dest = tmp_path / "dest"
    sim.add_job()
    async with watching(sim, dest) as at:
        await at.until(lambda: bool(at.of(DownloadCompleted)))
        (dest / lost).rename(tmp_path / "elsewhere")
        dest.mkdir(exist_ok=True)
        ran = await at.ended()
    assert ran.exit_code == 6
    [told] = [message for message in at.said("ERROR") if "start again" in message]
    assert str(dest / ".fetcher") in told


async def test_a_destination_that_is_away_for_a_while_does_not_end_the_watch(
    sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    dest = tmp_path / "dest"
    async with watching(sim, dest) as at:
        await at.more_polls(1)
        dest.rename(tmp_path / "away")
        await at.more_polls(4)
        (tmp_path / "away").rename(dest)
        sim.add_job()
        await at.until(lambda: bool(at.of(DownloadCompleted)))
    check_mirror(sim, dest)


# ---- time --------------------------------------------------------------------------------


@pytest.mark.parametrize("size_bytes", [3_000, 600_000])
async def test_a_folder_of_unfinished_files_that_is_removed_meanwhile_is_made_anew(
    size_bytes: int, sim: Simulator, tmp_path: Path
) -> None:
    sim.add_job(size_bytes=size_bytes)
    async with watching(sim, tmp_path, interval=0.05) as watch:
        await watch.until(lambda: len(watch.of(DownloadCompleted)) == 1)
        shutil.rmtree(tmp_path / ".fetcher" / "partial")
        sim.add_job(size_bytes=size_bytes)
        await watch.until(lambda: len(watch.of(DownloadCompleted)) == 2)
    assert (tmp_path / ".fetcher" / "partial").stat().st_mode & 0o777 == 0o700
    check_mirror(sim, tmp_path)


@pytest.mark.parametrize("days", [-2, 2, 400], ids=["past", "tomorrow", "next year"])
async def test_a_clock_that_was_wrong_does_not_put_the_full_pass_off(
    days: int, sim: Simulator, tmp_path: Path
) -> None:
    jobs = sim.add_jobs(60)[::-1]
    sim.fail(jobs[50])
    await until_idle(sim, tmp_path, page_size=10)
    sim.finish(jobs[50])
    _set_meta(tmp_path, "last_full_at", (datetime.now(UTC) + timedelta(days=days)).isoformat())
    ran = await until_idle(sim, tmp_path, page_size=10)
    assert ran.final.downloaded == 1


@pytest.mark.parametrize("text", ["", "yesterday", "2025-01-31T12:00:00", "99999-01-01"])
async def test_a_time_that_is_none_only_brings_a_full_pass(
    text: str, sim: Simulator, tmp_path: Path
) -> None:
    sim.add_jobs(3)
    await until_idle(sim, tmp_path)
    _set_meta(tmp_path, "last_full_at", text)
    ran = await until_idle(sim, tmp_path)
    assert (ran.exit_code, ran.final.already) == (0, 3)


async def test_a_full_pass_that_broke_off_is_made_up_for_by_the_next_watch(
    sim: Simulator, tmp_path: Path
) -> None:
    jobs = sim.add_jobs(60)[::-1]
    sim.fail(jobs[50])
    await until_idle(sim, tmp_path, page_size=10)
    sim.finish(jobs[50])
    sim.faults.add(Fault("list", times=1, status=503, after=2))
    broken = await run(sim.api_url, tmp_path, page_size=10, retries=0)
    assert (broken.exit_code, broken.final.downloaded) == (4, 0)
    ran = await until_idle(sim, tmp_path, page_size=10)
    assert (ran.exit_code, ran.final.downloaded) == (0, 1)


async def test_what_max_downloads_left_out_is_fetched_by_a_watch_without_it(
    sim: Simulator, tmp_path: Path
) -> None:
    sim.add_jobs(60)
    await run(sim.api_url, tmp_path, page_size=10, max_downloads=10)
    some = await until_idle(sim, tmp_path, page_size=10, max_downloads=20)
    rest = await until_idle(sim, tmp_path, page_size=10)
    assert (some.final.downloaded, rest.final.downloaded) == (20, 30)
    check_mirror(sim, tmp_path)


async def test_originals_that_are_wanted_later_are_all_fetched(
    sim: Simulator, tmp_path: Path
) -> None:
    jobs = sim.add_jobs(30)
    for job in jobs[-5:]:  # the newest page brings nothing new
        sim.override(job, original_audio_url=None)
    await until_idle(sim, tmp_path, page_size=5)
    await until_idle(sim, tmp_path, page_size=5, originals=True)
    assert sum(".original." in path for path in files(tmp_path)) == 25


async def test_a_job_that_was_deleted_before_its_file_came_is_given_up_by_a_watch_too(
    sim: Simulator, tmp_path: Path
) -> None:
    _, gone = sim.add_jobs(2)
    sim.faults.add(Fault("audio", job=gone, status=404, times=None))
    ended = [await until_idle(sim, tmp_path)]
    sim.delete(gone)
    ended += [await until_idle(sim, tmp_path, full_every=0) for _ in range(2)]
    assert [ran.exit_code for ran in ended] == [1, 1, 0]


async def test_a_recent_full_pass_is_not_repeated_by_a_new_watch(
    sim: Simulator, tmp_path: Path
) -> None:
    sim.add_jobs(100)
    await until_idle(sim, tmp_path, page_size=10)
    asked = len(sim.list_requests)
    await until_idle(sim, tmp_path, page_size=10)
    assert len(sim.list_requests) == asked + 1


def _set_meta(dest: Path, key: str, value: str) -> None:
    manifest = sqlite3.connect(dest / ".fetcher" / "manifest.db")
    with manifest:
        manifest.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
    manifest.close()


# ---- the end -----------------------------------------------------------------------------


async def test_a_stop_in_the_middle_of_everything_leaves_everything_in_order(
    sim: Simulator, tmp_path: Path
) -> None:
    for _ in range(12):
        sim.add_job(status="pending")
    sim.add_jobs(8, size_bytes=400_000, serving=Serving(rate_bytes_s=100_000))
    sim.add_jobs(20)
    async with watching(sim, tmp_path) as at:
        await at.until(lambda: bool(at.of(DownloadStarted)) and bool(at.of(JobProgress)))
        ran = await at.stopped()
    assert ran.exit_code == 0
    followed = {event.id for event in at.of(JobProgress)}
    assert followed <= {event.id for event in at.of(JobSettled)}
    for job in sim.ids:
        sim.serve(job, Serving())
        sim.finish(job) if sim.job(job).status == "pending" else None
    assert (await until_idle(sim, tmp_path)).exit_code == 0
    check_mirror(sim, tmp_path)


async def test_until_idle_that_is_stopped_early_says_by_which_signal(
    sim: Simulator, tmp_path: Path
) -> None:
    sim.add_job(status="pending")
    async with watching(sim, tmp_path, until_idle=True) as at:
        await at.more_polls(1)
        ran = await at.stopped()
    assert ran.exit_code == 143


async def test_a_stop_is_obeyed_while_the_api_does_not_answer(
    sim: Simulator, tmp_path: Path
) -> None:
    sim.faults.add(Fault("list", times=None, delay_s=30))
    async with watching(sim, tmp_path) as at:
        await at.until(lambda: bool(sim.list_requests))
        ran = await at.stopped()
    assert ran.exit_code == 0


async def test_a_stop_is_obeyed_while_the_disk_is_full(sim: Simulator, tmp_path: Path) -> None:
    sim.add_jobs(2)
    async with watching(sim, tmp_path, min_free="1000000T") as at:
        await at.until(lambda: bool(at.said("ERROR")))
        ran = await at.stopped()
    assert (ran.exit_code, ran.final.pending) == (0, 2)


async def test_a_stop_is_obeyed_at_the_moment_the_disk_fills_up(
    sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was fetched whole is put in place during a stop, and finds no room."""
    sim.add_jobs(2)
    is_sealing, is_stopping = threading.Event(), threading.Event()

    def free_bytes(_: Path) -> int:
        if not threading.current_thread().name.startswith("seal"):
            return 10**12
        is_sealing.set()
        is_stopping.wait(10)
        return 10

    monkeypatch.setattr(space, "free_bytes", free_bytes)
    async with watching(sim, tmp_path, interval=NEVER, min_free=1000) as at:
        await at.until(is_sealing.is_set)
        asyncio.get_running_loop().call_later(0.1, is_stopping.set)
        began_s = asyncio.get_running_loop().time()
        ran = await at.stopped()
        assert asyncio.get_running_loop().time() - began_s < 2
    assert (ran.exit_code, ran.final.pending) == (0, 2)


async def test_a_stop_is_obeyed_while_another_program_holds_the_manifest(
    sim: Simulator, tmp_path: Path
) -> None:
    async with watching(sim, tmp_path) as at:
        await at.more_polls(2)
        other = sqlite3.connect(tmp_path / ".fetcher" / "manifest.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        sim.add_jobs(2)
        await asyncio.sleep(0.3)  # until a poll has begun to wait for it
        ran = await at.stopped()
        other.close()
    assert ran.exit_code == 0


async def test_nothing_is_left_open_after_many_watches(sim: Simulator, tmp_path: Path) -> None:
    sim.add_jobs(3)
    sim.add_job(status="pending")
    for _ in range(2):
        async with watching(sim, tmp_path) as at:
            await at.more_polls(2)
    before = _descriptors()
    for _ in range(4):
        async with watching(sim, tmp_path) as at:
            await at.more_polls(2)
    await eventually(lambda: _descriptors() <= before)


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_a_watch_that_is_cancelled_frees_the_destination(
    sim: Simulator, tmp_path: Path
) -> None:
    sim.add_jobs(10, size_bytes=200_000, serving=Serving(rate_bytes_s=100_000))
    sim.add_job(status="pending")
    async with watching(sim, tmp_path) as at:
        await at.until(lambda: bool(at.of(DownloadStarted)))
        at.task.cancel()
        await asyncio.gather(at.task, return_exceptions=True)
    assert ours_running() == []
    check_ends(at.events)
    async with watching(sim, tmp_path) as again:
        await again.more_polls(1)
