"""Hosts and disks under pressure: 429 and 503, Retry-After, outages, rates, space."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from raw_server import RawServer
from support import (
    Host,
    Reply,
    check_account,
    check_mirror,
    check_pairs,
    cut,
    eventually,
    files,
    honest,
    run,
    settings,
    short_path,
    song,
    unfinished,
)

from fetcher.engine import Fetcher
from fetcher.events import (
    DownloadAdopted,
    DownloadCancelled,
    DownloadFailed,
    DownloadProgress,
    DownloadRetrying,
    Notice,
)
from fetcher.files.journal import Version
from fetcher.files.parts import Parts, part_key
from fetcher.models import JobId, Validator, Variant
from fetcher.simulator import Fault, Serving, SimRequest, Simulator

if TYPE_CHECKING:
    from pathlib import Path

    from raw_server import Request

    from fetcher.events import Event


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
async def test_a_passing_status_is_tried_again(status: int, tmp_path: Path, sim: Simulator) -> None:
    sim.add_job()
    sim.faults.add(Fault("audio", status=status))
    ran = await run(sim.api_url, tmp_path)
    assert (ran.exit_code, len(sim.audio_requests())) == (0, 2)
    assert str(status) in ran.retried[0]


@pytest.mark.parametrize("status", [400, 402, 405, 451])
async def test_a_lasting_status_is_not_tried_again(
    status: int, tmp_path: Path, sim: Simulator
) -> None:
    sim.add_job()
    sim.faults.add(Fault("audio", status=status))
    ran = await run(sim.api_url, tmp_path)
    assert (ran.exit_code, len(sim.audio_requests())) == (1, 1)
    assert str(status) in ran.reasons[0]


async def test_the_backoff_grows_and_is_told(tmp_path: Path, sim: Simulator) -> None:
    sim.add_job()
    sim.faults.add(Fault("audio", times=None, status=500))
    ran = await run(sim.api_url, tmp_path, retries=3, retry_delay=0.02)
    delays = [event.delay for event in ran.of(DownloadRetrying)]
    assert [event.attempt for event in ran.of(DownloadRetrying)] == [1, 2, 3]
    assert all(
        most / 2 <= delay <= most for delay, most in zip(delays, (0.02, 0.04, 0.08), strict=True)
    )
    assert len(sim.audio_requests()) == 4


async def test_no_retries_means_one_request(tmp_path: Path, sim: Simulator) -> None:
    sim.add_job()
    sim.faults.add(Fault("audio", times=None, status=500))
    ran = await run(sim.api_url, tmp_path, retries=0)
    assert (ran.exit_code, len(sim.audio_requests())) == (1, 1)


async def test_progress_resets_the_count_of_attempts(tmp_path: Path, sim: Simulator) -> None:
    """Ten cuts with two retries: each one brought new bytes."""
    job = sim.add_job(size_bytes=100_000)
    sim.faults.add(Fault("audio", times=10, cut_after_bytes=9_000))
    ran = await run(sim.api_url, tmp_path, retries=1)
    assert (ran.exit_code, ran.final.bytes_fetched) == (0, 100_000)
    assert list(files(tmp_path).values()) == [sim.content(job)]


async def test_bytes_that_were_here_before_are_no_progress(tmp_path: Path, sim: Simulator) -> None:
    """A host without validators that cuts at the same byte each time must not be asked forever."""
    sim.add_job(size_bytes=50_000, serving=Serving(etag=None, last_modified=False))
    sim.faults.add(Fault("audio", times=None, cut_after_bytes=9_000))
    ran = await run(sim.api_url, tmp_path, retries=3)
    assert (ran.exit_code, len(sim.audio_requests())) == (1, 4)


async def test_progress_counts_anew_once_the_file_has_changed(
    tmp_path: Path, sim: Simulator
) -> None:
    """Less came of the new version with each answer than had come of the old one."""
    new = song(40_000, seed=2)
    old_cut = cut(honest(song(40_000)), 30_000)
    host = Host([old_cut, cut(honest(new, etag='"v2"'), 5_000)])
    async with RawServer(host) as raw:
        sim.add_job(audio_url=f"{raw.origin}/a.wav")
        ran = await run(sim.api_url, tmp_path, retries=1)
    assert (ran.exit_code, ran.reasons, len(host.asked)) == (0, [], 1 + 8)
    assert list(files(tmp_path).values()) == [new]


async def test_a_file_that_changes_back_and_forth_for_ever_is_given_up(
    tmp_path: Path, sim: Simulator
) -> None:
    versions = [cut(honest(song(40_000, seed=n), etag=f'"v{n}"'), 9_000) for n in (1, 2)]
    host = Host(versions * 50)
    async with RawServer(host) as raw:
        sim.add_job(audio_url=f"{raw.origin}/a.wav")
        ran = await run(sim.api_url, tmp_path, retries=3)
    assert (ran.exit_code, ran.final.failed, len(host.asked)) == (1, 1, 1 + 3 + 3)


# ---- Retry-After -------------------------------------------------------------------------


async def test_retry_after_in_seconds_is_waited_for(tmp_path: Path, sim: Simulator) -> None:
    sim.add_job()
    sim.faults.add(Fault("audio", status=503, headers={"Retry-After": "0.4"}))
    ran = await run(sim.api_url, tmp_path)
    first, second = sim.audio_requests()
    assert ran.exit_code == 0
    assert second.at_s - first.at_s >= 0.4


async def test_retry_after_as_a_date_is_waited_for(tmp_path: Path, sim: Simulator) -> None:
    sim.add_job()
    at = datetime.now(UTC) + timedelta(seconds=1.5)
    header = format_datetime(at.replace(microsecond=0), usegmt=True)
    sim.faults.add(Fault("audio", status=429, headers={"Retry-After": header}))
    ran = await run(sim.api_url, tmp_path)
    [retrying] = ran.of(DownloadRetrying)
    assert ran.exit_code == 0
    assert 0 < retrying.delay <= 1.5
    assert datetime.now(UTC) >= at.replace(microsecond=0)


@pytest.mark.parametrize("header", ["soon", "-5", "1e9x", "Sun, 06 Nov 1994 08:49:37 GMT", ""])
async def test_a_retry_after_that_is_none_or_past_changes_nothing(
    header: str, tmp_path: Path, sim: Simulator
) -> None:
    sim.add_job()
    sim.faults.add(Fault("audio", status=503, headers={"Retry-After": header}))
    ran = await run(sim.api_url, tmp_path)
    [retrying] = ran.of(DownloadRetrying)
    assert ran.exit_code == 0
    assert retrying.delay <= 0.011


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_a_retry_after_beyond_ten_minutes_gives_the_file_up_and_says_so(
    form: str, tmp_path: Path, sim: Simulator
) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    header = "3600" if form == "seconds" else later
    sim.add_job()
    sim.faults.add(Fault("audio", status=429, headers={"Retry-After": header}))
    ran = await run(sim.api_url, tmp_path)
    assert (ran.exit_code, ran.retried, len(sim.audio_requests())) == (1, [], 1)
    assert any(words in ran.reasons[0] for words in ("3600 s", "3599 s"))


async def test_a_retry_after_beyond_ten_minutes_slows_the_other_files_down(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_jobs(4)
    sim.faults.add(Fault("audio", times=None, status=503, headers={"Retry-After": "1200"}))
    ran = await run(sim.api_url, tmp_path, concurrency=1, retry_delay=0.2)
    asked_at_s = [request.at_s for request in sim.audio_requests()]
    gaps_s = [later - earlier for earlier, later in pairwise(asked_at_s)]
    assert (ran.exit_code, ran.final.failed, len(asked_at_s)) == (1, 4, 4)
    assert all(gap_s >= least_s for gap_s, least_s in zip(gaps_s, (0.05, 0.1, 0.2), strict=True))


async def test_the_api_is_waited_for_as_well(tmp_path: Path, sim: Simulator) -> None:
    sim.add_job()
    sim.faults.add(Fault("list", status=429, headers={"Retry-After": "0.4"}))
    ran = await run(sim.api_url, tmp_path)
    first, second = sim.list_requests[:2]
    assert ran.exit_code == 0
    assert second.at_s - first.at_s >= 0.4


# ---- one gate for all who talk to a host -------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
async def test_a_host_that_asks_for_a_pause_is_left_alone_by_everybody(
    status: int, tmp_path: Path, sim: Simulator
) -> None:
    sim.add_jobs(30)
    pause = Fault("audio", after=6, status=status, headers={"Retry-After": "0.5"})
    sim.faults.add(pause)
    ran = await run(sim.api_url, tmp_path, concurrency=4)
    assert ran.exit_code == 0
    check_mirror(sim, tmp_path)
    [refused] = [r for r in sim.audio_requests() if r.status == status]
    asked = [r.at_s - refused.at_s for r in sim.audio_requests()]
    assert sum(0 < at_s < 0.5 for at_s in asked) <= 3  # those that were on their way


async def test_other_hosts_are_not_held_back(tmp_path: Path, sim: Simulator) -> None:
    other = Host([honest(song(5_000))])
    async with RawServer(other) as raw:
        sim.add_job("slow.wav")
        for n in range(6):
            sim.add_job(f"{n}.wav", audio_url=f"{raw.origin}/{n}.wav")
        sim.faults.add(Fault("audio", status=503, headers={"Retry-After": "0.8"}))
        done_at_s: list[float] = []

        async def watch() -> None:
            await eventually(lambda: len(other.asked) == 6)
            done_at_s.append(sim.clock.real_s())

        watching = asyncio.create_task(watch())
        ran = await run(sim.api_url, tmp_path, concurrency=2)
        await watching
    refused, again = sim.audio_requests()
    assert ran.exit_code == 0
    assert refused.at_s + 0.8 <= again.at_s
    assert done_at_s[0] < again.at_s


async def test_a_pause_asked_for_with_the_last_attempt_holds_the_others_back(
    tmp_path: Path, sim: Simulator
) -> None:
    """The file that was refused is given up; those behind it still leave the host alone."""
    sim.add_jobs(8)
    sim.faults.add(Fault("audio", status=429, headers={"Retry-After": "0.4"}))
    ran = await run(sim.api_url, tmp_path, concurrency=1, retries=0)
    refused, following = sim.audio_requests()[:2]
    assert (ran.exit_code, ran.final.failed, ran.final.downloaded) == (1, 1, 7)
    assert following.at_s - refused.at_s >= 0.4


async def test_a_host_behind_a_redirect_is_left_alone_by_everybody(
    tmp_path: Path, sim: Simulator
) -> None:
    """The pause is of the host that answered, whichever link led there."""
    direct = sim.add_job("direct.wav")
    for n in range(3):
        sim.add_job(f"{n}.wav", serving=Serving(redirects=(302,), redirect_to="other"))
    mirror = sim.mirror_url
    sim.override(direct, audio_url=mirror + sim.url(direct).removeprefix(sim.host_url))
    port = mirror.rpartition(":")[2]
    sim.faults.add(
        Fault(
            "audio",
            status=503,
            headers={"Retry-After": "0.5"},
            when=lambda r: "hop=1" in r.target and r.headers["host"].endswith(port),
        )
    )
    ran = await run(sim.api_url, tmp_path, concurrency=1)
    assert ran.exit_code == 0
    at_mirror = [r for r in sim.audio_requests() if r.headers["host"].endswith(port)]
    [refused] = [r for r in at_mirror if r.status == 503]
    later = [r.at_s - refused.at_s for r in at_mirror if r.at_s > refused.at_s]
    assert min(later) >= 0.5


async def test_many_files_get_through_a_host_that_allows_few_requests(
    tmp_path: Path, sim: Simulator
) -> None:
    """A host that takes two requests in each tenth of a second, and refuses the rest."""
    sim.add_jobs(16)
    taken: dict[int, int] = {}

    def is_too_many(request: SimRequest) -> bool:
        slot = int(request.at_s * 10)
        taken[slot] = taken.get(slot, 0) + 1
        return taken[slot] > 2

    sim.faults.add(
        Fault("audio", times=None, status=429, headers={"Retry-After": "0.1"}, when=is_too_many)
    )
    ran = await run(sim.api_url, tmp_path, concurrency=4, retries=20)
    assert (ran.exit_code, ran.reasons) == (0, [])
    check_mirror(sim, tmp_path)


async def test_many_files_get_through_a_host_that_says_nothing_of_when(
    tmp_path: Path, sim: Simulator
) -> None:
    """A bucket of three requests, filled with fifty a second; a refusal says only 429."""
    sim.add_jobs(60)
    bucket = {"tokens": 3.0, "at_s": 0.0}

    def is_too_many(request: SimRequest) -> bool:
        filled = bucket["tokens"] + (request.at_s - bucket["at_s"]) * 50
        bucket.update(tokens=min(3.0, filled), at_s=request.at_s)
        if bucket["tokens"] < 1:
            return True
        bucket["tokens"] -= 1
        return False

    sim.faults.add(Fault("audio", times=None, status=429, when=is_too_many))
    ran = await run(sim.api_url, tmp_path, concurrency=16, retries=5, retry_delay=0.1)
    assert (ran.exit_code, ran.reasons) == (0, [])
    assert ran.final.seconds < 8
    check_mirror(sim, tmp_path)


async def test_a_file_that_is_refused_for_ever_ends_though_others_are_served(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_jobs(60)
    bad = sim.add_job("bad.wav")
    sim.faults.add(Fault("audio", job=bad, times=None, status=429))
    ran = await run(sim.api_url, tmp_path, concurrency=2, retries=3)
    assert (ran.exit_code, ran.final.downloaded, ran.final.failed) == (1, 60, 1)
    assert 4 <= len(sim.audio_requests(bad)) <= 4 + 2 * 3


async def test_a_file_that_is_refused_alone_has_its_attempts_and_no_more(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_job()
    sim.faults.add(Fault("audio", times=None, status=503))
    ran = await run(sim.api_url, tmp_path, retries=3)
    assert (ran.exit_code, len(sim.audio_requests())) == (1, 4)


async def test_a_host_that_refuses_everything_ends_each_file_after_its_attempts(
    tmp_path: Path, sim: Simulator
) -> None:
    jobs = sim.add_jobs(20)
    sim.faults.add(Fault("audio", times=None, status=503))
    ran = await run(sim.api_url, tmp_path, retries=2)
    assert (ran.exit_code, ran.final.failed) == (1, 20)
    assert [len(sim.audio_requests(job)) for job in jobs] == [3] * 20


async def test_the_files_of_a_host_that_is_held_are_in_nobody_s_way(
    tmp_path: Path, sim: Simulator
) -> None:
    """Twenty files wait for their host, with two slots; those behind them come meanwhile."""
    other = Host([honest(song(5_000))])
    async with RawServer(other) as raw:
        for n in range(3):
            sim.add_job(f"other{n}.wav", audio_url=f"{raw.origin}/{n}.wav")
        sim.add_jobs(20)
        sim.faults.add(Fault("audio", times=2, status=503, headers={"Retry-After": "1.5"}))
        asked_at_s: list[float] = []

        async def watch() -> None:
            await eventually(lambda: len(other.asked) == 3)
            asked_at_s.append(sim.clock.real_s())

        watching = asyncio.create_task(watch())
        ran = await run(sim.api_url, tmp_path, concurrency=2)
        await watching
    assert (ran.exit_code, ran.final.downloaded) == (0, 23)
    held_until_s = sim.audio_requests()[0].at_s + 1.5
    assert asked_at_s[0] < held_until_s
    served = [r for r in sim.audio_requests() if r.status == 200]
    assert len(served) == 20
    assert all(r.at_s >= held_until_s for r in served)


async def test_a_stop_ends_those_who_wait_for_their_host(tmp_path: Path, sim: Simulator) -> None:
    sim.add_jobs(20)
    sim.faults.add(
        Fault("audio", cut_after_bytes=2_000),
        Fault("audio", times=None, after=1, status=503, headers={"Retry-After": "60"}),
    )
    fetcher = Fetcher(settings(sim.api_url, tmp_path, concurrency=2))
    events: list[Event] = []
    running = asyncio.create_task(fetcher.run_backfill(events.append))
    await eventually(lambda: any(isinstance(event, DownloadRetrying) for event in events))
    fetcher.stop.ask(143)
    final = await asyncio.wait_for(running, 5)
    assert final.exit_code == 143
    check_account(final)
    check_pairs(events)


async def test_a_link_that_leads_to_a_host_that_is_held_waits_as_well(
    tmp_path: Path, sim: Simulator
) -> None:
    """The link's own host is free; the one behind it asked for a pause."""
    content = song(5_000)
    at_s: list[float] = []
    loop = asyncio.get_running_loop()

    async def storage(request: Request, writer: asyncio.StreamWriter) -> None:
        at_s.append(loop.time())
        busy = Reply("503 Busy").having(retry_after="0.6", content_length="0")
        await (busy if len(at_s) == 1 else honest(content)(request)).write(writer)

    async with RawServer(storage) as behind:
        leads = Reply("302 Found").having(content_length="0")

        def redirect(request: Request) -> Reply:
            return leads.having(location=f"{behind.origin}{request.target}")

        async with RawServer(Host([redirect])) as one, RawServer(Host([redirect])) as two:
            sim.add_job("0.wav", audio_url=f"{one.origin}/0.wav")
            for n in range(1, 6):
                sim.add_job(f"{n}.wav", audio_url=f"{two.origin}/{n}.wav")
            ran = await run(sim.api_url, tmp_path, concurrency=1)
    assert (ran.exit_code, ran.final.downloaded) == (0, 6)
    assert min(at - at_s[0] for at in at_s[1:]) >= 0.6


