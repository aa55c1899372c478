"""`Fetcher` as a library: events, stopping, being cancelled or left at any moment."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from support import (
    KEY,
    check_account,
    check_mirror,
    check_pairs,
    files,
    names,
    run,
    settings,
)

from fetcher.engine import Fetcher
from fetcher.errors import UsageError
from fetcher.events import (
    DownloadCancelled,
    DownloadCompleted,
    DownloadProgress,
    DownloadStarted,
    Event,
    Notice,
    RunCompleted,
    RunStarted,
)
from fetcher.simulator import Fault, Serving, Simulator

if TYPE_CHECKING:
    from pathlib import Path

SLOW = Serving(rate_bytes_s=400_000)


async def test_events_begin_with_the_start_and_end_with_the_account(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_jobs(5)
    async with Fetcher(settings(sim.api_url, tmp_path)) as fetcher:
        events = [event async for event in fetcher.backfill()]
    assert isinstance(events[0], RunStarted)
    assert isinstance(events[-1], RunCompleted)
    assert events[-1].exit_code == 0
    check_pairs(events)


async def test_a_fetcher_may_run_again_and_again(tmp_path: Path, sim: Simulator) -> None:
    sim.add_jobs(3)
    async with Fetcher(settings(sim.api_url, tmp_path)) as fetcher:
        first = [event async for event in fetcher.backfill()]
        second = [event async for event in fetcher.backfill()]
    assert (len([e for e in first if isinstance(e, DownloadCompleted)])) == 3
    assert isinstance(second[-1], RunCompleted)
    assert second[-1].already == 3


async def test_progress_is_absolute_and_never_beyond_the_total(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_job(size_bytes=300_000, serving=SLOW)
    ran = await run(sim.api_url, tmp_path)
    done = [event.bytes_done for event in ran.of(DownloadProgress)]
    assert done == sorted(done)
    assert done[-1] <= 300_000
    assert {event.bytes_total for event in ran.of(DownloadProgress)} == {300_000}


async def test_a_resumed_download_says_where_it_goes_on(tmp_path: Path, sim: Simulator) -> None:
    sim.add_job(size_bytes=90_000)
    sim.faults.add(Fault("audio", cut_after_bytes=30_000))
    first = await run(sim.api_url, tmp_path, retries=0)
    second = await run(sim.api_url, tmp_path)
    assert [(e.resumed_from, e.bytes_total) for e in first.of(DownloadStarted)] == [(0, 90_000)]
    assert [(e.resumed_from, e.bytes_total) for e in second.of(DownloadStarted)] == [
        (30_000, 90_000)
    ]
    [done] = second.of(DownloadCompleted)
    assert (done.bytes, done.bytes_fetched) == (90_000, 60_000)


async def test_a_missing_key_is_a_usage_error_and_makes_nothing(
    tmp_path: Path, sim: Simulator
) -> None:
    dest = tmp_path / "dest"
    without = settings(sim.api_url, dest).model_copy(update={"api_key": None})
    with pytest.raises(UsageError, match="MUNSIT_API_KEY"):
        await Fetcher(without).run_backfill(lambda _: None)
    assert names(tmp_path) == []


# ---- stopping ----------------------------------------------------------------------------


async def stopped_when(
    sim: Simulator, dest: Path, kind: type[Event], *, count: int = 1
) -> list[Event]:
    """Run until the `count`-th event of that kind, then ask for a stop; return all events."""
    events: list[Event] = []
    fetcher = Fetcher(settings(sim.api_url, dest))

    def sink(event: Event) -> None:
        events.append(event)
        if sum(isinstance(one, kind) for one in events) == count:
            fetcher.stop.ask(143)

    final = await fetcher.run_backfill(sink)
    check_pairs(events)
    check_account(final)
    assert events[-1] is final
    assert final.exit_code == 143
    return events


async def test_a_stop_keeps_what_arrived_and_the_next_run_goes_on(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_jobs(4, size_bytes=600_000, serving=SLOW)
    events = await stopped_when(sim, tmp_path, DownloadProgress, count=8)
    cancelled = [event for event in events if isinstance(event, DownloadCancelled)]
    held = sum(event.bytes_done for event in cancelled)
    assert len(cancelled) == 4
    assert held > 0
    sim.serving = Serving()
    for job in sim.ids:
        sim.serve(job, Serving())
    again = await run(sim.api_url, tmp_path)
    assert (again.exit_code, again.final.downloaded) == (0, 4)
    assert again.final.bytes_fetched == 4 * 600_000 - held
    check_mirror(sim, tmp_path)


async def test_a_stop_finishes_what_was_fetched_whole(tmp_path: Path, sim: Simulator) -> None:
    sim.add_jobs(300, size_bytes=2_000)
    events = await stopped_when(sim, tmp_path, DownloadCompleted, count=5)
    done = [event for event in events if isinstance(event, DownloadCompleted)]
    assert len(files(tmp_path)) == len(done)
    again = await run(sim.api_url, tmp_path)
    assert (again.exit_code, again.final.already) == (0, len(done))
    assert len(sim.audio_requests()) <= 300 + 4
    check_mirror(sim, tmp_path)


async def test_a_stop_while_the_list_is_slow_is_obeyed_at_once(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_jobs(3)
    sim.faults.add(Fault("list", times=None, delay_s=30))
    fetcher = Fetcher(settings(sim.api_url, tmp_path))
    asyncio.get_running_loop().call_later(0.1, fetcher.stop.ask, 130)
    final = await asyncio.wait_for(fetcher.run_backfill(lambda _: None), 5)
    assert final.exit_code == 130


async def test_a_stop_while_waiting_for_a_host_is_obeyed_at_once(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_jobs(8)
    sim.faults.add(Fault("audio", times=None, status=503, headers={"Retry-After": "300"}))
    fetcher = Fetcher(settings(sim.api_url, tmp_path))
    asyncio.get_running_loop().call_later(0.2, fetcher.stop.ask, 130)
    final = await asyncio.wait_for(fetcher.run_backfill(lambda _: None), 5)
    assert (final.exit_code, final.pending) == (130, 8)
    check_account(final)


async def test_a_stop_before_the_start_fetches_nothing(tmp_path: Path, sim: Simulator) -> None:
    sim.add_jobs(3)
    fetcher = Fetcher(settings(sim.api_url, tmp_path))
    fetcher.stop.ask(130)
    final = await fetcher.run_backfill(lambda _: None)
    assert (final.exit_code, files(tmp_path)) == (130, {})


# ---- the end -----------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["backfill", "watch"])
async def test_a_run_whose_clearing_up_fails_gives_its_whole_account_and_one_message(
    command: str, tmp_path: Path, sim: Simulator
) -> None:
    sim.add_job()
    events: list[Event] = []

    def sink(event: Event) -> None:
        events.append(event)
        if isinstance(event, DownloadCompleted):
            parts = tmp_path / ".fetcher" / "partial"
            parts.rename(tmp_path / ".fetcher" / "elsewhere")
            parts.symlink_to("elsewhere")

    fetcher = Fetcher(settings(sim.api_url, tmp_path, until_idle=True))
    final = await getattr(fetcher, f"run_{command}")(sink)
    check_account(final)
    assert (final.exit_code, final.records, final.downloaded) == (6, 1, 1)
    assert events[-1] is final
    [told] = [event.message for event in events if isinstance(event, Notice)]
    assert "partial" in told


# ---- being cancelled ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "options", "status"),
    [
        pytest.param("backfill", {}, 143, id="backfill"),
        pytest.param("watch", {}, 0, id="watch"),
        pytest.param("watch", {"until_idle": True}, 143, id="watch until idle"),
    ],
)
async def test_a_stop_while_waiting_for_the_lock_is_obeyed(
    command: str, options: dict[str, Any], status: int, tmp_path: Path, sim: Simulator
) -> None:
    sim.add_jobs(1, serving=Serving(rate_bytes_s=100))
    holder = Fetcher(settings(sim.api_url, tmp_path))
    held = asyncio.Event()
    holding = asyncio.create_task(holder.run_backfill(lambda _: held.set()))
    await held.wait()
    waiter = Fetcher(settings(sim.api_url, tmp_path, wait_lock=30, **options))
    loop = asyncio.get_running_loop()
    loop.call_later(0.3, waiter.stop.ask, 143)
    began_s = loop.time()
    events: list[Event] = []
    final = await getattr(waiter, f"run_{command}")(events.append)
    assert (final.exit_code, events) == (status, [final])
    assert loop.time() - began_s < 3
    holder.stop.ask(130)
    await holding


@pytest.mark.parametrize("after", [1, 2, 5, 9, 14, 20, 30, 45])
async def test_a_run_that_is_cancelled_leaves_everything_in_order(
    after: int, tmp_path: Path, sim: Simulator
) -> None:
    """The task is cancelled at its n-th event, as a library's user may do at any time."""
    sim.add_jobs(10, size_bytes=3_000)
    sim.add_jobs(3, size_bytes=400_000)
    events: list[Event] = []
    tasks: list[asyncio.Task[RunCompleted]] = []

    def sink(event: Event) -> None:
        events.append(event)
        if len(events) == after:
            tasks[0].cancel()

    fetcher = Fetcher(settings(sim.api_url, tmp_path))
    tasks.append(asyncio.create_task(fetcher.run_backfill(sink)))
    await asyncio.gather(*tasks, return_exceptions=True)
    assert others() == []
    check_pairs(events)
    again = await run(sim.api_url, tmp_path)
    assert again.exit_code == 0
    check_mirror(sim, tmp_path)


