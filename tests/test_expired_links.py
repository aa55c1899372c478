"""Links that a host refuses: a fresh one is asked for, and the transfer goes on (contract 5.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from raw_server import RawServer
from support import Host, Reply, check_mirror, files, honest, run, song

from fetcher.events import DownloadRetrying
from fetcher.simulator import OMIT, Fault, SimRequest, Simulator

if TYPE_CHECKING:
    from pathlib import Path

SONG = song(40_000)


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_a_refused_link_is_replaced_by_a_fresh_one(
    status: int, tmp_path: Path, sim: Simulator
) -> None:
    job = sim.add_job()
    sim.override(job, audio_url=f"{sim.host_url}/audio/{job}/old.wav?signature=old")
    sim.faults.add(Fault("audio", status=status, when=lambda r: "/old.wav" in r.target))
    ran = await run(sim.api_url, tmp_path, retries=0)
    assert (ran.exit_code, ran.reasons, ran.retried) == (0, [], [])
    check_mirror(sim, tmp_path)


async def test_a_link_that_expires_between_list_and_download_is_replaced_from_the_replay(
    tmp_path: Path, sim: Simulator
) -> None:
    jobs = sim.add_jobs(3)
    stale = {job: sim.url(job) for job in jobs}
    sim.expire_links()
    for job in jobs:
        sim.override(job, audio_url=stale[job])
    ran = await run(sim.api_url, tmp_path, retries=0)
    assert ran.exit_code == 0
    assert ran.of(DownloadRetrying) == []
    check_mirror(sim, tmp_path)
    assert len(sim.log.of("progress")) == 3


async def test_a_replay_that_fails_leaves_the_list(tmp_path: Path, sim: Simulator) -> None:
    jobs = sim.add_jobs(5)
    stale = sim.url(jobs[2])
    sim.expire_links(jobs[2])
    sim.override(jobs[2], audio_url=stale)

    def give_fresh_links(number: int) -> None:
        if number > 3:  # the pass itself takes three requests
            sim.override(jobs[2], audio_url=sim.url(jobs[2]))

    sim.on_list = give_fresh_links
    sim.faults.add(Fault("progress", status=500, times=None))
    ran = await run(sim.api_url, tmp_path)
    assert (ran.exit_code, ran.reasons) == (0, [])
    check_mirror(sim, tmp_path)


async def test_a_stale_link_from_the_replay_leaves_the_list(tmp_path: Path, sim: Simulator) -> None:
    """The stream may replay a link as old as the refused one, while the list signs anew."""
    other = Host([lambda _: Reply("403 Forbidden", {"Content-Length": "0"})])
    async with RawServer(other) as raw:
        job = sim.add_job(audio_url=f"{raw.origin}/first.wav?signature=1")
        done = f'data: {{"stage": "done", "url": "{raw.origin}/second.wav?signature=2"}}\n\n'
        sim.faults.add(
            Fault(
                "progress",
                times=None,
                body=done,
                status=200,
                headers={"Content-Type": "text/event-stream"},
            )
        )

        def sign_anew(number: int) -> None:
            if number > 3:
                sim.override(job, audio_url=sim.url(job))

        sim.on_list = sign_anew
        ran = await run(sim.api_url, tmp_path)
    assert (ran.exit_code, ran.reasons) == (0, [])
    assert [request.target.partition("?")[0] for request in other.asked] == [
        "/first.wav",
        "/second.wav",
    ]
    check_mirror(sim, tmp_path)


async def test_a_transfer_goes_on_from_the_same_byte_under_a_fresh_link(
    tmp_path: Path, sim: Simulator
) -> None:
    job = sim.add_job(size_bytes=90_000)

    def sign_anew(_: SimRequest) -> bool:
        sim.expire_links(job)
        return False

    sim.faults.add(
        Fault("audio", cut_after_bytes=30_000),
        Fault("audio", status=403, when=lambda r: r.range is not None),
        Fault("progress", times=None, when=sign_anew),
    )
    ran = await run(sim.api_url, tmp_path)
    assert (ran.exit_code, ran.reasons) == (0, [])
    check_mirror(sim, tmp_path)
    assert [r.range for r in sim.audio_requests()] == [None, "bytes=30000-", "bytes=30000-"]
    assert ran.final.bytes_fetched == 90_000


async def test_a_link_may_expire_again_and_again_as_long_as_bytes_come(
    tmp_path: Path, sim: Simulator
) -> None:
    job = sim.add_job(size_bytes=100_000)
    refused: set[str] = set()

    def is_first_with_this_range(request: SimRequest) -> bool:
        is_first = request.range is not None and request.range not in refused
        refused.add(request.range or "")
        return is_first

    def sign_anew(_: SimRequest) -> bool:
        sim.expire_links(job)
        return False

    sim.faults.add(
        Fault("audio", times=None, status=403, when=is_first_with_this_range),
        Fault("audio", times=None, cut_after_bytes=20_000),
        Fault("progress", times=None, when=sign_anew),
    )
    ran = await run(sim.api_url, tmp_path, retries=1)
    assert (ran.exit_code, ran.reasons) == (0, [])
    check_mirror(sim, tmp_path)
    asked = [f"bytes={at}-" for at in (20_000, 40_000, 60_000, 80_000) for _ in range(2)]
    assert [r.range for r in sim.audio_requests()] == [None, *asked]
    assert ran.final.bytes_fetched == 100_000


async def test_a_part_belongs_to_the_job_and_not_to_its_link(
    tmp_path: Path, sim: Simulator
) -> None:
    """Cut in one run; in the next one the link is another, and the part goes on."""
    job = sim.add_job(size_bytes=90_000)
    sim.faults.add(Fault("audio", cut_after_bytes=30_000))
    first = await run(sim.api_url, tmp_path, retries=0)
    sim.expire_links()
    second = await run(sim.api_url, tmp_path, retries=0)
    assert (first.exit_code, second.exit_code) == (1, 0)
    assert sim.audio_requests(job)[-1].range == "bytes=30000-"
    check_mirror(sim, tmp_path)


async def test_a_fresh_link_to_another_file_starts_again(tmp_path: Path, sim: Simulator) -> None:
    job = sim.add_job(size_bytes=90_000)
    sim.faults.add(Fault("audio", cut_after_bytes=30_000))
    await run(sim.api_url, tmp_path, retries=0)
    sim.change(job)
    sim.expire_links()
    second = await run(sim.api_url, tmp_path, retries=0)
    assert second.exit_code == 0
    check_mirror(sim, tmp_path)


async def test_the_same_link_again_is_tried_once_more_and_then_given_up(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_job()
    sim.faults.add(Fault("audio", times=None, status=403))
    ran = await run(sim.api_url, tmp_path)
    assert ran.exit_code == 1
    assert "403" in ran.reasons[0]
    assert len(sim.audio_requests()) == 2


async def test_a_link_that_is_refused_once_and_never_changes_brings_its_file(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_job()
    sim.faults.add(Fault("audio", status=404))
    ran = await run(sim.api_url, tmp_path)
    assert (ran.exit_code, len(sim.audio_requests())) == (0, 2)
    check_mirror(sim, tmp_path)


async def test_fresh_links_that_are_refused_as_well_give_the_file_up(tmp_path: Path) -> None:
    refusing = Host([lambda _: Reply("403 Forbidden", {"Content-Length": "0"})])
    async with RawServer(refusing) as raw, Simulator() as sim:
        sim.add_job(audio_url=f"{raw.origin}/a.wav?secret=1")
        sim.faults.add(Fault("audio", times=None, status=404))
        ran = await run(sim.api_url, tmp_path)
    assert ran.exit_code == 1
    assert "secret" not in ran.reasons[0]
    assert "Signature" not in ran.reasons[0]
    assert len(sim.audio_requests()) == 2  # the last one once more


async def test_a_record_that_is_gone_gives_the_file_up(tmp_path: Path, sim: Simulator) -> None:
    keep, gone = sim.add_jobs(2)
    sim.override(gone, audio_url=f"{sim.host_url}/audio/{gone}/old.wav?signature=old")

    def delete(_: SimRequest) -> bool:
        sim.delete(gone)
        return True

    sim.faults.add(Fault("audio", job=gone, status=404, when=delete))
    ran = await run(sim.api_url, tmp_path)
    assert (ran.exit_code, ran.final.failed, ran.final.downloaded) == (1, 1, 1)
    assert list(files(tmp_path).values()) == [sim.content(keep)]


async def test_a_job_that_was_deleted_before_its_file_came_fails_two_runs_and_no_more(
    tmp_path: Path, sim: Simulator
) -> None:
    """The run that still lists it, and the one that finds it gone; else every night would fail."""
    keep, gone = sim.add_jobs(2)
    sim.faults.add(Fault("audio", job=gone, status=404, times=None))
    first = await run(sim.api_url, tmp_path)
    assert (first.exit_code, "no longer lists" in first.reasons[0]) == (1, False)
    sim.delete(gone)
    second = await run(sim.api_url, tmp_path)
    assert (second.exit_code, "no longer lists" in second.reasons[0]) == (1, True)
    asked = len(sim.audio_requests(gone))
    third = await run(sim.api_url, tmp_path)
    assert (third.exit_code, third.final.failed, len(sim.audio_requests(gone))) == (0, 0, asked)
    assert list(files(tmp_path).values()) == [sim.content(keep)]


async def test_a_deleted_job_whose_host_is_only_down_is_tried_again_by_every_run(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_job(status="pending")
    job = sim.add_job()
    sim.faults.add(Fault("audio", status=503, times=None))
    await run(sim.api_url, tmp_path, retries=0)
    sim.delete(job)
    for number in (2, 3):
        ran = await run(sim.api_url, tmp_path, retries=0)
        assert (ran.exit_code, ran.final.failed) == (1, 1)
        assert len(sim.audio_requests(job)) == number


async def test_an_api_that_is_down_when_a_link_is_needed_fails_the_file_only(
    tmp_path: Path, sim: Simulator
) -> None:
    good, stale = sim.add_jobs(2)
    sim.override(stale, audio_url=f"{sim.host_url}/audio/{stale}/old.wav?x=1")

    def api_goes_down(_: SimRequest) -> bool:
        sim.api_down = True
        return False

    sim.faults.add(Fault("audio", job=stale, when=api_goes_down))
    ran = await run(sim.api_url, tmp_path)
    assert (ran.exit_code, ran.final.failed, ran.final.downloaded) == (1, 1, 1)
    assert list(files(tmp_path).values()) == [sim.content(good)]


async def test_an_original_gets_its_fresh_link_from_the_list(
    tmp_path: Path, sim: Simulator
) -> None:
    job = sim.add_job("talk.mp3")
    sim.override(job, original_audio_url=f"{sim.host_url}/original/{job}/old.mp3?x=1")

    def sign_anew(number: int) -> None:
        if number > 3:
            sim.override(job, original_audio_url=sim.url(job, "original"))

    sim.on_list = sign_anew
    ran = await run(sim.api_url, tmp_path, originals=True)
    assert (ran.exit_code, ran.reasons) == (0, [])
    assert sorted(files(tmp_path).values()) == sorted([sim.content(job), sim.original(job)])


async def test_a_job_without_a_time_gets_its_fresh_link_from_the_replay(
    tmp_path: Path, sim: Simulator
) -> None:
    job = sim.add_job(created_at=1_700_000_000.0)
    sim.override(
        job, created_at=OMIT, audio_url=f"{sim.host_url}/audio/{job}/old.wav?signature=old"
    )
    ran = await run(sim.api_url, tmp_path)
    assert (ran.exit_code, ran.reasons) == (0, [])
    check_mirror(sim, tmp_path)


async def test_links_are_asked_for_byte_for_byte(tmp_path: Path) -> None:
    target = "/a%2fb//c/../d;e=1/%41.wav?x=%2F&y=a+b&z=&&%7e=~&sig=a%2Bb=="
    host = Host([honest(SONG)])
    async with RawServer(host) as raw, Simulator() as sim:
        sim.add_job(audio_url=raw.origin + target)
        ran = await run(sim.api_url, tmp_path)
    assert ran.exit_code == 0
    assert [request.target for request in host.asked] == [target]