# ---- outages -----------------------------------------------------------------------------


async def test_one_file_that_keeps_failing_does_not_hold_up_the_others(
    tmp_path: Path, sim: Simulator
) -> None:
    bad = sim.add_job("bad.wav", size_bytes=60_000)
    sim.add_jobs(10)
    sim.faults.add(
        Fault("audio", job=bad, cut_after_bytes=20_000),
        Fault("audio", job=bad, times=None, after=1, status=500),
    )
    first = await run(sim.api_url, tmp_path)
    assert (first.exit_code, first.final.downloaded, first.final.failed) == (1, 10, 1)
    assert any(name.endswith(".part") for name in unfinished(tmp_path))
    sim.faults.clear()
    second = await run(sim.api_url, tmp_path)
    assert (second.exit_code, second.final.downloaded, second.final.already) == (0, 1, 10)
    assert sim.audio_requests(bad)[-1].range == "bytes=20000-"
    check_mirror(sim, tmp_path)


@pytest.mark.parametrize("down", [True, 503], ids=["closed", "503"])
async def test_a_host_that_is_down_fails_its_files_and_the_next_run_fetches_them(
    down: bool | int, tmp_path: Path, sim: Simulator
) -> None:
    sim.add_jobs(6)
    sim.host_down = down
    first = await run(sim.api_url, tmp_path, retries=1)
    assert (first.exit_code, first.final.failed) == (1, 6)
    sim.host_down = False
    second = await run(sim.api_url, tmp_path)
    assert (second.exit_code, second.final.downloaded) == (0, 6)
    check_mirror(sim, tmp_path)