async def test_leaving_the_iteration_ends_the_run(tmp_path: Path, sim: Simulator) -> None:
    sim.add_jobs(6, size_bytes=200_000, serving=SLOW)
    async with Fetcher(settings(sim.api_url, tmp_path)) as fetcher:
        async for event in fetcher.backfill():
            if isinstance(event, DownloadStarted):
                break
    assert others() == []
    for job in sim.ids:
        sim.serve(job, Serving())
    assert (await run(sim.api_url, tmp_path)).exit_code == 0
    check_mirror(sim, tmp_path)


async def test_a_sink_that_raises_ends_the_run_and_frees_the_destination(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_jobs(5)

    def sink(event: Event) -> None:
        if event.name == DownloadCompleted.name:
            raise RuntimeError("the sink is broken")

    with pytest.raises((RuntimeError, ExceptionGroup)):
        await Fetcher(settings(sim.api_url, tmp_path)).run_backfill(sink)
    assert others() == []
    assert (await run(sim.api_url, tmp_path)).exit_code == 0
    check_mirror(sim, tmp_path)


def others() -> list[str]:
    """Return the tasks of the engine that are still running."""
    tasks = [str(task.get_coro()) for task in asyncio.all_tasks() if not task.done()]
    engines = ("Pipeline.", "Finisher.", "Transfer.", "Run.", "History.", "_backfill")
    return [task for task in tasks if any(name in task for name in engines)]


async def test_no_event_holds_the_key(tmp_path: Path, sim: Simulator) -> None:
    sim.add_jobs(3)
    ran = await run(sim.api_url, tmp_path)
    assert all(KEY not in repr(event) for event in ran.events)
    assert {r.headers.get("x-api-key") for r in sim.requests if r.origin == "api"} == {KEY}
    assert {r.headers.get("x-api-key") for r in sim.requests if r.origin == "host"} == {None}