# ---- rates -------------------------------------------------------------------------------


async def test_limit_rate_is_of_all_downloads_together(tmp_path: Path, sim: Simulator) -> None:
    sim.add_jobs(8, size_bytes=50_000)
    ran = await run(sim.api_url, tmp_path, limit_rate=500_000, concurrency=8)
    times = [r.at_s for r in sim.audio_requests()]
    assert ran.exit_code == 0
    assert ran.final.seconds >= 0.65  # 400,000 bytes at 500,000 a second, less a tenth
    assert max(times) - min(times) < 0.6  # files wait for bytes, not for each other


async def test_limit_rate_is_even_and_without_bursts(tmp_path: Path, sim: Simulator) -> None:
    """In no half second do more bytes arrive than in three quarters of one at the rate."""
    sim.add_job(size_bytes=1_500_000)
    arrived: list[tuple[float, int]] = []

    def sink(event: Event) -> None:
        if isinstance(event, DownloadProgress):
            arrived.append((asyncio.get_running_loop().time(), event.bytes_done))

    final = await Fetcher(settings(sim.api_url, tmp_path, limit_rate=1_000_000)).run_backfill(sink)
    assert final.exit_code == 0
    assert 1.3 <= final.seconds <= 5
    for at_s, done in arrived:
        within = [more for later_s, more in arrived if at_s <= later_s <= at_s + 0.5]
        assert max(within) - done <= 750_000


async def test_a_limited_download_is_no_stalled_one(tmp_path: Path, sim: Simulator) -> None:
    """At 40 kB/s a megabyte's buffer is full for longer than the timeout."""
    sim.add_job(size_bytes=400_000)
    ran = await run(sim.api_url, tmp_path, limit_rate=400_000, timeout=0.3)
    assert (ran.exit_code, ran.retried) == (0, [])


# ---- space -------------------------------------------------------------------------------


async def test_min_free_stops_the_run_and_the_next_one_goes_on(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_jobs(5)
    stopped = await run(sim.api_url, tmp_path, min_free=2**60)
    assert stopped.exit_code == 6
    assert stopped.final.pending == 5
    assert any("--min-free" in event.message for event in stopped.of(Notice))
    assert files(tmp_path) == {}
    again = await run(sim.api_url, tmp_path)
    assert again.exit_code == 0
    check_mirror(sim, tmp_path)


async def test_min_free_keeps_what_was_finished_and_what_had_arrived(
    tmp_path: Path, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    sim.add_jobs(4)
    large = sim.add_job(size_bytes=3_000_000, serving=Serving(rate_bytes_s=6_000_000))
    room = {"bytes": 2**40}

    def statvfs(_: object) -> SimpleNamespace:
        return SimpleNamespace(f_bavail=room["bytes"], f_frsize=1, f_blocks=2**60)

    def fill(_: SimRequest) -> bool:
        room["bytes"] = 2_000_000  # less than the rest of the large file
        return True

    monkeypatch.setattr(os, "statvfs", statvfs)
    sim.faults.add(Fault("audio", job=large, when=fill))
    stopped = await run(sim.api_url, tmp_path, min_free=1_000_000)
    assert stopped.exit_code == 6
    room["bytes"] = 2**40
    sim.faults.clear()
    again = await run(sim.api_url, tmp_path)
    assert again.exit_code == 0
    check_mirror(sim, tmp_path)
    assert stopped.final.downloaded + len(stopped.of(DownloadCancelled)) <= 5


async def test_a_file_that_no_disk_could_hold_fails_alone_and_keeps_what_is_here_of_it(
    tmp_path: Path,
) -> None:
    body = song(900_000)
    huge = Reply(body=body, sent=700_000).having(
        content_type="audio/wav", content_length=str(10**17)
    )
    host = Host([cut(honest(body), 600_000), lambda _: huge])
    async with RawServer(host) as raw, Simulator() as sim:
        job = sim.add_job("huge.wav", audio_url=f"{raw.origin}/huge.wav")
        sim.add_jobs(3, size_bytes=450_000)
        ran = await run(sim.api_url, tmp_path, concurrency=1)
        assert (ran.exit_code, ran.final.downloaded, ran.final.failed) == (1, 3, 1)
        [failed] = ran.of(DownloadFailed)
        assert (failed.id, "the whole disk of" in failed.reason) == (job, True)
        host.scripts = [honest(body)]
        again = await run(sim.api_url, tmp_path)
        assert (again.exit_code, again.final.bytes_fetched) == (0, 300_000)


async def test_near_min_free_what_fits_is_kept_and_every_run_gets_somewhere(
    tmp_path: Path, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirty small files and room for ten; then for ten more, and for the rest."""
    size_bytes, room = 20_000, {"files": 0}

    def statvfs(_: object) -> SimpleNamespace:
        used = sum(path.stat().st_size for path in tmp_path.rglob("*.wav"))
        free = 1_000_000 + size_bytes * room["files"] + size_bytes // 2 - used
        return SimpleNamespace(f_bavail=free, f_frsize=1, f_blocks=2**60)

    monkeypatch.setattr(os, "statvfs", statvfs)
    sim.add_jobs(30, size_bytes=size_bytes)
    for stored in (10, 10, 20):
        room["files"] = stored
        ran = await run(sim.api_url, tmp_path, min_free=1_000_000, concurrency=16)
        assert (ran.exit_code, len(files(tmp_path))) == (6, stored)
    room["files"] = 30
    last = await run(sim.api_url, tmp_path, min_free=1_000_000, concurrency=16)
    assert (last.exit_code, last.final.already) == (0, 20)
    check_mirror(sim, tmp_path)


class Disk:
    """A disk that holds so many bytes of audio, finished or not, and no more."""

    def __init__(self, dest: Path, size_bytes: int) -> None:
        self.dest = dest
        self.size_bytes = size_bytes

    def statvfs(self, _: object) -> SimpleNamespace:
        # Unfinished ones first: one that is renamed meanwhile is rather seen twice than not at all.
        used = sum(map(_size_bytes, [*self.dest.rglob("*.part"), *self.dest.rglob("*.wav")]))
        return SimpleNamespace(f_bavail=self.size_bytes - used, f_frsize=1, f_blocks=2**60)


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


async def test_what_fits_on_a_disk_is_fetched_whole_and_no_file_is_left_begun(
    tmp_path: Path, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten files at a time where four have room: each run puts some in place, until all have it."""
    monkeypatch.setattr(os, "statvfs", Disk(tmp_path, 2_000_000).statvfs)
    sim.add_jobs(10, size_bytes=450_000)
    stored = 0
    while stored < 4:
        ran = await run(sim.api_url, tmp_path, concurrency=16)
        assert (ran.exit_code, unfinished(tmp_path)) == (6, [])
        assert len(files(tmp_path)) > stored
        stored = len(files(tmp_path))
    full = await run(sim.api_url, tmp_path, concurrency=16)
    assert (full.exit_code, full.final.already, full.final.downloaded) == (6, 4, 0)
    assert any("--min-free" in event.message for event in full.of(Notice))


async def test_a_file_that_is_whole_is_put_in_place_where_nothing_more_fits(
    tmp_path: Path, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands last in the list, behind many that there is no room for."""
    job = sim.add_job("whole.wav", size_bytes=450_000)
    parts = Parts(tmp_path / ".fetcher" / "partial")
    parts.folder.mkdir(parents=True)
    part = parts.begin(part_key(JobId(job), Variant.DENOISED), Version(Validator('"v1"'), 450_000))
    part.append(sim.content(job))
    part.close()
    sim.add_jobs(20, size_bytes=450_000)
    monkeypatch.setattr(os, "statvfs", Disk(tmp_path, 450_000).statvfs)
    ran = await run(sim.api_url, tmp_path, concurrency=2, page_size=3)
    assert (ran.exit_code, ran.final.downloaded, ran.final.pending) == (6, 1, 20)
    assert files(tmp_path) == {short_path("whole.wav", job): sim.content(job)}
    assert (sim.audio_requests(job), unfinished(tmp_path)) == ([], [])


async def test_a_file_that_was_begun_goes_on_where_there_is_room_for_its_rest_alone(
    tmp_path: Path, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = sim.add_job("begun.wav", size_bytes=450_000)
    sim.faults.add(Fault("audio", cut_after_bytes=300_000))
    assert (await run(sim.api_url, tmp_path, retries=0)).exit_code == 1
    sim.add_jobs(20, size_bytes=450_000)
    monkeypatch.setattr(os, "statvfs", Disk(tmp_path, 500_000).statvfs)
    ran = await run(sim.api_url, tmp_path, concurrency=2, page_size=3)
    assert (ran.exit_code, ran.final.downloaded, unfinished(tmp_path)) == (6, 1, [])
    assert files(tmp_path) == {short_path("begun.wav", job): sim.content(job)}


async def test_a_disk_that_takes_no_more_ends_the_run_and_not_the_files_that_fit(
    tmp_path: Path, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `--min-free 0` a write may be refused: here every one of a single file."""
    large = sim.add_job("large.wav", size_bytes=900_000)
    sim.add_jobs(3, size_bytes=450_000)
    part = Parts(tmp_path / ".fetcher" / "partial").path(part_key(JobId(large), Variant.DENOISED))
    real = os.pwrite

    def pwrite(fd: int, data: bytes | memoryview, offset: int) -> int:
        if part.exists() and os.path.samestat(os.fstat(fd), part.stat()):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    ran = await run(sim.api_url, tmp_path, concurrency=4)
    assert (ran.exit_code, ran.final.downloaded, ran.final.pending) == (6, 3, 1)


async def test_folders_that_cannot_be_made_durable_end_every_run_and_nothing_is_recorded(
    sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sim.add_jobs(3)
    real = os.fsync

    def fsync(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fsync)
        for _ in range(2):
            ran = await run(sim.api_url, tmp_path)
            assert ran.exit_code == 6
            assert ran.final.downloaded + ran.final.adopted + ran.final.already == 0
    mended = await run(sim.api_url, tmp_path)
    assert (mended.exit_code, mended.final.adopted) == (0, 3)
    assert len(sim.audio_requests()) == 3
    check_mirror(sim, tmp_path)


async def test_a_watch_adopts_what_a_failing_disk_kept_from_being_recorded(
    sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sim.add_jobs(3)
    real, is_broken = os.fsync, [True]

    def fsync(fd: int) -> None:
        if is_broken[0] and stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    events: list[Event] = []
    fetcher = Fetcher(settings(sim.api_url, tmp_path, interval=0.05))
    watching = asyncio.create_task(fetcher.run_watch(events.append))
    await eventually(lambda: len(files(tmp_path)) == 3)
    is_broken[0] = False
    await eventually(lambda: sum(isinstance(one, DownloadAdopted) for one in events) == 3)
    fetcher.stop.ask(143)
    assert (await watching).exit_code == 0
    assert len(sim.audio_requests()) == 3
    check_mirror(sim, tmp_path)
